"""What a distillation method is: which layer weights, and what of Eq. 7 it uses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    weighting: str  # a strategy of fisher.weights; none: no layer loss
    output: bool = True  # the teacher's logits
    dynamic: bool = False  # Eq. 9
    truncated: bool = False  # the first layers of the teacher as they are, their head fitted, no step of training

    def seeds(self, asked: int) -> range:
        """Its training seeds: one where nothing is trained."""
        return range(1 if self.truncated else asked)


METHODS = {
    "none": Method("none", output=False),
    "truncated": Method("none", output=False, truncated=True),
    "uniform": Method("uniform"),
    "linear": Method("linear"),
    "exponential": Method("exponential"),
    "fisher": Method("fisher"),
    "fisher-ld": Method("fisher", dynamic=True),
    # Fisher-LD but for the order of the weights that it starts from
    "fisher-shuffled": Method("fisher-shuffled", dynamic=True),
    "fisher-reversed": Method("fisher-reversed", dynamic=True),
}
