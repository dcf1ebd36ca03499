"""Scores as probabilities: p = sigmoid(z / T + b), and how far they are to be believed.

p is the probability that a candidate of a list is the one that its user liked, where the list was made as `preprocess`
makes the main test lists: one liked item, and negatives matched to it in popularity. It is of each candidate alone: a
list's p need not sum to 1. T and b are those of the lowest log loss on the validation lists; T > 0 leaves the order.

Why b (Platt 1999), and not T alone (Guo et al. 2017): a training list has fewer negatives than a test list, so that p
as learned is that of a higher share of likes. With T alone it is T that must bring p down to the lower share: it falls
below 1 and sharpens scores that are too sharp already, and log loss can stay above that of a constant. With b, T is
free to say how sure the scores are. Both are given.

The share of likes among the candidates of a list (`share`) was chosen, and is not the world's. Where another share s of
the candidates is liked, and likes and dislikes are otherwise as here, p = sigmoid(z / T + b + logit(s) - logit(share)).
Of other negatives, such as the best of a first stage, T and b say less: those are likes more often, and score higher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from fisher_ld.batches.lists import MAIN, Lists, read_lists
from fisher_ld.config.params import Run, trained
from fisher_ld.config.paths import DataPaths
from fisher_ld.evaluation.scores import Scores, read_scores

BINS = 10  # of equal mass
MOST = 100.0  # of T and of 1 / T: scores that tell nothing would have it infinite, those that tell all 0


class Scored(NamedTuple):
    """Candidates, one list after the other."""

    z: np.ndarray  # (candidates,) logit(yes) - logit(no)
    liked: np.ndarray  # (candidates,) 0 or 1

    @classmethod
    def of(cls, lists: Lists, scores: Scores) -> Scored:
        return cls(np.concatenate(scores.values).astype(np.float64), lists.labels(scores.numbers).astype(np.float64))


@dataclass(frozen=True)
class Scaling:
    """p = sigmoid(z / temperature + bias)."""

    temperature: float = 1.0
    bias: float = 0.0

    def logits(self, z: np.ndarray) -> np.ndarray:
        return z / self.temperature + self.bias


def log_loss(logits: np.ndarray, liked: np.ndarray) -> float:
    """Mean of -log p(what was), in nats."""
    return float(np.mean(np.logaddexp(0, logits) - liked * logits))


def fit(scored: Scored, biased: bool) -> Scaling:
    """Of the lowest log loss, which is convex in (1 / T, b); without bias b = 0."""
    z, liked = scored

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        logits = at[0] * z + at[1]
        error = expit(logits) - liked
        return log_loss(logits, liked), np.array([np.mean(error * z), np.mean(error)])

    bounds = [(1 / MOST, MOST), (None, None) if biased else (0.0, 0.0)]
    slope, bias = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds).x
    return Scaling(float(1 / slope), float(bias))


def reliability(p: np.ndarray, liked: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Candidates in the order of p, cut into bins of as many each: mean p (`predicted`), the share that was liked
    (`liked`), their number (`n`), and the distance of both that perfect p would have by chance (`by_chance`: the mean
    of |x| of a normal distribution)."""
    return [
        {
            "predicted": float(p[part].mean()),
            "liked": float(liked[part].mean()),
            "n": len(part),
            "by_chance": float(np.sqrt(2 / np.pi * np.mean(p[part] * (1 - p[part])) / len(part))),
        }
        for part in np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)))
    ]


def measured(scored: Scored, scaling: Scaling) -> dict[str, Any]:
    """T and b, `log_loss`, `ece` (the expected calibration error: mean distance of `predicted` and `liked` over the
    bins), `ece_by_chance` (that of perfect probabilities) and the bins (`reliability`)."""
    logits = scaling.logits(scored.z)
    rows = reliability(expit(logits), scored.liked)
    n = [row["n"] for row in rows]
    return {
        **asdict(scaling),
        "log_loss": log_loss(logits, scored.liked),
        "ece": float(np.average([abs(row["predicted"] - row["liked"]) for row in rows], weights=n)),
        "ece_by_chance": float(np.average([row["by_chance"] for row in rows], weights=n)),
        "reliability": rows,
    }


def calibrated(validation: Scored, test: Scored) -> dict[str, Any]:
    """What `measured` says of a model on the test lists: `as_scored`, with a `temperature` alone, and `with_bias`, both
    fitted on the validation lists."""
    scalings = {"as_scored": Scaling(), "temperature": fit(validation, False), "with_bias": fit(validation, True)}
    return {name: measured(test, scaling) for name, scaling in scalings.items()}


def described(lists: Lists) -> dict[str, float]:
    """`lists`, `share` (of the candidates, that is liked) and the `log_loss` of saying that share of each."""
    share = len(lists) / int(lists.offsets[-1])
    entropy = -share * np.log(share) - (1 - share) * np.log1p(-share)
    return {"lists": len(lists), "share": share, "log_loss": float(entropy)}


def calibration(data: DataPaths, run: Run) -> Mapping[str, Any]:
    """`validation` and `test`, the lists (`described`), and `models`: of each that was trained, seed by seed, `seed`
    and what `calibrated` says. Raises UserError where a model was not scored."""
    lists = {"validation": read_lists(data.processed, "val"), "test": read_lists(data.processed, f"test_{MAIN}")}

    def of(model: str, seed: int) -> dict[str, Any]:
        files = {"validation": data.validation(model, seed), "test": data.test(model, seed) / f"{MAIN}.parquet"}
        both = {name: Scored.of(lists[name], read_scores(path, lists[name])) for name, path in files.items()}
        return {"seed": seed, **calibrated(**both)}

    found = {model: [of(model, seed) for seed in seeds] for model, seeds in trained(run).items()}
    return {**{name: described(part) for name, part in lists.items()}, "models": found}
