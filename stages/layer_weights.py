"""The layer weights of every method, from the adapted teacher's traces: a stage of its own, so that a change of the
depth bias runs only those students again whose weights it changes."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.weights import layer_weights
from fisher_ld.fisher.profile import layer_traces
from fisher_ld.run.stage import stage

TRACES, WEIGHTS = Path("data/fisher/traces.parquet"), Path("data/fisher/weights")


def main(params, run):
    if not TRACES.is_file():
        raise UserError(f"{TRACES}: no such file; run the stage estimate_fisher (dvc repro)")
    table = pl.read_parquet(TRACES).filter(pl.col("state") == "adapted")
    traces = layer_traces(table, params.fisher.kind)
    mass = traces.share.tolist() if params.distill.layer_map == "fisher" else None  # else no student depends on it
    for name, method in METHODS.items():
        beta, delta = params.fisher.beta, params.fisher.delta
        seeds = method.seeds(params.distill.seeds)
        by_seed = [layer_weights(method.weighting, traces.trace, beta, delta, seed).tolist() for seed in seeds]
        kind = params.fisher.kind if method.weighting.startswith("fisher") else None
        result = {"strategy": method.weighting, "kind": kind, "weights": by_seed, "mass": mass}
        write_json(WEIGHTS / f"{name}.json", result)
        for layer, weight in enumerate(by_seed[0], start=1):
            run.log_metrics({f"weight/{name}": weight}, step=layer)


if __name__ == "__main__":
    stage("layer_weights", main)
