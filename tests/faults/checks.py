"""What single rows of the table do and look at."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from fisher_ld.core.files import read_json, read_yaml, write_json
from fisher_ld.core.locks import Lock
from tests.faults.made import CELLS, change, make_table
from tests.faults.world import PREPARE, World, command, commit, environment, files, leftovers, small_disk

TEST = Callable[[World], object]
CELLS_OF = "fisher_ld.run.cells"
CUT = "disk full: .* could not be written .* Free some space and run it again"
OF_TEST_USERS = ("preprocess", "rivals", "gate", "score_", "evaluate", "ablations", "report")


def same(world: World, project: Path, of: Path | None = None) -> None:
    """The data of a project are those of one to which nothing happened."""
    expected = {name: content for name, content in files(of or world.prepared).items() if name.startswith("data/")}
    found = files(project)
    assert not [name for name, content in expected.items() if found.get(name) != content]


def unquoted(world: World) -> None:
    project = world.project()
    before = (project / "params.yaml").read_text()
    for value in ("data.item_text={title}", "teacher.answers.yes= Yes", "data.prompt.prefix=What one liked, in order:"):
        world.refused(project, [CELLS_OF, "-S", value], """-S '[^ ]*="[^']*"'""")
        assert (project / "params.yaml").read_text() == before


def quoted(world: World) -> None:
    project = world.project()
    values = ('teacher.answers.yes=" Yes"', 'teacher.answers.no=" No"', 'data.item_text="{title}, new"')
    world.refused(project, [CELLS_OF, *(word for value in values for word in ("-S", value))], "git")
    params = read_yaml(project / "params.yaml")
    assert params["teacher"]["answers"] == {"yes": " Yes", "no": " No"}
    assert params["data"]["item_text"] == "{title}, new"


def empty_params(world: World) -> None:
    project = world.project()
    (project / "params.yaml").write_text("")
    world.refused(project, "check_params", "params.yaml: empty; restore it from git .git checkout params.yaml")


def nested_threads(world: World) -> None:
    project = world.project({"cluster": {"threads": None}})
    for cell in PREPARE:
        world.right(project, cell, OMP_NUM_THREADS="4,2")
    same(world, project)


def path(name: str, *more: str) -> TEST:
    def check(world: World) -> None:
        project = world.project(name=name)
        for cell in (*PREPARE, *more):
            world.right(project, cell)
        same(world, project)
        assert (project / "mlflow.db").exists() == bool(more)

    return check


def from_above(world: World) -> None:
    project = world.project()
    world.refused(
        project.parent, CELLS_OF, f"params.yaml: no such file in {project.parent}; run from the project's root"
    )


def in_subfolder(world: World) -> Path:
    project = world.project()
    commit(project, project.parent)
    outcome = command(project, "dvc", "repro", "preprocess@tiny")
    assert outcome.code == 0, outcome.said
    return project


def subfolder(world: World) -> None:
    project = in_subfolder(world)
    same(world, project)
    left = "from fisher_ld.run.cells import outdated; print(*outdated())"
    cells = command(project, sys.executable, "-c", left).said.split()
    assert "adapt_teacher@tiny-0" in cells and "preprocess@tiny" not in cells


def temporary_in_subfolder(world: World) -> None:
    project = in_subfolder(world)
    outcome = command(project, "dvc", "exp", "run", "--temp", "-S", "data.max_tokens=99", "preprocess@tiny")
    assert outcome.code == 0 and "preprocess@tiny: done" in outcome.said, outcome.said
    same(world, project)


def link(name: str, whole: bool = True) -> TEST:
    def check(world: World) -> None:
        project, elsewhere = world.project(of=world.prepared), world.place()
        if whole:
            elsewhere.parent.mkdir()
            shutil.move(project / name, elsewhere)
        else:
            shutil.rmtree(project / name)
        (project / name).symlink_to(elsewhere)
        says = f"{name}: expected a folder, got a link to {elsewhere}.* `dvc cache dir --local OTHER_DISK/cache`"
        for cell in ("check_params", "preprocess tiny", CELLS_OF):
            world.refused(project, cell, says)

    return check


def work_link(world: World) -> None:
    project, elsewhere = world.project(), world.place()
    elsewhere.mkdir(parents=True)
    (project / "work").symlink_to(elsewhere)
    for cell in PREPARE:
        world.right(project, cell)
    same(world, project)


def no_git(world: World) -> None:
    place = world.place()
    place.mkdir(parents=True)
    shutil.copy(world.template / "Makefile", place)
    outcome = command(place, "make", "repro", GIT_CEILING_DIRECTORIES=str(place.parent))
    assert outcome.code and "clone the project with git, or run here: git init && git add -A" in outcome.said
    assert "installing" not in outcome.said and [file.name for file in place.iterdir()] == ["Makefile"]


def cells_without_git(world: World) -> None:
    world.refused(world.project(), CELLS_OF, "DVC: .* is not a git repository.* git init && git add -A && git commit")


def no_identity(world: World) -> None:
    project = world.project()
    before = (project / "params.yaml").read_text()
    says = "git does not know whose: git config --global user.name NAME"
    world.refused(project, [CELLS_OF, "-S", "data.max_tokens=9"], says, GIT_COMMITTER_NAME="")
    assert (project / "params.yaml").read_text() == before


def no_git_program(world: World) -> None:
    project = world.project(of=world.done)
    world.right(project, "report", PATH="/nowhere")


def no_flock(world: World) -> None:
    says = "work/locks: this file system cannot lock files .Function not implemented.*Lustre: option flock"
    world.refused(world.project(), "download tiny", says, inject=[["no_flock", 38]])


def no_lock_service(world: World) -> None:
    says = "cannot lock files .No locks available.*NFS: without nolock, its lock service running"
    world.refused(world.project(of=world.prepared), "preprocess tiny", says, inject=[["no_flock", 37]])


def _lock_of(project: Path, cell: str) -> Path:
    (lock,) = (project / "work" / "locks").glob(f"{cell}-*.lock")
    return lock


def half_lock(world: World) -> None:
    project = world.project()
    for cell in PREPARE:
        world.right(project, cell)
    _lock_of(project, "preprocess@tiny").write_text('{"pid": 12')
    world.right(project, "preprocess tiny")
    same(world, project)


def held_lock(world: World) -> None:
    project = world.project()
    for cell in PREPARE:
        world.right(project, cell)
    lock = Lock(_lock_of(project, "preprocess@tiny"))
    assert lock.take() is None
    says = f"process {os.getpid()} still runs preprocess@tiny in this folder.* Wait until it ends, or stop it"
    world.refused(project, "preprocess tiny", says)
    lock.release()


def _rights(path: Path, mode: int) -> None:
    for each in [path, *path.rglob("*")]:
        if not each.is_symlink():
            each.chmod(each.stat().st_mode & ~0o777 | (mode | 0o111 if each.is_dir() else mode))


def read_only(world: World) -> None:
    project, inputs = world.project(of=world.prepared), world.place()
    make_table(inputs)
    change(project, {"data_sets": {"tiny": {"source": {"items": str(inputs / "items.csv")}}}})
    world.right(project, "download tiny")
    for place, mode, cell in (
        (project / "data", 0o444, "preprocess tiny"),
        (project / "metrics", 0o444, "download tiny"),
        (project / "work", 0o444, "preprocess tiny"),
        (inputs / "items.csv", 0, "download tiny"),
        (project / "params.yaml", 0, "check_params"),
    ):
        _rights(place, mode)
        says = f"{place.name}.*: Permission denied. Give this user the right to read and write there"
        world.refused(project, cell, says, inject=[["ordinary"]])
        _rights(place, 0o644)
    world.right(project, "download tiny", inject=[["ordinary"]])


def read_only_mount(world: World) -> None:
    with small_disk(world.place(), 16) as disk:
        project = disk / "project"
        shutil.copytree(world.prepared, project)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        world.refused(project, "preprocess tiny", "Read-only file system. Give this user the right")


def read_only_cache(world: World) -> None:
    project = world.project()
    commit(project)
    assert command(project, "dvc", "repro", "download@tiny").code == 0
    _rights(project / ".dvc" / "cache", 0o444)
    says = "DVC's cache .* cannot be written: .* `?dvc cache dir --local FOLDER"
    for cell in (CELLS_OF, "preprocess tiny"):
        world.refused(project, cell, says, inject=[["ordinary"]])
    _rights(project / ".dvc" / "cache", 0o644)


def read_only_store(world: World) -> None:
    project = world.project(of=world.done)
    (project / "mlflow.db").chmod(0o444)
    says = "mlflow.db cannot be opened .attempt to write a readonly database.*Set tracking.uri"
    world.refused(project, "report", says, inject=[["ordinary"]])


def store(uri: str, says: str, cell: str = "download tiny") -> TEST:
    def check(world: World) -> None:
        project = world.project(of=world.template if cell.startswith("download") else world.done)
        said = world.refused(project, cell, says, MLFLOW_TRACKING_URI=uri)
        assert "secret" not in said

    return check


def shared_sqlite(world: World) -> None:
    """Not by forks: these would start one after the other."""
    shared = world.place()
    words = [sys.executable, "-m", "stages.report"]
    running = [
        subprocess.Popen(
            words, cwd=world.project(of=world.done), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(MLFLOW_TRACKING_URI=f"sqlite:///{shared}/m.db"),
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert "Traceback" not in "".join(said)
    with closing(sqlite3.connect(shared / "m.db")) as database:
        assert database.execute("select count(*) from experiments where name = 'fisher-ld'").fetchone() == (1,)


def no_database(world: World) -> None:
    project = world.project(of=world.done)
    (project / "notes.db").write_text("words, no database\n" * 100)
    says = "notes.db cannot be opened .file is not a database.*Set tracking.uri"
    world.refused(project, "report", says, MLFLOW_TRACKING_URI="sqlite:///notes.db")


def busy_database(world: World) -> None:
    project = world.project(of=world.done)
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        database.execute("begin exclusive")
        world.refused(project, "report", "mlflow.db cannot be opened .database is locked.*Set tracking.uri")
    world.right(project, "report")


def _without(project: Path, names: list[str]) -> None:
    """As DVC removes the outputs of a cell before it runs; checkpoints too."""
    for name in names:
        (project / name).unlink(missing_ok=True)
    for folder in sorted({(project / name).parent for name in names}, reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    shutil.rmtree(project / "work")


def _whole(project: Path, before: dict[str, bytes], names: list[str], of: Path) -> None:
    """What a cell left that was stopped is whole, file by file, or not there."""
    assert not leftovers(project)
    for name, content in files(project).items():
        assert before.get(name) == content or name in names
        if name in names and name.startswith("data/"):
            assert (of / name).read_bytes() == content, name


def _writes(world: World, cell: str) -> tuple[int, list[str]]:
    """How often a cell writes, and what it leaves."""
    count, names = read_json(world.done / "writes" / f"{cell}.json")
    return count, names


def _half_and_last(cell: str, count: int) -> list[int]:
    """`efficiency` is stopped before it measures, which takes long."""
    return [1] if cell.startswith("efficiency") else [count // 2, count - 1]


def full_at_every_write(world: World, most: int = 80) -> None:
    """Of a cell with more writes than `most` at some, evenly."""
    project = world.project(of=world.done)
    for cell in CELLS[1:]:
        count, names = _writes(world, cell)
        for number in range(0, count, 1 + count // most):
            _without(project, names)
            before = files(project)
            outcome = world.run(project, cell, inject=[["full", number]])
            assert outcome.code == 1 and re.search(CUT, outcome.said), outcome
            _whole(project, before, names, world.done)
        world.right(project, cell)
    same(world, project, world.done)


def full_file_system(world: World) -> None:
    with small_disk(world.place(), 256) as disk:
        project, filler = disk / "project", disk / "filler"
        shutil.copytree(world.done, project)
        for cell in CELLS[2:]:
            if cell.split()[0] in ("preprocess", "embed_items", "adapt_teacher", "cache_teacher", "distill", "report"):
                _, names = _writes(world, cell)
                for kibibytes in (4, 64):
                    _without(project, names)
                    before = files(project)
                    with open(filler, "wb") as stream:
                        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(disk).free - 1024 * kibibytes)
                    outcome = world.run(project, cell)
                    filler.unlink()
                    enough = kibibytes > 4 and outcome.code == 0
                    assert enough or (outcome.code == 1 and re.search(CUT, outcome.said)), outcome
                    _whole(project, before, names, world.done)
                world.right(project, cell)
        same(world, project, world.done)


def killed(first: int, last: int | None) -> TEST:
    def check(world: World) -> None:
        project = world.project(of=world.done)
        for cell in CELLS[1:][first:last]:
            count, names = _writes(world, cell)
            for number in _half_and_last(cell, count):
                _without(project, names)
                assert world.run(project, cell, inject=[["kill", number]]).code == -9
                world.right(project, cell)
        same(world, project, world.done)

    return check


def clock_goes_back(world: World) -> None:
    project = world.project()
    for cell in PREPARE:
        world.right(project, cell, inject=[["clock", 0, -3600]])
    same(world, project)
    assert read_json(project / "metrics/cells/preprocess/tiny/run.json")["seconds"] >= 0


def files_of_the_future(world: World) -> None:
    project, cell = world.project(of=world.done), "adapt_teacher tiny 0"
    count, names = _writes(world, cell)
    _without(project, names)
    assert world.run(project, cell, inject=[["kill", count // 2]]).code == -9
    for file in project.rglob("*"):
        os.utime(file, (4e9, 4e9))
    world.right(project, cell, "resuming from", inject=[["clock", 0, -3600]])
    same(world, project, world.done)


def store_of_the_future(world: World) -> None:
    project = world.project(of=world.done)
    child = "select run_uuid from tags where key = 'mlflow.parentRunId'"
    world.right(project, "evaluate tiny", inject=[["clock", 86400]])
    world.right(project, "evaluate tiny")
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        (parents,) = database.execute(f"select count(*) from runs where run_uuid not in ({child})").fetchone()
    assert parents == 2  # the one that `report` completed, and that of both


def two_users(world: World) -> None:
    project = world.project({"data": {"test_users": 2, "zero_shot_users": 2}}, of=world.done)
    for cell in CELLS:
        if cell.startswith(OF_TEST_USERS):
            world.right(project, cell)
    quality = read_json(project / "metrics/cells/evaluate/tiny/evaluate.json")["quality"]["matched"]
    assert {row["ndcg_10"]["n"] for row in quality.values()} == {2}


def one_user(world: World) -> None:
    inputs = world.place()
    make_table(inputs, users=1)
    names = {"interactions": str(inputs / "interactions.csv"), "items": str(inputs / "items.csv")}
    project = world.project({"data_sets": {"tiny": {"source": names}}})
    world.right(project, "download tiny")
    world.refused(project, "preprocess tiny", "one test user, of whom no interval can be told: use more users")


def few_windows(world: World) -> None:
    project = world.project({"data": {"labelled_windows": 1000}}, of=world.prepared)
    says = (
        "labelled_windows: 1000 were asked for, of 20 it has 20\n.*transfer_windows: 6 were asked for, of 20 it has 0"
    )
    world.right(project, "preprocess tiny", says)


def keys(file: str, **changed: object) -> Callable[[Path], object]:
    """Sets keys in a JSON file of a model's folder; None takes one out."""

    def spoil(folder: Path) -> None:
        content = read_json(folder / file) | changed
        write_json(folder / file, {key: value for key, value in content.items() if value is not None})

    return spoil


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def more_weights(folder: Path) -> None:
    shutil.copyfile(folder / "model.safetensors", folder / "consolidated.safetensors")


def one_token_more(folder: Path) -> None:
    content = read_json(folder / "tokenizer.json")
    token = {"id": read_json(folder / "config.json")["vocab_size"], "content": "[PAD]", "special": True}
    rest = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    write_json(folder / "tokenizer.json", content | {"added_tokens": [*content["added_tokens"], token | rest]})


def _spoilt(world: World, spoil: Callable[[Path], object]) -> Path:
    """A project whose teacher is a local model that `spoil` has changed."""
    folder = world.place()
    shutil.copytree(world.inputs / "teacher", folder)
    spoil(folder)
    return world.project({"teacher": {"source": {"name": str(folder)}}})


def refused_teacher(says: str, spoil: Callable[[Path], object]) -> TEST:
    """By `download_teacher`."""
    return lambda world: world.refused(_spoilt(world, spoil), "download_teacher", says)


def mended_teacher(says: str, spoil: Callable[[Path], object]) -> TEST:
    """Laid down with one token for padding, which config and tokenizer name, and no weights twice."""

    def check(world: World) -> None:
        project = _spoilt(world, spoil)
        world.right(project, "download_teacher", says)
        base = project / "data" / "teacher" / "base"
        assert isinstance(read_json(base / "config.json")["pad_token_id"], int)
        assert read_json(base / "tokenizer_config.json")["pad_token"] == "<end>"
        assert "[PAD]" not in (base / "tokenizer.json").read_text()
        assert [file.name for file in base.glob("*.safetensors")] == ["model.safetensors"]

    return check


def sentence_pieces(world: World) -> None:
    """Refused with answers that work."""
    from tests.teachers import write_teacher

    folder = write_teacher(world.place(), "mistral")
    students = {"small": {"vocabulary": "full"}}
    project = world.project({"teacher": {"source": {"name": str(folder)}}, "students": students})
    world.refused(project, "download_teacher", """set teacher.answers to {yes: "yes", no: "no"}""")
    change(project, {"teacher": {"answers": {"yes": "yes", "no": "no"}}})
    world.right(project, "download_teacher")
