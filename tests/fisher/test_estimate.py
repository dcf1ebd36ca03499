import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.errors import UserError
from fisher_ld.fisher.estimate import ONLINE, SCHEMA, estimate, online_trace
from fisher_ld.fisher.gradient_norms import gradient_norms, pad_prompts
from fisher_ld.fisher.profile import layer_traces, outside_the_layers
from fisher_ld.fisher.sample import Sample, draw_examples
from fisher_ld.models.scorer import Scorer
from tests.fisher.lists import EXAMPLES, LISTS, PROMPTS, UNLABELLED


def prompt(example: int) -> list[int]:
    return PROMPTS.example(LISTS, example)


def alone(examples) -> Sample:
    return Sample("labelled", LISTS, np.array(examples))


def test_rows_are_the_norms_of_each_example(build_model):
    model = build_model(dtype=torch.float32)
    table = estimate(Scorer(model), PROMPTS, alone([7, 3, 6, 390]), "adapted", batch_size=3)

    assert dict(table.schema) == SCHEMA
    assert table["example"].to_list() == [e for e in (3, 6, 7, 390) for _ in range(5)]
    assert table["layer"].to_list() == [0, 1, 2, 3, 4] * 4
    assert table["state"].unique().to_list() == ["adapted"]
    rows = table.filter(pl.col("example") == 6)
    one = gradient_norms(Scorer(model), pad_prompts([prompt(6)]))
    assert rows["label"].to_list() == [1] * 5 and rows["list"].to_list() == [1] * 5
    assert table["label"].to_list() == [0] * 5 + [1] * 5 + [0] * 10
    assert table["source"].unique().to_list() == ["labelled"]
    assert rows["logit"].to_list() == pytest.approx([float(one.logits[0])] * 5, rel=1e-5)
    assert rows["gradient_norm"][1:4].to_list() == pytest.approx(one.layers[0].tolist(), rel=1e-5)
    assert rows["gradient_norm"][0] == pytest.approx(float(one.embedding[0]), rel=1e-5)
    assert rows["gradient_norm"][4] == pytest.approx(float(one.head[0]), rel=1e-5)
    assert rows["normalisation_part"].to_list() == pytest.approx([0, *one.normalisation[0].tolist(), 0], rel=1e-5)
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    assert rows["parameters"].to_list() == [40 * 16, layer, layer, layer, 3 * 16]
    weights = torch.cat([p.detach().flatten() for p in model.model.layers[1].parameters()])
    assert rows["mean_square"][2] == pytest.approx(float(weights.square().mean()), rel=1e-5)
    assert rows["sensitivity"][1:4].to_list() == pytest.approx(one.sensitivity[0].tolist(), rel=1e-5)
    assert table["sensitivity"].null_count() == 2 * 4
    assert table["list_norm"].null_count() == table["list_normalisation_part"].null_count() == 20


def test_each_candidate_has_its_lists_norm(build_model):
    model, lists = build_model(dtype=torch.float32), np.array([[15, 17, 19], [5, 6, 8]])
    table = estimate(Scorer(model), PROMPTS, Sample("transfer", UNLABELLED, lists), "base", batch_size=7)
    assert table["example"].unique(maintain_order=True).to_list() == [5, 6, 8, 15, 17, 19]
    assert table["label"].null_count() == len(table) == 30
    for number, examples in ((3, lists[0]), (1, lists[1])):
        found = gradient_norms(Scorer(model), pad_prompts([prompt(e) for e in examples]), candidates=3)
        for example in examples:
            rows = table.filter(pl.col("example") == example)
            assert rows["list"].to_list() == [number] * 5 and rows["source"].to_list() == ["transfer"] * 5
            assert rows["list_norm"][1:4].to_list() == pytest.approx(found.lists.layers[0].tolist(), rel=1e-5)
            part = found.lists.normalisation[0].tolist()
            assert rows["list_normalisation_part"].to_list() == pytest.approx([0, *part, 0], rel=1e-5)


def test_the_fisher_of_lists_is_that_of_the_answers_drawn_from_the_model(build_model, fisher_of_list, keep_float64):
    model, examples = build_model(), np.arange(10).reshape(2, 5)
    table = estimate(Scorer(model), PROMPTS, Sample("transfer", UNLABELLED, examples), "adapted", batch_size=10)
    expected = torch.stack([fisher_of_list(model, [prompt(e) for e in row]) for row in examples])  # (2, L + 2)
    found = layer_traces(table, "list")
    np.testing.assert_allclose(found.samples, expected[:, 1:-1], rtol=1e-9)
    outside = outside_the_layers(table, "list")
    assert outside["embedding"]["trace"] == pytest.approx(float(expected[:, 0].mean()), rel=1e-9)
    assert outside["head"]["trace"] == pytest.approx(float(expected[:, -1].mean()), rel=1e-9)


def test_a_prompt_beyond_the_context_is_an_error(build_model):
    with pytest.raises(UserError, match=r"161 tokens, but the model's context ends at 160.*history_length"):
        long = Prompts([3] * 160, PROMPTS.history, [[3]] * 37)
        estimate(Scorer(build_model()), long, alone([1]), "base", batch_size=1)


@pytest.mark.parametrize("kind", ["model", "label", "list"])
def test_an_online_trace_is_that_of_its_examples_whether_labelled_or_not(build_model, kind):
    model, examples = build_model(dtype=torch.float32), np.array([7, 3, 6, 390])
    labels = LISTS.labels()
    labels[[3, 390]] = np.nan
    found = online_trace(Scorer(model), prompt, labels, kind, False, examples)
    taken = [7, 6] if kind == "label" else examples
    table = estimate(Scorer(model), PROMPTS, alone(taken), "online", batch_size=4)
    expected = layer_traces(table, "model" if kind == "list" else kind).trace  # examples are no whole lists
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_an_online_trace_of_labels_passes_over_examples_without_one(build_model):
    labels = LISTS.labels()
    labels[: 2 * ONLINE] = np.nan
    examples = np.array([*range(2 * ONLINE), 390, 391])
    found = online_trace(Scorer(build_model(dtype=torch.float32)), prompt, labels, "label", False, examples)
    table = estimate(Scorer(build_model(dtype=torch.float32)), PROMPTS, alone([390, 391]), "online", batch_size=4)
    assert found.tolist() == pytest.approx(layer_traces(table, "label").trace.tolist(), rel=1e-5)


def test_an_online_trace_of_labels_needs_one(build_model):
    with pytest.raises(ValueError, match="examples with labels"):
        online_trace(Scorer(build_model()), prompt, UNLABELLED.labels(), "label", False, np.arange(3))


def test_checkpointing_changes_nothing(build_model):
    model, calls = build_model(dtype=torch.float32), []
    model.model.layers[0].self_attn.register_forward_hook(lambda *call: calls.append(torch.is_grad_enabled()))
    plain = estimate(Scorer(model), PROMPTS, alone(range(6)), "base", batch_size=4)
    assert calls == [True] * 2
    table = estimate(Scorer(model), PROMPTS, alone(range(6)), "base", batch_size=4, checkpointing=True)
    assert calls[2:] == [False, True] * 2  # of each batch once more, in the backward pass
    assert_frame_equal(table, plain, rel_tol=1e-5)


SECOND_RANK = """
import sys
from pathlib import Path
import numpy as np
import torch
from fisher_ld.fisher.estimate import estimate
from fisher_ld.fisher.sample import Sample, draw_examples
from fisher_ld.models.scorer import Scorer
from tests.fisher.lists import LISTS, PROMPTS, UNLABELLED
folder = Path(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=1, world_size=2)
scorer = Scorer.load(folder / "model")
lists = Sample("transfer", UNLABELLED, np.arange(35).reshape(7, 5))
estimate(scorer, PROMPTS, lists, "adapted", 4).write_parquet(folder / "lists.parquet")
many = Sample("labelled", LISTS, draw_examples(400, 190, seed=1))
estimate(scorer, PROMPTS, many, "adapted", 16).write_parquet(folder / "alone.parquet")
"""


def test_two_ranks_equal_one(build_model, tmp_path, monkeypatch):
    """With whole lists, and with examples that were drawn alone."""
    model, drawn = build_model(dtype=torch.float32), draw_examples(EXAMPLES, 190, seed=1)
    lists = Sample("transfer", UNLABELLED, np.arange(35).reshape(7, 5))
    one = {"lists": estimate(Scorer(model), PROMPTS, lists, "adapted", batch_size=4)}
    one["alone"] = estimate(Scorer(model), PROMPTS, alone(drawn), "adapted", batch_size=16)
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = subprocess.Popen(
        [sys.executable, "-c", SECOND_RANK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "RANK": "1"},
    )
    try:
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=2)
        first = {"lists": estimate(Scorer(model), PROMPTS, lists, "adapted", batch_size=4)}
        first["alone"] = estimate(Scorer(model), PROMPTS, alone(drawn), "adapted", 16)
        assert second.wait(timeout=60) == 0
    finally:
        second.kill()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    for name, expected in one.items():
        for table in (first[name], pl.read_parquet(tmp_path / f"{name}.parquet")):
            assert_frame_equal(table, expected, rel_tol=1e-5, abs_tol=1e-6)
            trace = layer_traces(expected, "model").trace
            np.testing.assert_allclose(layer_traces(table, "model").trace, trace, rtol=1e-6)


@pytest.mark.parametrize("kind", [UserError, torch.OutOfMemoryError])
def test_an_error_of_another_rank_is_raised(build_model, monkeypatch, kind):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("fisher_ld.core.ranks.gather", lambda mine: [mine, kind("no memory there")])
    with pytest.raises(kind, match="no memory there"):
        estimate(Scorer(build_model()), PROMPTS, alone(range(4)), "base", batch_size=2)


def test_a_rank_takes_its_share(build_model, monkeypatch):
    seen = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr("fisher_ld.core.ranks.together", lambda norms: seen.extend(norms()) or [seen])
    examples = sorted(range(14), key=lambda example: (len(prompt(example)), example))
    estimate(Scorer(build_model()), PROMPTS, alone(range(14)), "base", batch_size=8)
    assert [row.example for row in seen] == examples[1::3]
