import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from fisher_ld.core.errors import UserError
from fisher_ld.fisher.estimate import SCHEMA, draw_examples, estimate, largest_share_error
from fisher_ld.fisher.gradient_norms import gradient_norms, pad_prompts
from fisher_ld.fisher.profile import layer_traces
from fisher_ld.models.scorer import Scorer

LABELS = np.arange(400) % 5 == 0


def prompt(example: int) -> list[int]:
    return [3 + (example * k) % 37 for k in range(1, 4 + example % 11)]


def reached_after(count: int, table: pl.DataFrame, examples: np.ndarray) -> float:
    """A tolerance that so many examples reach, and those of the rounds before do not."""
    errors = [largest_share_error(table.filter(pl.col("example").is_in(examples[:n]))) for n in (count - 64, count)]
    assert errors[1] < errors[0]
    return sum(errors) / 2


def test_rows_are_the_norms_of_each_example(build_model):
    model = build_model(dtype=torch.float32)
    table = estimate(Scorer(model), prompt, LABELS, np.array([7, 3, 5, 390]), "adapted", batch_size=3)

    assert dict(table.schema) == SCHEMA
    assert table["example"].to_list() == [e for e in (3, 5, 7, 390) for _ in range(5)]
    assert table["layer"].to_list() == [0, 1, 2, 3, 4] * 4
    assert table["state"].unique().to_list() == ["adapted"]
    rows = table.filter(pl.col("example") == 5)
    alone = gradient_norms(Scorer(model), pad_prompts([prompt(5)]))
    assert rows["label"].to_list() == [1] * 5
    assert rows["logit"].to_list() == pytest.approx([float(alone.logits[0])] * 5, rel=1e-5)
    assert rows["gradient_norm"][1:4].to_list() == pytest.approx(alone.layers[0].tolist(), rel=1e-5)
    assert rows["gradient_norm"][0] == pytest.approx(float(alone.embedding[0]), rel=1e-5)
    assert rows["gradient_norm"][4] == pytest.approx(float(alone.head[0]), rel=1e-5)
    assert rows["normalisation_part"].to_list() == pytest.approx([0, *alone.normalisation[0].tolist(), 0], rel=1e-5)
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    assert rows["parameters"].to_list() == [40 * 16, layer, layer, layer, 3 * 16]


def test_examples_are_drawn_until_the_weights_are_known_well_enough(build_model, capsys):
    model, examples = build_model(dtype=torch.float32), draw_examples(400, 400, seed=1)
    every = estimate(Scorer(model), prompt, LABELS, examples, "base", batch_size=16)
    assert every["example"].n_unique() == 400
    tolerance = reached_after(128, every, examples)

    stopped = estimate(Scorer(model), prompt, LABELS, examples, "base", batch_size=16, tolerance=tolerance)
    assert set(stopped["example"]) == set(examples[:128])
    assert "fisher.tolerance" not in capsys.readouterr().out
    unreached = estimate(Scorer(model), prompt, LABELS, examples[:70], "base", batch_size=16, tolerance=1e-9)
    assert set(unreached["example"]) == set(examples[:70])
    assert "after all 70 examples, above fisher.tolerance 1e-09" in capsys.readouterr().out


def test_drawn_examples_differ_by_seed_and_never_repeat():
    drawn = draw_examples(100, 30, seed=3)
    assert len(set(drawn)) == 30 and drawn.max() < 100
    assert (drawn == draw_examples(100, 30, seed=3)).all()
    assert (drawn != draw_examples(100, 30, seed=4)).any()
    assert len(draw_examples(10, 30, seed=3)) == 10


def test_a_prompt_beyond_the_context_is_an_error(build_model):
    with pytest.raises(UserError, match=r"161 tokens, but the model's context ends at 160.*history_length"):
        estimate(Scorer(build_model()), lambda example: [3] * 161, LABELS, np.array([1]), "base", batch_size=1)


def test_no_examples_are_an_error(build_model):
    with pytest.raises(UserError, match="train lists are empty"):
        estimate(Scorer(build_model()), prompt, LABELS, np.array([], int), "base", batch_size=1)


def test_checkpointing_changes_nothing(build_model):
    model, calls = build_model(dtype=torch.float32), []
    model.model.layers[0].self_attn.register_forward_hook(lambda *call: calls.append(torch.is_grad_enabled()))
    plain = estimate(Scorer(model), prompt, LABELS, np.arange(6), "base", batch_size=4)
    assert calls == [True] * 2
    table = estimate(Scorer(model), prompt, LABELS, np.arange(6), "base", batch_size=4, checkpointing=True)
    assert calls[2:] == [False, True] * 2  # of each batch once more, in the backward pass
    assert_frame_equal(table, plain, rel_tol=1e-5)


SECOND_RANK = """
import sys
from pathlib import Path
import numpy as np
import torch
from fisher_ld.fisher.estimate import draw_examples, estimate
from fisher_ld.models.scorer import Scorer
folder, tolerance = Path(sys.argv[1]), float(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=1, world_size=2)
scorer = Scorer.load(folder / "model")
prompt = lambda example: [3 + (example * k) % 37 for k in range(1, 4 + example % 11)]
labels, drawn = np.arange(400) % 5 == 0, draw_examples(400, 400, seed=1)
estimate(scorer, prompt, labels, np.arange(21), "adapted", 4).write_parquet(folder / "all.parquet")
estimate(scorer, prompt, labels, drawn, "adapted", 16, tolerance).write_parquet(folder / "enough.parquet")
"""


def test_two_ranks_equal_one(build_model, tmp_path, monkeypatch):
    """With all examples, and with a tolerance that the third round of 64 reaches."""
    model, drawn = build_model(dtype=torch.float32), draw_examples(400, 400, seed=1)
    alone = {"all": estimate(Scorer(model), prompt, LABELS, np.arange(21), "adapted", batch_size=4)}
    alone["enough"] = estimate(Scorer(model), prompt, LABELS, drawn[:192], "adapted", batch_size=16)
    tolerance = reached_after(192, alone["enough"], drawn)
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    second = subprocess.Popen(
        [sys.executable, "-c", SECOND_RANK, str(tmp_path), str(tolerance)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
    )
    try:
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=2)
        first = {"all": estimate(Scorer(model), prompt, LABELS, np.arange(21), "adapted", batch_size=4)}
        first["enough"] = estimate(Scorer(model), prompt, LABELS, drawn, "adapted", batch_size=16, tolerance=tolerance)
        assert second.wait(timeout=60) == 0
    finally:
        second.kill()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    for name, expected in alone.items():
        order = ("example", "layer")  # rounds stay one after the other
        for table in (first[name], pl.read_parquet(tmp_path / f"{name}.parquet")):
            assert_frame_equal(table.sort(order), expected.sort(order), rel_tol=1e-5, abs_tol=1e-6)
            trace = layer_traces(expected, "true").trace
            np.testing.assert_allclose(layer_traces(table, "true").trace, trace, rtol=1e-6)


@pytest.mark.parametrize("kind", [UserError, torch.OutOfMemoryError])
def test_an_error_of_another_rank_is_raised(build_model, monkeypatch, kind):
    def gather(parts, mine):
        parts[:] = [mine, kind("no memory there")]

    monkeypatch.setattr("fisher_ld.fisher.estimate.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("fisher_ld.fisher.estimate.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("fisher_ld.fisher.estimate.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("fisher_ld.fisher.estimate.distributed.all_gather_object", gather)
    with pytest.raises(kind, match="no memory there"):
        estimate(Scorer(build_model()), prompt, LABELS, np.arange(4), "base", batch_size=2)


def test_a_rank_takes_its_share(build_model, monkeypatch):
    seen = []
    monkeypatch.setattr("fisher_ld.fisher.estimate.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("fisher_ld.fisher.estimate.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("fisher_ld.fisher.estimate.distributed.get_world_size", lambda: 3)
    monkeypatch.setattr("fisher_ld.fisher.estimate._gather", lambda norms: seen.extend(norms()) or seen)
    estimate(Scorer(build_model()), lambda example: [3] * (example + 1), LABELS, np.arange(7), "base", batch_size=8)
    assert [example for example, *_ in seen] == [1, 4]
