"""Which student layer answers for which teacher layer."""

from __future__ import annotations

import math


def layer_map(
    kind: str, teacher_layers: int, student_layers: int, mass: list[float] | None = None
) -> list[tuple[int, int]]:
    """Pairs (teacher layer l, student layer m), both counted from 1, ordered by l.

    all: every teacher layer, m(l) = ceil(l * L_S / L_T). The others take one teacher layer a student layer: spaced
    and last from l = ceil(m * L_T / L_S) and L_T - L_S + m; fisher the layer of the highest `mass` (tr(F_l) or its
    share, (L_T,)) within each block of `all`.
    """
    every = [(layer, math.ceil(layer * student_layers / teacher_layers)) for layer in range(1, teacher_layers + 1)]
    students = range(1, student_layers + 1)
    if kind == "all":
        return every
    if kind == "spaced":
        return [(math.ceil(m * teacher_layers / student_layers), m) for m in students]
    if kind == "last":
        return [(teacher_layers - student_layers + m, m) for m in students]
    if mass is None:
        raise ValueError(f"layer_map {kind}: expected the Fisher mass of {teacher_layers} layers, got none")
    blocks = [[layer for layer, m in every if m == student] for student in students]
    of_layer = dict(enumerate(mass, 1))
    return [(max(block, key=of_layer.__getitem__), m) for m, block in enumerate(blocks, 1)]
