"""The stages that score models, judge, evaluate and time, on a small project folder."""

import importlib
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fisher_ld.batches.lists import read_lists, read_tests
from fisher_ld.config.params import trained
from fisher_ld.config.paths import BASE
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json
from fisher_ld.evaluation.calibration import calibration
from fisher_ld.evaluation.comparisons import Known, evaluate
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.models.scorer import Scorer
from tests.evaluation.world import (
    CANDIDATES,
    CHANGES,
    DATA,
    ITEMS,
    RIVALS,
    SEEDS,
    SKILL,
    one_by_one,
    write_model,
    write_processed,
    write_shelf,
    write_skilled,
)
from tests.evaluation.world import METHODS as TRAINED
from tests.given import ROOT, given

LIGHT = ("evaluate", "gate", "rivals", "score_rivals")
FAMILIES = {"matched": 60, "popularity": 40}  # whose lists were written, and of how many users


def run_stage(name, run, *names):
    importlib.import_module(f"stages.{name}").main(given(CHANGES), run, DATA.name, *names)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The data alone."""
    monkeypatch.chdir(tmp_path)
    write_processed(DATA.processed)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, new_run):
    root, run = tmp_path_factory.mktemp("evaluated"), new_run()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(root)
        write_processed(DATA.processed)
        write_shelf()
        run_stage("evaluate", run)
        return read_json(DATA.evaluate), pl.read_parquet(DATA.per_user), run, root


def test_all_models_are_measured_on_the_same_lists(evaluated):
    found, _, run, _ = evaluated
    everyone = {"chance", *SKILL}
    assert list(found["quality"]) == list(FAMILIES)
    for family, users in FAMILIES.items():
        counts = {m: row["ndcg_10"]["n"] for m, row in found["quality"][family].items()}
        assert counts == {m: (users + 2) // 3 if m == "zero-shot" else users for m in everyone}  # 0, 3, ..
    assert run.metrics["matched/teacher/hit_5"] == found["quality"]["matched"]["teacher"]["hit_5"]["mean"]
    assert run.metrics["popularity/small/none/retained"] == found["retained"]["popularity"]["small/none"]["share"]


def test_evaluate_says_who_is_better(evaluated):
    found = evaluated[0]
    rows = {(row["student"], row["group"], row["a"], row["b"]): row for row in found["comparisons"]["matched"]}
    assert rows[None, "main", "teacher", "zero-shot"]["verdict"] == "shown above"
    assert rows["small", "main", "teacher", "truncated-1"]["verdict"] == "shown above"
    assert rows["small", "main", "small/fisher-ld", "teacher"]["verdict"] in ("shown below", "not shown")
    reversal = rows["small", "main", "small/fisher-ld", "small/fisher-reversed"]
    assert (reversal["question"], reversal["metric"]) == ("fisher_over_reversed", "ndcg_10")
    assert reversal["difference"] > 0 and len(reversal["by_seed"]) == reversal["seeds"] == SEEDS
    assert {b for student, group, a, b in rows if (student, a) == (None, "teacher")} == {*RIVALS, "zero-shot"}
    assert {a for _, group, a, b in rows if group == "strategies"} == {
        f"small/{method}" for method in ("fisher", "fisher-reversed", "fisher-ld")
    }
    claims = [row["metric"] for row in found["comparisons"]["popularity"] if row["group"] == "claims"]
    assert claims == ["ndcg_5", "mrr", "ndcg_10", "ndcg_10"]  # over uniform; over fisher and logits
    assert set(found["retained"]["matched"]) == {f"small/{method}" for method in TRAINED}
    share = found["retained"]["matched"]["small/fisher-ld"]
    assert share["low"] < share["share"] < share["high"]
    assert {m: len(means) for m, means in found["seeds"]["matched"].items() if len(means) > 1} == {
        f"small/{method}": SEEDS for method in TRAINED
    }


def test_the_per_user_table_gives_every_comparison(evaluated, monkeypatch):
    found, table, _, root = evaluated
    monkeypatch.chdir(root)
    params = given(CHANGES)
    assert evaluate(table, Known.read(DATA, params.run), params.evaluate, params.seed) == found
    assert table.columns[:4] == ["model", "family", "seed", "user"]
    trained = len(TRAINED)
    assert table.group_by("model", "family", "seed").len().height == 2 * (1 + len(SKILL) - trained + SEEDS * trained)
    rows = table.filter((pl.col("model") == "small/uniform") & (pl.col("family") == "popularity"))
    assert rows["seed"].unique().sort().to_list() == [0, 1]
    assert rows["mrr"].mean() == pytest.approx(found["quality"]["popularity"]["small/uniform"]["mrr"]["mean"])


def test_evaluate_makes_probabilities_and_examples_of_the_scores(evaluated, monkeypatch):
    monkeypatch.chdir(evaluated[3])
    found, shown = read_json(DATA.calibration), read_json(DATA.examples)
    assert set(found["models"]) == {"teacher", "truncated-1", *(f"small/{method}" for method in TRAINED)}
    assert [run["seed"] for run in found["models"]["small/uniform"]] == list(range(SEEDS))
    assert found["validation"]["share"] == found["test"]["share"] == 1 / CANDIDATES
    for runs in found["models"].values():
        for run in runs:
            assert run["with_bias"]["log_loss"] < run["temperature"]["log_loss"] < run["as_scored"]["log_loss"]
    assert set(shown["shared"]) == {"teacher", *(f"small/{method}" for method in TRAINED)}


def test_a_student_without_validation_scores_has_no_probabilities(project):
    lists = {"val": read_lists(DATA.processed, "val"), "test": read_lists(DATA.processed, "test_matched")}
    for model, seed in ((model, seed) for model, seeds in trained(given(CHANGES).run).items() for seed in seeds):
        write_skilled(DATA.validation(model, seed), lists["val"], 1.0, 0)
        write_skilled(DATA.test(model, seed) / "matched.parquet", lists["test"], 1.0, 1)
    calibration(DATA, given(CHANGES).run)
    DATA.validation("small/none", 1).unlink()
    with pytest.raises(UserError, match=r"val_students/small/none/1\.parquet: no such file; run the stage that scores"):
        calibration(DATA, given(CHANGES).run)


def test_a_model_that_was_not_scored_stops_evaluate(project, run):
    write_shelf()
    (DATA.test("small/none", 1) / "popularity.parquet").unlink()
    with pytest.raises(UserError, match=r"small/none/1/popularity\.parquet: no such file; run the stage that scores"):
        run_stage("evaluate", run)
    lists = read_lists(DATA.processed, "test_popularity")
    write_skilled(DATA.test("small/none", 1) / "popularity.parquet", lists, 1.0, 0, every=2)
    with pytest.raises(UserError, match=r"small/none/1/popularity\.parquet.*expected all 40 lists, got 20"):
        run_stage("evaluate", run)
    assert not DATA.evaluate.exists() and not DATA.per_user.exists()


@pytest.mark.parametrize(
    ("stage", "names", "model", "seed"),
    [
        ("score_teacher", (4,), "teacher", 4),
        ("score_shallow", ("truncated-1",), "truncated-1", 0),
        ("score_start", ("small",), "small/start", 0),
        ("score_student", ("small", "fisher-ld", 2), "small/fisher-ld", 2),
    ],
)
def test_a_saved_model_is_scored_on_every_list_of_every_family(project, run, stage, names, model, seed):
    write_model(DATA.model(model, seed), 2)
    run_stage(stage, run, *names)
    scorer = Scorer.load(DATA.model(model, seed))
    tests = read_tests(DATA)
    assert list(tests) == list(FAMILIES)
    for family, lists in tests.items():
        scores = read_scores(DATA.test(model, seed) / f"{family}.parquet", lists)
        for number in (0, 31):
            np.testing.assert_allclose(scores.values[number], one_by_one(scorer, lists, number), atol=1e-5)


def test_a_student_is_scored_on_the_validation_lists_too(project, run):
    """Apart from the shelf that the gate reads, which no student's scores may be on: it comes before them."""
    write_model(DATA.model("small/fisher-ld", 2), 2)
    run_stage("score_student", run, "small", "fisher-ld", 2)
    scorer, lists = Scorer.load(DATA.model("small/fisher-ld", 2)), read_lists(DATA.processed, "val")
    scores = read_scores(DATA.validation("small/fisher-ld", 2), lists)
    np.testing.assert_allclose(scores.values[31], one_by_one(scorer, lists, 31), atol=1e-5)
    shelf = DATA.validation("teacher").parents[1]
    assert shelf not in DATA.validation("small/fisher-ld", 2).parents
    assert shelf in DATA.validation("truncated-1").parents and shelf in DATA.validation("rivals/ease").parents


def test_the_teacher_before_adaptation_is_scored_on_a_few_users(project, run):
    words = ["yes", "no", "liked", "?", *(f"m{i}" for i in range(ITEMS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(BASE)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(BASE)
    run_stage("score_zero_shot", run)
    scorer = Scorer.from_causal_lm(BASE, 0, 1)
    for family, users in FAMILIES.items():
        lists = read_lists(DATA.processed, f"test_{family}")
        scores = read_scores(DATA.test("zero-shot") / f"{family}.parquet", lists, whole=False)
        assert lists.user[scores.numbers].tolist() == list(range(0, users, 3))
        np.testing.assert_allclose(scores.values[2], one_by_one(scorer, lists, scores.numbers[2]), atol=1e-5)


def test_the_gate_stage_writes_what_it_found(project, run):
    write_model(BASE, 4)
    lists = read_lists(DATA.processed, "val")
    skills = {"teacher": 3.0, "truncated-1": 0.5, **dict.fromkeys(RIVALS, 0.2)}
    for number, (model, skill) in enumerate(skills.items()):
        write_skilled(DATA.validation(model), lists, skill, number)
    run_stage("gate", run, "small", 0)
    found = read_json(DATA.gate("small"))
    assert (found["passed"], found["overridden"], found["truncated"]["depth"]) == (True, False, 1)
    write_skilled(DATA.validation("truncated-1"), lists, 3.0, 50)
    DATA.gate("small").unlink()
    with pytest.raises(UserError, match="not shown above its own first layer"):
        run_stage("gate", run, "small", 0)
    assert not DATA.gate("small").exists()


def test_efficiency_of_teacher_student_and_truncation(project, run):
    write_model(DATA.model("teacher", 0), 4)
    write_model(DATA.model("small/start"), 1)
    write_model(DATA.model("truncated-1"), 1)
    run_stage("efficiency", run, "small", 0)
    found = read_json(DATA.efficiency("small"))
    assert list(found["models"]) == ["teacher", "small", "truncated-1"]
    assert set(found["ratios"]) == set(found["intervals"]) == {"small", "truncated-1"}
    assert (found["queries"], found["candidates"]) == (6, 12)
    assert (found["reference"], found["device"], found["precision"]) == ("teacher", "cpu", "fp32")
    student, teacher = found["models"]["small"], found["models"]["teacher"]
    assert student["parameters"]["embedding"] == 44 * 16
    assert student["parameters"]["head"] == 32
    assert 3.9 < found["ratios"]["small"]["body_parameters"] <= 4
    assert teacher["size_bytes"] > student["size_bytes"] > 0
    assert teacher["memory"]["peak_mib"] > teacher["memory"]["idle_mib"] > 0
    assert 0 < student["latency_p50_ms"] <= student["latency_p95_ms"]
    interval = found["intervals"]["small"]["latency_p50"]
    assert interval["low"] <= found["ratios"]["small"]["latency_p50"] <= interval["high"]
    assert run.metrics["small/body_parameters"] == found["ratios"]["small"]["body_parameters"]


def test_light_stages_start_without_heavy_libraries():
    imports = ", ".join(f"stages.{name}" for name in LIGHT)
    heavy = "('torch', 'transformers', 'mlflow', 'matplotlib')"
    code = f"import sys, {imports}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
