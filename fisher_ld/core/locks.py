"""Locks between processes, and the folder that all of them share."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from fisher_ld.core.errors import UserError


def work_root() -> Path:
    """The original repository, also inside `dvc exp run --temp` and `--queue`; without DVC the current folder."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)  # of a file system that has none


class Lock:
    """An exclusive lock on a file, for the life of the process or until `release`; it ends with the process, even
    by kill -9. `take` returns None, or the {"pid", "host", "folder"} of the process that has it. It raises UserError on
    a file system without locks."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.stream: Any = None

    def take(self, wait: bool = False) -> dict[str, Any] | None:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stream = open(self.path, "a+")  # noqa: SIM115 - held until release
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                stream.seek(0)
                text = stream.read()
                stream.close()
                with suppress(ValueError):
                    return cast("dict[str, Any]", json.loads(text))
                time.sleep(0.01)  # the holder has not yet written who it is
                continue
            except OSError as error:
                stream.close()
                if error.errno not in NO_LOCKS:
                    raise
                raise UserError(
                    f"{self.path.parent}: this file system cannot lock files ({os.strerror(error.errno)}), and without "
                    "locks two processes could write the same files. Put the project on one that can, or have it "
                    "mounted with locks (Lustre: option flock; NFS: without nolock, its lock service running)"
                ) from error
            if os.fstat(stream.fileno()).st_nlink:
                break
            stream.close()  # the holder removed the file between our open and our lock
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "folder": str(Path.cwd())}))
        stream.flush()
        self.stream = stream
        return None

    def release(self, remove: bool = False) -> None:
        if remove:
            self.path.unlink(missing_ok=True)
        self.stream.close()


def still_running(stage: str, holder: Mapping[str, Any]) -> UserError:
    where = "" if holder["host"] == os.uname().nodename else f" on {holder['host']}"
    return UserError(
        f"process {holder['pid']}{where} still runs {stage} in this folder, probably left behind when `dvc repro` was "
        f"killed. Wait until it ends, or stop it there (kill {holder['pid']}), then run the same command again."
    )
