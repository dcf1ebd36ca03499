import pytest
import torch

from fisher_ld.models.teacher import adapt
from fisher_ld.params import Adapt
from fisher_ld.runtime import Checkpoint, UserError


@pytest.fixture
def trained(tiny, tmp_path):
    def run(**settings):
        scorer = tiny.scorer()
        before = {name: p.detach().clone() for name, p in scorer.named_parameters()}
        params = Adapt(**{"steps": 20, "eval_every": 10, "batch_users": 4, "learning_rate": 1e-2} | settings)
        scores = iter([0.1, 0.2, 0.3])
        checkpoint = Checkpoint("adapt_teacher", settings, tmp_path)
        result = adapt(
            scorer, tiny.lists, tiny.sequences, tiny.prompts, params, lambda: next(scores), checkpoint,
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
    assert (result.best_step, result.best_score) == (20, 0.2)


def test_frozen_layers_stay_as_they_are(trained):
    changed = names(trained(frozen_layers=1)[1])
    assert {name.split(".")[1] for name in changed if name.startswith("layers.")} == {"1"}
    assert "embed_tokens.weight" not in changed


def test_lora_leaves_a_plain_model_with_changed_matrices(trained):
    changed = names(trained(method="lora", lora_rank=2)[1])
    matrices = {f"self_attn.{n}_proj" for n in "qkvo"} | {f"mlp.{n}_proj" for n in ("gate", "up", "down")}
    assert changed == {f"layers.{i}.{m}.weight" for i in range(2) for m in matrices} | {"score.weight"}


def test_more_frozen_layers_than_there_are(trained):
    with pytest.raises(UserError, match=r"frozen_layers: expected less than the teacher's 2 layers, got 2"):
        trained(frozen_layers=2)
