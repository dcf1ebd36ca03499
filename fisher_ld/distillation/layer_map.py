"""Which student layer answers for which teacher layer."""

from __future__ import annotations

import math

from fisher_ld.core.errors import UserError
from fisher_ld.models.student import layers_taken


def layer_map(
    kind: str, teacher_layers: int, student_layers: int, init: str, mass: list[float] | None = None
) -> list[tuple[int, int]]:
    """Pairs (teacher layer l, student layer m), both counted from 1, ordered by l.

    all: every teacher layer, m(l) = ceil(l * L_S / L_T); but min(l, L_S) where the student's `init` is `first`, for
    its layers start as the teacher's first ones. The others take one teacher layer a student layer: spaced and last
    from l = ceil(m * L_T / L_S) and L_T - L_S + m; fisher the layer of the highest `mass` (tr(F_l) or its share,
    (L_T,)) within each block of `all`. Methods have maps of their own: middle (FitNets) and final pair one layer, skip
    (PKD) is spaced without the last. Raises UserError where a student has too few layers for a map, or more than the
    teacher where each needs one of its own.
    """
    layers = range(1, teacher_layers + 1)
    blocks = {layer: math.ceil(layer * student_layers / teacher_layers) for layer in layers}
    every = [(layer, min(layer, student_layers) if init == "first" else blocks[layer]) for layer in layers]
    students = range(1, student_layers + 1)
    if kind == "all":
        return every
    if kind == "middle":
        return [(math.ceil(teacher_layers / 2), math.ceil(student_layers / 2))]
    if kind == "final":
        return [(teacher_layers, student_layers)]
    if student_layers > teacher_layers:
        raise UserError(
            f"the layer map {kind} takes a teacher layer for each of the student's: expected a student of at most "
            f"{teacher_layers} layers, got {student_layers}; distill.layer_map: all takes any, where a method "
            "has no map of its own"
        )
    spaced = [(layer + 1, m) for m, layer in enumerate(layers_taken("spaced", teacher_layers, student_layers), 1)]
    if kind == "spaced":
        return spaced
    if kind == "last":
        return [(teacher_layers - student_layers + m, m) for m in students]
    if kind == "skip":
        if student_layers < 2:
            raise UserError("PKD matches all layers but the last: expected a student of at least 2 layers, got 1")
        return spaced[:-1]
    if mass is None:
        raise ValueError(f"layer_map {kind}: expected the Fisher mass of {teacher_layers} layers, got none")
    of_layer = dict(enumerate(mass, 1))
    parts = [[layer for layer, m in every if m == student] for student in students]
    return [(max(part, key=of_layer.__getitem__), m) for m, part in enumerate(parts, 1)]
