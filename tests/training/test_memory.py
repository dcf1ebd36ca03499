from dataclasses import replace

import pytest
import torch

from fisher_ld.batches.packing import pack
from fisher_ld.core.compute import GIB, Compute
from fisher_ld.core.errors import UserError
from fisher_ld.models.weights import matrices as matrices_of
from fisher_ld.training.memory import Need, check_memory, kept_by_a_layer, needed
from tests.given import given

CPU = Compute(torch.device("cpu"), bf16=False)


def settings(**changes):
    return given({"teacher": {"adapt": {"batch_users": 2} | changes}}).teacher.adapt


def kept_by_all(scorer, batch):
    """What a whole forward pass keeps, beside weights."""
    weights = {p.untyped_storage().data_ptr() for p in scorer.parameters()}
    found, alive = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scorer(batch)
    return sum(found.values())


def test_each_layer_keeps_what_one_keeps(tiny):
    """All but the last, which is narrow, and what stands around them."""
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, 64)
    deep, deeper = (tiny.scorer(layers=count).on(CPU) for count in (6, 14))
    for scorer in (deep, deeper):
        scorer.requires_grad_(True)
    grown = (kept_by_all(deeper, batch) - kept_by_all(deep, batch)) / 8
    assert kept_by_a_layer(deep.model.config, batch, CPU, frozen=False) == pytest.approx(grown, rel=0.03)


def test_weights_are_counted(tiny):
    scorer = tiny.scorer(layers=4)
    layers = sum(p.numel() for p in scorer.layers.parameters())
    every = sum(p.numel() for p in scorer.parameters())
    full = needed(scorer.model.config, tiny.lists, tiny.prompts, settings(), CPU)
    assert full.weights == 4 * every
    assert full.training == 20 * (layers + len(tiny.prompts.tokens()) * 32)
    lora = needed(scorer.model.config, tiny.lists, tiny.prompts, settings(method="lora", lora_rank=2), CPU)
    assert lora.weights == full.weights and lora.training < full.training / 5


def test_matrices_that_are_not_trained_rest_in_bf16(tiny):
    config, bf16 = tiny.scorer(layers=4).model.config, replace(CPU, bf16=True)
    lora, full = (needed(config, tiny.lists, tiny.prompts, settings(method=m), bf16) for m in ("lora", "full"))
    matrices = sum(m.weight.numel() for m in matrices_of(tiny.scorer(layers=4).body))
    assert full.weights - lora.weights == 2 * matrices


def test_ranks_that_divide_a_teacher_need_less_each(tiny, monkeypatch):
    config = tiny.scorer(layers=8).model.config
    whole = needed(config, tiny.lists, tiny.prompts, settings(batch_users=4), CPU)
    monkeypatch.setenv("WORLD_SIZE", "4")
    shared = needed(config, tiny.lists, tiny.prompts, settings(batch_users=4), replace(CPU, shard=True))
    assert shared.weights < 0.6 * whole.weights and shared.training < 0.4 * whole.training
    assert shared.activations < whole.activations


def test_a_step_in_pieces_keeps_what_one_of_them_does(tiny):
    config = tiny.scorer(layers=8).model.config
    whole, half = (needed(config, tiny.lists, tiny.prompts, settings(), replace(CPU, pieces=n)) for n in (1, 2))
    assert half.activations == pytest.approx(whole.activations / 2, rel=0.05)
    assert (half.weights, half.training) == (whole.weights, whole.training)


def test_a_plan_that_cannot_fit_is_refused_with_what_to_change(monkeypatch, capsys):
    monkeypatch.setattr(Compute, "free", lambda self: 8.0)
    check_memory(Need(2 * GIB, 4 * GIB, 1 * GIB), CPU)
    assert "about 7.8 GiB of 8.0 (weights 2.00, training 4.00, activations 1.00" in capsys.readouterr().out
    with pytest.raises(
        UserError, match=r"about 9\.8 GiB in each process .*cluster\.shard: true.*cluster\.pieces.*method: lora"
    ):
        check_memory(Need(2 * GIB, 4 * GIB, 3 * GIB), CPU)
