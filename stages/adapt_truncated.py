"""The pretrained teacher's first layers alone, adapted to the task: the control that a student has to beat."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, truncated
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun
from stages.adapt_teacher import adapt_model


def main(params: Params, run: StageRun, data: str, depth: int) -> None:
    adapt_model(params, run, DataPaths(data), truncated(depth), 0, depth)


if __name__ == "__main__":
    stage(main)
