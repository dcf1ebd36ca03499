from itertools import chain

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from fisher_ld.config.params import Adapt
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError
from fisher_ld.models.scorer import Scorer
from fisher_ld.training.adapt import QUIET, adapt, writers

PARTS = ("items", "first", "above")


@pytest.fixture
def trained(tiny, tmp_path):
    def run(**settings):
        scorer = tiny.scorer()
        before = {name: p.detach().clone() for name, p in scorer.named_parameters()}
        params = Adapt(
            **{"steps": 20, "eval_every": 10, "batch_users": 4, "learning_rate": 1e-2, "first_layers": None} | settings
        )
        scores = iter([0.1, 0.2, 0.3])
        checkpoints = [Checkpoint("adapt_teacher", settings | {"part": part}, tmp_path) for part in PARTS]
        result = adapt(
            scorer, tiny.lists, tiny.prompts, params, lambda: next(scores), checkpoints,
            lambda values, step: None, 0,
        )  # fmt: skip
        after = dict(scorer.named_parameters())
        assert after.keys() == before.keys()
        return result, {name for name, p in after.items() if not torch.equal(p, before[name])}

    return run


def names(changed):
    return {name.removeprefix("model.model.").removeprefix("model.") for name in changed}


def test_full_adaptation_changes_everything_and_learns(trained):
    result, changed = trained()
    losses = [row["bce"] for row in result.curve if "bce" in row]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert {"embed_tokens.weight", "norm.weight", "score.weight"} < names(changed)
    assert (result.best_step, result.best_score) == (20, 0.3)


def test_lora_leaves_a_plain_model_with_changed_matrices(trained):
    changed = names(trained(method="lora", lora_rank=2)[1])
    matrices = {f"self_attn.{n}_proj" for n in "qkvo"} | {f"mlp.{n}_proj" for n in ("gate", "up", "down")}
    assert changed == {f"layers.{i}.{m}.weight" for i in range(2) for m in matrices} | {"score.weight"}


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=64, n_embd=32, n_layer=2, n_head=2, num_labels=2, pad_token_id=0)
    return Scorer(GPT2ForSequenceClassification(config).eval())


def test_lora_reaches_the_matrices_of_gpt2(tiny, tmp_path):
    scorer = gpt2()
    before = {name: p.detach().clone() for name, p in scorer.named_parameters()}
    params = Adapt(method="lora", first_layers=None, steps=2, eval_every=2, batch_users=4)
    checkpoints = [Checkpoint("adapt_teacher", {"part": part}, tmp_path) for part in PARTS]
    adapt(
        scorer, tiny.lists, tiny.prompts, params, lambda: 0.1, checkpoints,
        lambda values, step: None, 0,
    )  # fmt: skip
    changed = {name for name, p in scorer.named_parameters() if not torch.equal(p, before[name])}
    matrices = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    layers = {f"model.transformer.h.{i}.{m}.weight" for i in range(2) for m in matrices}
    assert changed == layers | {"model.score.weight"}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_first_layers_are_adapted_before_those_above(tiny, tmp_path, method):
    scorer, seen, logged = tiny.scorer(layers=3), [], []
    whole = scorer.layers

    def weights():
        body = dict(scorer.body.named_modules()) | {f"layers.{i}.mlp.up_proj": whole[i].mlp.up_proj for i in (0, 2)}
        body |= {"added by attention": whole[2].self_attn.o_proj, "added by MLP": whole[2].mlp.down_proj}
        names = ("layers.0.mlp.up_proj", "layers.2.mlp.up_proj", *list(body)[-2:], "norm", "embed_tokens")
        return {name: body[name].weight.detach().clone() for name in names}

    def validate():
        seen.append((len(scorer.layers), weights()))
        return 0.1 * len(seen)

    start = weights()
    params = Adapt(method=method, steps=4, first_layers=2, item_steps=0, first_steps=6, eval_every=3, batch_users=4)
    checkpoints = [Checkpoint("adapt_teacher", {"part": part}, tmp_path) for part in PARTS]
    result = adapt(
        scorer, tiny.lists, tiny.prompts, params, validate, checkpoints,
        lambda values, step: logged.append(step), 0,
    )  # fmt: skip
    end = weights()

    def same(a, b):
        return {name for name in a if a[name].shape == b[name].shape and torch.equal(a[name], b[name])}

    assert [depth for depth, _ in seen] == [2, 2, 2, 3, 3, 3]
    assert {"layers.2.mlp.up_proj", "added by attention", "added by MLP"} <= same(start, seen[2][1])
    if method == "full":  # LoRA has its matrices elsewhere while it trains
        assert "layers.2.mlp.up_proj" in same(start, seen[3][1])
        for name in ("added by attention", "added by MLP"):
            torch.testing.assert_close(seen[3][1][name], QUIET * start[name])
    below = {"layers.0.mlp.up_proj", "embed_tokens"}
    assert same(seen[4][1], seen[5][1]) & below == below
    assert "layers.0.mlp.up_proj" in same(seen[3][1], end) and "layers.0.mlp.up_proj" not in same(start, end)
    assert "layers.2.mlp.up_proj" not in same(start, end)
    assert ("norm" in same(seen[2][1], end)) == (method == "lora")
    assert ("embed_tokens" in same(start, end)) == (method == "lora")
    assert scorer.layers is whole and not any("lora" in name for name, _ in scorer.named_modules())
    assert [row["step"] for row in result.curve] == logged
    assert sorted(set(logged)) == list(range(11))
    assert [row["depth"] for row in result.curve if "bce" in row] == [2] * 6 + [3] * 4
    assert (result.steps, result.best_step) == (10, 10)


@pytest.mark.parametrize("llama", [True, False])
def test_a_layer_adds_what_two_of_its_matrices_give(tiny, llama):
    scorer = tiny.scorer() if llama else gpt2()
    for parameter in chain(*(matrix.parameters() for matrix in writers(scorer.layers[1]))):
        parameter.data.zero_()
    states = scorer.body(torch.tensor([[5, 6, 7]]), output_hidden_states=True).hidden_states
    with scorer.cut(1):
        torch.testing.assert_close(scorer.body(torch.tensor([[5, 6, 7]])).last_hidden_state, states[-1])
    assert not torch.equal(states[0], states[1])


def test_layers_whose_addition_is_normalised_cannot_start_quietly(tiny, tmp_path):
    scorer = tiny.scorer(layers=3)
    scorer.layers[2].post_feedforward_layernorm = torch.nn.Identity()
    with pytest.raises(UserError, match=r"as they are, got LlamaDecoderLayer.*; null, with some 400"):
        adapt(
            scorer, tiny.lists, tiny.prompts, Adapt(first_layers=2), lambda: 0.1, [],
            lambda values, step: None, 0,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_layers_below_the_last_of_the_first_learn_items(tiny, tmp_path, monkeypatch, method):
    scorer, logged = tiny.scorer(layers=4), {}
    before = {name: p.detach().clone() for name, p in scorer.named_parameters()}

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("fisher_ld.models.teacher.fit_head", stop)
    params = Adapt(method=method, first_layers=3, item_steps=5)
    checkpoints = [Checkpoint("adapt_teacher", {"part": part}, tmp_path) for part in PARTS]
    with pytest.raises(KeyboardInterrupt):
        adapt(scorer, tiny.lists, tiny.prompts, params, stop, checkpoints, lambda v, step: logged.update({step: v}), 0)
    changed = names(name for name, p in scorer.named_parameters() if not torch.equal(p, before[name]))
    assert {name.split(".")[1] for name in changed if name.startswith("layers")} == {"0", "1"}
    assert ("embed_tokens.weight" in changed) == (method == "full")
    assert not {"norm.weight", "score.weight"} & changed
    assert list(logged) == [1, 2, 3, 4, 5] and logged[5]["items/loss"] > 0


def test_more_first_layers_than_there_are(trained):
    with pytest.raises(UserError, match=r"first_layers: expected less than the teacher's 2 layers, got 2"):
        trained(first_layers=2)


@pytest.mark.parametrize(("validations", "next_step"), [(1, 3), (4, 9)], ids=["first part", "second part"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_adaptation_goes_on(tiny, tmp_path, method, validations, next_step):
    params = Adapt(
        method=method, steps=4, first_layers=2, item_steps=3, first_steps=6, eval_every=3, checkpoint_every=1,
        batch_users=4, learning_rate=1e-2, first_learning_rate=1e-2,
    )  # fmt: skip

    def run(folder, logged, until=None):
        scorer, left = tiny.scorer(layers=3), until

        def validate():
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left = left and left - 1
            return float(-next(iter(scorer.parameters())).detach().sum())

        checkpoints = [Checkpoint("adapt_teacher", {"part": part}, folder) for part in PARTS]
        log = lambda values, step: logged.append((step, *values.items()))  # noqa: E731
        return scorer, adapt(scorer, tiny.lists, tiny.prompts, params, validate, checkpoints, log, 0)

    all_at_once, begun, again = [], [], []
    whole, expected = run(tmp_path / "whole", all_at_once)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", begun, until=validations)
    resumed, result = run(tmp_path / "cut", again)
    assert [entry[0] for entry in again] == [entry[0] for entry in all_at_once]
    trained = [entry for entry in begun if entry in again and len(entry) > 2]  # as it was, rates included: not again
    assert len(trained) == 3 + next_step - 1  # items, and what came before the checkpoint
    for name, parameter in resumed.named_parameters():
        torch.testing.assert_close(parameter, whole.get_parameter(name))
    assert [row["step"] for row in result.curve] == [row["step"] for row in expected.curve]
    assert (result.best_step, result.best_score) == (expected.best_step, pytest.approx(expected.best_score))
