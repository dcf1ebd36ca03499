"""What the per-user table says: means with intervals, comparisons with tests, the share of the teacher that a student
retains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import numpy as np
import polars as pl

from fisher_ld.batches.lists import FAMILIES, read_lists
from fisher_ld.config import paths
from fisher_ld.config.params import Evaluate, Run, trained
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import read_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.evaluation.metrics.ndcg import ndcg
from fisher_ld.evaluation.metrics.ties import rank
from fisher_ld.evaluation.per_user import CHANCE, Frames, cut, of_student, paired
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.evaluation.significance import compare, estimate, holm, share_of, verdict

STILL = 0.01  # a student that moved less, as a share of its start's norm, was not trained
ALIKE = 0.9  # nor was one that orders more than this share of the validation lists as its start does
CONSTANT = 1.0  # a layer loss of the constant predictor: nothing was learned of the layers

OURS = "fisher-ld"
COMPETING = ("logits", "uniform", OURS)  # each compared with the best rival and with its start
# What the paper says ours is above, and in which metrics. Asked of ours whichever method is the best one here.
CLAIMED: Mapping[str, Sequence[str]] = {
    "uniform": ("ndcg_5", "mrr"),
    "minilm": ("ndcg_5", "mrr"),
    **dict.fromkeys(("fisher-ld-no-depth", "fisher", "fisher-ld-no-sampling", "logits"), (PRIMARY,)),
}


@dataclass(frozen=True)
class Pair:
    """Is `a` above `b`? Names of models."""

    a: str
    b: str
    question: str | None = None  # a key of QUESTIONS
    metric: str = PRIMARY

    @classmethod
    def of(cls, question: str, student: str, gate: Mapping[str, Any]) -> Pair:
        """That which answers a question about a student; `gate`: its gate.json."""
        names = {"truncation": paths.truncated(gate["truncated"]["depth"]), "rival": gate["best_rival"]}
        a, b = (side.format(student=student, **names) for side in (QUESTIONS[question].a, QUESTIONS[question].b))
        return cls(a, b, question)


# {student}, {truncation} (of its size) and {rival} (the best without more labels) stand for what the gate found
QUESTIONS: Mapping[str, Pair] = {
    "teacher_over_truncation": Pair("teacher", "{truncation}"),
    "teacher_over_rival": Pair("teacher", "{rival}"),
    "distillation_over_labels": Pair("{student}/logits", "{student}/none"),
    "layers_over_logits": Pair("{student}/uniform", "{student}/logits"),
    "fisher_over_uniform": Pair("{student}/fisher-ld", "{student}/uniform"),
    "fisher_over_shuffled": Pair("{student}/fisher-ld", "{student}/fisher-shuffled"),
    "fisher_over_reversed": Pair("{student}/fisher-ld", "{student}/fisher-reversed"),
}


@dataclass(frozen=True)
class Known:
    """What was known before any test list was scored."""

    gates: Mapping[str, Mapping[str, Any]]  # student -> its gate.json
    fits: Mapping[str, Sequence[Mapping[str, Any]]]  # STUDENT/METHOD -> fit.json of each training seed
    validation: Mapping[str, Sequence[float]]  # STUDENT/METHOD -> NDCG@10 of all validation lists, of each seed

    @classmethod
    def read(cls, data: DataPaths, run: Run) -> Known:
        students = {model: seeds for model, seeds in trained(run).items() if of_student(model)}
        fits = {m: [read_json(data.training(m, seed) / "fit.json") for seed in seeds] for m, seeds in students.items()}
        lists = read_lists(data.processed, "val")

        def ndcg_10(model: str, seed: int) -> float:
            scores = read_scores(data.validation(model, seed), lists).values
            return float(ndcg(rank(scores, lists.positive), 10).mean())

        validation = {m: [ndcg_10(m, seed) for seed in seeds] for m, seeds in students.items()}
        return cls({student: read_json(data.gate(student)) for student in run.students}, fits, validation)

    def truncation(self, student: str) -> str:
        """The truncated teacher of a student's size."""
        return paths.truncated(self.gates[student]["truncated"]["depth"])

    def rival(self, student: str) -> str:
        """The best on the validation lists, of those that had no more labels than the models."""
        return self.gates[student]["best_rival"]

    def best(self, student: str, methods: Sequence[str]) -> str:
        """The model of the method that is best on the validation lists."""
        models = [paths.student(student, method) for method in methods]
        return max(models, key=lambda model: mean(self.validation[model]))

    def pair(self, question: str, student: str) -> Pair:
        return Pair.of(question, student, self.gates[student])


def quality(frames: Frames) -> dict[str, dict[str, dict[str, Any]]]:
    """model -> metric -> mean over users and seeds with its 95% interval (`low`, `high`), n, the users, and seeds, with
    the standard deviation of their means (`spread`; None of one); a metric that fewer than two users have is left
    out."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for model, runs in frames.items():
        result[model] = {}
        for metric in METRICS:
            values = np.stack([frame[metric].drop_nulls().to_numpy() for frame in runs])  # (S, n)
            seeds, n = values.shape
            if n > 1:
                low, high = estimate(values).interval()
                spread = float(values.mean(1).std(ddof=1)) if seeds > 1 else None
                cell = {"mean": float(values.mean()), "low": low, "high": high, "spread": spread}
                result[model][metric] = cell | {"n": n, "seeds": seeds}
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


def pairs(frames: Frames, known: Known) -> Iterator[tuple[str | None, str, list[Pair]]]:
    """The comparisons in groups (student, name), few in each because every one costs the others power. Two models are
    tested against each other once: in the first group that asks. Of the teacher `main`: with the rivals, itself before
    adaptation, and shallow ones but those of a student's size. Of each student `strategies` (Table III): every
    weighting of layers with uniform, ours and its controls by one measure; `main`: the other questions, the best method
    (on validation lists) with the teacher, COMPETING methods with the best rival and their start; `claims`: CLAIMED;
    `methods` (Tables I, VI, X): every other method with uniform; `peers`, by which its cost is read: the best method
    and ours with the shallow teachers and the teacher; `best`: every other method with the best one."""
    tested = set()
    for student, group, chosen in _asked(frames, known):
        fresh: list[Pair] = []
        for pair in chosen:
            what = frozenset((pair.a, pair.b)), pair.metric
            if pair.a in frames and pair.b in frames and pair.a != pair.b and what not in tested:
                fresh.append(pair)
                tested.add(what)
        yield student, group, fresh


def _asked(frames: Frames, known: Known) -> Iterator[tuple[str | None, str, list[Pair]]]:
    trained = students(frames)
    rivals = [model for model in frames if model.startswith("rivals/")]
    shallow = [model for model in frames if paths.is_shallow(model)]
    sizes = {known.truncation(student) for student in trained}
    best = {pair.b: pair for pair in (known.pair("teacher_over_rival", student) for student in trained)}
    others = [model for model in (*rivals, "zero-shot", *shallow) if model not in sizes]
    yield None, "main", [best.get(model, Pair("teacher", model)) for model in others]
    for student, methods in trained.items():
        named = {method: paths.student(student, method) for method in METHODS}
        ours, uniform, top = named[OURS], named["uniform"], known.best(student, methods)
        weighted = [method for method in methods if METHODS[method].weighting]
        over_uniform = {method: Pair(named[method], uniform) for method in weighted}
        over_uniform |= {OURS: known.pair("fisher_over_uniform", student)} if OURS in weighted else {}
        yield student, "strategies", [*over_uniform.values()]
        asked = [known.pair(key, student) for key in QUESTIONS if key != "teacher_over_rival"]
        beside = known.rival(student), paths.start(student)
        competing = [Pair(named[method], other) for method in COMPETING for other in beside]
        yield student, "main", [*asked, Pair(top, "teacher"), *competing]
        claimed = [(named[method], metric) for method, metrics in CLAIMED.items() for metric in metrics]
        yield student, "claims", [Pair(ours, other, metric=metric) for other, metric in claimed]
        yield student, "methods", [Pair(named[method], uniform) for method in methods if method not in weighted]
        yield student, "peers", [Pair(model, side) for model in (top, ours) for side in ("teacher", *shallow)]
        yield student, "best", [Pair(named[method], top) for method in methods]


def untested(model: str, known: Known) -> str | None:
    """Why what a student says is no test of its method; None where it is one, and for all that is no trained student.
    Means over its seeds."""
    if model not in known.fits:
        return None
    fits = known.fits[model]
    moved, alike = (mean(fit[key] for fit in fits) for key in ("moved", "same_order"))
    losses = [fit["layer_loss"] for fit in fits if fit["layer_loss"] is not None]
    if moved < STILL:
        return f"{model} did not move: {moved:.2%} of its start's norm, expected at least {STILL:.0%}"
    if alike > ALIKE:
        return f"{model} did not move: it orders {alike:.0%} of the validation lists as its start does"
    if losses and mean(losses) >= CONSTANT:
        return f"{model} learned nothing of the layers: their loss is {mean(losses):.2f} of the constant predictor's"
    return None


def compared(
    frames: Frames,
    student: str | None,
    group: str,
    chosen: Sequence[Pair],
    known: Known,
    params: Evaluate,
    seed: int,
) -> list[dict[str, Any]]:
    """One row a pair: a minus b in its metric over their common users and their seeds, with Holm's p (`p_holm`, of the
    t test) over all pairs, the verdict, and `why` where that is "not tested"."""
    draws = params.margin, params.permutations, seed, len(chosen)
    found = [compare(*paired(frames, pair.a, pair.b, pair.metric), *draws) for pair in chosen]
    rows = []
    for pair, comparison, p in zip(chosen, found, holm([c.p for c in found]), strict=True):
        why = "; ".join(filter(None, (untested(model, known) for model in (pair.a, pair.b)))) or None
        rows.append(
            {
                "student": student,
                "group": group,
                "question": pair.question,
                "metric": pair.metric,
                "a": pair.a,
                "b": pair.b,
                **asdict(comparison),
                "p_holm": float(p),
                "verdict": "not tested" if why else verdict(comparison, p),
                "why": why,
            }
        )
    return rows


def retained(student: np.ndarray, teacher: np.ndarray, by_chance: np.ndarray) -> dict[str, Any] | None:
    """Share of the teacher's mean (1, n) that the student (S, n) has, with its interval; and the same of what lies
    above chance (n,): None where the teacher is not clearly above chance, so that the ratio has no meaning. None where
    the teacher has nothing."""
    if teacher.mean() <= 0:
        return None
    result: dict[str, Any] = {**share_of(student, teacher), "n": student.shape[1], "seeds": len(student)}
    gain = teacher - by_chance
    clearly = estimate(gain).interval()[0] > 0
    return result | {"above_chance": share_of(student - by_chance, gain) if clearly else None}


def evaluate_family(frames: Frames, known: Known, params: Evaluate, seed: int) -> dict[str, Any]:
    """`quality`, `seeds` (their means), `comparisons` and `retained` of one family of lists; `why` a share is no test
    of its method stands in it, None where it is one."""
    by_chance = frames[CHANCE][0][PRIMARY].to_numpy()
    trained = [paths.student(student, method) for student, names in students(frames).items() for method in names]
    shares = {model: retained(*paired(frames, model, "teacher"), by_chance) for model in trained}
    shares = {model: share | {"why": untested(model, known)} for model, share in shares.items() if share}
    rows = [row for group in pairs(frames, known) for row in compared(frames, *group, known, params, seed)]
    return {
        "quality": quality(frames),
        "seeds": seed_means(frames),
        "comparisons": rows,
        "retained": shares,
    }


def evaluate(table: pl.DataFrame, known: Known, params: Evaluate, seed: int) -> dict[str, Any]:
    """part -> family -> what `evaluate_family` says, of every family of the per-user table, the main one first; and
    `validation` as it was known."""
    present = set(table["family"].unique())
    families = [family for family in FAMILIES if family in present]
    found = {family: evaluate_family(cut(table, family), known, params, seed) for family in families}
    parts = {part: {family: found[family][part] for family in families} for part in found[families[0]]}
    return parts | {"validation": known.validation}


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
