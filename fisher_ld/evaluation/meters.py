"""Meters of time, energy, memory and size. Models are measured on the same queries, alternating in one process.

A query is one user's candidate list; a model is a callable that takes a batch of query numbers and returns when their
scores are there, on the CPU. What it does on the way (tokenising and packing included) is what a user would wait for.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fisher_ld.core.progress import progress

Model = Callable[[Sequence[int]], Any]
NOT_AVAILABLE = "not available"
POWERCAP = Path("/sys/class/powercap")
MIB = 2**20


class EnergyCounter:
    """Joules of the processor packages since boot, by RAPL. They count other programs too."""

    def __init__(self, powercap: Path = POWERCAP):
        self.domains: list[Path] = []
        for domain in sorted(powercap.glob("intel-rapl:*")):
            name = domain / "name"
            try:
                if name.read_text().startswith("package"):  # sub-domains are part of their package
                    int((domain / "energy_uj").read_text())
                    int((domain / "max_energy_range_uj").read_text())
                    self.domains.append(domain)
            except (OSError, ValueError):  # missing, or for root alone: then there is no counter to speak of
                self.domains = []
                return

    @property
    def source(self) -> str:
        return "RAPL, processor packages, other programs included" if self.domains else NOT_AVAILABLE

    def read(self) -> list[int]:
        """Microjoules of each package."""
        return [int((domain / "energy_uj").read_text()) for domain in self.domains]

    def joules(self, before: list[int], after: list[int]) -> float:
        """Between two readings at most one overflow apart."""
        total = 0
        for domain, first, last in zip(self.domains, before, after, strict=True):
            wrap = int((domain / "max_energy_range_uj").read_text()) if last < first else 0
            total += last - first + wrap
        return total / 1e6


class GpuCounter:
    """Of a GPU, by NVML: joules since its driver was loaded, and bytes in use. They count other programs too. `uuid`:
    as NVML writes it, GPU-..."""

    def __init__(self, uuid: str):
        import pynvml

        self.nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self.gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self.read()
            self.source = "NVML, the GPU alone, other programs included"
        except pynvml.NVMLError:  # no driver, or a GPU that counts no energy
            self.source = NOT_AVAILABLE

    def read(self) -> int:
        """Millijoules."""
        return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.gpu)

    def joules_per_query(self, model: Model, queries: Sequence[int], seconds: float = 5.0) -> float | str:
        """Of a model that answers all queries one by one, again and again for so long: the counter has a new value some
        ten times a second, and so cannot tell one query."""
        if self.source == NOT_AVAILABLE:
            return NOT_AVAILABLE
        model(queries[:1])
        rounds, began, before = 0, time.perf_counter(), self.read()
        while not rounds or time.perf_counter() - began < seconds:
            for query in queries:
                model([query])
            rounds += 1
        return (self.read() - before) / 1000 / (rounds * len(queries))


def gpu_memory(uuid: str) -> int | None:
    """Bytes in use on a GPU. Torch gives back nothing that it took, so that what a process added is its peak."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid)).used)
    except pynvml.NVMLError:
        return None


def latency(
    models: dict[str, Model], queries: Sequence[int], counter: EnergyCounter, warm_up: int = 3
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Seconds and joules of each model for each query at batch 1: two dicts of (queries,); joules are empty without a
    counter. The models take turns on each query, each in every place of the turn equally often."""
    names = list(models)
    for name in names:
        for query in queries[:warm_up]:
            models[name]([query])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    joules: dict[str, list[float]] = {name: [] for name in names}
    for turn, query in enumerate(progress(queries, "measuring latency", unit="query")):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            before = counter.read()
            began = time.perf_counter()
            models[name]([query])
            seconds[name].append(time.perf_counter() - began)
            if counter.domains:
                joules[name].append(counter.joules(before, counter.read()))
    return {n: np.array(s) for n, s in seconds.items()}, {n: np.array(j) for n, j in joules.items()}


def rounds(
    models: Mapping[str, Model], sizes: Mapping[str, int], queries: Sequence[int], together: int
) -> dict[str, np.ndarray]:
    """Seconds of each round, in which every model answers the same `together` queries in batches of its own size:
    (rounds,) each. The models take turns, each after an untimed batch: a new shape may need new kernels."""
    names = list(models)
    for name in names:
        models[name](queries[: sizes[name]])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    begins = range(0, len(queries), together)
    for turn, begin in enumerate(progress(begins, f"measuring throughput, {together} queries", unit="round")):
        end, shift = min(begin + together, len(queries)), turn % len(names)
        for name in names[shift:] + names[:shift]:
            began = time.perf_counter()
            for first in range(begin, end, sizes[name]):
                models[name](queries[first : min(first + sizes[name], end)])
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def best_batch(models: Mapping[str, Model], queries: Sequence[int], limit: int) -> dict[str, int]:
    """Of the batch sizes 1, 2, 4, .. up to `limit` that with which each model answers `queries` soonest."""
    sizes = [2**i for i in range(limit.bit_length())]
    totals = {size: rounds(models, {name: size for name in models}, queries, len(queries)) for size in sizes}
    return {name: min(sizes, key=lambda size: totals[size][name].sum()) for name in models}


def _resident_peak() -> int | None:
    """Bytes: the high-water mark of this process' own memory (ru_maxrss would carry over the parent's)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def _child(pipe: Any, gpu: str | None, run: Callable[..., None], args: tuple) -> None:
    def used() -> int:
        found = gpu_memory(gpu) if gpu else _resident_peak()
        assert found is not None
        return found

    idle = used()
    run(*args)
    pipe.send((0, used() - idle) if gpu else (idle, used()))


def peak_memory(run: Callable[..., None], *args: Any, gpu: str | None = None) -> dict[str, float] | str:
    """Peak resident memory of `run(*args)` in a fresh process, in MiB: `peak_mib`, and `idle_mib` of it that
    interpreter and libraries took before; or what it took of a GPU of this uuid, its context included. "not available"
    without /proc or NVML. `run` is a module's top-level function. Raises RuntimeError where the process fails."""
    if (gpu_memory(gpu) if gpu else _resident_peak()) is None:
        return NOT_AVAILABLE
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, gpu, run, args))
    process.start()
    there.close()
    try:
        idle, peak = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"measuring memory: the process of {run.__name__} ended with {process.exitcode}") from None
    process.join()
    return {"peak_mib": peak / MIB, "idle_mib": idle / MIB}


def parameters(model: Any) -> dict[str, int]:
    """Counts of a sequence-classification model of transformers: token embedding, head (the two answer rows), body
    (all the rest); tied weights once."""
    total = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    head = sum(p.numel() for p in model.score.parameters())
    return {"body": total - embedding - head, "embedding": embedding, "head": head, "total": total}


def size_on_disk(folder: Path) -> int:
    """Bytes of a model folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
