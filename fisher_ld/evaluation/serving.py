"""Saved models as callables over queries, and their efficiency side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fisher_ld.batches.lists import Lists, read_lists
from fisher_ld.batches.prompts import saved_prompts
from fisher_ld.core.compute import Compute
from fisher_ld.core.files import read_json
from fisher_ld.core.progress import progress
from fisher_ld.evaluation import efficiency
from fisher_ld.models.scorer import Scorer


def as_model(folder: Path, scorer: Scorer, lists: Lists, processed: Path) -> efficiency.Model:
    """The scorer of a model folder as a callable: list numbers -> z of all their candidates, one packed row a list. To
    be called within `scorer.inference()`."""
    prompts = saved_prompts(folder, processed)

    def score(queries: Sequence[int]) -> np.ndarray:
        batch = scorer.pack(lists, [np.array([query]) for query in queries], prompts)
        return scorer(batch)[0].float().cpu().numpy()

    return score


def run_alone(folder: Path, processed: Path, name: str, queries: Sequence[int], compute: Compute, threads: int) -> None:
    """Loads a model and scores the queries one by one; run in a process of its own for its peak memory."""
    torch.set_num_threads(threads)
    lists = read_lists(processed, name)
    scorer = Scorer.load(folder).on(compute)
    model = as_model(folder, scorer, lists, processed)
    with scorer.inference():
        for query in queries:
            model([query])


def one_of_each_shape(folders: dict[str, Path]) -> dict[str, list[str]]:
    """Model names by the first that has the same architecture (equal config.json): those need not be timed twice."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, folder in folders.items():
        config = read_json(folder / "config.json")
        same = next((names for other, names in groups.values() if other == config), None)
        if same is None:
            groups[name] = (config, [name])
        else:
            same.append(name)
    return {name: names for name, (_, names) in groups.items()}


def measure(
    folders: dict[str, Path], reference: str, processed: Path, name: str, count: int, compute: Compute, seed: int
) -> dict[str, Any]:
    """Efficiency of the models in `folders` on `count` seeded lists of the file `name`, and ratios to `reference`
    (above 1: better). Of models with one architecture, `reference` apart, the first is measured, and `stands_for`
    names them all. Memory and energy are the host's, and so not available where models run elsewhere."""
    others = {model: folder for model, folder in folders.items() if model != reference}
    groups = {reference: [reference], **one_of_each_shape(others)}
    on_host = compute.device.type == "cpu"
    lists = read_lists(processed, name)
    chosen = np.random.default_rng(seed).permutation(len(lists))[:count]
    queries = [int(i) for i in chosen]
    threads = torch.get_num_threads()
    memory = {
        model: efficiency.peak_memory(run_alone, folders[model], processed, name, queries, compute, threads)
        for model in progress(list(groups) if on_host else [], "peak memory of each model alone", unit="model")
    }
    scorers = {model: Scorer.load(folders[model]).on(compute) for model in groups}
    models = {m: as_model(folders[m], scorers[m], lists, processed) for m in groups}
    counter = efficiency.EnergyCounter()
    if not on_host:
        counter.domains = []
    with ExitStack() as ready:
        for scorer in scorers.values():
            ready.enter_context(scorer.inference())
        seconds, joules = efficiency.latency(models, queries, counter)
        rows = efficiency.summarise(seconds, joules, efficiency.throughput(models, queries))
    for model, row in rows.items():
        row["memory"] = memory.get(model, efficiency.NOT_AVAILABLE)
        row["parameters"] = efficiency.parameters(scorers[model].model)
        row["size_bytes"] = efficiency.size_on_disk(folders[model])
        row["stands_for"] = groups[model]
    return {
        "ratios": {m: efficiency.ratios(row, rows[reference]) for m, row in rows.items() if m != reference},
        "reference": reference,
        "models": rows,
        "queries": len(queries),
        "candidates": float(np.mean([len(lists.candidates[i]) for i in queries])),
        "threads": threads,
        "device": str(compute.device),
        "precision": "bf16" if compute.bf16 else "fp32",
        "energy_counter": counter.source,
    }
