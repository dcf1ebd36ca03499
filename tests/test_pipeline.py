"""dvc.yaml against the code: a stage depends on every module that it imports and that can change its result."""

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# How a run is configured, watched, resumed and recorded: none of it changes what comes out.
INFRASTRUCTURE = {"params", "param_keys", "shape", "runtime", "files", "checkpoint", "progress", "tracking", "__init__"}


def module_file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@cache
def imported(file: Path) -> frozenset[Path]:
    """The project's own files that a file imports, directly or not."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("fisher_ld", "stages") and (path := module_file(name)):
                found |= {path, *imported(path)}
    return frozenset(found)


def depends(stage: str) -> list[Path]:
    body = STAGES[stage].get("do", STAGES[stage])
    return [ROOT / d for d in body["deps"] if d.startswith(("fisher_ld", "stages"))]


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_is_a_dependency(stage):
    own = ROOT / "stages" / f"{stage}.py"
    closure = {own, *imported(own)}
    needed = {f for f in closure if not (f.parent == ROOT / "fisher_ld" and f.stem in INFRASTRUCTURE)}
    needed -= {ROOT / "stages" / "common.py", *ROOT.rglob("fisher_ld/*/__init__.py")}  # docstrings alone
    deps = depends(stage)
    missing = {f for f in needed if not any(f == d or d in f.parents for d in deps)}
    assert not missing, f"add to dvc.yaml, stage {stage}: {sorted(str(f.relative_to(ROOT)) for f in missing)}"
    declared = {f for d in deps for f in (d.rglob("*.py") if d.is_dir() else [d]) if f.name != "__init__.py"}
    unused = declared - needed
    assert not unused, f"stage {stage} does not import {sorted(str(f.relative_to(ROOT)) for f in unused)}"


@pytest.mark.parametrize("stage", STAGES)
def test_where_a_thing_ran_is_no_parameter(stage):
    keys = STAGES[stage].get("do", STAGES[stage]).get("params", [])
    assert not [key for key in keys if key.split(".")[0] in ("cluster", "tracking")]


def test_beta_reaches_only_the_layer_weights():
    users = [s for s in STAGES for key in STAGES[s].get("do", STAGES[s]).get("params", []) if key == "fisher.beta"]
    assert users == ["layer_weights"]


def test_imports_run_downwards():
    order = ["preprocessing", "data", "models", "cache", "fisher", "distillation", "evaluation"]
    allowed = {
        "preprocessing": set(),
        "data": set(),
        "models": {"data"},
        "cache": {"data", "models"},
        "fisher": {"data", "models"},
    }
    allowed |= {
        "distillation": {"data", "models", "cache", "fisher"},
        "evaluation": {"data", "models", "cache", "fisher"},
    }
    for layer in order:
        path = ROOT / "fisher_ld" / layer
        for file in path.glob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
            reached = {f.relative_to(ROOT / "fisher_ld").parts[0].removesuffix(".py") for f in imported(file)}
            assert (reached & set(order)) <= allowed[layer] | {layer}, file
