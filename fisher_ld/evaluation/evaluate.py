"""From score files to per-user metrics, intervals, comparisons, the teacher's gate and the share a student retains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists
from fisher_ld.config.params import Evaluate
from fisher_ld.core.errors import UserError
from fisher_ld.evaluation.baselines import baseline_scores
from fisher_ld.evaluation.ranking import METRICS, category_matrix, chance, diversity, ranking_metrics
from fisher_ld.evaluation.scores import Scores, read_scores
from fisher_ld.evaluation.significance import bootstrap_means, compare, holm, interval, over_seeds, verdict

FAMILIES = ("popularity", "uniform")  # of test lists; the first is the main one
PRIMARY = "ndcg_10"  # the metric of comparisons, gate and retained share
BASELINES = ("popularity", "item-knn")
CLAIM, CLAIMED = ("fisher-ld", "uniform"), ("ndcg_5", "mrr")
GATE_DRAWS = 2000, 5000  # bootstrap samples and permutations; fixed: those of `evaluate` re-run no teacher

# model -> one frame a training seed (a baseline and the teacher have one), of one row a user: user and METRICS, sorted
Frames = Mapping[str, Sequence[pl.DataFrame]]


def read_categories(processed: Path) -> sp.csr_array:
    """Items x categories, binary."""
    return category_matrix(pl.read_parquet(processed / "items.parquet").sort("item")["categories"].to_list())


def read_baselines(processed: Path, lists: Lists, neighbours: int) -> dict[str, Scores]:
    """Scores of popularity and item-kNN on all of `lists`, fitted on every training positive of every user."""
    users = pl.read_parquet(processed / "users.parquet").sort("user")
    n_items = pl.read_parquet(processed / "items.parquet", columns=["item"]).height
    cut_offs = users["train_positives"].to_numpy()
    scores = baseline_scores(lists, cut_offs, n_items, neighbours)
    return {name: Scores(np.arange(len(lists)), values) for name, values in scores.items()}


def read_students(folder: Path, seeds: Mapping[str, range], name: str, lists: Lists) -> dict[str, list[Scores]]:
    """Scores of every method's students, one for each of its `seeds`, on `lists`, those of the file `name`."""
    files = {m: [folder / m / str(seed) / f"scores_{name}.parquet" for seed in own] for m, own in seeds.items()}
    return {method: [read_scores(file, lists) for file in own] for method, own in files.items()}


# --- metrics


def _by_user(users: np.ndarray, metrics: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Mean over the lists of each user; null where no list of the user has the metric."""
    frame = pl.DataFrame({"user": users.astype(np.int32), **{name: metrics[name] for name in METRICS}})
    return frame.fill_nan(None).group_by("user").agg(pl.mean(*METRICS)).sort("user")


def user_metrics(lists: Lists, scores: Scores, categories: sp.csr_array) -> pl.DataFrame:
    """Metrics of one model: one row a user, sorted by user."""
    metrics = ranking_metrics(scores.values, lists.positive[scores.numbers])
    candidates = [lists.candidates[i] for i in scores.numbers]
    metrics["diversity_10"] = diversity(scores.values, candidates, categories)
    return _by_user(lists.user[scores.numbers], metrics)


def chance_metrics(lists: Lists, numbers: np.ndarray, categories: sp.csr_array) -> pl.DataFrame:
    """The closed-form chance values of the same users' lists."""
    candidates = [lists.candidates[i] for i in numbers]
    by_size = {size: chance(size) for size in {len(c) for c in candidates}}
    metrics = {name: np.array([by_size[len(c)][name] for c in candidates]) for name in METRICS if name in chance(1)}
    metrics["diversity_10"] = diversity([np.zeros(len(c)) for c in candidates], candidates, categories)
    return _by_user(lists.user[numbers], metrics)


def common_lists(
    models: Mapping[str, Sequence[Scores]], reference: str, partial: Sequence[str] = ()
) -> dict[str, list[Scores]]:
    """Every model (one Scores a seed) on the lists that `reference` was scored on, so that all means are over the same
    lists. Models named in `partial` may have fewer of them. Raises UserError where another one lacks a list."""
    numbers = models[reference][0].numbers
    result: dict[str, list[Scores]] = {name: [] for name in models}
    for name, scores in ((name, scores) for name, seeds in models.items() for scores in seeds):
        shared = np.intersect1d(numbers, scores.numbers)
        if not len(shared) or (name not in partial and len(shared) < len(numbers)):
            raise UserError(
                f"{name} was scored on {len(shared)} of the {len(numbers)} lists that {reference} was scored on: "
                f"expected all of them; score both again with the same evaluate.uniform_users (dvc repro)"
            )
        result[name].append(scores.only(shared))
    return result


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
    """model -> mean PRIMARY of each training seed; models of more than one alone."""
    return {m: [float(frame[PRIMARY].to_numpy().mean()) for frame in runs] for m, runs in frames.items() if runs[1:]}


# --- comparisons


def _paired(frames: Frames, a: str, b: str, metric: str = PRIMARY) -> tuple[np.ndarray, np.ndarray]:
    """A metric of two models over the users that both have, (S, n) each for their S training seeds."""
    users = np.intersect1d(frames[a][0]["user"], frames[b][0]["user"])
    a_runs, b_runs = (
        np.stack([frame.filter(pl.col("user").is_in(users))[metric].to_numpy() for frame in frames[model]])
        for model in (a, b)
    )
    return a_runs, b_runs


def comparisons(frames: Frames, pairs: Sequence[tuple[str, str]], params: Evaluate, seed: int) -> list[dict[str, Any]]:
    """One row a pair (a, b): a minus b in PRIMARY over their common seed-averaged users, with Holm's p (`p_holm`, of
    the randomisation test) over all pairs and the verdict."""
    found = [compare(*_paired(frames, a, b), params.bootstrap_samples, params.permutations, seed) for a, b in pairs]
    rows = []
    for (a, b), comparison, p in zip(pairs, found, holm([c.p_perm for c in found]), strict=True):
        row = {"metric": PRIMARY, "a": a, "b": b, **asdict(comparison)}
        rows.append({**row, "p_holm": float(p), "verdict": verdict(comparison, p)})
    return rows


def claims(frames: Frames, params: Evaluate, seed: int) -> dict[str, dict[str, Any]]:
    """Fisher-LD minus uniform layers in the metrics in which the paper claims a gain; each alone, without Holm."""
    result = {}
    for metric in CLAIMED:
        found = compare(*_paired(frames, *CLAIM, metric), params.bootstrap_samples, params.permutations, seed)
        result[metric] = {**asdict(found), "verdict": verdict(found, found.p_perm)}
    return result


def evaluation_pairs(students: Sequence[str]) -> list[tuple[str, str]]:
    """The comparisons of the main report, few because each costs the others power: the teacher with its rivals,
    Fisher-LD with the teacher, the baselines and its controls."""
    known = (*BASELINES, "teacher", "zero-shot", *students)
    teacher = [("teacher", other) for other in ("item-knn", "popularity", "zero-shot", "truncated")]
    controls = ("teacher", "item-knn", "popularity", "uniform", "none", "truncated")
    student = [("fisher-ld", other) for other in controls if "fisher-ld" in students]
    return [(a, b) for a, b in teacher + student if b in known]


def ablation_pairs(strategies: Sequence[str]) -> list[tuple[str, str]]:
    """The comparisons of Table III: every strategy with uniform, and Fisher-LD with its own shuffle and reversal and
    with fixed weights."""
    pairs = [(strategy, "uniform") for strategy in strategies if strategy != "uniform"]
    order = [("fisher-ld", "fisher-shuffled"), ("fisher-ld", "fisher-reversed"), ("fisher-ld", "fisher")]
    return pairs + [(a, b) for a, b in order if a in strategies and b in strategies]


def teacher_gate(frames: Frames, seed: int) -> dict[str, Any]:
    """Whether the adapted teacher is worth distilling: above popularity and item-kNN in PRIMARY, and the interval of
    each difference leaves out 0."""
    found = {name: compare(*_paired(frames, "teacher", name), *GATE_DRAWS, seed) for name in BASELINES}
    return {
        "passed": all(c.low > 0 for c in found.values()),
        "metric": PRIMARY,
        "teacher": float(frames["teacher"][0][PRIMARY].to_numpy().mean()),
        "rivals": {name: asdict(c) for name, c in found.items()},
    }


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
    some = draws[draws[:, 1] > 0]
    low, high = interval(some[:, 0] / some[:, 1])
    result: dict[str, Any] = {"share": float(means[0] / means[1]), "low": low, "high": high, "n": len(columns)}
    above, gains = means - means[2], draws - draws[:, 2:]
    if interval(gains[:, 1])[0] <= 0:
        return result | {"above_chance": None}
    low, high = interval(gains[:, 0] / gains[:, 1])
    return result | {"above_chance": {"share": float(above[0] / above[1]), "low": low, "high": high}}


# --- the whole of one family of lists


def family_frames(
    lists: Lists,
    models: Mapping[str, Sequence[Scores]],
    categories: sp.csr_array,
    reference: str,
    partial: Sequence[str] = (),
) -> Frames:
    """Per-user metrics of chance and of every model's runs, on the lists that `reference` was scored on."""
    shared = common_lists(models, reference, partial)
    frames = {"chance": [chance_metrics(lists, shared[reference][0].numbers, categories)]}
    return frames | {name: [user_metrics(lists, s, categories) for s in runs] for name, runs in shared.items()}


def evaluate_family(frames: Frames, students: Sequence[str], params: Evaluate, seed: int) -> dict[str, Any]:
    """`quality`, `seeds` (their means), `comparisons`, `claims` and `retained` of one family of lists."""
    by_chance = frames["chance"][0][PRIMARY].to_numpy()
    return {
        "quality": quality(frames, params, seed),
        "seeds": seed_means(frames),
        "comparisons": comparisons(frames, evaluation_pairs(students), params, seed),
        "claims": claims(frames, params, seed),
        "retained": {s: retained(*_paired(frames, s, "teacher"), by_chance, params, seed) for s in students},
    }


def per_user(frames: Mapping[str, Frames]) -> pl.DataFrame:
    """All families, models and training seeds in one table: model, family, seed, user, metrics."""
    return pl.concat(
        frame.select(
            pl.lit(model).alias("model"), pl.lit(family).alias("family"), pl.lit(seed).alias("seed"), "user", *METRICS
        )
        for family, models in frames.items()
        for model, runs in models.items()
        for seed, frame in enumerate(runs)
    )


def plot_rows(found: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """family -> quality, as rows for a plot: model, family, metric, value, low, high, chance."""
    return pl.DataFrame(
        [
            {"model": model, "family": family, "metric": metric, "value": cell["mean"]}
            | {"low": cell["low"], "high": cell["high"], "chance": models["chance"][metric]["mean"]}
            for family, models in found.items()
            for model, metrics in models.items()
            if model != "chance"
            for metric, cell in metrics.items()
        ]
    )
