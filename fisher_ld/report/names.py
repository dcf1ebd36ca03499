"""How models are called, ordered and coloured in tables and pictures. Methods, rivals and metrics say it themselves, in
their catalogues; here stand the others."""

from __future__ import annotations

from collections.abc import Iterable

from fisher_ld.config import paths
from fisher_ld.config.params import Run
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation.baselines.catalogue import RIVALS
from fisher_ld.evaluation.metrics.catalogue import METRICS
from fisher_ld.experiments.results import PROPOSED

INK, GREY, PALE, BLUE, ORANGE = "#22262b", "#8a8f98", "#b9bec6", "#1f6fb4", "#e07a1f"
LABELS = {
    "chance": "chance",
    "zero-shot": "teacher, not adapted",
    "teacher": "teacher, adapted",
    "start": "student's start",
}
METRIC_LABELS = {name: metric.label for name, metric in METRICS.items()}


def label(model: str, run: Run) -> str:
    """A student's shape is said only where the run has several."""
    first, _, last = model.partition("/")
    if first == "rivals":
        return RIVALS[last].label if last in RIVALS else last
    if paths.is_shallow(first):
        kind, depth = paths.kind_and_depth(first)
        whose = paths.first_layers(depth)
        return f"teacher's {whose}, adapted alone" if kind == "truncated" else f"LayerDrop teacher, {depth} layers kept"
    if not last:
        return LABELS.get(first, first)
    text = LABELS["start"] if last == "start" else f"student, {short(model)}"
    return text if len(run.students) == 1 else text.replace("student", f"student {first}", 1)


def learned_from(model: str) -> str:
    """Whose labels: those that all models have (same), those of all training lists, or none."""
    first, _, last = model.partition("/")
    if first == "rivals":
        return RIVALS[last].labels if last in RIVALS else ""
    return "none" if first in ("chance", "zero-shot") else "same"


def short(model: str) -> str:
    """A student by its method alone."""
    method = model.rpartition("/")[2]
    return METHODS[method].label if method in METHODS else method


def colour(model: str) -> str:
    method = model.rpartition("/")[2]
    return METHODS[method].colour if method in METHODS else INK if method == "teacher" else GREY


def ordered(models: Iterable[str], run: Run) -> list[str]:
    """Chance and rivals, the teacher's relatives, each shape's students in the order of the table of methods; the
    proposed method last, unknown ones before it."""
    kinds = ["chance", "rivals", "zero-shot", *paths.SHALLOW, "teacher", *run.students]
    methods = ["start", *(name for name in METHODS if name != PROPOSED), PROPOSED]

    def place(model: str) -> tuple[float, float]:
        first, _, last = model.partition("/")
        kind = paths.kind_and_depth(first)[0] if paths.is_shallow(first) else first
        known = list(RIVALS) if first == "rivals" else methods
        inner = known.index(last) if last in known else len(known) - 1.5
        return (kinds.index(kind) if kind in kinds else len(kinds)), inner

    return sorted(models, key=place)
