import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fisher_ld.core.errors import UserError, is_disk_full, reading, told
from fisher_ld.core.files import atomic_path, fingerprint, read_json, write_json
from tests.given import given


def test_atomic_file_replaces_only_on_success(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
        assert temporary.suffix == ".txt" and not path.exists()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.txt"]


def test_atomic_folder_replaces_a_full_one(tmp_path):
    path = tmp_path / "out"
    for name in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["second"]
    assert os.listdir(tmp_path) == ["out"]


def test_atomic_path_starts_clean_after_a_kill(tmp_path):
    for left in (".new-out", ".old-out"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "stale").touch()
    with atomic_path(tmp_path / "out") as temporary:
        temporary.mkdir()
    assert os.listdir(tmp_path / "out") == [] and os.listdir(tmp_path) == ["out"]


def test_a_folder_that_cannot_get_its_name_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    rename = Path.rename

    def refuse(source, target):
        if source.name == ".new-out":
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"), atomic_path(tmp_path / "out") as temporary:
        temporary.mkdir()
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["kept"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("lower it"), "lower it"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "disk full: /a/b could not be written"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied. Give this user the right"),
        (OSError(errno.EROFS, "Read-only file system", "c"), "c: Read-only file system. Give"),
        (RuntimeError("attempt to write a readonly database\n[SQL"), "attempt to write a readonly database. Give"),
    ],
)
def test_what_a_person_can_put_right_is_told(error, message):
    outer = ValueError("could not write")
    outer.__cause__ = error
    for raised in [error] if isinstance(error, UserError) else [error, outer]:
        assert (told(raised) or "").startswith(message)
    assert told(ValueError("a bug")) is None and told(OSError(errno.EIO, "Input/output error")) is None


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left"), RuntimeError("I/O error: No space left on device (os error 28)")],
)
def test_full_disk_is_one_clear_error(tmp_path, error):
    path = tmp_path / "big.bin"
    with pytest.raises(UserError, match=re.escape(f"disk full: {path}")), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_disk_full_is_found_in_the_cause():
    outer = ValueError("could not write")
    outer.__cause__ = OSError(errno.ENOSPC, "full")
    assert is_disk_full(outer)
    assert not is_disk_full(OSError(errno.ENOENT, "missing"))


@pytest.mark.parametrize("take", [lambda: torch.empty(10**15), lambda: np.empty(10**15), lambda: bytearray(10**17)])
def test_a_lack_of_memory_is_no_damaged_file_and_says_what_takes_less(take, tmp_path):
    with pytest.raises((RuntimeError, MemoryError)) as caught, reading(tmp_path, "fetch it again"):
        take()
    assert told(caught.value).startswith("out of memory (") and "raise cluster.pieces" in told(caught.value)


def test_a_lack_of_memory_is_found_in_the_cause_and_in_the_words_of_libraries():
    outer = ValueError("x")
    outer.__cause__ = MemoryError()
    said = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc", "Cannot allocate memory (12)")
    for error in (outer, *map(RuntimeError, said)):
        assert told(error).startswith("out of memory (")
    assert told(RuntimeError("shapes differ")) is None


def test_json_keeps_values(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": np.float64(0.1), "n": np.int64(3), "a": np.arange(2), "p": Path("b"), "c": given().cluster})
    read = read_json(path)
    assert read["x"] == 0.1 and read["n"] == 3 and read["a"] == [0, 1] and read["p"] == "b"
    assert read["c"]["device"] == "cpu"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan")])
def test_json_refuses_what_is_not_finite(tmp_path, bad):
    with pytest.raises(ValueError, match=r"teacher\.ndcg\.1 is"):
        write_json(tmp_path / "a.json", {"teacher": {"ndcg": [1.0, bad]}})
    assert os.listdir(tmp_path) == []


def test_read_json_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(UserError, match="not JSON"):
        read_json(tmp_path / "a.json")


def test_fingerprint_is_of_names_and_contents(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a").write_text("1")
    (folder / "b").write_text("2")
    first = fingerprint([folder])
    os.utime(folder / "a", (0, 0))
    assert fingerprint([folder]) == first
    (folder / "b").rename(folder / "c")
    renamed = fingerprint([folder])
    (folder / "c").write_text("3")
    assert len({first[str(folder)], renamed[str(folder)], fingerprint([folder])[str(folder)]}) == 3
    with pytest.raises(UserError, match="no such file or folder"):
        fingerprint([tmp_path / "none"])


def test_what_is_written_may_be_read_as_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "out") as temporary:
            temporary.mkdir()
            for name, mode in (("private", 0o600), ("program", 0o755)):
                (temporary / name).touch()
                (temporary / name).chmod(mode)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {"private": 0o640, "program": 0o755}
