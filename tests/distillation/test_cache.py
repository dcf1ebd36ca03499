import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import pack
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.cache import CacheWriter, TeacherCache, as_cached, fill, signal_fingerprint
from fisher_ld.distillation.signals import Sizes
from fisher_ld.models.relations import HEADS
from fisher_ld.models.scorer import Scored, Scorer, score_lists, unit_rms

ROOT = Path(__file__).parents[2]
MARKS = {"teacher": "aa", "tokenizer": "bb", "prompt": "cc", "data": "dd", "windows": "ff"}
BOTH = ("logits", "states")
SHAPE = {"examples": 10, "sizes": Sizes(layers=3, width=4, tokens=9), "shard_rows": 4}
BATCH: Any = None  # logits and states are made of no batch
ALL = np.arange(10)


def rows(examples):
    """Logits and states of SHAPE, each layer at a scale of its own."""
    states = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 30.0, 1e6])[:, None]
    return examples, Scored(torch.arange(10.0)[examples], states[examples])


def written(writer, examples, scored):
    writer.write(examples, as_cached(writer.arrays, scored, examples))


def writer_in(work, signals=BOTH, **changes):
    return CacheWriter(work, signals, **{**SHAPE, "fingerprint": MARKS, **changes})


def whole(work, target, signals=BOTH):
    writer = writer_in(work, signals)
    written(writer, *rows(ALL))
    writer.finish(target)
    return TeacherCache.open(target, signals)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip_across_shards(tmp_path):
    writer = writer_in(tmp_path / "work")
    for part in (np.array([7, 0, 9, 4]), np.array([1, 2, 3, 5, 6, 8])):
        written(writer, *rows(part))
    writer.finish(tmp_path / "cache")
    assert not (tmp_path / "work").exists()
    cache = TeacherCache.open(tmp_path / "cache", BOTH, MARKS)
    for asked in ([9, 0, 5, 5, 3], list(range(2, 10)), [4, 3, 2], []):
        examples, expected = rows(np.array(asked, int))
        logits, states = cache.read(examples, "logits"), cache.read(examples, "states")
        assert (logits.dtype, states.dtype) == (np.float32, np.float16)
        assert logits.tolist() == expected.logits.tolist()
        unit = unit_rms(expected.states).half()
        assert torch.equal(torch.from_numpy(states), unit)
        given = cache.signals(examples, BOTH)
        assert torch.equal(given["logits"], expected.logits) and torch.equal(given["states"], unit.float())
        assert cache.signals(examples, ["logits"]).keys() == {"logits"}


def test_pieces_end_at_shards(tmp_path):
    cache = whole(tmp_path / "work", tmp_path / "cache")
    for name in BOTH:
        one_by_one = np.concatenate([cache.read(np.array([i]), name) for i in ALL])
        assert (cache.read(ALL, name) == one_by_one).all()


def test_a_sample_is_of_seeded_examples(tmp_path):
    cache = whole(tmp_path / "work", tmp_path / "cache")
    sampled = cache.sample("logits", 4, seed=1)
    assert len(set(sampled.tolist())) == 4
    assert torch.equal(sampled, cache.sample("logits", 4, seed=1))
    assert not torch.equal(sampled, cache.sample("logits", 4, seed=2))
    assert sorted(cache.sample("logits", 99, seed=1).tolist()) == list(range(10))
    assert cache.sample("states", 4, seed=1).shape == (4, 3, 4)


@pytest.mark.parametrize("wrong", [10, -1])
def test_a_missing_example_is_an_error(tmp_path, wrong):
    cache = whole(tmp_path / "work", tmp_path / "cache")
    with pytest.raises(UserError, match=rf"examples 0\.\.9, asked for {wrong}"):
        cache.read(np.array([3, wrong]), "logits")
    with pytest.raises(UserError, match=f"asked for {wrong}"):
        written(writer_in(tmp_path / "other"), np.array([wrong]), Scored(torch.zeros(1), torch.ones(1, 3, 4)))


def test_an_unfinished_cache_is_not_moved(tmp_path):
    writer = writer_in(tmp_path / "work")
    written(writer, *rows(np.arange(6)))
    assert writer.missing(np.array([7, 2, 6])).tolist() == [True, False, True]
    with pytest.raises(UserError, match="4 of 10 examples are not cached yet"):
        writer.finish(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_holds_the_shards_of_its_signals_alone(tmp_path):
    whole(tmp_path / "work", tmp_path / "both")
    whole(tmp_path / "work", tmp_path / "logits", ["logits"])
    logits = {f"logits-0000{i}.npy" for i in range(3)}
    assert set(files(tmp_path / "logits")) == {"manifest.json", *logits}
    assert set(files(tmp_path / "both")) == {"manifest.json", *logits, *(f"states-0000{i}.npy" for i in range(3))}


def test_a_signal_that_the_cache_lacks_is_named(tmp_path):
    assert whole(tmp_path / "work", tmp_path / "cache", ["logits"]).read(ALL, "logits").tolist() == list(range(10))
    with pytest.raises(UserError, match=r"expected signals logits, states, it lacks states.*cache_teacher"):
        TeacherCache.open(tmp_path / "cache", BOTH)


def test_two_caches_of_the_same_examples_are_one(tmp_path):
    """What attention says has as many places as the longest prompt of all; a batch of shorter ones leaves zeros."""
    scorer, lists, prompts = world()
    signals = ["attention", "relations", "scores"]
    sizes = Sizes(len(scorer.layers), 16, prompts.longest(lists) + 3)
    for name, chosen in (("basic", BOTH), ("own", signals)):
        writer = CacheWriter(tmp_path / "work", chosen, int(lists.offsets[-1]), sizes, 5, MARKS)
        fill(writer, chosen, scorer, lists, prompts)
        writer.finish(tmp_path / name)
    own = TeacherCache.open(tmp_path / "own", signals)
    joined = TeacherCache.open(tmp_path / "basic", BOTH).joined(own)
    every = np.arange(joined.examples)
    found = joined.signals(every, [*BOTH, *signals])
    assert found["attention"].shape == (len(every), 3, sizes.tokens)
    assert found["scores"].shape == (len(every), 3, HEADS, sizes.tokens)
    assert found["relations"].shape == (len(every), 2, HEADS, sizes.tokens)
    assert found["attention"][..., -3:].eq(0).all() and found["attention"][..., 1:3].gt(0).all()


def test_extremes_do_not_overflow(tmp_path):
    states = torch.tensor([[[3e5, 1.0, -2.0, 0.5]], [[1e15, -1e15, 1e15, 1e15]], [[0.0, 0.0, 0.0, 0.0]]])
    writer = writer_in(tmp_path / "work", examples=3, sizes=Sizes(1, 4, 9))
    written(writer, np.arange(3), Scored(torch.zeros(3), states))
    writer.finish(tmp_path / "cache")
    cached = TeacherCache.open(tmp_path / "cache", ["states"]).read(np.arange(3), "states")
    expected = [[[2.0, 2 / 3e5, -4 / 3e5, 1 / 3e5]], [[1, -1, 1, 1]], [[0, 0, 0, 0]]]
    np.testing.assert_allclose(cached, expected, rtol=2e-2, atol=0)  # 1 / 3e5 is a subnormal
    np.testing.assert_allclose(cached[0, 0, 0], 2, rtol=2**-11)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_broken_signal_names_its_example_and_layer(tmp_path, value):
    examples, scored = rows(np.array([4, 8]))
    writer = writer_in(tmp_path / "work")
    scored.states[1, 1, 0] = value
    with pytest.raises(UserError, match="the teacher's states of example 8, layer 2 are not finite"):
        written(writer, examples, scored)
    scored.logits[0] = value
    with pytest.raises(UserError, match="the teacher's logits of example 4 are not finite"):
        written(writer, examples, Scored(scored.logits, torch.ones(2, 3, 4)))
    assert writer.missing(ALL).all()


@pytest.mark.parametrize("field", MARKS)
def test_another_fingerprint_is_refused_by_name(tmp_path, field):
    writer_in(tmp_path / "work")
    message = f"another {field}: expected new, it has {MARKS[field]}"
    with pytest.raises(UserError, match=message):
        writer_in(tmp_path / "work", fingerprint={**MARKS, field: "new"})
    whole(tmp_path / "work", tmp_path / "cache")
    with pytest.raises(UserError, match=message):
        TeacherCache.open(tmp_path / "cache", BOTH, {**MARKS, field: "new"})


def test_a_restart_with_another_shape_or_other_signals_is_refused(tmp_path):
    writer_in(tmp_path / "work")
    with pytest.raises(UserError, match=rf"another layers: expected 5, it has 3\. Delete {tmp_path / 'work'}"):
        writer_in(tmp_path / "work", sizes=Sizes(5, 4, 9))
    with pytest.raises(UserError, match=r"another signals: expected \['logits'\], it has \['logits', 'states'\]"):
        writer_in(tmp_path / "work", ["logits"])


def test_a_cache_with_a_file_missing_is_refused(tmp_path):
    whole(tmp_path / "work", tmp_path / "cache")
    (tmp_path / "cache" / "logits-00001.npy").unlink()
    with pytest.raises(UserError, match=r"logits-00001\.npy: no such file.*cache_teacher"):
        TeacherCache.open(tmp_path / "cache", ["logits"])
    assert TeacherCache.open(tmp_path / "cache", ["states"]).read(ALL, "states").shape == (10, 3, 4)


def test_each_file_changes_its_own_field(tmp_path):
    teacher, processed = tmp_path / "teacher", tmp_path / "processed"
    names = {
        "teacher": [teacher / "model.safetensors", teacher / "config.json"],
        "tokenizer": [teacher / "tokenizer.json"],
        "prompt": [teacher / "prompt.json"],
        "data": [
            processed / name for name in ("items.parquet", "sequences.parquet", "labelled.parquet", "transfer.parquet")
        ],
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
    return scorer, lists, Prompts([7, 8], pieces, [[30 + p[0], 9] for p in pieces])


def cache_world(work, target, signals=BOTH):
    writer = CacheWriter(Path(work), signals, 12, Sizes(3, 16, 9), 5, MARKS)
    left = int(writer.missing(np.arange(12)).sum())
    fill(writer, signals, *world())
    writer.finish(Path(target))
    return left


def test_fill_caches_what_the_teacher_says(tmp_path):
    cache_world(tmp_path / "work", tmp_path / "cache")
    scorer, lists, prompts = world()
    cache = TeacherCache.open(tmp_path / "cache", BOTH)
    scores = score_lists(scorer, lists, prompts)
    np.testing.assert_allclose(cache.read(np.arange(12), "logits"), np.concatenate(scores), rtol=0, atol=1e-6)
    batch = pack(lists, lists.windows(), prompts, scorer.context())
    with torch.inference_mode():
        states = unit_rms(scorer(batch, with_states=True).states)
    np.testing.assert_allclose(cache.read(batch.examples.numpy(), "states"), states, rtol=2e-3, atol=1e-4)


def test_states_are_taken_only_for_a_cache_that_holds_them(tmp_path, monkeypatch):
    asked, forward = [], Scorer.forward

    def watched(self, batch, with_states=False, with_attention=False):
        asked.append(with_states)
        assert not with_attention
        return forward(self, batch, with_states)

    monkeypatch.setattr(Scorer, "forward", watched)
    for signals in (["logits"], BOTH):
        cache_world(tmp_path / "work", tmp_path / "-".join(signals), signals)
        assert set(asked) == {"states" in signals}
        asked.clear()
    alone, both = (TeacherCache.open(tmp_path / name, ["logits"]) for name in ("logits", "logits-states"))
    assert (alone.read(np.arange(12), "logits") == both.read(np.arange(12), "logits")).all()


KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("test_cache", sys.argv[1])
test_cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_cache)
from fisher_ld.distillation import cache

def after(count):
    write = cache.CacheWriter.write
    def counted(self, *arguments):
        nonlocal count
        if count == 0:
            cut_off = self.missing(range(5))  # of the first shard: a write that never came to its end
            assert cut_off.any()
            self.arrays["states"][0][cut_off] = 7
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
    done = subprocess.run(command, env={**os.environ, **threads, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "cache").exists() == (place == "finish")  # whole or not at all
    left = cache_world(tmp_path / "work", tmp_path / "cache")
    assert 0 < left < 12 if place == "write" else left == 0
    assert files(tmp_path / "cache") == files(tmp_path / "uninterrupted")
