"""Which module owns which of a model's parameters, and how the norm of its gradient is taken.

Nothing is skipped silently: a module whose gradient norm this package cannot take, a parameter that two modules share
and a model that is still wrapped by an adapter are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fisher_ld.core import ranks
from fisher_ld.core.errors import KNOWN, UserError
from fisher_ld.models.layers import transformer_layers
from fisher_ld.models.scorer import with_layers
from fisher_ld.models.weights import empty

Kind = Literal["linear", "layer_norm", "rms_norm", "embedding", "swiglu"]


@dataclass(frozen=True)
class Covered:
    """One module that owns parameters, and the column its squared gradient norm is added to: 0 embedding, 1..L layers,
    L + 1 head. Also a SwiGLU, which owns none: it takes less memory where it is known as one."""

    name: str
    module: nn.Module
    kind: Kind
    column: int
    offset: int = 0  # what an RMS norm adds to its weight: Gemma's multiply by 1 + weight


def cover(model: PreTrainedModel) -> list[Covered]:
    """Every module of `model` that owns parameters, and every SwiGLU, in the order of `named_modules`. Norms,
    embeddings and MLPs are called with small inputs for that, their forward hooks included.

    Raises UserError for an adapter (PEFT), an unknown module with parameters, or parameters shared between modules.
    """
    for name, module in model.named_modules():
        if type(module).__module__.startswith("peft."):
            raise UserError(
                f"{name or type(model).__name__} is wrapped by PEFT ({type(module).__name__}): merge the adapter into "
                "the model first (`model.merge_and_unload()`)"
            )
    column_of = {layer: number for number, layer in enumerate(transformer_layers(model), start=1)}
    covered = list(_walk(model, "", None, column_of))

    owner: dict[int, str] = {}
    for part in covered:
        for parameter in part.module.parameters(recurse=False):
            if id(parameter) in owner:
                raise UserError(
                    f"{owner[id(parameter)]} and {part.name} share a parameter, so that its layer is not defined: give "
                    "one of them a copy"
                )
            owner[id(parameter)] = part.name
    gap = [name for name, parameter in model.named_parameters() if id(parameter) not in owner]
    if gap:
        raise UserError(f"no gradient norm for the parameters {', '.join(gap)}")
    return covered


def check_covered(config: Any) -> None:
    """Raises UserError where `cover` would, for all layers of a classifier of this config, without its weights."""
    model = empty(with_layers(config, config.num_hidden_layers, words=4))
    for module in model.modules():
        parameters = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Embedding) or all(parameter.ndim == 1 for parameter in parameters.values()):
            for name, parameter in parameters.items():  # which are known by what they compute
                module.register_parameter(name, nn.Parameter(torch.ones(parameter.shape)))
    cover(model)


def parameter_counts(covered: list[Covered], columns: int) -> list[int]:
    """Parameters of each column."""
    counts = [0] * columns
    for part in covered:
        counts[part.column] += sum(p.numel() for p in part.module.parameters(recurse=False))
    return counts


def mean_squares(covered: list[Covered], columns: int) -> list[float]:
    """Mean squared weight of each column, of an offset norm that of what it multiplies by; nan where there is none."""
    sums = [0.0] * columns
    for part in covered:
        for parameter in part.module.parameters(recurse=False):
            sums[part.column] += float((ranks.whole(parameter.detach()).double() + part.offset).square().sum())
    counts = parameter_counts(covered, columns)
    return [total / count if count else float("nan") for total, count in zip(sums, counts, strict=True)]


def _walk(module: nn.Module, name: str, column: int | None, column_of: dict[nn.Module, int]) -> Iterator[Covered]:
    column = column_of.get(module, column)
    if any(True for _ in module.parameters(recurse=False)):
        kind, offset = _kind(module, name)
        outside = 0 if kind == "embedding" else len(column_of) + 1
        yield Covered(name, module, kind, outside if column is None else column, offset)
    elif column is not None and _is_swiglu(module):
        yield Covered(name, module, "swiglu", column)
    for child_name, child in module.named_children():
        yield from _walk(child, f"{name}.{child_name}".lstrip("."), column, column_of)


@torch.no_grad()
def _kind(module: nn.Module, name: str) -> tuple[Kind, int]:
    """How a module's gradient norm is taken, and the offset of a norm's weight. Norms and embeddings are known by what
    they compute, not by their class: a small probe must come out as the formula says."""
    own = dict(module.named_parameters(recurse=False))
    weight = own.get("weight")
    refusal = UserError(
        f"{name} ({type(module).__name__} with the parameters {', '.join(own)}): no gradient norm is known for it, "
        "so this model's Fisher traces would have a gap; use a teacher of linear layers, RMS or layer norms and "
        f"embeddings {KNOWN}"
    )
    if weight is None or not weight.is_floating_point() or own.keys() - {"weight", "bias"}:
        raise refusal
    if weight.ndim == 2 and type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return "linear", 0
    try:
        found = _probed(module, weight, own.get("bias"))
    except Exception as error:  # whatever a module that is called otherwise than a norm says
        raise refusal from error
    if found is None:
        raise refusal
    return found


def _probed(module: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[Kind, int] | None:
    if isinstance(module, nn.Embedding):
        ids = torch.arange(min(2, len(weight)), device=weight.device)
        if torch.allclose(module(ids), weight[ids] * embedding_scale(module)):
            return "embedding", 0
    if weight.ndim == 1:
        x = torch.linspace(-1, 3, 2 * len(weight), device=weight.device).sin().view(2, -1).to(weight.dtype)
        probe = x[0].cos()
        if bias is not None:
            bias = ranks.whole(bias)
        output = functional_call(module, {"weight": probe} | ({} if bias is None else {"bias": bias}), (x,))
        tolerance = 1e-4 if weight.dtype in (torch.float32, torch.float64) else 0.05
        epsilon = norm_epsilon(module)
        layer_normed = nn.functional.layer_norm(x, x.shape[-1:], probe, bias, epsilon)
        if torch.allclose(output, layer_normed, tolerance, tolerance):
            return "layer_norm", 0
        for offset in (0, 1) if bias is None else ():
            if torch.allclose(output, x * rms_scale(x, epsilon) * (offset + probe), tolerance, tolerance):
                return "rms_norm", offset
    return None


def _is_swiglu(module: nn.Module) -> bool:
    """Whether a module is down(silu(gate(x)) * up(x)), by a probe with small weights in place of its own, of both signs
    and up to values that a model which clamps them (DeepSeek V4) would clamp."""
    weights = ["gate_proj.weight", "up_proj.weight", "down_proj.weight"]
    if {name for name, _ in module.named_parameters()} != set(weights):
        return False
    x, gate, up, down = torch.linspace(-1, 200, 4 * 24).sin().view(4, 6, 4)
    x = x * x.new_tensor([[1], [1], [30], [30], [1000], [1000]])
    linear, silu = nn.functional.linear, nn.functional.silu
    expected = linear(silu(linear(x, gate)) * linear(x, up), down.mT)  # (6, 4)
    try:
        output = functional_call(module, dict(zip(weights, (gate, up, down.mT), strict=True)), (x,))
        return output.shape == expected.shape and torch.allclose(output, expected)
    except Exception:  # whatever a module of another make says
        return False


def embedding_scale(module: nn.Module) -> float:
    """The constant by which an embedding (Gemma's) multiplies its rows."""
    return float(getattr(module, "embed_scale", 1.0))


def norm_epsilon(norm: Any) -> float:
    """Raises AttributeError for a module without one."""
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps


def rms_scale(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """1 / sqrt(mean(x^2) + epsilon): (..., d) -> (..., 1)."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    return torch.rsqrt(mean_square + epsilon)
