"""The adapted teacher -> its signals on the windows that students read."""

from __future__ import annotations

from fisher_ld.batches.lists import read_taught
from fisher_ld.batches.prompts import saved_prompts
from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import setup
from fisher_ld.distillation.cache import CacheWriter, fill, signal_fingerprint
from fisher_ld.distillation.methods import METHODS
from fisher_ld.models.scorer import Scorer
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, teacher: int) -> None:
    paths = DataPaths(data)
    folder, processed = paths.model("teacher", teacher), paths.processed
    compute = setup(params.cluster, params.teacher.precision, params.seed)
    lists = read_taught(processed)
    prompts = saved_prompts(folder, processed)
    marks = signal_fingerprint(folder, processed, lists)
    key = {"params": params.model_dump(mode="json"), "compute": str(compute), "marks": marks, "code": run.code}
    checkpoint = Checkpoint("cache_teacher", key)

    scorer = Scorer.load(folder).on(compute)
    signals = {signal for method in METHODS.values() for signal in method.signals}
    layers, width = len(scorer.layers), scorer.model.config.hidden_size
    examples, rows = int(lists.offsets[-1]), params.cache.shard_rows
    writer = CacheWriter(checkpoint.folder / "cache", signals, examples, layers, width, rows, marks)
    fill(writer, scorer, lists, prompts)
    writer.finish(paths.cache)
    checkpoint.done()


if __name__ == "__main__":
    stage(main)
