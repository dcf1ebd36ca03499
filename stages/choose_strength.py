"""How much a method takes from the teacher. Where `trials.strength` names factors, the method trains once with each and
once without, all by the same seed, and takes the one that is best on the validation lists. A method that the default
suits by chance would else look better than one that it does not."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun

AS_IT_IS = 1.0


def trials(params: Params, method: str) -> list[float]:
    """The factors to try; none where there is no choice."""
    others = params.trials.strength
    return [AS_IT_IS, *others] if others and METHODS[method].weighed else []


def main(params: Params, run: StageRun, data: str, student: str, method: str, teacher: int) -> None:
    paths, tried, checkpoints = DataPaths(data), dict[float, float](), []
    for strength in trials(params, method):
        from stages.distill import train  # here, for torch takes seconds to import

        done = train(params, run, paths, student, method, params.seed, teacher, strength, trial=True)
        tried[strength] = done.fit.best_score
        checkpoints.append(done.checkpoint)
    chosen = max(tried, key=tried.__getitem__, default=AS_IT_IS)
    found = [{"strength": strength, "validation_ndcg_10": score} for strength, score in tried.items()]
    write_json(paths.strength(student, method), {"strength": chosen})
    write_json(paths.strength_trials(student, method), found)  # apart: `distill` runs again where the choice is another
    for checkpoint in checkpoints:
        checkpoint.done()


if __name__ == "__main__":
    stage(main, idle=lambda params, data, student, method, teacher: not trials(params, method))
