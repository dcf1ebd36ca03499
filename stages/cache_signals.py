"""What one method needs of the adapted teacher beside logits and states: of most nothing. A cell a method, so that one
that is added caches its own and no other's."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, cell
from fisher_ld.core.files import atomic_path
from fisher_ld.distillation.methods import METHODS
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, method: str, teacher: int) -> None:
    paths, signals = DataPaths(data), METHODS[method].own_signals
    if signals:
        from stages.cache_teacher import write_cache  # here, for torch takes seconds to import

        write_cache(params, run, paths, teacher, signals, paths.signals(method), cell("cache_signals", data, method))
    else:
        with atomic_path(paths.signals(method)) as temporary:
            temporary.mkdir()
            (temporary / "none").touch()  # DVC warns of an empty folder, every time


if __name__ == "__main__":
    stage(main, idle=lambda params, data, method, teacher: not METHODS[method].own_signals)
