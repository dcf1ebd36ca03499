"""Locks between processes, and the folder that all of them share."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, cast

from fisher_ld.core.errors import UserError


def work_root() -> Path:
    """The original repository, also inside `dvc exp run --temp` and `--queue`; without DVC the current folder."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


class Lock:
    """An exclusive lock on a file, for the life of the process or until `release`; it ends with the process, even
    by kill -9. `take` returns None, or the {"pid", "folder"} of the process that has it."""

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
                if text:
                    return cast("dict[str, Any]", json.loads(text))
                time.sleep(0.01)  # the holder has not yet written who it is
                continue
            if os.fstat(stream.fileno()).st_nlink:
                break
            stream.close()  # the holder removed the file between our open and our lock
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "folder": str(Path.cwd())}))
        stream.flush()
        self.stream = stream
        return None

    def release(self, remove: bool = False) -> None:
        if remove:
            self.path.unlink(missing_ok=True)
        self.stream.close()


def still_running(stage: str, pid: int) -> UserError:
    return UserError(
        f"process {pid} still runs {stage} in this folder, probably left behind when `dvc repro` was "
        f"killed. Wait until it ends, or stop it (kill {pid}), then run the same command again."
    )
