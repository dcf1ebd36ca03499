import errno
import os

import pytest

from fisher_ld.core import locks
from fisher_ld.core.errors import UserError
from fisher_ld.core.locks import Lock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def flock(*given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(UserError, match=rf"{tmp_path}: this file system cannot lock files \({os.strerror(number)}\)"):
        Lock(tmp_path / "x.lock").take()


def test_another_error_stays_what_it_is(tmp_path, monkeypatch):
    def flock(*given):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"):
        Lock(tmp_path / "x.lock").take()
