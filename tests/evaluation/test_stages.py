"""The stages evaluate and ablations on a small project folder with random models."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from fisher_ld.stages import cache_teacher
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from fisher_ld.batches.lists import read_lists
from fisher_ld.config.params import Cluster, Distill, Evaluate, Prompt
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.evaluation import serving
from fisher_ld.evaluation.scores import Scores, write_scores
from fisher_ld.models.scorer import Scorer

USERS, ITEMS, SEEDS = 60, 40, 2
STRATEGIES = ("linear", "exponential", "fisher", "fisher-shuffled", "fisher-reversed")


def write_processed(folder):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    sequences = [rng.permutation(ITEMS)[: rng.integers(5, 10)] for _ in range(USERS)]
    item = {
        "item": range(ITEMS),
        "text": [f"m{i}" for i in range(ITEMS)],
        "categories": [[f"c{i % 5}"] for i in range(ITEMS)],
    }
    pl.DataFrame(item).write_parquet(folder / "items.parquet")
    user = {"user": range(USERS), "train_positives": [len(s) - 2 for s in sequences]}
    pl.DataFrame(user).write_parquet(folder / "users.parquet")
    pl.DataFrame({"user": range(USERS), "items": sequences}).write_parquet(folder / "sequences.parquet")
    for family in ("popularity", "uniform"):
        rows = []
        for u, items in enumerate(sequences):
            candidates = rng.permutation(
                [items[-1], *rng.choice(np.setdiff1d(np.arange(ITEMS), items), 11, replace=False)]
            )
            positive = int(np.flatnonzero(candidates == items[-1])[0])
            place = {"list": u, "user": u, "start": max(0, len(items) - 4), "position": len(items) - 1}
            rows.append(place | {"candidates": candidates.tolist(), "positive": positive})
        pl.DataFrame(rows).write_parquet(folder / f"test_{family}.parquet")


def write_model(folder, layers):
    words = ["yes", "no", "liked", "?", *(f"m{i}" for i in range(ITEMS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(layers)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=64, num_labels=2,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    write_json(folder / "prompt.json", Prompt(prefix="liked\n", yes="yes", no="no"))


def write_skilled(path, lists, skill, seed, numbers=None):
    rng = np.random.default_rng(seed)
    numbers = range(len(lists)) if numbers is None else numbers
    values = [rng.normal(size=12) + skill * (np.arange(12) == lists.positive[i]) for i in numbers]
    write_scores(path, numbers, values)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    write_processed(root / "data/processed")
    write_model(root / "data/teacher/adapted", 4)
    students = {"none": 0.8, "uniform": 1.5, "fisher-ld": 1.6}
    for name in students:
        for seed in range(SEEDS):
            write_model(root / "data/students" / name / str(seed), 1)
    (root / "data/cache").mkdir()
    for family in ("popularity", "uniform"):
        name = f"test_{family}"
        lists = read_lists(root / "data/processed", name)
        scored = range(40) if family == "uniform" else None
        write_skilled(root / f"data/cache/teacher_{name}.parquet", lists, 3.0, 1, scored)
        write_skilled(root / f"data/zero_shot/{name}.parquet", lists, 0.0, 2, range(0, 60, 3))
        for number, (student, skill) in enumerate(students.items()):
            for seed in range(SEEDS):
                path = root / f"data/students/{student}/{seed}/scores_{name}.parquet"
                write_skilled(path, lists, skill, 3 + SEEDS * number + seed)
    return root


def run_stage(name, world, monkeypatch, run, methods=("none", "uniform", "fisher-ld")):
    monkeypatch.chdir(world)
    evaluate = Evaluate(bootstrap_samples=200, permutations=1000, latency_queries=3)
    params = {"seed": 0, "methods": methods, "distill": Distill(seeds=SEEDS)}
    params |= {"evaluate": evaluate, "cluster": Cluster(threads=1)}
    importlib.import_module(f"stages.{name}").main(SimpleNamespace(**params), run)


@pytest.fixture(scope="module")
def evaluated(world, new_run):
    run = new_run()
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stage("evaluate", world, monkeypatch, run)
    return read_json(world / "metrics/evaluate.json"), run


def test_evaluate_measures_all_models_on_the_teachers_lists(evaluated):
    found, run = evaluated
    everyone = {"chance", "teacher", "zero-shot", "popularity", "item-knn", "none", "uniform", "fisher-ld"}
    assert set(found["quality"]["popularity"]) == everyone
    ns = {
        family: {m: row["ndcg_10"]["n"] for m, row in found["quality"][family].items()}
        for family in ("popularity", "uniform")
    }
    assert ns["popularity"] == {m: 20 if m == "zero-shot" else 60 for m in everyone}
    assert ns["uniform"] == {m: 14 if m == "zero-shot" else 40 for m in everyone}  # 0, 3, .. 39
    assert run.metrics["popularity/teacher/hit_5"] == found["quality"]["popularity"]["teacher"]["hit_5"]["mean"]
    rows = {(row["a"], row["b"]): row["verdict"] for row in found["comparisons"]["popularity"]}
    assert rows["teacher", "zero-shot"] == "shown above"
    assert rows["fisher-ld", "teacher"] == "shown below"
    assert set(found["seeds"]["popularity"]) == {"none", "uniform", "fisher-ld"}
    share = found["retained"]["popularity"]["fisher-ld"]
    assert share["low"] < share["share"] < share["high"] < 1


def test_evaluate_writes_tables(evaluated, world):
    table = pl.read_parquet(world / "data/scores/per_user.parquet")
    assert table.group_by("model", "family", "seed").len().height == 2 * (5 + 3 * SEEDS)
    mean = table.filter((pl.col("model") == "uniform") & (pl.col("family") == "uniform"))["mrr"].mean()
    assert mean == pytest.approx(evaluated[0]["quality"]["uniform"]["uniform"]["mrr"]["mean"])
    plot = pl.read_csv(world / "metrics/plots/quality.csv")
    assert plot.columns == ["model", "family", "metric", "value", "low", "high", "chance"]
    assert plot.height == 7 * 2 * 7


def test_efficiency_of_one_student_for_all_of_its_shape(evaluated):
    found = evaluated[0]["efficiency"]
    assert set(found["models"]) == {"teacher", "fisher-ld"}
    assert found["models"]["fisher-ld"]["stands_for"] == ["fisher-ld", "none", "uniform"]
    assert found["candidates"] == 12
    student, teacher = found["models"]["fisher-ld"], found["models"]["teacher"]
    assert student["parameters"]["embedding"] == 44 * 16
    assert student["parameters"]["head"] == 32
    assert 3.9 < found["ratios"]["fisher-ld"]["body_parameters"] <= 4
    assert teacher["size_bytes"] > student["size_bytes"] > 0
    assert teacher["memory"]["peak_mib"] > teacher["memory"]["idle_mib"] > 0


def test_a_student_of_the_teachers_shape_stands_apart(world):
    folders = dict.fromkeys(("twin", "teacher", "other"), world / "data/students/none/0")
    compute = Compute(torch.device("cpu"), bf16=False)
    found = serving.measure(folders, "teacher", world / "data/processed", "test_popularity", 2, compute, 0)
    assert {name: row["stands_for"] for name, row in found["models"].items()} == {
        "teacher": ["teacher"],
        "twin": ["twin", "other"],
    }
    assert found["ratios"]["twin"]["parameters"] == 1


def test_a_served_model_scores_as_one_prompt_each(world):
    processed, folder = world / "data/processed", world / "data/students/none/0"
    scorer = Scorer.load(folder)
    lists = read_lists(processed, "test_popularity")
    model = serving.as_model(folder, scorer, lists, processed)
    expected = []
    for q in (4, 9):
        for item in lists.candidates[q]:
            ids = [2, *(4 + int(i) for i in lists.history(q)), 4 + int(item), 3]  # liked m.. m.. m.. m..?
            no, yes = scorer.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].tolist()
            expected.append(yes - no)
    with scorer.inference():
        np.testing.assert_allclose(model([4, 9]), expected, atol=1e-5)


def test_evaluate_without_students(world, monkeypatch, tmp_path, run):
    monkeypatch.setattr("stages.evaluate.STUDENTS", tmp_path)
    with pytest.raises(UserError, match=r"none/0/scores_test_popularity.parquet: no such file; run the stage"):
        run_stage("evaluate", world, monkeypatch, run)


def test_the_gate_stops_a_teacher_that_beats_nothing(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    lists = read_lists(world / "data/processed", "test_popularity")
    scores = Scores(np.arange(len(lists)), [np.zeros(len(candidates)) for candidates in lists.candidates])

    def check(ignore_gate):
        teacher = SimpleNamespace(ignore_gate=ignore_gate)
        params = SimpleNamespace(evaluate=Evaluate(), teacher=teacher, seed=0)
        return cache_teacher.check_gate(scores, lists, params)

    with pytest.raises(UserError, match=r"not worth distilling.*first_steps.*ignore_gate: true"):
        check(ignore_gate=False)
    assert not check(ignore_gate=True)["passed"]
    assert "gate not passed" in capsys.readouterr().out


def test_ablations(world, monkeypatch, tmp_path, run):
    folders = {name: tmp_path / name for name in ("uniform", *STRATEGIES, "fisher-ld")}
    lists = {f: read_lists(world / "data/processed", f"test_{f}") for f in ("popularity", "uniform")}
    skill = dict.fromkeys(folders, 0.5) | {"fisher": 3.0, "fisher-ld": 3.0, "fisher-reversed": 0.0}
    for number, (name, folder) in enumerate(folders.items()):
        for seed in range(SEEDS):
            (folder / str(seed)).mkdir(parents=True)
            for family, own in lists.items():
                path = folder / str(seed) / f"scores_test_{family}.parquet"
                write_skilled(path, own, skill[name], SEEDS * number + seed)
    monkeypatch.setattr("stages.ablations.STUDENTS", tmp_path)
    run_stage("ablations", world, monkeypatch, run, ("none", *folders))

    found = read_json("metrics/ablations.json")
    assert set(found["quality"]["popularity"]) == {"chance", *folders}
    rows = {(row["a"], row["b"]): row for row in found["comparisons"]["popularity"]}
    assert set(rows) == {(s, "uniform") for s in (*STRATEGIES, "fisher-ld")} | {
        ("fisher-ld", "fisher-shuffled"),
        ("fisher-ld", "fisher-reversed"),
        ("fisher-ld", "fisher"),
    }
    assert rows["fisher-ld", "fisher-reversed"]["verdict"] == "shown above"
    assert rows["fisher-ld", "fisher"]["verdict"] == "not shown"
    assert rows["linear", "uniform"]["verdict"] == "not shown"
    assert run.metrics["popularity/fisher-minus-uniform"] == rows["fisher", "uniform"]["difference"]
    assert pl.read_csv("metrics/plots/ablations.csv").height == 2 * 7 * 7

    (folders["linear"] / "1/scores_test_uniform.parquet").unlink()
    Path("metrics/ablations.json").unlink()
    with pytest.raises(UserError, match=r"linear/1/scores_test_uniform.parquet: no such file"):
        run_stage("ablations", world, monkeypatch, run, folders)
    assert not Path("metrics/ablations.json").exists()
