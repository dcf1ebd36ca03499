"""Linear layers by oneDNN, and other forwards in place of a module's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import nn


class _Linear(torch.autograd.Function):
    """x W' + b by oneDNN, for a frozen layer."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None):
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor):
        (weight,) = ctx.saved_tensors
        (gradient,) = gradients
        return _onednn(gradient, weight.mT), None, None


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def by_onednn(modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Within it, frozen linear layers in float32 on the CPU multiply by oneDNN. Torch takes MKL there, which is some
    tenth slower on AMD processors."""

    def able(module: nn.Module) -> bool:
        plain = type(module).forward is nn.Linear.forward and "forward" not in vars(module)
        if not plain or not torch.backends.mkldnn.is_available():
            return False
        weight = module.get_parameter("weight")
        return (weight.device.type, weight.dtype) == ("cpu", torch.float32)

    def linear(module: nn.Module, input: torch.Tensor) -> torch.Tensor:
        return _Linear.apply(input, module.weight, module.bias)

    return replaced({m: lambda own, module=m: partial(linear, module) for m in modules if able(m)})


@contextmanager
def replaced(wraps: dict[nn.Module, Callable[[Callable], Callable]]) -> Iterator[None]:
    """Modules whose forward is another one, made from their own, or in its place."""
    own = {module: vars(module).pop("forward", None) for module in wraps}  # for example accelerate's
    for module, wrap in wraps.items():
        module.forward = wrap(own[module] or module.forward)
    try:
        yield
    finally:
        for module, forward in own.items():
            del module.forward
            if forward is not None:
                module.forward = forward
