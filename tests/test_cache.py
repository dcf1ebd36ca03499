import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fisher_ld.cache import CacheWriter, TeacherCache
from fisher_ld.runtime import UserError

MARKS = {"teacher": "aa", "data": "bb"}


def rows(examples):
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((10, 3, 4)).astype(np.float16)
    return examples, np.arange(10, dtype=np.float32)[examples], hidden[examples]


def test_round_trip_across_shards(tmp_path):
    writer = CacheWriter(tmp_path / "work", 10, 3, 4, 4, MARKS)
    for part in (np.array([7, 0, 9, 4]), np.array([1, 2, 3, 5, 6, 8])):
        writer.write(*rows(part))
    writer.finish(tmp_path / "cache")
    cache = TeacherCache.open(tmp_path / "cache", MARKS)
    asked = np.array([9, 0, 5, 5, 3])
    logits, hidden = cache.signals(asked)
    _, expected_logits, expected = rows(asked)
    assert logits.tolist() == expected_logits.tolist()
    assert (hidden.numpy() == expected.astype(np.float32)).all()
    with pytest.raises(UserError, match=r"examples 0..9, asked for 10"):
        cache.signals(np.array([10]))


def test_an_unfinished_cache_is_not_moved(tmp_path):
    writer = CacheWriter(tmp_path / "work", 10, 3, 4, 4, MARKS)
    writer.write(*rows(np.arange(6)))
    with pytest.raises(UserError, match="4 of 10 examples are not cached yet"):
        writer.finish(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_goes_on_after_kill(tmp_path):
    code = (
        "import os, signal, numpy as np\n"
        "from pathlib import Path\n"
        "from fisher_ld.cache import CacheWriter\n"
        f"writer = CacheWriter(Path({str(tmp_path / 'work')!r}), 10, 3, 4, 4, {MARKS!r})\n"
        "hidden = np.random.default_rng(0).standard_normal((10, 3, 4)).astype(np.float16)\n"
        "writer.write(np.arange(6), np.arange(6, dtype=np.float32), hidden[:6])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=os.getcwd(), env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == -signal.SIGKILL
    writer = CacheWriter(tmp_path / "work", 10, 3, 4, 4, MARKS)
    assert writer.done.tolist() == [True] * 6 + [False] * 4
    writer.write(*rows(np.arange(6, 10)))
    writer.finish(tmp_path / "cache")
    logits, hidden = TeacherCache.open(tmp_path / "cache").signals(np.arange(10))
    assert logits.tolist() == list(range(10))
    assert (hidden.numpy() == rows(np.arange(10))[2].astype(np.float32)).all()


def test_a_mismatch_is_refused_by_name(tmp_path):
    writer = CacheWriter(tmp_path / "work", 2, 1, 2, 4, MARKS)
    writer.write(np.arange(2), np.zeros(2, np.float32), np.zeros((2, 1, 2), np.float16))
    with pytest.raises(UserError, match="another teacher: expected cc, it has aa"):
        CacheWriter(tmp_path / "work", 2, 1, 2, 4, {**MARKS, "teacher": "cc"})
    writer.finish(tmp_path / "cache")
    with pytest.raises(UserError, match="another data: expected dd, it has bb"):
        TeacherCache.open(tmp_path / "cache", {"data": "dd"})
