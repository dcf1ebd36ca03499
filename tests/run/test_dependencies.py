import subprocess
import sys

import pytest

from fisher_ld.run.dependencies import folded, imports, modules, rewritten
from tests.given import ROOT

PIPELINE = """# how it goes
stages:
  check:
    cmd: python -m stages.check
    deps: [params.yaml]

  train:  # the model
    foreach: ${run.data}
    do:
      cmd: python -m stages.train ${item}
      deps: [stages/old.py, "data/${item}/in", "data/b/${run.seeds[0]}", fisher_ld/gone]
      outs: ["data/${item}/model"]
"""


@pytest.fixture
def project(tmp_path):
    def write(name, text=""):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("fisher_ld/__init__.py", '"""The package."""\n')
    write("fisher_ld/core/files.py", "from fisher_ld.models import never\n")
    write("fisher_ld/models/__init__.py")
    write(
        "fisher_ld/models/scorer.py", "import fisher_ld.core.files\n\ndef f():\n    from fisher_ld.models import rows\n"
    )
    write("fisher_ld/models/rows.py", "from __future__ import annotations\nimport numpy\n")
    for name in ("never", "neither", "nor", "not"):
        write(f"fisher_ld/models/{name}.py", "x = 1\n")
    write("fisher_ld/tables/__init__.py", "from fisher_ld.tables.one import ONE\n")
    write(
        "fisher_ld/tables/one.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fisher_ld.models.never import x\n"
        'ONE = read("numbers.yaml", "elsewhere.yaml")\n',
    )
    write("fisher_ld/tables/numbers.yaml", "a: 1\n")
    write("stages/__init__.py")
    write("stages/check.py", "from fisher_ld.core.files import read\n")
    write("stages/train.py", "from fisher_ld.models.scorer import Scorer\nfrom fisher_ld.tables import ONE\n")
    write("dvc.yaml", PIPELINE)
    return tmp_path


def names(files, root):
    return [str(file.relative_to(root)) for file in files]


def test_modules_are_those_that_a_script_imports_at_any_remove(project):
    assert names(modules(project / "stages/train.py"), project) == [
        "fisher_ld/models/rows.py",  # imported in a function
        "fisher_ld/models/scorer.py",
        "fisher_ld/tables/__init__.py",  # which has code
        "fisher_ld/tables/numbers.yaml",  # a file beside the module that names it
        "fisher_ld/tables/one.py",
        "stages/train.py",
    ]  # not what core imports, nor what only a type checker does
    assert names(modules(project / "stages/check.py"), project) == ["stages/check.py"]
    assert "fisher_ld/models/never.py" not in names(imports(project / "fisher_ld/tables/one.py", project), project)


def test_a_folder_stands_for_its_files_when_many_are_needed(project):
    files = modules(project / "stages/train.py")  # two of six in models
    assert folded(files, project) == [
        "fisher_ld/models/rows.py",
        "fisher_ld/models/scorer.py",
        "fisher_ld/tables",
        "stages/train.py",
    ]
    three = [*files, project / "fisher_ld/models/never.py"]
    assert folded(three, project)[:2] == ["fisher_ld/models", "fisher_ld/tables"]
    below = project / "fisher_ld/models/below/another.py"
    below.parent.mkdir()
    below.write_text("x = 1\n")  # a folder of folders stands for all, and not for many
    assert folded(three, project)[0] == "fisher_ld/models/never.py"


def test_only_the_modules_of_deps_are_rewritten(project):
    new = rewritten(PIPELINE, project)
    assert new == PIPELINE.replace("[params.yaml]", "[params.yaml, stages/check.py]").replace(
        '      deps: [stages/old.py, "data/${item}/in", "data/b/${run.seeds[0]}", fisher_ld/gone]\n',
        "      deps: [\n"
        '        "data/${item}/in", "data/b/${run.seeds[0]}", fisher_ld/models/rows.py, fisher_ld/models/scorer.py,\n'
        "        fisher_ld/tables, stages/train.py]\n",
    )
    assert rewritten(new, project) == new
    assert max(map(len, new.splitlines())) <= 120
    (project / "stages/train.py").write_text("import fisher_ld.models.rows\n")
    imports.cache_clear()
    assert (
        '      deps: ["data/${item}/in", "data/b/${run.seeds[0]}", fisher_ld/models/rows.py, stages/train.py]\n'
        in rewritten(new, project)
    )


def test_the_command_writes(project):
    subprocess.run([sys.executable, ROOT / "fisher_ld/run/dependencies.py"], cwd=project, check=True)
    assert (project / "dvc.yaml").read_text() == rewritten(PIPELINE, project)
