"""What every stage script shares: the names of its cell, its params and no others, an MLflow run, clean errors."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from inspect import signature
from pathlib import Path
from typing import Any, cast

from dvc.config import Config, ConfigError
from pydantic import BaseModel, TypeAdapter

from fisher_ld.config import paths
from fisher_ld.config.messages import flatten, nearest
from fisher_ld.config.params import Params, load_params
from fisher_ld.config.paths import BASE, PARAMS
from fisher_ld.config.teacher_fit import check_teacher_fit
from fisher_ld.core import ranks
from fisher_ld.core.compute import usable_threads
from fisher_ld.core.errors import Unavailable, UserError, told
from fisher_ld.core.files import read_yaml
from fisher_ld.core.locks import Lock, still_running, work_root
from fisher_ld.core.progress import say, silence_bars
from fisher_ld.datasets.catalogue import SOURCES
from fisher_ld.distillation.methods import METHODS
from fisher_ld.run.launch import JOBS, STARTED, elsewhere, launch
from fisher_ld.run.tracking import StageRun, check_shared, store_uri

BEFORE_TEACHER = ("download", "download_teacher", "preprocess")  # what may run before another one is there
TRACKED = ("adapt_teacher", "adapt_shallow", "distill", "efficiency", "report")  # a failing store says so first
SECONDS_TO_TELL = 3
ALWAYS = ("cluster", "tracking")  # where a thing ran must not change what it is: no stage declares them


def read_params() -> Params:
    """params.yaml, checked whole, the names of methods, sources of data and stages among it; with it what of this place
    would stop a later stage. Raises UserError."""
    params = load_params(PARAMS, {"methods": METHODS, "sources": SOURCES, "stages that run a model": JOBS})
    _check_place(params)
    return params


def _check_place(params: Params) -> None:
    for folder in (paths.DATA, paths.METRICS, *paths.DATA.glob("*"), *paths.METRICS.glob("*")):
        if folder.is_symlink() and not folder.is_file():
            raise UserError(
                f"{folder}: expected a folder, got a link to {os.readlink(folder)}, whose contents DVC cannot track. "
                "Replace the link by a folder; `dvc cache dir --local OTHER_DISK/cache` has the large files elsewhere"
            )
    _check_cache()
    store_uri(params.tracking.uri)
    usable_threads(params.cluster.threads)


def _check_cache() -> None:
    """Raises UserError where DVC could not keep what a stage makes. What else is wrong with its settings DVC tells."""
    own = next((f / ".dvc" for f in (Path.cwd(), *Path.cwd().parents) if (f / ".dvc").is_dir()), None)
    if own is None or STARTED in os.environ:  # on a node, where DVC need not be
        return
    with suppress(ConfigError):
        cache = Path(Config(str(own), validate=False).get("cache", {}).get("dir") or own / "cache")
        for folder in (cache, cache / "files" / "md5"):
            if folder.exists() and not os.access(folder, os.W_OK):
                raise UserError(
                    f"DVC's cache {folder} cannot be written: chmod it, or choose another: dvc cache dir --local FOLDER"
                )


def declared_keys(stage: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """Dotted keys of params.yaml that dvc.yaml declares for a cell of a stage; `names`: the cell's."""
    stages = read_yaml("dvc.yaml").get("stages", {})
    if stage not in stages:
        raise UserError(f"dvc.yaml: no stage {stage!r}; {nearest(stage, list(stages))}")
    body = stages[stage].get("do", stages[stage])
    values = {f"${{item.{name}}}": value for name, value in names.items()}
    values["${item}"] = next(iter(names.values()), "")  # of a `foreach`
    return tuple(re.sub(r"\$\{[^}]*\}", lambda found: values[found[0]], key) for key in body.get("params", []))


class DeclaredParams:
    """Params as a cell of a stage may see them: what it declares, and `ALWAYS`. A section that is declared whole is the
    section itself; one declared in part is again such a view; any other key raises UserError. The entries of a
    catalogue (data_sets, students) are taken by `[name]`."""

    def __init__(self, section: BaseModel | Mapping, keys: tuple[str, ...], stage: str, prefix: str = ""):
        self._section, self._keys, self._stage, self._prefix = section, keys, stage, prefix

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        values = dict(self._section)
        key = self._prefix + name
        if name not in values:
            raise AttributeError(f"params have no {key}; {nearest(name, list(values))}")
        if key in ALWAYS or _declared(key, self._keys):
            return values[name]
        if any(k.startswith(f"{key}.") for k in self._keys):
            return DeclaredParams(values[name], self._keys, self._stage, f"{key}.")
        raise UserError(
            f"stage {self._stage} reads {key}, which dvc.yaml does not declare for it: a change of {key} would not "
            f"run the stage again. Add {key} to stages.{self._stage}.params in dvc.yaml."
        )

    def model_dump(self, mode: str = "json") -> dict[str, Any]:
        """The declared values alone by their dotted keys, as a checkpoint's key and MLflow need them."""
        every = TypeAdapter(Any).dump_python(dict(self._section), mode="json")
        return {k: value for k, value in flatten(every, self._prefix).items() if _declared(k, self._keys)}


def _declared(key: str, keys: Sequence[str]) -> bool:
    return any(key == k or key.startswith(f"{k}.") for k in keys)


def restrict(params: Params, stage: str, keys: tuple[str, ...]) -> DeclaredParams:
    """Raises UserError if dvc.yaml declares a key that params do not have."""
    for key in keys:
        value: Any = params
        for part in key.split("."):
            fields = dict(value) if isinstance(value, BaseModel | Mapping) else {}
            if part not in fields:
                hint = nearest(part, list(fields)) if fields else "it is deeper than params.yaml"
                raise UserError(f"dvc.yaml: stage {stage} declares {key}, which params.yaml cannot have; {hint}")
            value = fields[part]
    return DeclaredParams(params, keys, stage)


def terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _parse(main: Callable[..., None], stage: str, given: Sequence[str], params: Params) -> dict[str, Any]:
    """The names of the cell that the command line asks for, by the parameters of `main` after params and run. Raises
    UserError for a wrong number of them, or a name that params do not know."""
    wanted = list(signature(main).parameters)[2:]
    usage = f"python -m stages.{stage} {' '.join(name.upper() for name in wanted)}".strip()
    if len(given) != len(wanted):
        raise UserError(f"expected {usage}, got {' '.join(given) or 'no names'}")
    known: dict[str, Collection[str]] = {
        "data": params.data_sets,
        "student": params.students,
        "method": METHODS,
        "shallow": params.run.shallow,
    }
    names: dict[str, Any] = {}
    for name, value in zip(wanted, given, strict=True):
        if name in known and value not in known[name]:
            raise UserError(f"{usage}: no {name} {value!r}; {nearest(value, list(known[name]))}")
        if name not in known and not value.isdecimal():
            raise UserError(f"{usage}: expected a whole number for {name.upper()}, got {value!r}")
        names[name] = value if name in known else int(value)
    return names


def _run(stage: str, main: Callable[..., None], given: Sequence[str], idle: Callable[..., bool]) -> None:
    params = read_params()
    params = params.model_copy(update={"cluster": params.cluster.of(stage)})
    names = _parse(main, stage, given, params)
    own = [str(value) for name, value in names.items() if name != "teacher"]  # which is no part of the cell's name
    cell = "@".join(filter(None, [stage, "-".join(own)]))
    if stage not in BEFORE_TEACHER:
        check_teacher_fit(params, BASE)
    keys = declared_keys(stage, {name: str(value) for name, value in names.items()})
    if elsewhere(stage, params.cluster) and not idle(params, *names.values()):
        if params.cluster.launcher == "slurm":
            check_shared(params.tracking.uri)
        with _only_here(f"{cell}-launch"):
            code = launch(cell, stage, given, params.cluster)
        if code:
            sys.exit(code)
        return
    started = time.monotonic()
    view = restrict(params, stage, keys)
    with _only_here(cell) if ranks.leader() else nullcontext():
        with StageRun(cell, paths.cell(stage, *own), params, view.model_dump()) as run:
            if stage in TRACKED:
                run.open()
            main(cast("Params", view), run, **names)
        ranks.part()
    if ranks.leader():
        say(f"{cell}: done in {time.monotonic() - started:.0f} s")


@contextmanager
def _only_here(cell: str) -> Iterator[None]:
    """Within it no other process runs the cell in this folder. Raises UserError where one does."""
    folder = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:12]
    lock = Lock(work_root() / "work" / "locks" / f"{cell}-{folder}.lock")
    if holder := lock.take():
        raise still_running(cell, holder)
    try:
        yield
    finally:
        lock.release()


def _let_another_tell(bug: bool = False) -> None:
    """What goes wrong on all ranks is told once, by the leader: the first rank that ends takes the others with it. A
    `bug` may be but the end of another rank, which has told why."""
    if ranks.world() > 1:
        time.sleep(SECONDS_TO_TELL * (bug + (not ranks.leader())))


def stage(main: Callable[..., None], idle: Callable[..., bool] = lambda params, *names: False) -> None:
    """Runs `main(params, run, *names)` as a cell of the stage of dvc.yaml that is named as main's module, in the
    project's root. The names come from the command line: `data`, `student`, `method`, `seed` (of training), `shallow`,
    and `teacher`, the seed of the teacher that students learn from, which is no part of the cell's name.
    `idle(params, *names)`: whether a cell runs no model, so that it needs no launcher.

    What a user can put right ends it with one message and exit code 1 (2: Unavailable), a bug with its traceback."""
    signal.signal(signal.SIGTERM, terminate)
    if not sys.stderr.isatty():
        silence_bars()
    if STARTED not in os.environ:  # what another program set is not for this one
        for name in ranks.VARIABLES:
            os.environ.pop(name, None)
    if not ranks.leader():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - to the end
    given = sys.argv[1:]
    name = Path(cast("str", main.__globals__["__file__"])).stem  # pyright: ignore[reportFunctionMemberAccess]
    cell = "@".join(filter(None, [name, "-".join(given)]))
    try:
        _run(name, main, given, idle)
    except KeyboardInterrupt:
        _let_another_tell()
        sys.exit(f"{cell}: interrupted; the same command goes on from the last checkpoint")
    except Exception as error:
        message = told(error)
        _let_another_tell(bug=message is None)
        if message is None:
            raise
        if not isinstance(error, Unavailable):
            sys.exit(f"{cell}: {message}")
        say(f"{cell}: {message}")
        sys.exit(2)
