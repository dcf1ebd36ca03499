"""What README.md says of files and names, compared with the project."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fisher_ld.config.paths import FURTHER
from fisher_ld.core.files import read_yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]+)`")


def _section(heading: str) -> str:
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def _rows(heading: str) -> list[list[str]]:
    lines = [line for line in _section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def tree(text: str) -> list[str]:
    """The paths of a tree whose lines are indented by two spaces a level, a folder's name ending in a slash."""
    found: list[str] = []
    above: list[str] = []
    for line in text.splitlines():
        name = line.split()[0]
        above = [*above[: (len(line) - len(line.lstrip())) // 2], name]
        found.append("".join(above))
    return found


def missing(named: list[str], files: list[str]) -> list[str]:
    """Files that a tree leaves out: neither named nor below a folder that is named without what is in it."""
    whole = [path for path in named if path.endswith("/") and sum(other.startswith(path) for other in named) == 1]
    return [file for file in files if file not in named and not file.startswith(tuple(whole))]


def _modules() -> list[str]:
    files = [path for folder in ("fisher_ld", "stages") for path in (ROOT / folder).rglob("*")]
    code = [path for path in files if path.suffix in (".py", ".yaml") and path.name != "__init__.py"]
    return sorted(str(path.relative_to(ROOT)) for path in code)


NAMED = tree(re.findall(r"```\n(.*?)```", _section("The tree"), re.S)[0])


def test_the_tree_names_every_module():
    assert missing(NAMED, _modules()) == [], "add a line for each to the tree of README.md"


def test_what_the_tree_names_exists():
    gone = [path for path in NAMED if not (ROOT / path).exists() or (ROOT / path).is_dir() != path.endswith("/")]
    assert gone == [], "take these lines out of the tree of README.md"


def test_a_tree_without_a_file_is_found_out():
    named = tree("a/   first\n  b.py   one\n  c/   whole\nd.py   two")
    assert named == ["a/", "a/b.py", "a/c/", "d.py"]
    assert missing(named, ["a/b.py", "a/c/x.py", "d.py"]) == []
    assert missing(named, ["a/b.py", "a/e.py"]) == ["a/e.py"]


def _defined(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}


@pytest.mark.parametrize("row", _rows("Equations of the paper"), ids=lambda row: row[0])
def test_an_equation_has_the_address_that_the_table_gives(row):
    equation, what, file, names = row
    if file == "not built":
        assert names == ""
        return
    path = ROOT / CODE.findall(file)[0]
    known = set(read_yaml(path)["stages"]) if path.suffix == ".yaml" else _defined(path)
    assert CODE.findall(names)
    assert set(CODE.findall(names)) <= known, f"{equation} ({what})"


def test_every_equation_of_the_paper_has_a_row():
    numbers: set[int] = set()
    for equation, *_ in _rows("Equations of the paper"):
        if equation.startswith("Eq."):
            found = list(map(int, re.findall(r"\d+", equation)))
            numbers |= set(range(found[0], found[-1] + 1)) if " to " in equation else set(found)
    assert numbers == set(range(1, 15))


def test_the_table_of_stages_is_that_of_dvc_yaml():
    stages = [name for row in _rows("Stages") for name in CODE.findall(row[0])]
    assert sorted(stages) == sorted({name.removesuffix(FURTHER) for name in read_yaml(ROOT / "dvc.yaml")["stages"]})


def test_the_cells_of_a_stage_are_those_of_dvc_yaml():
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    for names, cell, _ in _rows("Stages"):
        named = CODE.findall(names)
        for stage, axes in zip(named, cell.split("; ") if ";" in cell else [cell] * len(named), strict=True):
            body = stages[stage]
            expected = list(body.get("matrix", ["data"] if "foreach" in body else ["the run"]))
            assert axes.split(", ") == expected or (axes == "their model" and stage.startswith("score_")), stage


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_and_files_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`(?:pytest )?((?:fisher_ld|stages|docs|benchmarks|profiles|tests)/[^` ]+)`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ((?:fisher_ld|benchmarks|stages)[\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def test_the_readme_holds_no_results():
    """Numbers of a run are in docs/results.md, which a command writes."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.S | re.M)
    assert re.findall(r"(?<![\w.])0\.\d{2,}|\d%", text) == []
