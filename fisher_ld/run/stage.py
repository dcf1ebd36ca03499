"""What every stage script shares: its params and no others, one run of its own, an MLflow run, clean errors."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from fisher_ld.config.messages import flatten, nearest
from fisher_ld.config.params import Params, load_params
from fisher_ld.config.teacher_fit import check_shape
from fisher_ld.core.errors import UserError, disk_full_message, is_disk_full
from fisher_ld.core.files import read_yaml
from fisher_ld.core.locks import Lock, still_running, work_root
from fisher_ld.run.tracking import StageRun

ALWAYS = ("cluster", "tracking")  # where a thing ran must not change what it is: no stage declares them


def declared_keys(stage: str) -> tuple[str, ...]:
    """Dotted keys of params.yaml that dvc.yaml declares for a stage; those of a `foreach` stage are below `do`."""
    stages = read_yaml("dvc.yaml").get("stages", {})
    if stage not in stages:
        raise UserError(f"dvc.yaml: no stage {stage!r}; {nearest(stage, list(stages))}")
    return tuple(stages[stage].get("do", stages[stage]).get("params", []))


class DeclaredParams:
    """Params as a stage may see them: what it declares, and `ALWAYS`. A section that is declared whole is the section
    itself; one declared in part is again such a view; any other key raises UserError."""

    def __init__(self, section: BaseModel, keys: tuple[str, ...], stage: str, prefix: str = ""):
        self._section, self._keys, self._stage, self._prefix = section, keys, stage, prefix

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        fields = list(type(self._section).model_fields)
        key = self._prefix + name
        if name not in fields:
            raise AttributeError(f"params have no {key}; {nearest(name, fields)}")
        value = getattr(self._section, name)
        if key in ALWAYS or any(key == k or key.startswith(f"{k}.") for k in self._keys):
            return value
        if any(k.startswith(f"{key}.") for k in self._keys):
            return DeclaredParams(value, self._keys, self._stage, f"{key}.")
        raise UserError(
            f"stage {self._stage} reads {key}, which dvc.yaml does not declare for it: a change of {key} would not "
            f"run the stage again. Add {key} to stages.{self._stage}.params in dvc.yaml."
        )

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """The declared values alone, as a checkpoint's key and MLflow need them."""
        names = type(self._section).model_fields
        whole = self._section.model_dump(**options)
        result = {}
        for name in names:
            key = self._prefix + name
            if any(key == k or key.startswith(f"{k}.") for k in self._keys):
                result[name] = whole[name]
            elif any(k.startswith(f"{key}.") for k in self._keys):
                result[name] = getattr(self, name).model_dump(**options)
        return result


def restrict(params: Params, stage: str, keys: tuple[str, ...]) -> DeclaredParams:
    """Raises UserError if dvc.yaml declares a key that params do not have."""
    for key in keys:
        value: Any = params
        for part in key.split("."):
            fields = list(type(value).model_fields) if isinstance(value, BaseModel) else []
            if part not in fields:
                hint = nearest(part, fields) if fields else "it is deeper than params.yaml"
                raise UserError(f"dvc.yaml: stage {stage} declares {key}, which params.yaml cannot have; {hint}")
            value = getattr(value, part)
    return DeclaredParams(params, keys, stage)


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _silence_bars() -> None:
    """Loading bars of libraries would flood a log, whether they are imported already or later."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()


def _run(name: str, main: Callable[[Params, StageRun], None]) -> None:
    stage = name.split("@")[0]
    params = load_params("params.yaml")
    if stage != "download":  # which may bring another teacher
        check_shape(params, Path("data/teacher/base"))
    keys = declared_keys(stage)
    folder = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:12]
    lock = Lock(work_root() / "work" / "locks" / f"{name}-{folder}.lock")
    if holder := lock.take():
        raise still_running(name, holder["pid"])
    try:
        own = restrict(params, stage, keys)
        started = time.monotonic()
        with StageRun(name, params, flatten(own.model_dump(mode="json"))) as run:
            main(cast("Params", own), run)
            run.write_run_file()
    finally:
        lock.release()
    print(f"{name}: done in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def stage(name: str, main: Callable[[Params, StageRun], None]) -> None:
    """Runs `main(params, run)` as the stage `name` of dvc.yaml (STAGE@ITEM for a foreach one), in the project's root. A
    UserError or a full disk ends it with one message and exit code 1, a bug with its traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    if not sys.stderr.isatty():
        _silence_bars()
    try:
        _run(name, main)
    except UserError as error:
        sys.exit(f"{name}: {error}")
    except Exception as error:
        if is_disk_full(error):
            where = getattr(error, "filename", None) or Path.cwd()
            sys.exit(f"{name}: {disk_full_message(where)}")
        raise
