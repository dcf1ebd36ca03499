import shutil

import pytest

from fisher_ld.core.files import read_json, write_json
from fisher_ld.experiments.results import Results
from stages import ablations
from tests.experiments.made import write_run
from tests.given import ROOT, given

FEWER = {
    "run": {
        "data": ["movielens-100k"], "students": ["small"], "seeds": [0, 1], "teacher_seeds": [0],
        "shallow": ["truncated-2"],
        "methods": ["none", "logits", "uniform", "linear", "exponential", "fisher", "fisher-shuffled",
                    "fisher-reversed", "fisher-ld"],
    },
    "distill": {"batch_users": 2, "transfer_users": 2, "list_weight": 0.5},
    "trials": {"strength": [4.0]},
    "teacher": {"adapt": {"batch_users": 1}},
    "evaluate": {"margin": 0.01, "permutations": 999},
}  # fmt: skip


def write(folder, params):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(ROOT / "dvc.yaml", ".")
        write_run(params)
        ablations.main(params, None)


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """One data set, one student. Read only; `here` is a copy."""
    folder = tmp_path_factory.mktemp("sample")
    write(folder, given(FEWER))
    return folder


@pytest.fixture
def here(sample, tmp_path, monkeypatch):
    """The run in the working directory, to be changed."""
    shutil.copytree(sample / "metrics", tmp_path / "metrics")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def results(sample, monkeypatch):
    monkeypatch.chdir(sample)
    return Results(given(FEWER).run)


@pytest.fixture
def edited(here):
    """edited(path, change): the results after a change of one JSON file."""

    def apply(path, change):
        content = read_json(path)
        change(content)
        write_json(path, content)
        return Results(given(FEWER).run)

    return apply
