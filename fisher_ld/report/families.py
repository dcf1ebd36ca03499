"""The families of test lists beside each other: sampled lists can order models otherwise than the catalogue does
(Krichene and Rendle 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import spearmanr

from fisher_ld.batches.lists import MAIN
from fisher_ld.config import paths
from fisher_ld.evaluation.metrics.catalogue import PRIMARY
from fisher_ld.experiments.results import Part
from fisher_ld.report.blocks import Block, Cell, Heading, Table, Text
from fisher_ld.report.names import label, ordered

NEGATIVES = {
    "matched": "of the positive's popularity",
    "uniform": "any",
    "popularity": "drawn by popularity",
    "full": "all items that the user never touched",
    "two-stage": "the best of a first stage",
}
APART = ("chance", "zero-shot")  # no model that competes, and one of a part of the users


def families(part: Part) -> list[Block]:
    """NDCG@10 of every model in each family, what a student keeps of the teacher, and whether the families order the
    models alike."""
    names = ordered(part.evaluate["quality"][MAIN], part.run)
    rows = [
        [
            label(model, part.run), *(mean(part.quality(model, family=family)) for family in part.families),
            spread(part.evaluate["seeds"][MAIN][model]), _kept(part, model),
        ]
        for model in names
    ]  # fmt: skip
    text = (
        "Pairs that change sides are those that the comparisons show one way there and the other way on the "
        f"{MAIN} lists. A family in which inverse popularity beats item-kNN is flagged: there a low popularity gives "
        "the positive away."
    )
    if part.two_stage:
        first, missing = label(paths.rival(part.two_stage["first_stage"]), part.run), part.two_stage["share_missing"]
        text += f" The first stage ({first}) left the true item out of {missing:.1%} of its lists, and it was put in."
    return [
        Heading("Families of test lists", 3),
        Table(["NDCG@10 by family", *part.families, f"{MAIN}, over seeds", "kept of the teacher"], rows),
        Table(
            ["family", "negatives", "Spearman with the main order", "pairs that change sides", "flag"],
            [_agreement(part, family) for family in part.families], words=(0, 1, 3, 4),
        ),
        Text(text),
    ]  # fmt: skip


def mean(found: Mapping[str, float] | None) -> Cell:
    return (f"{found['mean']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}") if found else "not measured"


def spread(runs: Sequence[float], form: str = ".3f") -> str:
    """Of several runs."""
    return f"{min(runs):{form}} to {max(runs):{form}}" if len(runs) > 1 else ""


def _kept(part: Part, model: str) -> Cell:
    row = part.evaluate["retained"][MAIN].get(model)
    return (f"{row['share']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}") if row else ""


def _agreement(part: Part, family: str) -> list[Cell]:
    flag = "flagged: inverse popularity beats item-kNN" if flagged(part, family) else ""
    if family == MAIN:
        return [family, NEGATIVES[family], "", "", flag]
    pairs = "; ".join(f"{label(a, part.run)} and {label(b, part.run)}" for a, b in turned(part, family))
    return [family, NEGATIVES[family], f"{order(part, family):.2f}", pairs or "none", flag]


def order(part: Part, family: str) -> float:
    """Spearman's correlation of the models' means with those on the main lists."""
    quality = part.evaluate["quality"]
    names = [m for m in quality[MAIN] if m in quality[family] and m not in APART]
    main, other = ([quality[f][m][PRIMARY]["mean"] for m in names] for f in (MAIN, family))
    return float(spearmanr(main, other)[0])  # pyright: ignore


def turned(part: Part, family: str) -> list[tuple[str, str]]:
    """Pairs (a, b) that are shown above on one of both families and below on the other."""
    verdicts: list[dict[tuple[str, str], Any]] = [
        {(row["a"], row["b"]): row["verdict"] for row in part.evaluate["comparisons"][f] if row["metric"] == PRIMARY}
        for f in (MAIN, family)
    ]
    shown = {"shown above", "shown below"}
    return [pair for pair, verdict in verdicts[0].items() if {verdict, verdicts[1].get(pair)} == shown]


def flagged(part: Part, family: str) -> bool:
    """Whether inverse popularity beats item-kNN there, given the same labels or all."""
    for suffix in ("", "-all"):
        names = (paths.rival(name + suffix) for name in ("inverse-popularity", "item-knn"))
        inverse, knn = (part.quality(name, family=family) for name in names)
        if inverse and knn and inverse["mean"] > knn["mean"]:
            return True
    return False
