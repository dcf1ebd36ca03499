"""dvc.yaml against the code, cell by cell as DVC reads it."""

import ast
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from fisher_ld.config import paths
from fisher_ld.config.params import all_methods, methods_of
from fisher_ld.config.paths import FURTHER, DataPaths, cell
from fisher_ld.evaluation.baselines.catalogue import rivals_of
from fisher_ld.run.dependencies import imports, rewritten
from tests.given import ROOT, given, raw

TEXT = (ROOT / "dvc.yaml").read_text()
STAGES = yaml.safe_load(TEXT)["stages"]
RUN = given({"run": {"students": ["small", "tiny"], "further_methods": ["linear"]}}).run
# What the files of a folder of fisher_ld may import of others.
BELOW = {
    "core": set(),
    "config": {"core"},
    "datasets": {"core", "config"},
    "fetch": {"core", "config", "datasets"},
    "preprocessing": {"core", "config", "datasets"},
    "batches": {"core", "config"},
    "kernels": {"core"},
    "models": {"core", "config", "batches", "kernels"},
    "training": {"kernels", "core", "config", "batches", "models"},
    "fisher": {"core", "batches", "models", "kernels"},
    "distillation": {"core", "config", "batches", "models", "training"},
    "serving": {"core", "config", "batches", "kernels", "models", "evaluation/baselines", "datasets/titles.py"},
    "evaluation": {"core", "config", "batches", "models", "serving", "distillation/methods.py"},
    "experiments": {"core", "config", "batches", "evaluation", "distillation/methods.py"},
    "report": {"core", "config", "batches", "evaluation", "experiments", "distillation/methods.py"},
    "run": {"core", "config", "datasets/catalogue.py", "distillation/methods.py"},
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """(stage, name of the cell, words after the module in its command, outs) of every cell of RUN."""
    folder, found = tmp_path_factory.mktemp("pipeline"), []
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=lambda *_: ["cache", "tmp"])
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(raw() | {"run": RUN.model_dump()}))
    for stage in Repo(folder, uninitialized=True).index.stages:
        name, _, names = stage.name.partition("@")
        outs = {Path(out.def_path) for out in stage.outs}
        found.append((name.removesuffix(FURTHER), names, stage.cmd.split()[3:], outs))
    return found


def body(stage):
    return STAGES[stage].get("do", STAGES[stage])


def test_the_modules_of_every_stage_are_its_dependencies():
    assert rewritten(TEXT, ROOT) == TEXT, "python -m fisher_ld.run.dependencies writes them"
    assert len(TEXT.splitlines()) < 380


@pytest.mark.parametrize("stage", STAGES)
def test_where_a_thing_ran_is_no_parameter(stage):
    assert not [key for key in body(stage).get("params", []) if key.split(".")[0] in ("cluster", "tracking")]


def test_more_test_users_or_families_train_no_teacher_and_no_student_anew():
    reached = {stage for stage in STAGES if any("processed_test" in path for path in body(stage)["deps"])}
    scored = {stage for stage in STAGES if stage.startswith("score_")}
    assert reached == scored | {"rivals", "evaluate", "efficiency"}
    trained = [stage for stage in STAGES if "data" in body(stage).get("params", [])]
    assert trained == ["preprocess", "rivals"]


def test_beta_reaches_only_the_layer_weights():
    reached = [s for s in STAGES for key in body(s).get("params", []) if key in ("fisher", "fisher.beta")]
    assert reached == ["layer_weights", f"layer_weights{FURTHER}"]


def test_the_command_of_a_cell_gives_main_its_names_and_the_cell_is_named_by_them(cells):
    for stage, names, words, _ in cells:
        if stage == "check_params":
            continue
        tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
        (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
        given_to = [argument.arg for argument in main.args.args][2:]
        assert len(given_to) == len(words), f"{stage}: main takes {given_to}, dvc.yaml gives {words}"
        own = [word for name, word in zip(given_to, words, strict=True) if name != "teacher"]
        assert "-".join(own) == names, stage


def test_every_cell_has_its_folder_of_metrics(cells):
    """But the report's, which DVC ignores: what all cells say is a dependency of the report."""
    assert "/metrics/cells/report/" in (ROOT / ".dvcignore").read_text().split()
    for stage, name, words, outs in cells:
        if stage not in ("check_params", "report"):
            own = words if "-".join(words) == name else words[:-1]  # without the teacher
            assert "-".join(own) == name and cell(stage, *own) in outs, stage


NAMES = rivals_of(given().rivals)


def files_of_a_run():
    """Every path below data/ that a run of params.yaml has, but those below its folders."""
    yield paths.BASE
    for data in map(DataPaths, RUN.data):
        yield from (
            data.raw,
            data.processed,
            data.processed_test,
            data.item_states,
            data.rivals,
            data.first_stage,
            data.cache,
            data.traces,
            data.per_user,
        )
        yield from map(data.weights, all_methods(RUN))
        yield from map(data.signals, all_methods(RUN))
        scored = [("teacher", seed) for seed in RUN.teacher_seeds]
        scored += [(model, 0) for model in RUN.shallow]
        yield from (data.validation(*model) for model in (*scored, *((paths.rival(name), 0) for name in NAMES)))
        scored += [(paths.start(student), 0) for student in RUN.students]
        each = [(s, method, seed) for s in RUN.students for method in methods_of(RUN, s) for seed in RUN.seeds]
        scored += [(paths.student(student, method), seed) for student, method, seed in each]
        yield from (data.model(*model) for model in scored)
        yield from (data.validation(paths.student(student, m), s) for student, m, s in each)
        scored += [("zero-shot", 0), *((paths.rival(name), 0) for name in NAMES)]
        yield from (data.test(*model) for model in scored)


def test_outs_are_the_paths_of_a_run(cells):
    outs = {out for *_, found in cells for out in found if out.parts[:2] != ("metrics", "cells")}
    files = set(files_of_a_run())
    results = {paths.TABLES, paths.PLOTS, paths.SUMMARY, Path("metrics/report.md"), Path("metrics/report.html")}
    for file in files:
        assert len([out for out in outs if out == file or out in file.parents]) == 1, f"{file} is no stage's, or two's"
    for out in outs - results:
        assert out in files or any(out in file.parents for file in files), f"{out} is no path of paths.py"
    assert results <= outs


@pytest.mark.parametrize("file", sorted((ROOT / "stages").glob("*.py")), ids=lambda file: file.stem)
def test_no_stage_spells_a_path(file):
    tree = ast.parse(file.read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    texts -= {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, ast.Module)}
    assert not [text for text in texts if text.startswith(("data/", "metrics/"))]


@pytest.mark.parametrize(
    "file", sorted((ROOT / "fisher_ld").rglob("*.py")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_imports_run_downwards(file):
    folder, *_ = file.relative_to(ROOT / "fisher_ld").parts
    if folder == "__init__.py":
        return
    reached = {found.relative_to(ROOT / "fisher_ld") for found in imports(file, ROOT)}
    upward = [
        str(path)
        for path in reached
        if path.name != "__init__.py"
        and path.parts[0] not in {folder, *BELOW[folder]}
        and not {str(path), str(path.parent)} & BELOW[folder]
    ]
    assert not upward


def test_what_a_term_imports_when_it_is_built_the_trainer_imports_at_its_head():
    """Else a stage that trains would not depend on it (`dependencies.BUILT_LATER`)."""
    folder = ROOT / "fisher_ld" / "distillation"
    tree = ast.parse((folder / "terms.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    built = {n.module for f in functions for n in ast.walk(f) if isinstance(n, ast.ImportFrom)}
    head = {n.module for n in ast.parse((folder / "trainer.py").read_text()).body if isinstance(n, ast.ImportFrom)}
    assert built and built <= head
