"""How much a method's layer term weighs. Where `trials.layer_weight` names others, the method trains once
with each, all by the same seed, and takes the one that is best on the validation lists. A method that suits the default
by chance would else look better than one that does not."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def trials(params: Params, method: str) -> list[float]:
    """The weights to try; none where there is no choice."""
    weighed = any(term.weight == "layer_weight" for term in METHODS[method].terms)
    others = params.trials.layer_weight
    return [params.distill.layer_weight, *others] if weighed and others else []


def main(params: Params, run: StageRun, data: str, student: str, method: str, teacher: int) -> None:
    paths, own = DataPaths(data), params.distill.layer_weight
    tried: dict[float, float] = {}
    for weight in trials(params, method):
        from stages.distill import train  # here, for torch takes seconds to import

        done = train(params, run, paths, student, method, params.seed, teacher, weight)
        tried[weight] = done.fit.best_score
    chosen = max(tried, key=tried.__getitem__, default=own)
    found = [{"layer_weight": weight, "validation_ndcg_10": score} for weight, score in tried.items()]
    write_json(paths.strength(student, method), {"layer_weight": chosen})
    write_json(paths.strength_trials(student, method), found)  # apart: `distill` runs again where the choice is another


if __name__ == "__main__":
    stage(main, idle=lambda params, data, student, method, teacher: not trials(params, method))
