"""From the shelf of scores to one table: the metrics of every model, family of test lists and training seed, a row a
user. Every comparison and table is cut from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists, read_tests
from fisher_ld.config import paths
from fisher_ld.config.params import Rivals, Run, methods_of
from fisher_ld.config.paths import DataPaths
from fisher_ld.evaluation.baselines.catalogue import rivals_of
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.evaluation.metrics.diversity import category_matrix
from fisher_ld.evaluation.metrics.ties import rank
from fisher_ld.evaluation.scores import Scores, read_scores

CHANCE = "chance"  # its name among the models

# model -> one frame a training seed, of one row a user: user and METRICS, sorted
Frames = Mapping[str, Sequence[pl.DataFrame]]


def read_categories(processed: Path) -> sp.csr_array:
    """Items x categories, binary."""
    items = pl.read_parquet(processed / "items.parquet", columns=["item", "categories"])
    return category_matrix(items.sort("item")["categories"].to_list())


def user_metrics(lists: Lists, scores: Scores, categories: sp.csr_array) -> pl.DataFrame:
    """user and METRICS: means over the lists of each user, sorted by user; null where no list of the user has the
    metric."""
    candidates = [lists.candidates[i] for i in scores.numbers]
    ranking = rank(scores.values, lists.positive[scores.numbers], candidates, categories)
    columns = {name: metric.of(ranking) for name, metric in METRICS.items()}
    frame = pl.DataFrame({"user": lists.user[scores.numbers].astype(np.int32), **columns})
    return frame.fill_nan(None).group_by("user").agg(pl.mean(*METRICS)).sort("user")


def chance_metrics(lists: Lists, categories: sp.csr_array) -> pl.DataFrame:
    """The same of candidates in random order, in closed form: a constant scorer's expectation over all ties."""
    constant = [np.zeros(len(candidates)) for candidates in lists.candidates]
    return user_metrics(lists, Scores(np.arange(len(lists)), constant), categories)


def scored_models(run: Run, rivals: Rivals) -> Iterator[tuple[str, int]]:
    """The names and training seeds of all models whose test scores a run has."""
    yield from (("teacher", seed) for seed in run.teacher_seeds)
    yield "zero-shot", 0
    yield from ((paths.rival(name), 0) for name in rivals_of(rivals))
    yield from ((model, 0) for model in run.shallow)
    for student in run.students:
        yield paths.start(student), 0
        yield from ((paths.student(student, method), seed) for method in methods_of(run, student) for seed in run.seeds)


def per_user(data: DataPaths, run: Run, rivals: Rivals) -> pl.DataFrame:
    """Columns model, family, seed, user, METRICS, of every family whose lists were written. Raises UserError where a
    model was not scored, or not on all lists (of `zero-shot`, the teacher before adaptation, a part of the users is
    enough)."""
    categories, frames = read_categories(data.processed), []
    for family, lists in read_tests(data).items():
        found = [(CHANCE, 0, chance_metrics(lists, categories))]
        for model, seed in scored_models(run, rivals):
            scores = read_scores(data.test(model, seed) / f"{family}.parquet", lists, whole=model != "zero-shot")
            found.append((model, seed, user_metrics(lists, scores, categories)))
        for model, seed, frame in found:
            names = pl.lit(model).alias("model"), pl.lit(family).alias("family"), pl.lit(seed, pl.Int32).alias("seed")
            frames.append(frame.select(*names, "user", *METRICS))
    return pl.concat(frames)


def cut(table: pl.DataFrame, family: str) -> Frames:
    """One family of the per-user table."""
    frames: dict[str, list[pl.DataFrame]] = {}
    for rows in table.filter(pl.col("family") == family).partition_by("model", "seed", maintain_order=True):
        frames.setdefault(rows["model"][0], []).append(rows.select("user", *METRICS).sort("user"))
    return frames


def of_student(model: str) -> bool:
    """Whether a name is that of a student, or of what the students of a shape start from."""
    return "/" in model and not model.startswith("rivals/")


def paired(frames: Frames, a: str, b: str, metric: str = PRIMARY) -> tuple[np.ndarray, np.ndarray]:
    """A metric of two models over the users that both have, (S, n) each for their S training seeds. Of the teacher
    beside a student only the first run counts, from which students learn."""
    users = np.intersect1d(frames[a][0]["user"], frames[b][0]["user"])
    alone = of_student(a) or of_student(b)
    a_runs, b_runs = (
        np.stack([frame.filter(pl.col("user").is_in(users))[metric].to_numpy() for frame in runs])
        for runs in (frames[model][:1] if model == "teacher" and alone else frames[model] for model in (a, b))
    )
    return a_runs, b_runs
