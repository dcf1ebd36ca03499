"""What `pip install .` gives, what it asks for, and CITATION.cff."""

from __future__ import annotations

import ast
import fnmatch
import re
import sys
import tomllib
from pathlib import Path

from setuptools import find_packages

from fisher_ld.core.files import read_yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(TEXT)


OTHER_ENVIRONMENT = "sasrec.py"  # runs in that of `make sasrec`


def _files(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_every_folder_of_code_is_a_package_that_is_installed():
    found = set(find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]))
    folders = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in _files("fisher_ld")}
    assert found == folders


def test_what_is_no_code_is_installed_with_its_package():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for path in _files("fisher_ld"):
        if path.suffix != ".py":
            package = str(path.parent.relative_to(ROOT)).replace("/", ".")
            assert any(fnmatch.fnmatch(path.name, pattern) for pattern in data.get(package, [])), path
    for package, patterns in data.items():
        assert all(list((ROOT / package.replace(".", "/")).glob(pattern)) for pattern in patterns), package


def _imported(*folders: str) -> set[str]:
    """First parts of the names of all modules that are imported from outside of this project and Python."""
    names: set[str] = set()
    for path in (path for folder in folders for path in _files(folder) if path.suffix == ".py"):
        if path.name == OTHER_ENVIRONMENT:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"fisher_ld", "stages"}


def _module(requirement: str) -> str:
    name = re.split(r"[=<>\[]", requirement)[0].lower()
    others = {"nvidia-ml-py": "pynvml", "ruamel.yaml.clib": "_ruamel_yaml"}
    return others.get(name, name.split(".")[0])  # ruamel.yaml is imported as ruamel


def test_what_the_code_imports_is_asked_for():
    assert _imported("fisher_ld", "stages") <= {_module(name) for name in PROJECT["project"]["dependencies"]}


def test_a_library_that_nothing_here_imports_says_by_whom_it_is():
    imported = _imported("fisher_ld", "stages")
    for name in PROJECT["project"]["dependencies"]:
        explained = re.search(rf'"{re.escape(name)}",  # \w+', TEXT)
        assert bool(explained) != (_module(name) in imported), name


def test_the_installed_versions_are_the_tested_ones():
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    asked = dict(name.split("==") for name in PROJECT["project"]["dependencies"])
    assert asked.items() <= tested.items()


def test_the_citation_has_the_form_of_cff():
    """The keys of CFF 1.2.0 that it uses, and those that it must have."""
    found = read_yaml(ROOT / "CITATION.cff")
    assert {"authors", "cff-version", "message", "title"} <= set(found)
    assert set(found) <= {
        "abstract", "authors", "cff-version", "date-released", "keywords", "license", "message", "preferred-citation",
        "references", "repository-code", "title", "type", "url", "version",
    }  # fmt: skip
    assert found["cff-version"] == "1.2.0" and found["type"] in ("software", "dataset")
    assert found["version"] == PROJECT["project"]["version"]
    for reference in found["references"]:
        assert {"authors", "title", "type"} <= set(reference) and reference["type"] in ("article", "unpublished")
    people = [person for entry in (found, *found["references"]) for person in entry["authors"]]
    assert all(set(p) == {"name"} or {"family-names", "given-names"} <= set(p) for p in people)
