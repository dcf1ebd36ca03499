"""Other libraries' ways to the squared gradient norm of each example in each layer: (model, batch) -> (N, L).

Each works on a stock transformers model with the workarounds its users have, and on a copy of the model's modules, so
that hooks, modes and what it leaves on parameters go with the copy. What a peer does not see it names in a `LeftOut`
warning.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from transformers import PreTrainedModel

from fisher_ld.fisher.gradient_norms import PromptBatch, logits_of
from fisher_ld.models.layers import transformer_layers

CHUNK = 4  # examples whose gradients torch.func holds at once: 0.4 GB each for the default teacher


class LeftOut(UserWarning):
    """Parameters of the layers for which a peer gives no norm."""


def examples(batch: PromptBatch) -> Iterator[PromptBatch]:
    """The rows of a batch padded on the right, one by one, without their padding."""
    for row, last in enumerate(batch.decision.tolist()):
        one, real = slice(row, row + 1), slice(last + 1)
        yield PromptBatch(batch.input_ids[one, real], batch.attention_mask[one, real], batch.decision[one])


def torch_func(model: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    """grad under vmap. Eager attention: on the way to sdpa transformers asks whether the mask is all ones, which vmap
    refuses, and sdpa has no batching rule on CPU."""
    logit = _Logit(_copy(model))
    logit.model.set_attn_implementation("eager")
    layers = transformer_layers(logit.model)
    layer_of = {id(parameter): number for number, layer in enumerate(layers) for parameter in layer.parameters()}
    trained = {name: parameter for name, parameter in logit.named_parameters() if id(parameter) in layer_of}

    def z(values: dict[str, torch.Tensor], row: dict[str, torch.Tensor]) -> torch.Tensor:
        one = {name: tensor[None] for name, tensor in row.items()}
        return functional_call(logit, values, (one,)).squeeze()

    def norms(row: dict[str, torch.Tensor]) -> torch.Tensor:
        squares = [torch.zeros(()) for _ in layers]
        for name, gradient in grad(z)(values, row).items():
            number = layer_of[id(trained[name])]
            squares[number] = squares[number] + gradient.square().sum()
        return torch.stack(squares)  # (L,)

    values = {name: parameter.detach() for name, parameter in trained.items()}
    return vmap(norms, chunk_size=CHUNK)(dict(vars(batch)))  # (N, L)


def opacus(model: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    """Ghost norms of linear layers; for other modules the gradients of each example, by Opacus' use of functorch."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping  # pyright: ignore[reportMissingImports]

    own = _copy(model)
    for module in own.modules():
        module.training = _owns_parameters(module)  # Opacus looks at modules in training only; dropout stays off
    GradSampleModuleFastGradientClipping(own, loss_reduction="sum")
    logits_of(own, batch).sum().backward()
    return _by_layer(own, len(batch.input_ids), lambda parameter: parameter._norm_sample.double().square())


def backpack(model: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    """BatchL2Grad. Modules are extended one by one: its converter (torch.fx) cannot trace a model of transformers."""
    from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
    from backpack.extensions import BatchL2Grad  # pyright: ignore[reportMissingImports]

    own = _copy(model)
    for module in filter(_owns_parameters, transformer_layers(own).modules()):
        extend(module)
    with backpack(BatchL2Grad()):
        logits_of(own, batch).sum().backward()
    return _by_layer(own, len(batch.input_ids), lambda parameter: getattr(parameter, "batch_l2", None))


def curvlinops(model: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    """Rows of the Jacobian, by one operator an example: a batch's operator would backpropagate through the whole batch
    for each row. The Fisher operators (EF, MC) add up over examples, and of those sums they give estimates."""
    from curvlinops import TransposedJacobianLinearOperator  # pyright: ignore[reportMissingImports]

    logit = _Logit(_copy(model))
    layers = transformer_layers(logit.model)
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    rows = []
    for one in examples(batch):
        operator: Any = TransposedJacobianLinearOperator(
            logit,
            list(layers.parameters()),
            [(dict(vars(one)), torch.zeros(1))],
            check_deterministic=False,
            num_data=1,
            batch_size_fn=lambda columns: 1,
        )
        row = operator @ torch.ones(1)  # all layers' parameters in a line
        rows.append(torch.stack([part.double().square().sum() for part in row.split(sizes)]))
    return torch.stack(rows)  # (N, L)


class _Logit(nn.Module):
    """z as the output of a module, from the tensors of a PromptBatch by name."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        return logits_of(self.model, PromptBatch(**columns))


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    """Modules and parameters of its own over the same memory, with only the layers' parameters trainable."""
    trainable = {id(parameter) for parameter in transformer_layers(model).parameters()}
    own = {id(p): nn.Parameter(p.detach(), requires_grad=id(p) in trainable) for p in model.parameters()}
    return copy.deepcopy(model, own)


def _owns_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _by_layer(model: PreTrainedModel, count: int, squares: Callable[[Any], torch.Tensor | None]) -> torch.Tensor:
    """What is found on the parameters of each layer, added up: (N, L). Warns of the modules where nothing is found."""
    layers = transformer_layers(model)
    total, left_out = torch.zeros(count, len(layers), dtype=torch.float64), set()
    for number, layer in enumerate(layers):
        for module in layer.modules():
            for parameter in module.parameters(recurse=False):
                found = squares(parameter)  # (N,)
                if found is None:
                    left_out.add(type(module).__name__)
                else:
                    total[:, number] += found
    if left_out:
        warnings.warn(f"no norms of {', '.join(sorted(left_out))}", LeftOut, stacklevel=2)
    return total
