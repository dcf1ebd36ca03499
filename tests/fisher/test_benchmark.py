"""What `benchmarks.fisher` compares with gives the same norms, padding and chunks included."""

import importlib
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks import peers
from benchmarks.fisher import naive
from fisher_ld.fisher.gradient_norms import gradient_norms, pad_prompts
from fisher_ld.models.scorer import Scorer


@pytest.mark.parametrize("contestant", [naive, peers.torch_func])
def test_a_contestant_equals_ours(build_model, keep_float64, prompts, contestant):
    model, batch = build_model(), pad_prompts([*prompts, [5, 6, 7]])
    assert len(batch.decision) > peers.CHUNK
    found = contestant(model, batch)
    torch.testing.assert_close(found, gradient_norms(Scorer(model), batch).layers, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", sorted(p.stem for p in Path(benchmarks.__file__).parent.glob("[a-z]*.py")))
def test_a_benchmark_has_what_it_takes_of_the_library(name):
    assert importlib.import_module(f"benchmarks.{name}").__doc__
