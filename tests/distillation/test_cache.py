import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import pack
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.cache import CacheWriter, TeacherCache, fill, signal_fingerprint
from fisher_ld.models.scorer import Scorer, score_lists, unit_rms

MARKS = {"teacher": "aa", "tokenizer": "bb", "prompt": "cc", "data": "dd", "windows": "ff", "code": "ee"}
SHAPE = {"examples": 10, "layers": 3, "width": 4, "shard_rows": 4}
ALL = np.arange(10)


def rows(examples):
    """Logits and hidden states of SHAPE, each layer at a scale of its own."""
    states = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 30.0, 1e6])[:, None]
    return examples, torch.arange(10.0)[examples], states[examples]


def whole(work, target):
    writer = CacheWriter(work, **SHAPE, fingerprint=MARKS)
    writer.write(*rows(ALL))
    writer.finish(target)
    return TeacherCache.open(target)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip_across_shards(tmp_path):
    writer = CacheWriter(tmp_path / "work", **SHAPE, fingerprint=MARKS)
    for part in (np.array([7, 0, 9, 4]), np.array([1, 2, 3, 5, 6, 8])):
        writer.write(*rows(part))
    writer.finish(tmp_path / "cache")
    assert not (tmp_path / "work").exists()
    cache = TeacherCache.open(tmp_path / "cache", MARKS)
    for asked in ([9, 0, 5, 5, 3], list(range(2, 10)), [4, 3, 2], []):
        _, expected_logits, expected = rows(np.array(asked, int))
        logits, hidden = cache.read(np.array(asked, int))
        assert (logits.dtype, hidden.dtype) == (np.float32, np.float16)
        assert logits.tolist() == expected_logits.tolist()
        unit = unit_rms(expected)
        assert torch.equal(torch.from_numpy(hidden), unit.half())
        z, states = cache.signals(np.array(asked, int))
        assert torch.equal(z, expected_logits) and torch.equal(states, unit.half().float())


def test_pieces_end_at_shards(tmp_path):
    cache = whole(tmp_path / "work", tmp_path / "cache")
    one_by_one = np.concatenate([cache.read(np.array([i]))[1] for i in ALL])
    assert (cache.read(ALL)[1] == one_by_one).all()


@pytest.mark.parametrize("wrong", [10, -1])
def test_a_missing_example_is_an_error(tmp_path, wrong):
    cache = whole(tmp_path / "work", tmp_path / "cache")
    with pytest.raises(UserError, match=rf"examples 0\.\.9, asked for {wrong}"):
        cache.read(np.array([3, wrong]))
    with pytest.raises(UserError, match=f"asked for {wrong}"):
        CacheWriter(tmp_path / "other", **SHAPE, fingerprint=MARKS).write(
            np.array([wrong]), torch.zeros(1), torch.ones(1, 3, 4)
        )


def test_an_unfinished_cache_is_not_moved(tmp_path):
    writer = CacheWriter(tmp_path / "work", **SHAPE, fingerprint=MARKS)
    writer.write(*rows(np.arange(6)))
    assert writer.missing(np.array([7, 2, 6])).tolist() == [True, False, True]
    with pytest.raises(UserError, match="4 of 10 examples are not cached yet"):
        writer.finish(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_finish_takes_along_what_else_is_in_the_folder(tmp_path):
    writer = CacheWriter(tmp_path / "work", **SHAPE, fingerprint=MARKS)
    writer.write(*rows(ALL))
    (tmp_path / "work" / "scores.parquet").write_text("scores")
    writer.finish(tmp_path / "cache")
    names = {"hidden-00000.npy", "hidden-00001.npy", "hidden-00002.npy", "logits.npy", "manifest.json"}
    assert set(files(tmp_path / "cache")) == {*names, "scores.parquet"}


def test_extremes_do_not_overflow(tmp_path):
    states = torch.tensor([[[3e5, 1.0, -2.0, 0.5]], [[1e15, -1e15, 1e15, 1e15]], [[0.0, 0.0, 0.0, 0.0]]])
    writer = CacheWriter(tmp_path / "work", 3, 1, 4, 8, MARKS)
    writer.write(np.arange(3), torch.zeros(3), states)
    writer.finish(tmp_path / "cache")
    _, hidden = TeacherCache.open(tmp_path / "cache").read(np.arange(3))
    expected = [[[2.0, 2 / 3e5, -4 / 3e5, 1 / 3e5]], [[1, -1, 1, 1]], [[0, 0, 0, 0]]]
    np.testing.assert_allclose(hidden, expected, rtol=2e-2, atol=0)  # 1 / 3e5 is a subnormal
    np.testing.assert_allclose(hidden[0, 0, 0], 2, rtol=2**-11)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_broken_state_names_its_layer(tmp_path, value):
    _, logits, states = rows(np.array([4, 8]))
    writer = CacheWriter(tmp_path / "work", **SHAPE, fingerprint=MARKS)
    states[1, 1, 0] = value
    with pytest.raises(UserError, match=r"layer 2 are not finite \(example 8"):
        writer.write(np.array([4, 8]), logits, states)
    logits[0] = value
    with pytest.raises(UserError, match="logit of example 4"):
        writer.write(np.array([4, 8]), logits, torch.ones(2, 3, 4))
    assert writer.missing(ALL).all()


@pytest.mark.parametrize("field", MARKS)
def test_another_fingerprint_is_refused_by_name(tmp_path, field):
    CacheWriter(tmp_path / "work", **SHAPE, fingerprint=MARKS)
    message = f"another {field}: expected new, it has {MARKS[field]}"
    with pytest.raises(UserError, match=message):
        CacheWriter(tmp_path / "work", **SHAPE, fingerprint={**MARKS, field: "new"})
    whole(tmp_path / "work", tmp_path / "cache")
    with pytest.raises(UserError, match=message):
        TeacherCache.open(tmp_path / "cache", {**MARKS, field: "new"})


def test_a_restart_with_another_shape_is_refused(tmp_path):
    CacheWriter(tmp_path / "work", **SHAPE, fingerprint=MARKS)
    with pytest.raises(UserError, match="another layers: expected 5, it has 3"):
        CacheWriter(tmp_path / "work", **{**SHAPE, "layers": 5}, fingerprint=MARKS)


def test_a_cache_with_a_file_missing_is_refused(tmp_path):
    whole(tmp_path / "work", tmp_path / "cache")
    (tmp_path / "cache" / "logits.npy").unlink()
    with pytest.raises(UserError, match=r"logits\.npy: no such file"):
        TeacherCache.open(tmp_path / "cache")


def test_each_file_changes_its_own_field(tmp_path):
    teacher, processed = tmp_path / "teacher", tmp_path / "processed"
    names = {
        "teacher": [teacher / "model.safetensors", teacher / "config.json"],
        "tokenizer": [teacher / "tokenizer.json"],
        "prompt": [teacher / "prompt.json"],
        "data": [processed / name for name in ("items.parquet", "sequences.parquet", "train.parquet")],
    }
    for path in (path for paths in names.values() for path in paths):
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.name)
    (processed / "val.parquet").write_text("no signal depends on it")
    lists = world()[1]
    before = signal_fingerprint(teacher, processed, lists)
    assert set(before) == set(MARKS)
    for field, paths in names.items():
        for path in paths:
            path.write_text("changed")
            after = signal_fingerprint(teacher, processed, lists)
            assert [name for name in before if after[name] != before[name]] == [field]
            before = after
    (processed / "val.parquet").write_text("changed")
    assert signal_fingerprint(teacher, processed, lists) == before
    other = signal_fingerprint(teacher, processed, replace(lists, user=lists.user[::-1]))
    assert [name for name in before if other[name] != before[name]] == ["windows"]


def world():
    """A tiny teacher and 5 lists of 3 users, in 4 windows."""
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_labels": 2}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
    scorer = Scorer(AutoModelForSequenceClassification.from_config(config).eval())
    candidates = [np.array(c) for c in ([1, 2, 3], [5, 0], [4, 1, 2, 0], [3], [2, 5])]
    columns = (np.array(c) for c in ([0, 1, 0, 2, 0], [0, 0, 0, 1, 2], [2, 3, 4, 4, 5], [0, 1, 3, 0, 0]))
    lists = Lists(*columns, candidates, np.array([0, 3, 5, 9, 10, 12]), [np.arange(6)] * 3)
    pieces = [[10 + item, 20 + item][: 1 + item % 2] for item in range(6)]
    return scorer, lists, Prompts([7, 8], pieces, [[30 + p[0], 9] for p in pieces], yes=1, no=2)


def cache_world(work, target):
    writer = CacheWriter(Path(work), 12, 3, 16, 5, MARKS)
    left = int(writer.missing(np.arange(12)).sum())
    fill(writer, *world())
    writer.finish(Path(target))
    return left


def test_fill_caches_what_the_teacher_says(tmp_path):
    cache_world(tmp_path / "work", tmp_path / "cache")
    scorer, lists, prompts = world()
    logits, hidden = TeacherCache.open(tmp_path / "cache").read(np.arange(12))
    scores = score_lists(scorer, lists, prompts)
    np.testing.assert_allclose(logits, np.concatenate(scores), rtol=0, atol=1e-6)
    batch = pack(lists, lists.windows(), prompts, scorer.context())
    with torch.inference_mode():
        _, states = scorer(batch, with_hidden_states=True)
    np.testing.assert_allclose(hidden[batch.examples], unit_rms(states), rtol=2e-3, atol=1e-4)


KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("test_cache", sys.argv[1])
test_cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_cache)
from fisher_ld import cache

def after(count):
    write = cache.CacheWriter.write
    def counted(self, *arguments):
        nonlocal count
        if count == 0:
            cut_off = self.missing(range(5))  # of the first shard: a write that never came to its end
            assert cut_off.any()
            self.hidden[0][cut_off] = 7
            os.kill(os.getpid(), signal.SIGKILL)
        count -= 1
        write(self, *arguments)
    return counted

if sys.argv[4] == "write":
    cache.CacheWriter.write = after(2)
else:
    cache.shutil.rmtree = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
test_cache.cache_world(sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize("place", ["write", "finish"])
def test_goes_on_after_a_kill_to_the_same_bytes(tmp_path, place):
    cache_world(tmp_path / "work", tmp_path / "uninterrupted")
    command = [sys.executable, "-c", KILLED, __file__, str(tmp_path / "work"), str(tmp_path / "cache"), place]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, env={**os.environ, **threads, "PYTHONPATH": os.getcwd()}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "cache").exists() == (place == "finish")  # whole or not at all
    left = cache_world(tmp_path / "work", tmp_path / "cache")
    assert 0 < left < 12 if place == "write" else left == 0
    assert files(tmp_path / "cache") == files(tmp_path / "uninterrupted")
