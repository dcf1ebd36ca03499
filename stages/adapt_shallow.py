"""A teacher of fewer layers, adapted to the task: the control that a student has to beat.

`truncated-K` is the pretrained teacher's first K layers, adapted alone. `layerdrop-K` is K evenly spaced ones, kept of
a teacher that was adapted while layers were left out at random (Fan 2020)."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, kind_and_depth
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun
from stages.adapt_teacher import adapt_model


def main(params: Params, run: StageRun, data: str, shallow: str) -> None:
    paths, (kind, depth) = DataPaths(data), kind_and_depth(shallow)
    if kind == "truncated":
        adapt_model(params, run, paths, shallow, 0, params.teacher.truncated_steps, first=depth)
    else:
        adapt_model(params, run, paths, shallow, 0, params.teacher.adapt.steps, spaced=depth)


if __name__ == "__main__":
    stage(main)
