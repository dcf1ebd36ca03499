"""What the rows of the table share: projects to break, and processes that run their stages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.faults.made import CELLS, change, make_project, make_table, make_teacher
from tests.given import ROOT

GIT = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
PREPARE = ("check_params", "download tiny", "preprocess tiny")
Cell = str | Sequence[str]  # STAGE NAMES, or another module and its words
SENTENCES = 6  # lines that a refusal may have, the names of several keys among them


def environment(**more: str) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "OMP_"))}
    path = f"{Path(sys.executable).parent}:{own['PATH']}"
    return {**own, **GIT, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **more}


def files(project: Path) -> dict[str, bytes]:
    """The contents of what stages leave."""
    found = (path for folder in ("data", "metrics") for path in (project / folder).rglob("*"))
    return {str(path.relative_to(project)): path.read_bytes() for path in found if path.is_file()}


@dataclass(frozen=True)
class Outcome:
    code: int
    said: str


@dataclass
class World:
    folder: Path
    heavy: bool  # whether stages that run a model are among what is run
    _made: int = field(default=0, init=False)

    @cached_property
    def server(self) -> subprocess.Popen[str]:
        light = ("fisher_ld.run.stage", "fisher_ld.preprocessing.preprocess", "fisher_ld.fetch.data")
        heavy = (
            "fisher_ld.training.adapt", "fisher_ld.distillation.trainer", "fisher_ld.models.pretrained",
            "fisher_ld.evaluation.efficiency", "fisher_ld.evaluation.comparisons", "fisher_ld.report.page",
            "mlflow.store.tracking.sqlalchemy_store",
        )  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", *light, *(heavy if self.heavy else ())],
            cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def close(self) -> None:
        if "server" in self.__dict__:
            self.server.communicate()

    @cached_property
    def inputs(self) -> Path:
        make_table(self.folder / "inputs")
        if self.heavy:
            make_teacher(self.folder / "inputs" / "teacher")
        return self.folder / "inputs"

    @cached_property
    def template(self) -> Path:
        return make_project(self.folder / "template", self.inputs)

    @cached_property
    def prepared(self) -> Path:
        """A project whose data are prepared."""
        project = self.project(name="prepared")
        for cell in PREPARE:
            self.right(project, cell)
        return project

    def place(self, name: str = "project") -> Path:
        """A folder that is not there yet."""
        self._made += 1
        return self.folder / str(self._made) / name

    def project(self, changes: Mapping[str, Any] | None = None, name: str = "project", of: Path | None = None) -> Path:
        """One before any stage, or a copy of another."""
        place = self.place(name)
        shutil.copytree(of or self.template, place, symlinks=True)
        change(place, changes or {})
        return place

    @cached_property
    def done(self) -> Path:
        """One of which every stage has run. `writes` in it: how often each cell writes, and which files it leaves."""
        project, known = self.project(name="done"), {}
        for cell in CELLS:
            counted = project / "count"
            self.right(project, cell, inject=[["count", str(counted)]])
            new = [name for name in files(project) if name not in known]
            known |= dict.fromkeys(new, cell)
            (project / "writes").mkdir(exist_ok=True)
            (project / "writes" / f"{cell}.json").write_text(json.dumps([int(counted.read_text()), new]))
        return project

    def run(self, project: Path, cell: Cell, inject: Sequence[Sequence[Any]] = (), **more: str) -> Outcome:
        stage, *names = cell.split() if isinstance(cell, str) else cell
        module = stage if "." in stage else f"stages.{stage}"
        said = self.folder / "said"
        job = {"command": [module, *names], "folder": str(project), "environment": more, "said": str(said),
               "inject": list(inject)}  # fmt: skip
        stdin, stdout = self.server.stdin, self.server.stdout
        assert stdin and stdout
        stdin.write(json.dumps(job) + "\n")
        stdin.flush()
        code = int(stdout.readline())
        outcome = Outcome(code, said.read_text())
        assert "Traceback" not in outcome.said, outcome.said
        return outcome

    def right(self, project: Path, cell: Cell, says: str = "", **options: Any) -> str:
        """Runs a cell that must end well and may say something."""
        outcome = self.run(project, cell, **options)
        assert outcome.code == 0, outcome.said
        assert re.search(says, outcome.said), outcome.said
        assert not leftovers(project)
        return outcome.said

    def refused(self, project: Path, cell: Cell, says: str, **options: Any) -> str:
        """Runs a cell that must end with a sentence, and leave everything as it was."""
        before = files(project)
        outcome = self.run(project, cell, **options)
        assert outcome.code == 1, outcome.said
        assert (found := re.search(says, outcome.said)), outcome.said
        assert outcome.said[found.start() :].count("\n") <= SENTENCES, outcome.said
        assert files(project) == before
        assert not leftovers(project)
        return outcome.said


def leftovers(project: Path) -> list[Path]:
    return [path for folder in ("data", "metrics") for path in (project / folder).rglob(".*")]


def command(project: Path, *words: str, **more: str) -> Outcome:
    """A command as a person gives it."""
    done = subprocess.run(
        words, cwd=project, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert "Traceback" not in done.stdout, done.stdout
    return Outcome(done.returncode, done.stdout)


def commit(project: Path, top: Path | None = None) -> None:
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=top or project, env=environment(), check=True)


@contextmanager
def small_disk(folder: Path, mebibytes: int):
    """A file system of its own at `folder`."""
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
