"""The stages that fit and score rivals, score models, judge, evaluate and time, on a small project folder."""

import importlib
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fisher_ld.batches.lists import FAMILIES, read_lists
from fisher_ld.config.paths import BASE
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json
from fisher_ld.evaluation.comparisons import evaluate
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.models.scorer import Scorer
from tests.evaluation.world import (
    CHANGES,
    DATA,
    ITEMS,
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
    counts = {f: {m: row["ndcg_10"]["n"] for m, row in found["quality"][f].items()} for f in FAMILIES}
    assert counts["popularity"] == {m: 20 if m == "zero-shot" else 60 for m in everyone}
    assert counts["uniform"] == {m: 14 if m == "zero-shot" else 40 for m in everyone}  # 0, 3, .. 39
    assert run.metrics["popularity/teacher/hit_5"] == found["quality"]["popularity"]["teacher"]["hit_5"]["mean"]
    assert run.metrics["uniform/small/none/retained"] == found["retained"]["uniform"]["small/none"]["share"]


def test_evaluate_says_who_is_better(evaluated):
    found = evaluated[0]
    rows = {(row["student"], row["group"], row["a"], row["b"]): row for row in found["comparisons"]["popularity"]}
    assert rows[None, "main", "teacher", "zero-shot"]["verdict"] == "shown above"
    assert rows[None, "main", "teacher", "truncated-1"]["verdict"] == "shown above"
    assert rows["small", "main", "small/fisher-ld", "teacher"]["verdict"] == "shown below"
    reversal = rows["small", "strategies", "small/fisher-ld", "small/fisher-reversed"]
    assert (reversal["verdict"], reversal["metric"], len(reversal["by_seed"])) == ("shown above", "ndcg_10", SEEDS)
    assert {(a, b) for _, group, a, b in rows if group == "strategies"} == {
        ("small/fisher", "small/uniform"),
        ("small/fisher-reversed", "small/uniform"),
        ("small/fisher-ld", "small/uniform"),
        ("small/fisher-ld", "small/fisher-reversed"),
        ("small/fisher-ld", "small/fisher"),
    }
    assert set(found["claims"]["uniform"]["small"]) == {"ndcg_5", "mrr"}
    assert found["claims"]["uniform"]["small"]["mrr"]["metric"] == "mrr"
    assert set(found["retained"]["popularity"]) == {f"small/{method}" for method in TRAINED}
    share = found["retained"]["popularity"]["small/fisher-ld"]
    assert share["low"] < share["share"] < share["high"] < 1
    assert {m: len(means) for m, means in found["seeds"]["popularity"].items() if len(means) > 1} == {
        f"small/{method}": SEEDS for method in TRAINED
    }


def test_the_per_user_table_alone_gives_every_comparison(evaluated):
    found, table, _, root = evaluated
    alone = root / "alone.parquet"
    table.write_parquet(alone)
    params = given(CHANGES)
    assert evaluate(pl.read_parquet(alone), params.evaluate, params.seed) == found
    assert table.columns[:4] == ["model", "family", "seed", "user"]
    trained = len(TRAINED)
    assert table.group_by("model", "family", "seed").len().height == 2 * (1 + len(SKILL) - trained + SEEDS * trained)
    rows = table.filter((pl.col("model") == "small/uniform") & (pl.col("family") == "uniform"))
    assert rows["seed"].unique().sort().to_list() == [0, 1]
    assert rows["mrr"].mean() == pytest.approx(found["quality"]["uniform"]["small/uniform"]["mrr"]["mean"])


def test_a_model_that_was_not_scored_stops_evaluate(project, run):
    write_shelf()
    (DATA.test("small/none", 1) / "uniform.parquet").unlink()
    with pytest.raises(UserError, match=r"small/none/1/uniform\.parquet: no such file; run the stage that scores"):
        run_stage("evaluate", run)
    lists = read_lists(DATA.processed, "test_uniform")
    write_skilled(DATA.test("small/none", 1) / "uniform.parquet", lists, 1.0, 0, every=2)
    with pytest.raises(UserError, match=r"small/none/1/uniform\.parquet.*expected all 40 lists, got 20"):
        run_stage("evaluate", run)
    assert not DATA.evaluate.exists() and not DATA.per_user.exists()


def test_rivals_are_fitted_once_and_score_every_list(project, run):
    run_stage("rivals", run)
    users = pl.read_parquet(DATA.processed / "users.parquet")
    users.with_columns(train_positives=0).write_parquet(DATA.processed / "users.parquet")  # nothing to learn from
    run_stage("score_rivals", run)
    liked = pl.read_parquet(DATA.processed / "sequences.parquet")["items"].to_list()
    count = np.bincount(np.concatenate([items[:-2] for items in liked]), minlength=ITEMS)
    for name in ("val", "test_popularity", "test_uniform"):
        lists, family = read_lists(DATA.processed, name), name.removeprefix("test_")
        for rival in ("rivals/popularity", "rivals/item-knn"):
            file = DATA.validation(rival) if name == "val" else DATA.test(rival) / f"{family}.parquet"
            scores = read_scores(file, lists)
            if rival == "rivals/popularity":
                np.testing.assert_array_equal(scores.values[7], count[lists.candidates[7]])
            else:
                assert 0 < np.concatenate(scores.values).max() <= 3


@pytest.mark.parametrize(
    ("stage", "names", "model", "seed"),
    [
        ("score_teacher", (4,), "teacher", 4),
        ("score_truncated", (1,), "truncated-1", 0),
        ("score_start", ("small",), "small/start", 0),
        ("score_student", ("small", "fisher-ld", 2), "small/fisher-ld", 2),
    ],
)
def test_a_saved_model_is_scored_on_every_list_of_both_families(project, run, stage, names, model, seed):
    write_model(DATA.model(model, seed), 2)
    run_stage(stage, run, *names)
    scorer = Scorer.load(DATA.model(model, seed))
    for family in FAMILIES:
        lists = read_lists(DATA.processed, f"test_{family}")
        scores = read_scores(DATA.test(model, seed) / f"{family}.parquet", lists)
        for number in (0, 31):
            np.testing.assert_allclose(scores.values[number], one_by_one(scorer, lists, number), atol=1e-5)


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
    for family, users in (("popularity", 60), ("uniform", 40)):
        lists = read_lists(DATA.processed, f"test_{family}")
        scores = read_scores(DATA.test("zero-shot") / f"{family}.parquet", lists, whole=False)
        assert lists.user[scores.numbers].tolist() == list(range(0, users, 3))
        np.testing.assert_allclose(scores.values[2], one_by_one(scorer, lists, scores.numbers[2]), atol=1e-5)


def test_the_gate_stage_writes_what_it_found(project, run):
    write_model(BASE, 4)
    lists = read_lists(DATA.processed, "val")
    for number, (model, skill) in enumerate((("teacher", 3.0), ("truncated-1", 0.5), ("rivals/popularity", 0.2))):
        write_skilled(DATA.validation(model), lists, skill, number)
    write_skilled(DATA.validation("rivals/item-knn"), lists, 0.3, 4)
    run_stage("gate", run, "small", 0)
    found = read_json(DATA.gate("small"))
    assert (found["passed"], found["overridden"], found["truncated"]["depth"]) == (True, False, 1)
    write_skilled(DATA.validation("truncated-1"), lists, 3.0, 5)
    DATA.gate("small").unlink()
    with pytest.raises(UserError, match="not shown above its own first 1 layers"):
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
    assert (found["queries"], found["throughput_queries"], found["candidates"]) == (6, 6, 12)
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
