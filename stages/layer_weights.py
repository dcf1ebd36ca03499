"""The layer weights of one method, from the adapted teacher's traces: a stage of its own, so that a change of the depth
bias runs only those students again whose weights it changes."""

from __future__ import annotations

import polars as pl

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.weights import OF_FISHER, STRATEGIES, depth_bias
from fisher_ld.fisher.profile import Kind, LayerTraces, layer_traces
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, method: str) -> None:
    paths, layers, fisher = DataPaths(data), METHODS[method].layers, params.fisher
    if not paths.traces.is_file():
        raise UserError(f"{paths.traces}: no such file; run the stage estimate_fisher (dvc repro)")
    table = pl.read_parquet(paths.traces)

    def traces_of(state: str, kind: Kind) -> LayerTraces:
        return layer_traces(table.filter(pl.col("state") == state), kind)

    # A layer map is all methods' alike.
    mass = traces_of("adapted", fisher.kind).share.tolist() if params.distill.layer_map == "fisher" else None
    result = {"strategy": None, "order": None, "kind": None, "weights": [], "depth_bias": []}
    if layers:
        kind = layers.kind or fisher.kind
        traces = traces_of("adapted" if layers.sampled else "unsampled", kind)
        of_fisher = layers.strategy in OF_FISHER
        beta = fisher.beta if of_fisher and layers.depth_bias else 0.0
        bias = depth_bias(len(traces.trace), beta, fisher.delta)
        result = {
            "strategy": layers.strategy,
            "order": layers.order,
            "kind": kind if of_fisher else None,
            "weights": STRATEGIES[layers.strategy](traces, beta, fisher.delta).tolist(),
            "depth_bias": bias.tolist(),
        }
    write_json(paths.weights(method), result | {"mass": mass})


if __name__ == "__main__":
    stage(main)
