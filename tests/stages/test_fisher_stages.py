"""What becomes of Fisher traces: estimate_fisher, layer_weights and distill on tiny data and models."""

import sys
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from fisher_ld.stages import cache_teacher, distill, estimate_fisher, layer_weights
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fisher_ld.batches.lists import read_lists
from fisher_ld.batches.prompts import build_prompts, saved_prompts
from fisher_ld.config.params import Cluster, Distill, Fisher, Params, Prompt, Student, Teacher
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.fisher.estimate import estimate
from fisher_ld.fisher.gradient_norms import layer_norms, pad_prompts
from fisher_ld.fisher.profile import layer_traces
from fisher_ld.models.scorer import Scorer

ITEMS = 12


def write_data(rng, sizes=(4, 5)):
    """Two training lists a user, of so many candidates; the same lists for validation and test."""
    processed = estimate_fisher.PROCESSED
    processed.mkdir(parents=True)
    titles = [f"w{i} w{i + 1}" for i in range(ITEMS)]
    items = {"item": range(ITEMS), "text": titles, "categories": [["a"]] * ITEMS}
    pl.DataFrame(items).write_parquet(processed / "items.parquet")
    sequences = [rng.permutation(ITEMS)[:6].tolist() for _ in range(8)]
    pl.DataFrame({"user": range(8), "items": sequences}).write_parquet(processed / "sequences.parquet")
    pl.DataFrame({"user": range(8), "train_positives": [5] * 8}).write_parquet(processed / "users.parquet")
    rows = [
        {"list": 2 * user + n, "user": user, "start": 0, "position": n + 3}
        | {"candidates": rng.permutation(ITEMS)[:size].tolist(), "positive": n}
        for user in range(8)
        for n, size in enumerate(sizes)
    ]
    for name in ("train", "val", "test_popularity", "test_uniform"):
        pl.DataFrame(rows).write_parquet(processed / f"{name}.parquet")


def write_teachers():
    words = ["[UNK]", "yes", "no", "?", *(f"w{i}" for i in range(ITEMS + 1))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    shape = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
    torch.manual_seed(0)
    causal = LlamaForCausalLM(config)
    causal.save_pretrained(estimate_fisher.BASE)
    scorer = Scorer.from_causal_lm(estimate_fisher.BASE, yes=1, no=2)
    for layer, factor in zip(scorer.layers, (1, 2, 3, 4), strict=True):
        for parameter in layer.parameters():
            parameter.data.mul_(factor)
    scorer.model.save_pretrained(estimate_fisher.ADAPTED)
    for folder in (estimate_fisher.BASE, estimate_fisher.ADAPTED):
        tokenizer.save_pretrained(folder)
    write_json(estimate_fisher.ADAPTED / "prompt.json", Prompt())
    return tokenizer


def test_traces_and_weights_of_a_tiny_teacher(tmp_path, monkeypatch, run, new_run):
    monkeypatch.chdir(tmp_path)
    write_data(np.random.default_rng(0))
    tokenizer = write_teachers()
    params = Params(seed=5, fisher=Fisher(samples=20, batch_size=6, beta=2.0), distill=Distill(seeds=2))
    estimate_fisher.main(params, run)

    table = pl.read_parquet("data/fisher/traces.parquet")
    assert table["state"].unique(maintain_order=True).to_list() == ["adapted", "base"]
    assert table.group_by("state").agg(pl.col("example").n_unique())["example"].to_list() == [20, 20]

    lists = read_lists(estimate_fisher.PROCESSED, "train")
    prompts = build_prompts(tokenizer, estimate_fisher.PROCESSED, params.teacher.prompt)
    example = int(table["example"].max())
    index = max(i for i in range(len(lists)) if lists.offsets[i] <= example)
    place = example - int(lists.offsets[index])
    for state, scorer in (
        ("adapted", Scorer.load(estimate_fisher.ADAPTED)),
        ("base", Scorer.from_causal_lm(estimate_fisher.BASE, prompts.yes, prompts.no)),
    ):
        alone = layer_norms(scorer, pad_prompts([prompts.example(lists, example)]))
        rows = table.filter((pl.col("state") == state) & (pl.col("example") == example))
        assert rows["norm"][1:5].to_list() == pytest.approx(alone.layers[0].tolist(), rel=1e-4)
        assert rows["label"].unique().to_list() == [int(place == lists.positive[index])]

    metrics = read_json("metrics/fisher.json")
    assert metrics["adapted"]["examples"] == 20
    assert metrics["adapted"]["true"]["upper_lower_quarter"] != metrics["base"]["true"]["upper_lower_quarter"]
    assert run.metrics["adapted/true/rank_stability"] == metrics["adapted"]["true"]["rank_stability"]
    assert len(pl.read_csv("metrics/plots/fisher.csv")) == 2 * 2 * 4
    assert run.artifacts == ["metrics/plots/fisher.png"]

    layer_weights.main(params, new_run())
    weights = {m: read_json(f"data/fisher/weights/{m}.json") for m in METHODS}
    assert all(entry["strategy"] == METHODS[name].weighting for name, entry in weights.items())
    assert {name: len(entry["weights"]) for name, entry in weights.items()} == {  # seeds
        name: 1 if name == "truncated" else 2 for name in METHODS
    }
    share = np.array([row["share"] for row in metrics["adapted"]["true"]["layers"]])
    raised = share * (1 + 2.0 * np.arange(1, 5) / 4)
    assert weights["fisher"]["weights"][0] == pytest.approx(raised / raised.sum())
    one, other = weights["fisher-shuffled"]["weights"]
    assert sorted(one) == sorted(other) == sorted(weights["fisher"]["weights"][0])
    assert one != other
    assert weights["none"]["weights"] == [[], []]

    unchanged = {s: read_json(f"data/fisher/weights/{s}.json") for s in ("uniform", "linear", "exponential")}
    layer_weights.main(Params(fisher=Fisher(beta=0.5, kind="empirical"), distill=Distill(seeds=2)), new_run())
    assert {s: read_json(f"data/fisher/weights/{s}.json") for s in unchanged} == unchanged
    assert read_json("data/fisher/weights/fisher.json") != weights["fisher"]

    layer_weights.main(Params(fisher=Fisher(beta=2.0), distill=Distill(layer_map="fisher")), new_run())
    mass = {m: read_json(f"data/fisher/weights/{m}.json")["mass"] for m in METHODS}
    assert all(value == pytest.approx(share) for value in mass.values())  # without the depth bias, in its own order
    assert all(entry["mass"] is None for entry in weights.values())


def test_weights_without_traces_name_the_stage(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run the stage estimate_fisher"):
        layer_weights.main(Params(), run)


def test_dynamic_weights_from_the_teachers_traces(tmp_path, monkeypatch, run):
    """Eq. 9 by hand, w <- 0.5 w + 0.5 tr(F) / sum tr(F), with traces of the examples that the stage took."""
    monkeypatch.chdir(tmp_path)
    write_data(np.random.default_rng(0), sizes=(4, 4))
    write_teachers()
    weights = [0.1, 0.2, 0.3, 0.4]
    weighting = {"strategy": "fisher", "kind": "empirical", "weights": [weights], "mass": None}
    write_json(distill.WEIGHTS / "fisher-ld.json", weighting)
    params = Params(
        teacher=Teacher(ignore_gate=True),
        cluster=Cluster(precision="fp32"),
        fisher=Fisher(update_from="teacher", update_rate=0.5, update_interval=2),
        student=Student(vocabulary="full"),
        distill=Distill(seeds=1, steps=5),
    )
    cache_teacher.main(params, run)
    gate = read_json("metrics/gate.json")
    assert [rival["n"] for rival in gate["rivals"].values()] == [8, 8]  # users, who have two lists each
    taken = []
    monkeypatch.setattr(distill, "estimate", lambda *given, **more: taken.append(given[3]) or estimate(*given, **more))
    monkeypatch.setattr(sys, "argv", ["distill", "fisher-ld"])
    distill.main(params, run)

    lists, scorer = read_lists(distill.PROCESSED, "train"), Scorer.load(distill.ADAPTED)
    prompt = partial(saved_prompts(distill.ADAPTED, distill.PROCESSED).example, lists)
    expected = list(weights)
    for examples in taken:
        table = estimate(scorer, prompt, lists.labels(), examples, "adapted", batch_size=3)
        trace = layer_traces(table, "empirical").trace
        weights = (np.array(weights) + trace / trace.sum()) / 2
        expected += weights.tolist()
    found = pl.read_csv("metrics/plots/weights/fisher-ld.csv")
    assert found["step"].unique(maintain_order=True).to_list() == [0, 2, 4] and len(taken) == 2
    assert found["weight"].to_list() == pytest.approx(expected, rel=1e-4)
    assert run.metrics["weight/layer_04"] == pytest.approx(expected[-1], rel=1e-4)
