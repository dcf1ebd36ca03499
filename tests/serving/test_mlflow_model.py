"""What MLflow serves, and the requirements that it is registered with."""

import ast
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

from fisher_ld.run.registry import NEEDED
from tests.serving.conftest import student

SERVED = """
import json
import sys
from types import SimpleNamespace

import pandas as pd
from fisher_ld.serving.mlflow_model import Ranker

ranker = Ranker()
ranker.load_context(SimpleNamespace(artifacts={"model": sys.argv[1]}, model_config={"history_length": 2}))
assert ranker.predictor.history_length == 2
ranker.predict(None, pd.DataFrame({"history": [["m1"]], "candidates": [["m2", "m3"]]}))
print(json.dumps({name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}))
"""


def _name(package):
    return package.lower().replace("_", "-")


def closure(names):
    """These packages and all that they need, by their names in lower case."""
    found, waiting = set(), list(names)
    while waiting:
        name = _name(waiting.pop())
        if name in found:
            continue
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        waiting += [r.name for r in map(Requirement, needed) if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def imported(file):
    """The packages that a module names, in functions too."""
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


def test_all_that_it_imports_is_among_its_requirements(data):
    answer = subprocess.run([sys.executable, "-c", SERVED, student(data)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    loaded = json.loads(answer.stdout.splitlines()[-1])
    ours = [file for name, file in loaded.items() if name.startswith("fisher_ld.")]
    packages, there = packages_distributions(), closure(NEEDED)
    named = {name for file in ours for name in imported(file)} & set(loaded) & set(packages) - {"fisher_ld"}
    assert {"torch", "psutil", "accelerate"} <= named
    assert [name for name in named if not {_name(package) for package in packages[name]} & there] == []
