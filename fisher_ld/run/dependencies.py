"""What a stage runs of this project: the modules that its script imports, directly or not, but how a run is configured,
watched, resumed and recorded, none of which changes what comes out.

`python -m fisher_ld.run.dependencies` writes them into the `deps` of dvc.yaml.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

PACKAGE, STAGES, PIPELINE = "fisher_ld", "stages", Path("dvc.yaml")
LEFT_OUT = ("config", "core", "run")  # folders of the package
BUILT_LATER = "terms.py"  # imports in its functions when the trainer builds them, which imports the same at its head
SHARE = 0.4  # of a folder's modules that a stage needs
WIDTH = 120
STAGE = re.compile(r"^  (\w+):", re.MULTILINE)
DEPS = re.compile(r"^( +)deps: \[(.*?)\]$", re.MULTILINE | re.DOTALL)


def modules(script: Path) -> list[Path]:
    """The files that decide what a stage's script (stages/NAME.py) does, itself among them, and data files that they
    name beside themselves; sorted, below the same root as `script`."""
    found, new = set(), {script}
    while new:
        found |= new
        new = {file for known in new if known.suffix == ".py" for file in imports(known, script.parents[1])} - found
        new = {file for file in new if file.relative_to(script.parents[1]).parts[1] not in LEFT_OUT}
    return sorted(file for file in found if file.suffix != ".py" or _has_code(file))


@cache
def imports(file: Path, root: Path) -> frozenset[Path]:
    """The project's files that a file imports itself, wherever in it, and files beside it that it names; types that
    only a checker imports are none of them."""
    found: set[Path] = set()
    skipped = (ast.FunctionDef,) if file.name == BUILT_LATER else ()
    for node in _nodes(ast.parse(file.read_text(encoding="utf-8")), skipped):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found |= _files(f"{node.module}.{alias.name}", root)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found |= _files(alias.name, root)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[\w/-]+\.[a-z]+", str(node.value)):
            found |= {path for path in [file.parent / str(node.value)] if path.is_file()}
    return frozenset(found)


def _nodes(node: ast.AST, skipped: tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        type_checking = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not type_checking and not isinstance(child, skipped):
            yield from _nodes(child, skipped)


def _files(name: str, root: Path) -> set[Path]:
    """The module of a dotted name, which may be one of a thing in it, and the packages around it, but for the
    outermost, which only hands names on to users."""
    parts = name.split(".")
    if parts[0] not in (PACKAGE, STAGES):
        return set()
    places = [root.joinpath(*parts[:depth]) for depth in range(2, len(parts) + 1)]
    return {file for at in places for file in (at.with_suffix(".py"), at / "__init__.py") if file.is_file()}


@cache
def _has_code(file: Path) -> bool:
    """And not only a docstring, or nothing, as most __init__.py."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def folded(files: Collection[Path], root: Path) -> list[str]:
    """The files' paths below `root`; for those of a folder of the package the folder, where they are SHARE of it, or
    all where it has folders itself. DVC reads and writes dvc.lock at every cell, and would else take longer than some.
    """
    whole = []
    for folder in (root / PACKAGE).rglob("*"):
        every = {file for file in folder.rglob("*.py") if _has_code(file)}
        share = SHARE if all(file.parent == folder for file in every) else 1
        if every and len(every & {*files}) >= share * len(every):
            whole.append(folder)
    rest = [file for file in files if not any(folder in file.parents for folder in whole)]
    outer = [folder for folder in whole if not any(other in folder.parents for other in whole)]
    return sorted(str(path.relative_to(root)) for path in (*rest, *outer))


def rewritten(text: str, root: Path) -> str:
    """dvc.yaml's text with, in every `deps`, the modules of its stage after all else."""

    def replace(block: re.Match[str]) -> str:
        indent, found = block.groups()
        stage = STAGE.findall(text, 0, block.start())[-1]
        given = re.findall(r'"[^"]*"|[^\s,"]+', found)
        items = [item for item in given if not item.startswith((f"{PACKAGE}/", f"{STAGES}/"))]
        items += folded(modules(root / STAGES / f"{stage}.py"), root)
        line = f"{indent}deps: [{', '.join(items)}]"
        if len(line) <= WIDTH:
            return line
        inner = f"{indent}  "
        lines = textwrap.wrap(", ".join(items), WIDTH - 1, initial_indent=inner, subsequent_indent=inner,
                              break_long_words=False, break_on_hyphens=False)  # fmt: skip
        return "\n".join([f"{indent}deps: [", *lines]) + "]"

    return DEPS.sub(replace, text)


def main() -> None:
    PIPELINE.write_text(rewritten(PIPELINE.read_text(encoding="utf-8"), Path()), encoding="utf-8")


if __name__ == "__main__":
    main()
