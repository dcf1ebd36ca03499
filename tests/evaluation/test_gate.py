import numpy as np
import pytest

from fisher_ld.batches.lists import read_lists
from fisher_ld.config.paths import BASE
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import write_json
from fisher_ld.evaluation.gate import gate
from tests.evaluation.world import CHANGES, DATA, RIVALS, USERS, write_processed, write_skilled
from tests.given import given

SKILL = {"teacher": 3.0, "truncated-2": 0.5, **dict.fromkeys(RIVALS, 0.2), "rivals/item-knn": 0.5}
NAMES = {
    "teacher": "teacher", "truncated": "truncated-2", "knn": "rivals/item-knn", "informed": "rivals/item-knn-all",
    "text": "rivals/tf-idf",
}  # fmt: skip
PARAMS = given(
    CHANGES
    | {"students": {"small": {**CHANGES["students"]["small"], "layers": 2}}, "run": {"shallow": ["truncated-2"]}}
)


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """The gate, where models are as good as given; a difference of 1 in skill is plain at 60 users."""
    monkeypatch.chdir(tmp_path)
    write_processed(DATA.processed)
    config = {"num_hidden_layers": 6, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    write_json(BASE / "config.json", config | {"num_key_value_heads": 2, "model_type": "llama"})
    lists = read_lists(DATA.processed, "val")

    def judge(override=False, **skill):
        skills = SKILL | {NAMES[name]: value for name, value in skill.items()}
        for number, (model, value) in enumerate(skills.items()):
            write_skilled(DATA.validation(model, 3 if model == "teacher" else 0), lists, value, number)
        return gate(DATA, PARAMS.students["small"], PARAMS.rivals, 3, override, 0)

    return judge


def test_a_teacher_above_its_truncation_and_the_rivals_passes(judged, capsys):
    found = judged()
    assert (found["passed"], found["tie"], found["overridden"], found["reasons"]) == (True, False, False, [])
    assert (found["lists"], found["metric"], found["truncated"]["depth"]) == (USERS, "ndcg_10", 2)
    assert {name: row["labels"] for name, row in found["rivals"].items()} == RIVALS
    assert found["best_rival"] == "rivals/item-knn"
    assert found["teacher"] == pytest.approx(found["truncated"]["mean_a"])
    assert (found["truncated"]["verdict"], found["truncated"]["df"]) == ("shown above", USERS - 1)
    assert found["rivals"]["rivals/popularity"]["verdict"] == "shown above"
    said = capsys.readouterr().out
    assert "gate passed: teacher NDCG@10" in said and "cost" not in said


def test_a_teacher_not_shown_above_its_truncation_stops_the_pipeline(judged):
    message = (
        r"on 60 validation lists the teacher \(NDCG@10 0\.\d+\) is not shown above its own first 2 layers, adapted "
        r"alone on the same labels \(0\.\d+, difference -?0\.\d+, 95% interval -?0\.\d+ to -?0\.\d+\), so that there "
        r"is nothing to distil\. Give .*data\.labelled_windows.*teacher\.adapt\.steps.*learning_rate.*item_text"
        r".*gate\.override: true"
    )
    with pytest.raises(UserError, match=message):
        judged(truncated=3.0)


@pytest.mark.parametrize("better", ["knn", "text"])
def test_a_teacher_shown_below_the_best_rival_stops_the_pipeline(judged, better):
    with pytest.raises(UserError, match=rf"is shown below {NAMES[better]} \(1\.000, difference -0\.\d+") as error:
        judged(teacher=2.0, **{better: 6.0})
    assert "first 2 layers" not in str(error.value)


def test_a_rival_with_all_labels_is_written_and_stops_nothing(judged):
    found = judged(teacher=2.0, informed=6.0)
    assert (found["passed"], found["tie"], found["best_rival"]) == (True, False, "rivals/item-knn")
    assert found["rivals"]["rivals/item-knn-all"]["verdict"] == "shown below"
    assert found["rivals"]["rivals/item-knn-all"]["labels"] == "all"


def test_a_tie_with_the_best_rival_goes_on_and_is_told(judged, capsys):
    found = judged(text=3.0)
    assert (found["passed"], found["tie"], found["best_rival"]) == (True, True, "rivals/tf-idf")
    assert found["rivals"]["rivals/tf-idf"]["low"] < 0 < found["rivals"]["rivals/tf-idf"]["high"]
    assert "not shown to be worth its cost beside rivals/tf-idf" in capsys.readouterr().out


def test_both_faults_are_told_together(judged):
    found = judged(override=True, teacher=0.0, truncated=0.0, knn=6.0)
    assert ["first 2 layers" in found["reasons"][0], "item-knn" in found["reasons"][1]] == [True, True]


def test_an_override_goes_on_and_says_so(judged, capsys):
    found = judged(override=True, truncated=3.0)
    assert (found["passed"], found["overridden"]) == (False, True)
    assert "not shown above its own first 2 layers" in found["reasons"][0]
    assert "gate overridden (gate.override), although the teacher" in capsys.readouterr().out
    assert not judged(override=True)["overridden"]


def test_a_truncation_of_the_students_size_is_asked_for(judged):
    judged()
    DATA.validation("truncated-2").unlink()
    with pytest.raises(UserError, match=r"truncated-2/0\.parquet: no such file.*add truncated-2 to run\.shallow"):
        gate(DATA, PARAMS.students["small"], PARAMS.rivals, 3, True, 0)


def test_the_gate_judges_users_not_lists(judged):
    found = judged()
    assert found["truncated"]["n"] == len(np.unique(read_lists(DATA.processed, "val").user))
