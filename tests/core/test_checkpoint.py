import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError

ROOT = Path(__file__).parents[2]


def start(code, *args, cwd):
    """A Python process that has printed its first line, that line."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


def test_checkpoint_keeps_nested_state(root):
    tied = torch.randn(3, 2)
    state = {
        "model": {"a": tied, "b": tied, "row": torch.arange(6).view(2, 3)[1], "half": torch.ones(2).bfloat16()},
        "optimiser": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"betas": (0.9, 0.999), "foreach": None}]},
        "array": np.arange(3, dtype=np.uint32),
        "empty": torch.empty(0),
        "generator": np.random.default_rng(1).bit_generator.state,
        "best": 0.25,
        "done": False,
    }
    checkpoint = Checkpoint("s", {"seed": 0})
    assert checkpoint.load() is None
    checkpoint.save(7, state)
    loaded = checkpoint.load()
    assert loaded is not None
    step, back = loaded
    assert step == 7
    assert torch.equal(back["model"]["a"], tied) and back["model"]["b"] is back["model"]["a"]
    assert back["model"]["row"].tolist() == [3, 4, 5] and back["model"]["half"].dtype == torch.bfloat16
    assert back["optimiser"] == {
        "state": {0: {"step": torch.tensor(3.0)}},
        "groups": [{"betas": (0.9, 0.999), "foreach": None}],
    }
    assert back["array"].dtype == np.uint32 and back["array"].tolist() == [0, 1, 2]
    assert back["empty"].shape == (0,)
    assert back["generator"] == state["generator"]
    assert back["best"] == 0.25 and back["done"] is False
    with pytest.raises(TypeError, match="not set"):
        checkpoint.save(8, {"x": {1, 2}})
    assert [p.name for p in checkpoint.folder.iterdir()] == ["step-000000000007"]


def test_checkpoint_holds_no_pickle_and_only_the_newest(root):
    checkpoint = Checkpoint("s", {"seed": 0})
    for step in (9, 10):
        checkpoint.save(step, {"x": torch.ones(1)})
    files = sorted(p.relative_to(checkpoint.folder).as_posix() for p in checkpoint.folder.rglob("*") if p.is_file())
    assert files == ["step-000000000010/state.json", "step-000000000010/tensors.safetensors"]
    checkpoint.done()
    assert list((root / "work" / "s").iterdir()) == []


def train(steps, resume=None, stop=None):
    """A model with dropout and AdamW; saves and stops at `stop`."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    first = 0
    if resume is not None and (saved := resume.load()):
        first, state = saved
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    for step in range(first, steps):
        if step == stop:
            assert resume is not None
            resume.save(step, {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
            return model
        optimiser.zero_grad()
        loss = (model(torch.randn(5, 4)) + random.random() + np.random.random()).pow(2).mean()
        loss.backward()
        optimiser.step()
    return model


def test_resumed_training_equals_uninterrupted(root):
    random.seed(0)
    np.random.seed(0)
    whole = train(6)
    random.seed(0)
    np.random.seed(0)
    checkpoint = Checkpoint("s", {})
    train(6, checkpoint, stop=3)
    random.seed(99)
    np.random.seed(99)
    resumed = train(6, checkpoint)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_other_params_do_not_resume(root):
    first = Checkpoint("s", {"rate": 0.1, "inputs": {"a": "x"}})
    first.save(1, {})
    assert Checkpoint("s", {"rate": 0.2, "inputs": {"a": "x"}}).load() is None
    assert Checkpoint("s", {"rate": 0.1, "inputs": {"a": "y"}}).load() is None
    assert Checkpoint("other", {"rate": 0.1, "inputs": {"a": "x"}}).load() is None
    first.lock.release()
    assert Checkpoint("s", {"inputs": {"a": "x"}, "rate": 0.1}).load() == (1, {})


HOLD = """
import sys, time
from fisher_ld.core.checkpoint import Checkpoint
c = Checkpoint("s", {})
print(c.folder.name, flush=True)
time.sleep(60)
"""


def test_an_orphan_is_named_and_its_death_frees_the_checkpoint(root, tmp_path):
    process, _ = start(HOLD, cwd=tmp_path)
    try:
        with pytest.raises(UserError, match=rf"process {process.pid} still runs.*kill {process.pid}"):
            Checkpoint("s", {})
    finally:
        process.kill()
        process.wait()
    Checkpoint("s", {})


def test_a_parallel_experiment_keeps_its_own_checkpoint(root, tmp_path):
    (tmp_path / "other").mkdir()
    process, folder = start(HOLD, cwd=tmp_path / "other")
    try:
        assert Checkpoint("s", {}).folder.name == f"{folder}-1"
    finally:
        process.kill()
        process.wait()


SAVE = """
import torch
from fisher_ld.core.checkpoint import Checkpoint
c = Checkpoint("s", {})
print("ready", flush=True)
for step in range(10**6):
    c.save(step, {"x": torch.full((1000,), float(step)), "step": step})
"""


def test_kill_during_save_leaves_a_whole_checkpoint(root, tmp_path):
    for wait in (0.05, 0.051, 0.052):
        process, _ = start(SAVE, cwd=tmp_path)
        while not list(root.glob("work/s/*/step-*")):
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        checkpoint = Checkpoint("s", {})
        loaded = checkpoint.load()
        assert loaded is not None
        step, state = loaded
        assert state["step"] == step and state["x"].eq(step).all()
        checkpoint.save(step + 1, {})
        assert [p.name for p in checkpoint.folder.iterdir()] == [f"step-{step + 1:012d}"]
        checkpoint.done()
