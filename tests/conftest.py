"""A world small enough to train on in a moment, and stand-ins for MLflow and for servers."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.prompts import Prompts
from fisher_ld.models.scorer import Scorer


@dataclass
class Tiny:
    lists: Lists
    prompts: Prompts

    def scorer(self, layers: int = 2, seed: int = 0) -> Scorer:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, num_labels=2, pad_token_id=0,
        )  # fmt: skip
        return Scorer(LlamaForSequenceClassification(config).eval())


@pytest.fixture
def float64_norms(monkeypatch):
    """transformers computes norms in float32 whatever the model's type; here float64 stays float64."""
    to = torch.Tensor.to

    def keep(tensor, *arguments, **keywords):
        narrowing = tensor.dtype == torch.float64 and arguments == (torch.float32,)
        return tensor if narrowing else to(tensor, *arguments, **keywords)

    monkeypatch.setattr(torch.Tensor, "to", keep)
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: keep(tensor, torch.float32))


@pytest.fixture
def tiny() -> Tiny:
    return tiny_world()


def tiny_world() -> Tiny:
    """8 items; user u (0..3) likes u, u + 1, u + 2; one list a user: u + 3 against two others."""
    users, three = np.arange(4), np.full(4, 3)
    pieces = [[5 + item, 3] for item in range(8)]
    candidates = [np.array([(u + 5) % 8, u + 3, (u + 6) % 8]) for u in users]
    sequences = [np.arange(u, u + 4) for u in users]
    lists = Lists(users, np.zeros(4, int), three, np.ones(4, int), candidates, np.arange(0, 13, 3), sequences)
    return Tiny(lists, Prompts([1, 2], pieces, pieces))


@dataclass
class Run:
    """Of a `StageRun` what a stage's `main` uses; of each metric the last value."""

    code: dict[str, str] = field(default_factory=dict)  # module -> fingerprint
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)

    def log_metrics(self, values, step=None):
        self.metrics |= values

    def log_artifact(self, path):
        assert Path(path).is_file()
        self.artifacts.append(str(path))


@pytest.fixture(scope="session")
def new_run():
    return Run


@pytest.fixture
def run(new_run):
    return new_run()


@pytest.fixture
def serving(monkeypatch):
    """Starts a local server, which is stopped when the test ends."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ExitStack() as running:

        def start(server):
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            running.enter_context(server)
            running.callback(thread.join)
            running.callback(server.shutdown)
            thread.start()
            return server

        yield start
