import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import Compute
from fisher_ld.models.scorer import Scorer
from fisher_ld.training.adapt import adapt
from fisher_ld.training.loop import Training
from tests.given import given


def settings(**changes):
    small = {"steps": 20, "eval_every": 10, "batch_users": 4, "learning_rate": 1e-2}
    return given({"teacher": {"adapt": small | changes}}).teacher.adapt


def adapted(scorer, tiny, folder, **changes):
    """The fit, and the names of the weights that it changed."""
    before = {name: p.detach().clone() for name, p in scorer.named_parameters()}
    scores = iter([0.1, 0.2, 0.3])
    training = Training("teacher", 0, lambda: next(scores), Checkpoint("adapt", changes, folder), lambda v, step: None)
    result = adapt(scorer, tiny.lists, tiny.prompts, settings(**changes), changes.get("steps", 20), training)
    after = dict(scorer.named_parameters())
    assert after.keys() == before.keys()
    return result, {name for name, p in after.items() if not torch.equal(p, before[name])}


@pytest.fixture
def trained(tiny, tmp_path):
    return lambda **changes: adapted(tiny.scorer(), tiny, tmp_path, **changes)


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


def test_adapters_are_exact_beside_matrices_in_bf16(tiny, tmp_path):
    """They learn as beside exact ones, and what is left is a plain model whose matrices still rest in bf16."""
    tiny.scorer().model.save_pretrained(tmp_path / "base")
    curves, left = [], []
    for frozen in (False, True):
        scorer = Scorer.placed(tmp_path / "base", Compute(torch.device("cpu"), bf16=True), frozen=frozen)

        def validate(scorer=scorer):
            assert {p.dtype for p in scorer.parameters() if p.requires_grad} == {torch.float32}
            return 0.5

        checkpoint = Checkpoint("adapt", {"frozen": frozen}, tmp_path)
        training = Training("teacher", 0, validate, checkpoint, lambda values, step: None)
        params = settings(method="lora", lora_rank=2)
        result = adapt(scorer, tiny.lists, tiny.prompts, params, 20, training)
        curves.append([row["loss"] for row in result.curve if "loss" in row])
        left.append({p.dtype for p in scorer.layers[0].mlp.parameters()})
    assert left == [{torch.float32}, {torch.bfloat16}]
    assert curves[1] == pytest.approx(curves[0], abs=0.02) and curves[1][-1] < 0.8 * curves[1][0]


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=64, n_embd=32, n_layer=2, n_head=2, num_labels=2, pad_token_id=0)
    return Scorer(GPT2ForSequenceClassification(config).eval())


def test_lora_reaches_the_matrices_of_gpt2(tiny, tmp_path):
    changed = adapted(gpt2(), tiny, tmp_path, method="lora", steps=2, eval_every=2)[1]
    matrices = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    layers = {f"model.transformer.h.{i}.{m}.weight" for i in range(2) for m in matrices}
    assert changed == layers | {"model.score.weight"}


def test_a_truncated_teacher_is_adapted_as_the_whole_one(tiny, tmp_path):
    scorer = tiny.scorer(layers=3).keep(range(2))
    assert len(scorer.layers) == scorer.model.config.num_hidden_layers == 2
    changed = names(adapted(scorer, tiny, tmp_path)[1])
    assert {name.split(".")[1] for name in changed if name.startswith("layers")} == {"0", "1"}


def test_a_step_of_layer_drop_leaves_out_layers_but_never_the_last(tiny, tmp_path):
    """Each as often as it should be, and in the same steps for the same seed."""

    def adaptation(seed, folder):
        scorer, passes = tiny.scorer(layers=3), []
        for place, layer in enumerate(scorer.layers):
            layer.register_forward_hook(lambda module, given, output, place=place: passes.append(place))
        checkpoint = Checkpoint("adapt", {}, tmp_path / folder)
        training = Training("layerdrop", seed, lambda: 0.0, checkpoint, lambda values, step: None)
        params = settings(steps=200, eval_every=200, patience=None)
        adapt(scorer, tiny.lists, tiny.prompts, params, 200, training, layer_drop=0.5)
        return passes

    seen = {seed: adaptation(seed, str(seed)) for seed in (0, 1)}
    for passes in seen.values():
        assert passes.count(2) == 200
        assert all(70 < passes.count(place) < 130 for place in (0, 1))
    assert seen[0] == adaptation(0, "again") != seen[1]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_adaptation_goes_on(tiny, tmp_path, method):
    params = settings(method=method, steps=9, eval_every=3, checkpoint_every=1)

    def run(folder, logged, until=None):
        scorer, left = tiny.scorer(layers=3), until

        def validate():
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left = left and left - 1
            return float(-next(iter(scorer.parameters())).detach().sum())

        log = lambda values, step: logged.append((step, *values.items()))  # noqa: E731
        training = Training("teacher", 0, validate, Checkpoint("adapt", {}, folder), log)
        return scorer, adapt(scorer, tiny.lists, tiny.prompts, params, 9, training)

    all_at_once, begun, again = [], [], []
    whole, expected = run(tmp_path / "whole", all_at_once)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", begun, until=2)  # at the start, after three steps, not after six
    resumed, result = run(tmp_path / "cut", again)
    assert [entry[0] for entry in again] == [entry[0] for entry in all_at_once]
    trained = [entry for entry in begun if entry in again and len(entry) > 2]  # as it was, rates included: not again
    assert len(trained) == 5  # what came before the checkpoint
    for name, parameter in resumed.named_parameters():
        torch.testing.assert_close(parameter, whole.get_parameter(name))
    assert [row["step"] for row in result.curve] == [row["step"] for row in expected.curve]
    assert (result.best_step, result.best_score) == (expected.best_step, pytest.approx(expected.best_score))
