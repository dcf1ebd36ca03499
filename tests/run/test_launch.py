import pytest
import yaml

from fisher_ld.core.errors import UserError
from fisher_ld.run.launch import JOBS, STARTED, elsewhere, ranks
from tests.given import ROOT, given


def place(stage="distill", **changes):
    return given({"cluster": changes}).cluster.of(stage)


def test_the_stages_that_launchers_know_are_stages():
    assert set(JOBS) <= set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def test_a_launcher_gives_a_stage_as_many_processes_as_it_gains_from():
    assert ranks("distill", place(processes=4)) == 1  # local
    assert ranks("distill", place(launcher="torchrun", processes=4)) == 4
    assert ranks("distill", place(launcher="slurm", nodes=2, processes=4)) == 8
    assert ranks("efficiency", place(launcher="slurm", nodes=2, processes=4)) == 1


def test_what_runs_a_model_goes_elsewhere_and_nothing_twice(monkeypatch):
    slurm, torchrun = place(launcher="slurm"), place(launcher="torchrun", processes=2)
    assert elsewhere("efficiency", slurm) and elsewhere("distill", slurm) and not elsewhere("evaluate", slurm)
    assert elsewhere("distill", torchrun) and not elsewhere("efficiency", torchrun)
    assert not elsewhere("distill", place(launcher="torchrun", processes=1)) and not elsewhere("distill", place())
    monkeypatch.setenv(STARTED, "slurm")
    assert not elsewhere("distill", slurm)


def test_a_stage_has_a_place_of_its_own():
    own = {"launcher": "torchrun", "processes": 2, "stages": {"adapt_teacher": {"processes": 8}}}
    assert place("distill", **own).processes == 2
    assert (place("adapt_teacher", **own).processes, place("adapt_teacher", **own).launcher) == (8, "torchrun")


def test_several_nodes_need_slurm():
    with pytest.raises(UserError, match=r"torchrun stays on this machine, nodes is 2; set launcher: slurm"):
        place(launcher="torchrun", nodes=2)
