"""Runs stages in processes of their own, forked from one that has imported the libraries:
`python -m tests.faults.server MODULE...`. Each line of standard input is a job in JSON, each answer its exit code
(negative: the signal).

A job: `command` as after `python -m`, `folder` to run in, `environment` on top, `said` (where stdout and stderr go),
and `inject`, [name, argument, ...] of faults of `tests.faults.inject`."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from typing import Any

from tests.faults import inject

SECONDS = 600  # after which SIGALRM ends a job


def work(job: dict[str, Any]) -> int:
    """Within the fork: what the interpreter does with `python -m`, from the job's folder."""
    signal.alarm(SECONDS)
    said = os.open(job["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (0, 1, 2):
        os.dup2(said if stream else os.open(os.devnull, os.O_RDONLY), stream)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    module, *arguments = job["command"]
    sys.argv = [module, *arguments]
    try:
        for name, *given in job["inject"]:
            getattr(inject, name)(*given)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(work(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
