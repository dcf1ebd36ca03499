"""What the per-user table says: means with intervals, comparisons with tests, the share of the teacher that a student
retains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from fisher_ld.batches.lists import FAMILIES
from fisher_ld.config import paths
from fisher_ld.config.params import Evaluate
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation.baselines.catalogue import RIVALS
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.evaluation.per_user import CHANCE, Frames, cut, paired
from fisher_ld.evaluation.significance import bootstrap_means, compare, holm, interval, over_seeds, verdict

CONTROLS = ("uniform", "logits", "none")  # methods that Fisher-LD is compared with in the main group
ORDERS = ("fisher-shuffled", "fisher-reversed", "fisher")  # and in that of the strategies
CLAIM, CLAIMED = ("fisher-ld", "uniform"), ("ndcg_5", "mrr")  # what the paper claims a gain of, and in which metrics

Pairs = Sequence[tuple[str, str]]


def quality(frames: Frames, params: Evaluate, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """model -> metric -> mean over users and seeds, bootstrap 95% interval over both (`low`, `high`) and n, the users;
    a metric that no user has is left out."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for model, runs in frames.items():
        result[model] = {}
        for metric in METRICS:
            values = np.stack([frame[metric].drop_nulls().to_numpy() for frame in runs], 1)  # (n, S)
            if len(values):
                low, high = interval(over_seeds(bootstrap_means(values, params.bootstrap_samples, seed), seed))
                result[model][metric] = {"mean": float(values.mean()), "low": low, "high": high, "n": len(values)}
    return result


def seed_means(frames: Frames) -> dict[str, list[float]]:
    """model -> mean PRIMARY of each training seed."""
    return {model: [float(frame[PRIMARY].to_numpy().mean()) for frame in runs] for model, runs in frames.items()}


def students(frames: Frames) -> dict[str, list[str]]:
    """student -> the methods that it was trained by."""
    found: dict[str, list[str]] = {}
    for shape, _, method in (model.partition("/") for model in frames):
        if method in METHODS:
            found.setdefault(shape, []).append(method)
    return found


def pairs(frames: Frames) -> Iterator[tuple[str | None, str, Pairs]]:
    """The comparisons in groups (student, name), few in each because every one costs the others power. Of the teacher
    with its rivals, itself before adaptation and its truncations; of each student `main`, Fisher-LD with its teacher,
    the rivals, its controls and its start, and `strategies` (Table III), every strategy with uniform and Fisher-LD with
    its shuffle, its reversal and fixed weights."""

    def known(chosen: Pairs) -> Pairs:
        return [(a, b) for a, b in chosen if a in frames and b in frames]

    rivals = [paths.rival(name) for name in RIVALS]
    truncations = [model for model in frames if model.startswith("truncated-")]
    yield None, "main", known([("teacher", other) for other in (*rivals, "zero-shot", *truncations)])
    for student, methods in students(frames).items():
        named = partial(paths.student, student)
        ours, start = named("fisher-ld"), paths.start(student)
        others = ["teacher", *rivals, *map(named, CONTROLS), start]
        yield student, "main", known([("teacher", start), *((ours, other) for other in others)])
        layered = [method for method in methods if METHODS[method].layers and method != "uniform"]
        strategies = [(named(method), named("uniform")) for method in layered]
        yield student, "strategies", known([*strategies, *((ours, named(method)) for method in ORDERS)])


def compared(
    frames: Frames, student: str | None, group: str, chosen: Pairs, params: Evaluate, seed: int, metric: str = PRIMARY
) -> list[dict[str, Any]]:
    """One row a pair (a, b): a minus b in `metric` over their common seed-averaged users, with Holm's p (`p_holm`, of
    the randomisation test) over all pairs and the verdict."""
    draws = params.bootstrap_samples, params.permutations
    found = [compare(*paired(frames, a, b, metric), *draws, seed) for a, b in chosen]
    rows = []
    for (a, b), comparison, p in zip(chosen, found, holm([c.p_perm for c in found]), strict=True):
        row = {"student": student, "group": group, "metric": metric, "a": a, "b": b, **asdict(comparison)}
        rows.append({**row, "p_holm": float(p), "verdict": verdict(comparison, p)})
    return rows


def claims(frames: Frames, params: Evaluate, seed: int) -> dict[str, dict[str, Any]]:
    """student -> metric -> Fisher-LD minus uniform layers where the paper claims a gain; each is a group alone."""
    result = {}
    for student, methods in students(frames).items():
        if set(CLAIM) <= set(methods):
            pair = [(paths.student(student, CLAIM[0]), paths.student(student, CLAIM[1]))]
            result[student] = {m: compared(frames, student, "claims", pair, params, seed, m)[0] for m in CLAIMED}
    return result


def retained(
    student: np.ndarray, teacher: np.ndarray, by_chance: np.ndarray, params: Evaluate, seed: int
) -> dict[str, Any]:
    """Share of the teacher's mean (n,) that the student (S, n) has, with the bootstrap interval of the ratio over users
    and the student's seeds, without the samples of a few users of whom the teacher has nothing; and the same of what
    lies above chance: None where the teacher is not clearly above chance, so that the ratio has no meaning."""
    student, teacher = np.atleast_2d(student), np.atleast_2d(teacher)[0]
    columns = np.stack([teacher, by_chance, *student], 1)  # (n, 2 + S)
    if teacher.mean() <= 0:
        raise ValueError(f"expected a teacher with a mean above 0, got {teacher.mean()}: there is no share to retain")
    draws = bootstrap_means(columns, params.bootstrap_samples, seed)  # (samples, 2 + S)
    draws = np.stack([over_seeds(draws[:, 2:], seed), draws[:, 0], draws[:, 1]], 1)  # (samples, 3)
    means = np.array([student.mean(), teacher.mean(), by_chance.mean()])
    positive = draws[draws[:, 1] > 0]
    low, high = interval(positive[:, 0] / positive[:, 1])
    result: dict[str, Any] = {"share": float(means[0] / means[1]), "low": low, "high": high, "n": len(columns)}
    above, gains = means - means[2], draws - draws[:, 2:]
    if interval(gains[:, 1])[0] <= 0:
        return result | {"above_chance": None}
    low, high = interval(gains[:, 0] / gains[:, 1])
    return result | {"above_chance": {"share": float(above[0] / above[1]), "low": low, "high": high}}


def evaluate_family(frames: Frames, params: Evaluate, seed: int) -> dict[str, Any]:
    """`quality`, `seeds` (their means), `comparisons`, `claims` and `retained` of one family of lists. Of several
    teachers the first is compared, from which students learn; `seeds` has all."""
    first = {**frames, "teacher": frames["teacher"][:1]}
    by_chance = first[CHANCE][0][PRIMARY].to_numpy()
    trained = [paths.student(student, method) for student, names in students(first).items() for method in names]
    rows = [row for group in pairs(first) for row in compared(first, *group, params, seed)]
    return {
        "quality": quality(first, params, seed),
        "seeds": seed_means(frames),
        "comparisons": rows,
        "claims": claims(first, params, seed),
        "retained": {m: retained(*paired(first, m, "teacher"), by_chance, params, seed) for m in trained},
    }


def evaluate(table: pl.DataFrame, params: Evaluate, seed: int) -> dict[str, dict[str, Any]]:
    """part -> family -> what `evaluate_family` says, of the whole per-user table."""
    found = {family: evaluate_family(cut(table, family), params, seed) for family in FAMILIES}
    return {part: {family: found[family][part] for family in FAMILIES} for part in found[FAMILIES[0]]}


def logged(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Of what `evaluate` says the means and retained shares, flat, as MLflow takes them."""
    means = {
        f"{family}/{model}/{metric}": cell["mean"]
        for family, models in found["quality"].items()
        for model, metrics in models.items()
        for metric, cell in metrics.items()
    }
    shares = {f"{f}/{m}/retained": row["share"] for f, models in found["retained"].items() for m, row in models.items()}
    return means | shares
