"""The layer weights of one method, from the adapted teacher's traces: a stage of its own, so that a change of the depth
bias runs only those students again whose weights it changes."""

from __future__ import annotations

import polars as pl

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.weights import STRATEGIES
from fisher_ld.fisher.profile import layer_traces
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, method: str) -> None:
    paths, layers = DataPaths(data), METHODS[method].layers
    if not paths.traces.is_file():
        raise UserError(f"{paths.traces}: no such file; run the stage estimate_fisher (dvc repro)")
    traces = layer_traces(pl.read_parquet(paths.traces).filter(pl.col("state") == "adapted"), params.fisher.kind)
    mass = traces.share.tolist() if params.distill.layer_map == "fisher" else None
    result = {"strategy": None, "order": None, "kind": None, "weights": []}
    if layers:
        weights = STRATEGIES[layers.strategy](traces.trace, params.fisher.beta, params.fisher.delta)
        result = {
            "strategy": layers.strategy,
            "order": layers.order,
            "kind": params.fisher.kind if layers.strategy == "fisher" else None,
            "weights": weights.tolist(),
        }
    write_json(paths.weights(method), result | {"mass": mass})


if __name__ == "__main__":
    stage(main)
