"""The teacher before adaptation -> its mean states of the items' texts, which a rival compares."""

from __future__ import annotations

from safetensors.numpy import save_file

from fisher_ld.batches.lists import read_texts
from fisher_ld.config.params import Params
from fisher_ld.config.paths import BASE, DataPaths
from fisher_ld.core.compute import setup
from fisher_ld.core.files import atomic_path
from fisher_ld.evaluation.baselines.mean_states import DEPTHS
from fisher_ld.models.item_states import embed
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    paths = DataPaths(data)
    compute = setup(params.cluster, params.teacher.precision, seed=0)  # nothing is drawn
    states = embed(BASE, read_texts(paths.processed), DEPTHS, compute)
    with atomic_path(paths.item_states) as temporary:
        save_file(states, temporary)


if __name__ == "__main__":
    stage(main)
