"""How fast, small and frugal saved models are, side by side: what is timed is `Predictor.score`, free text in and
scores out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fisher_ld.batches.lists import MAIN, read_lists, read_texts
from fisher_ld.core.compute import Compute
from fisher_ld.core.progress import progress
from fisher_ld.evaluation.meters import (
    NOT_AVAILABLE,
    EnergyCounter,
    GpuCounter,
    Model,
    best_batch,
    latency,
    parameters,
    peak_memory,
    rounds,
    size_on_disk,
)
from fisher_ld.evaluation.significance import LEVEL
from fisher_ld.serving.predictor import Predictor, load
from fisher_ld.serving.torch_backend import TorchBackend

REFERENCE = "teacher"
LARGEST_BATCH = 16  # queries that a model is given at once, at most; of so many its best batch size is told
MEMORY_QUERIES = 8  # those of the longest texts, which set the peak
RESAMPLES = 1000  # of the intervals


@dataclass(frozen=True)
class Queries:
    """Test lists as a user would ask them: texts."""

    histories: list[list[str]]
    candidates: list[list[str]]

    def __len__(self) -> int:
        return len(self.histories)

    def longest(self, count: int) -> Queries:
        """The `count` with the most characters."""
        length = [sum(map(len, [*h, *c])) for h, c in zip(self.histories, self.candidates, strict=True)]
        chosen = np.argsort(length)[-count:]
        return Queries([self.histories[i] for i in chosen], [self.candidates[i] for i in chosen])

    def model(self, predictor: Predictor) -> Model:
        """A saved model over the numbers of these queries."""
        return lambda numbers: predictor.score(
            [self.histories[i] for i in numbers], [self.candidates[i] for i in numbers]
        )


def read_queries(processed: Path, count: int, seed: int) -> Queries:
    """`count` seeded test lists of the main family."""
    lists, texts = read_lists(processed, f"test_{MAIN}"), read_texts(processed)
    chosen = np.random.default_rng(seed).permutation(len(lists))[:count]
    histories = [[texts[item] for item in lists.history(i)] for i in chosen]
    return Queries(histories, [[texts[item] for item in lists.candidates[i]] for i in chosen])


def run_alone(folder: Path, queries: Queries, compute: Compute, threads: int) -> None:
    """Loads a model and scores the queries one by one; run in a process of its own for its peak memory."""
    torch.set_num_threads(threads)
    score = queries.model(load(folder, compute))
    for query in range(len(queries)):
        score([query])


def measure(models: Mapping[str, tuple[Path, Compute]], queries: Queries, seed: int) -> dict[str, Any]:
    """A row for each saved model (its folder, and where it computes), ratios to `REFERENCE` (above 1: better) and 95%
    bootstrap intervals of those of latency and throughput. Latency is of all queries at batch 1, throughput of all at
    each model's best batch size, in turns. Memory and energy are those of the device, the host's processors or the
    GPU."""
    devices = {compute.device for _, compute in models.values()}
    gpus = [f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices if device.type == "cuda"]
    gpu, threads = gpus[0] if gpus else None, torch.get_num_threads()
    longest = queries.longest(MEMORY_QUERIES)
    memory = {
        name: peak_memory(run_alone, models[name][0], longest, models[name][1], threads, gpu=gpu)
        for name in progress(list(models), "peak memory of each model alone", unit="model")
    }
    backends = {m: TorchBackend(f, replace(c, batch_users=LARGEST_BATCH)) for m, (f, c) in models.items()}
    timed = {name: queries.model(Predictor.of(models[name][0], backend)) for name, backend in backends.items()}
    counter, numbers = EnergyCounter(), range(len(queries))
    seconds, each = latency(timed, numbers, counter)
    joules: dict[str, Any] = {name: float(j.mean()) if len(j) else NOT_AVAILABLE for name, j in each.items()}
    if gpu:
        counter = GpuCounter(gpu)
        joules = {name: counter.joules_per_query(model, numbers) for name, model in timed.items()}
    best = best_batch(timed, numbers[:LARGEST_BATCH], LARGEST_BATCH)
    in_turns = rounds(timed, best, numbers, LARGEST_BATCH)
    rows = {}
    for name, (folder, compute) in models.items():
        p50, p95 = np.quantile(seconds[name], [0.5, 0.95]) * 1000
        rows[name] = {
            "latency_p50_ms": float(p50),
            "latency_p95_ms": float(p95),
            "queries_per_second": len(queries) / float(in_turns[name].sum()),
            "best_batch": best[name],
            "joules_per_query": joules[name],
            "memory": memory[name],
            "parameters": parameters(backends[name].scorer.model),
            "size_bytes": size_on_disk(folder),
            "precision": "bf16" if compute.bf16 else "fp32",
        }
    others = [name for name in models if name != REFERENCE]
    return {
        "reference": REFERENCE,
        "models": rows,
        "ratios": {name: ratios(rows[name], rows[REFERENCE]) for name in others},
        "intervals": {
            name: {
                "latency_p50": latency_interval(seconds[REFERENCE], seconds[name], seed),
                "throughput": throughput_interval(in_turns[REFERENCE], in_turns[name], seed),
            }
            for name in others
        },
        "queries": len(queries),
        "candidates": float(np.mean([len(texts) for texts in queries.candidates])),
        "threads": threads,
        "device": ", ".join(sorted(map(str, devices))),
        "precision": ", ".join(sorted({row["precision"] for row in rows.values()})),
        "energy_counter": counter.source,
    }


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Percentile interval of bootstrap draws (samples,)."""
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def latency_interval(reference: np.ndarray, model: np.ndarray, seed: int) -> dict[str, float]:
    """Bootstrap 95% interval of the ratio of medians, over queries that both answered: (queries,) seconds each."""
    drawn = np.random.default_rng(seed).integers(0, len(model), (RESAMPLES, len(model)))
    low, high = interval(np.median(reference[drawn], 1) / np.median(model[drawn], 1))
    return {"low": low, "high": high}


def throughput_interval(reference: np.ndarray, model: np.ndarray, seed: int) -> dict[str, float] | None:
    """Bootstrap 95% interval of the ratio of rates, over rounds in which both answered the same: (rounds,) seconds of
    each. None of fewer than 4 rounds, from which no interval can be told."""
    if len(model) < 4:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(model), (RESAMPLES, len(model)))
    low, high = interval(reference[drawn].sum(1) / model[drawn].sum(1))
    return {"low": low, "high": high}


def ratios(row: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """How many times better than the reference a model is: each above 1 is a gain. Values that one of the two lacks
    have no ratio."""

    def times(numerator: Any, denominator: Any) -> float | None:
        numbers = all(isinstance(v, int | float) for v in (numerator, denominator))
        return numerator / denominator if numbers and denominator > 0 else None

    result = {
        "latency_p50": times(reference["latency_p50_ms"], row["latency_p50_ms"]),
        "latency_p95": times(reference["latency_p95_ms"], row["latency_p95_ms"]),
        "throughput": times(row["queries_per_second"], reference["queries_per_second"]),
        "energy": times(reference["joules_per_query"], row["joules_per_query"]),
        "parameters": times(reference["parameters"]["total"], row["parameters"]["total"]),
        "body_parameters": times(reference["parameters"]["body"], row["parameters"]["body"]),
        "size_on_disk": times(reference["size_bytes"], row["size_bytes"]),
    }
    if isinstance(row["memory"], dict) and isinstance(reference["memory"], dict):
        result["peak_memory"] = times(reference["memory"]["peak_mib"], row["memory"]["peak_mib"])
    return {name: value for name, value in result.items() if value is not None}
