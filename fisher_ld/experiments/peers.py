"""What a student's cost is read against beside the teacher's: the smallest model that is not shown below it, and all
models between quality and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fisher_ld.config import paths
from fisher_ld.config.params import methods_of
from fisher_ld.experiments.results import Part

# Verdict on the student against a model -> how good that model is, where it is not shown below.
NOT_BELOW = {"equal": "equal", "not shown": "no difference shown", "shown below": "shown above the student"}


@dataclass(frozen=True)
class Peer:
    model: str
    quality: str  # of NOT_BELOW
    times: dict[str, float]  # ratio -> how many times better than it the student is


def smallest_not_below(part: Part, model: str) -> Peer | None:
    """Of the models that were timed beside a student (`model`: its full name) the smallest that is not shown below it;
    None where there is none, or none was compared with it."""
    student = model.split("/")[0]
    found = part.efficiency[student]
    smallest_first = sorted(found["models"], key=lambda name: found["models"][name]["parameters"]["total"])
    for other in smallest_first:
        verdict = _verdict(part, model, other)
        if other != student and verdict in NOT_BELOW:
            own, its = found["ratios"][student], found["ratios"].get(other, {})
            reference = other == found["reference"]
            times = {name: value / its.get(name, 1) for name, value in own.items() if reference or name in its}
            return Peer(other, NOT_BELOW[verdict], times)
    return None


def _verdict(part: Part, a: str, b: str) -> str | None:
    """On a against b, whichever way they were compared."""
    row = part.comparison(a, b)
    return row["verdict"] if row else None


@dataclass(frozen=True)
class Place:
    """Of a model between quality and cost."""

    quality: float  # mean NDCG@10
    throughput: float  # times the teacher's
    parameters: float  # % of the teacher's

    def beats(self, other: Place) -> bool:
        """Whether it is as good in quality and throughput, and better in one, by its mean."""
        own, its = ((place.quality, place.throughput) for place in (self, other))
        return own != its and all(a >= b for a, b in zip(own, its, strict=True))


def places(part: Part) -> dict[str, Place]:
    """Of every model that was timed. All methods of a shape have one architecture, which was timed once."""
    costs = {"teacher": (1.0, 100.0)}
    for student, found in part.efficiency.items():
        for name, ratios in found["ratios"].items():
            models = [paths.student(student, m) for m in methods_of(part.run, student)] if name == student else [name]
            costs |= dict.fromkeys(models, (ratios["throughput"], 100 / ratios["parameters"]))
    qualities = {model: part.quality(model) for model in costs}
    return {model: Place(found["mean"], *costs[model]) for model, found in qualities.items() if found}


def front(places: Mapping[str, Place]) -> list[str]:
    """The models that no other beats, the slowest first."""
    unbeaten = [m for m, place in places.items() if not any(other.beats(place) for other in places.values())]
    return sorted(unbeaten, key=lambda model: places[model].throughput)
