"""What a distillation method is: which layer weights, and what of Eq. 7 it uses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    weighting: str  # a strategy of fisher.weights; none: no layer loss
    output: bool = True  # the teacher's logits
    dynamic: bool = False  # Eq. 9


METHODS = {
    "none": Method("none", output=False),
    "uniform": Method("uniform"),
    "fisher-ld": Method("fisher", dynamic=True),
    "linear": Method("linear"),
    "exponential": Method("exponential"),
    "fisher": Method("fisher"),
    "fisher-shuffled": Method("fisher-shuffled"),
    "fisher-reversed": Method("fisher-reversed"),
}
