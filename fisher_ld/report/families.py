"""The families of test lists beside each other: sampled lists can order models otherwise than the catalogue does
(Krichene and Rendle 2020)."""

from __future__ import annotations

from collections.abc import Mapping
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
    """NDCG@10 of every model in each family, and whether they order the models alike."""
    if len(part.families) == 1:
        return []
    names = ordered(part.evaluate["quality"][MAIN], part.run)
    rows = [[label(m, part.run), *(_cell(part.quality(m, family=family)) for family in part.families)] for m in names]
    text = (
        "Pairs that change sides are those that the comparisons show one way there and the other way on the "
        f"{MAIN} lists. A family in which inverse popularity beats item-kNN is flagged: there a low popularity gives "
        "the positive away."
    )
    return [
        Heading("Other families of test lists", 3),
        Table(["NDCG@10 by family", *part.families], rows),
        Table(
            ["family", "negatives", "Spearman with the main order", "pairs that change sides", "flag"],
            [_agreement(part, family) for family in part.families], words=(0, 1, 3, 4),
        ),
        Text(text),
    ]  # fmt: skip


def _cell(found: Mapping[str, float] | None) -> Cell:
    return (f"{found['mean']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}") if found else "not measured"


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
    means = [[quality[f][m][PRIMARY]["mean"] for m in names] for f in (MAIN, family)]
    return float(spearmanr(*means).statistic)


def turned(part: Part, family: str) -> list[tuple[str, str]]:
    """Pairs (a, b) that are shown above on one of both families and below on the other."""
    verdicts: list[dict[tuple[str, str], Any]] = [
        {(row["a"], row["b"]): row["verdict"] for row in part.evaluate["comparisons"][f]} for f in (MAIN, family)
    ]
    shown = {"shown above", "shown below"}
    return [pair for pair, verdict in verdicts[0].items() if {verdict, verdicts[1].get(pair)} == shown]


def flagged(part: Part, family: str) -> bool:
    """Whether inverse popularity beats item-kNN there, given the same labels or all."""
    for suffix in ("", "-all"):
        inverse, knn = (part.quality(paths.rival(name + suffix), family=family) for name in ("inverse-popularity", "item-knn"))
        if inverse and knn and inverse["mean"] > knn["mean"]:
            return True
    return False
