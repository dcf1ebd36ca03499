"""The layer weights of every strategy, from the adapted teacher's traces: a stage of its own, so that a change of the
depth bias runs only those students again whose weights it changes."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fisher_ld.fisher.profile import layer_traces
from fisher_ld.fisher.weights import STRATEGIES, layer_weights
from fisher_ld.runtime import UserError, write_json
from stages.common import stage

TRACES, WEIGHTS = Path("data/fisher/traces.parquet"), Path("data/fisher/weights")


def main(params, run):
    if not TRACES.is_file():
        raise UserError(f"{TRACES}: no such file; run the stage estimate_fisher (dvc repro)")
    table = pl.read_parquet(TRACES).filter(pl.col("state") == "adapted")
    trace = layer_traces(table, params.fisher.kind).trace
    for strategy in STRATEGIES:
        weights = layer_weights(strategy, trace, params.fisher.beta, params.fisher.delta, params.seed)
        kind = params.fisher.kind if strategy.startswith("fisher") else None
        facts = {"strategy": strategy, "kind": kind, "weights": weights.tolist()}
        write_json(WEIGHTS / f"{strategy}.json", facts)
        for layer, weight in enumerate(weights, start=1):
            run.log_metrics({f"weight/{strategy}": weight}, step=layer)


if __name__ == "__main__":
    stage("layer_weights", main)
