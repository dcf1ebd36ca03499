"""estimate_fisher and layer_weights, one after the other, on tiny data and models."""

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fisher_ld.data.lists import read_lists
from fisher_ld.data.prompts import build_prompts
from fisher_ld.distillation.methods import METHODS
from fisher_ld.fisher.traces import layer_norms, pad_prompts
from fisher_ld.models.scorer import Scorer
from fisher_ld.params import Distill, Fisher, Params
from fisher_ld.runtime import UserError, read_json
from stages import estimate_fisher, layer_weights

ITEMS = 12


class Run:
    def __init__(self):
        self.metrics, self.artifacts = {}, []

    def log_metrics(self, values, step=None):
        self.metrics |= {(name, step): value for name, value in values.items()}

    def log_artifact(self, path):
        self.artifacts.append(path)


def write_data(rng):
    processed = estimate_fisher.PROCESSED
    processed.mkdir(parents=True)
    titles = [f"w{i} w{i + 1}" for i in range(ITEMS)]
    pl.DataFrame({"item": range(ITEMS), "text": titles}).write_parquet(processed / "items.parquet")
    sequences = [rng.permutation(ITEMS)[:6].tolist() for _ in range(8)]
    pl.DataFrame({"user": range(8), "items": sequences}).write_parquet(processed / "sequences.parquet")
    rows = [
        {"list": 2 * user + n, "user": user, "start": 0, "position": n + 3}
        | {"candidates": rng.permutation(ITEMS)[: 4 + n].tolist(), "positive": n}
        for user in range(8)
        for n in (0, 1)
    ]
    pl.DataFrame(rows).write_parquet(processed / "train.parquet")


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
    return tokenizer


def test_traces_and_weights_of_a_tiny_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(np.random.default_rng(0))
    tokenizer = write_teachers()
    params, run = Params(seed=5, fisher=Fisher(samples=20, batch_size=6, beta=2.0), distill=Distill(seeds=2)), Run()
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
        alone = layer_norms(scorer.model, pad_prompts([prompts.example(lists, example)]))
        rows = table.filter((pl.col("state") == state) & (pl.col("example") == example))
        assert rows["norm"][1:5].to_list() == pytest.approx(alone.layers[0].tolist(), rel=1e-4)
        assert rows["label"].unique().to_list() == [int(place == lists.positive[index])]

    metrics = read_json("metrics/fisher.json")
    assert metrics["adapted"]["examples"] == 20
    assert metrics["adapted"]["true"]["upper_lower_quarter"] != metrics["base"]["true"]["upper_lower_quarter"]
    assert run.metrics["adapted/true/rank_stability", None] == metrics["adapted"]["true"]["rank_stability"]
    assert len(pl.read_csv("metrics/plots/fisher.csv")) == 2 * 2 * 4
    assert run.artifacts == ["metrics/plots/fisher.png"]

    layer_weights.main(params, Run())
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
    layer_weights.main(Params(fisher=Fisher(beta=0.5, kind="empirical"), distill=Distill(seeds=2)), Run())
    assert {s: read_json(f"data/fisher/weights/{s}.json") for s in unchanged} == unchanged
    assert read_json("data/fisher/weights/fisher.json") != weights["fisher"]

    layer_weights.main(Params(fisher=Fisher(beta=2.0), distill=Distill(layer_map="fisher")), Run())
    mass = {m: read_json(f"data/fisher/weights/{m}.json")["mass"] for m in METHODS}
    assert all(value == pytest.approx(share) for value in mass.values())  # without the depth bias, in its own order
    assert all(entry["mass"] is None for entry in weights.values())


def test_weights_without_traces_name_the_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run the stage estimate_fisher"):
        layer_weights.main(Params(), Run())
