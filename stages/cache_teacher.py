"""The adapted teacher -> its logits and states on the windows that students read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fisher_ld.batches.lists import read_taught
from fisher_ld.batches.prompts import saved_prompts
from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, cell
from fisher_ld.core import ranks
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import setup
from fisher_ld.core.files import write_json
from fisher_ld.distillation.cache import CacheWriter, fill, signal_fingerprint
from fisher_ld.distillation.signals import Sizes
from fisher_ld.distillation.terms import BASIC
from fisher_ld.models.scorer import Scorer
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def write_cache(
    params: Params, run: StageRun, paths: DataPaths, teacher: int, signals: Collection[str], cache: Path, told: Path
) -> None:
    """The folder `cache`, with these signals; and in the folder `told` what it takes on disk."""
    folder, processed = paths.model("teacher", teacher), paths.processed
    compute = setup(params.cluster, params.teacher.precision, params.seed)
    lists = read_taught(processed)
    prompts = saved_prompts(folder, processed)
    marks = signal_fingerprint(folder, processed, lists)
    key = {"params": params.model_dump(mode="json"), "compute": str(compute), "marks": marks, "code": run.code}
    checkpoint = Checkpoint("cache_teacher", key | {"signals": sorted(signals)})

    scorer = Scorer.placed(folder, compute, frozen=True)
    sizes = Sizes(len(scorer.layers), scorer.model.config.hidden_size, prompts.longest(lists))
    examples, rows = int(lists.offsets[-1]), params.cache.shard_rows
    place = checkpoint.folder / "cache"
    writer = CacheWriter(place, signals, examples, sizes, rows, marks) if ranks.leader() else None
    fill(writer, signals, scorer, lists, prompts)
    if writer:
        writer.finish(cache)
        size = sum(file.stat().st_size for file in cache.iterdir())
        write_json(told / "signals.json", {"signals": sorted(signals), "bytes": size})
    checkpoint.done()


def main(params: Params, run: StageRun, data: str, teacher: int) -> None:
    paths = DataPaths(data)
    write_cache(params, run, paths, teacher, BASIC, paths.cache, cell("cache_teacher", data))


if __name__ == "__main__":
    stage(main)
