"""What `gradient_norms` reads on the way: hooks on linear and embedding layers, layer norms and the states between
transformer layers, and RMS norms and SwiGLUs that compute otherwise than the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from fisher_ld.core.errors import UserError
from fisher_ld.fisher.coverage import Covered, embedding_scale, norm_epsilon, rms_scale
from fisher_ld.fisher.gram import count_mirrored, gradient_norm, gram, gram_is_cheaper, gram_product
from fisher_ld.kernels.attention import spans
from fisher_ld.kernels.linear import replaced


@dataclass
class Sums:
    """n sums of the gradients of N rows, whose squared norms are taken: of each row alone, or of the C = N / n rows of
    a list, each times its weight. A gradient is linear in that of the output, so that one backward pass gives both.

    The prompts of a list begin alike. In a causal model what a layer reads of these tokens is then the same in all of a
    list's rows, so that they count once, with the sum of their output gradients."""

    squares: torch.Tensor  # (2, n, L + 2) float64: all parameters, normalisation parameters
    weights: torch.Tensor | None = None  # (N,); None: 1
    length: int = 0  # T of the batch
    alike: int = 0  # tokens with which all rows of each list begin

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """What a layer reads, a sum's tokens after each other: (N, T, d) -> (n, alike + C (T - alike), d)."""
        first, rest = self._split(x)
        return torch.cat([first[:, 0], rest], 1) if first.shape[2] else rest

    def weighted(self, gradient: torch.Tensor) -> torch.Tensor:
        """Its output gradients times their rows' weights, laid out as by `joined`."""
        if self.weights is not None:
            gradient = gradient * self.weights.type_as(gradient)[:, None, None]
        first, rest = self._split(gradient)
        return torch.cat([first.sum(1), rest], 1) if first.shape[2] else rest

    def _split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, C, alike, d), and the rest (n, C (T - alike), d). At the decision tokens alone, none counts as alike."""
        by_list = x.unflatten(0, (self.squares.shape[1], -1))  # (n, C, T, d)
        alike = self.alike if x.shape[1] == self.length else 0
        return by_list[:, :, :alike], by_list[:, :, alike:].flatten(1, 2)


class _SharedInput:
    """The input of linear layers that are called one after the other on the same tensor (q/k/v, gate/up). Once its
    last user is known, it becomes Gram strips for each of `sums` or stays as it is, whichever makes norms cheaper."""

    def __init__(self, source: torch.Tensor, sums: Sequence[Sums]):
        self.source: torch.Tensor | None = source
        self.inputs = _per_example(source)  # (N, T, d_in)
        self.version = self.inputs._version
        self.outputs = 0
        self.sums = sums
        self.strips: list[list[torch.Tensor] | None] = []

    def close(self) -> None:
        """Decides. The tensor is let go where its Gram matrix, usually far smaller, stands for it."""
        if self.inputs._version != self.version:  # autograd, which does not keep it for a frozen layer, would not see
            raise UserError(
                "the input of a linear layer was changed in place after the call: its gradient norm is not known"
            )
        if self.source is None:
            return
        self.source = None
        for sums in self.sums:
            inputs = sums.joined(self.inputs)
            _, length, features = inputs.shape
            cheaper = gram_is_cheaper(length, features, self.outputs)
            self.strips.append(count_mirrored(gram(inputs)) if cheaper else None)
        if all(self.strips):
            self.inputs = self.inputs.new_empty(0)
            self.version = self.inputs._version

    def gradient_norms(self, gradient: torch.Tensor) -> Iterator[tuple[Sums, torch.Tensor, torch.Tensor]]:
        """For (N, T, d_out) each of the sums, its output gradients (n, T', d_out) and ||G^T A||_F^2 (n,)."""
        self.close()
        for sums, strips in zip(self.sums, self.strips, strict=True):
            joined = sums.weighted(gradient)
            norms = gram_product(strips, joined) if strips else gradient_norm(sums.joined(self.inputs), joined)
            yield sums, joined, norms


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight, with a backward pass that reads x half as often as autograd's and hands each example's
    gradient of the weight, (N, d), to `read`."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, epsilon: float, read: Callable[[torch.Tensor], None]):
        scale = rms_scale(x, epsilon)  # (N, T, 1), or (N, T, heads, 1)
        ctx.save_for_backward(x, weight, scale)
        ctx.read = read
        return x * scale * weight

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor):
        x, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        product = gradient * x
        ctx.read(torch.bmm(_per_example(scale).mT, _per_example(product)).squeeze(1))
        along = (product @ weight)[..., None] * scale**3 / x.shape[-1]
        return (gradient * weight).mul_(scale).addcmul_(x, along, value=-1), None, None, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up, which keeps gate and up alone for its backward pass."""

    @staticmethod
    def forward(ctx, gate: torch.Tensor, up: torch.Tensor):
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor):
        gate, up = ctx.saved_tensors
        (gradient,) = gradients
        return torch.ops.aten.silu_backward(gradient * up, gate), nn.functional.silu(gate).mul_(gradient)


class GradientReader:
    """While `reading`, takes inputs in the forward and output gradients in the backward pass of N rows, adding up the
    squares of each of `sums`."""

    def __init__(self, rows: int, sums: Sequence[Sums]):
        self.rows, self.sums = rows, sums
        self.shared: _SharedInput | None = None
        self.calls: dict[str, int] = {}
        self.features: dict[str, torch.Tensor] = {}  # which outputs of a module got a gradient
        self.every = torch.ones(1, dtype=torch.bool, device=sums[0].squares.device)
        self.of_normalisations: dict[str, torch.Tensor] = {}  # (N, parameters) gradients, summed over calls

    @contextmanager
    def reading(self, covered: list[Covered]) -> Iterator[None]:
        for part in covered:  # before the passes: small tensors that stay would lie between large ones that go
            if part.kind.endswith("norm"):
                own = list(part.module.parameters(recurse=False))
                dtype = torch.promote_types(own[0].dtype, torch.float32)
                shape = self.rows, sum(p.numel() for p in own)
                self.of_normalisations[part.name] = torch.zeros(shape, dtype=dtype, device=self.every.device)
        hooks = {"linear": self._linear, "embedding": self._embedding, "layer_norm": self._layer_norm}
        forwards = {"rms_norm": self._rms_norm, "swiglu": self._swiglu}
        wraps = {
            c.module: lambda forward, part=c: partial(forwards[part.kind], part) for c in covered if c.kind in forwards
        }
        with ExitStack() as until, replaced(wraps):
            until.callback(setattr, self, "shared", None)
            for part in covered:
                if part.kind in hooks:
                    until.enter_context(part.module.register_forward_hook(partial(hooks[part.kind], part)))
            yield

    def finish(self, covered: list[Covered]) -> None:
        for part in covered:
            if part.kind != "swiglu" and part.name not in self.features:
                raise _unknown(part, f"got no gradient in {self.calls.get(part.name, 0)} calls")
            if part.name in self.of_normalisations:
                gradient = self.of_normalisations[part.name][:, None]  # (N, 1, parameters)
                for sums in self.sums:
                    sums.squares[:, :, part.column] += _squares(sums.weighted(gradient))

    def _linear(self, part: Covered, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor):
        if not torch.is_grad_enabled():  # the first, unrecorded pass of a checkpointed layer
            return
        source = _only(part, inputs)
        if self.shared is None or self.shared.source is not source:
            if self.shared is not None:
                self.shared.close()
            self.shared = _SharedInput(source, self.sums)
        shared = self.shared
        shared.outputs += output.shape[-1]

        def read(gradient: torch.Tensor) -> None:
            for sums, joined, norms in shared.gradient_norms(gradient):
                sums.squares[0, :, part.column] += norms
                if module.bias is not None:
                    sums.squares[0, :, part.column] += _squares(joined)

        self._read_gradient(part, output, read)

    def _rms_norm(self, part: Covered, *inputs: torch.Tensor, **named: object) -> torch.Tensor:
        x = _only(part, () if named else inputs)
        if torch.is_grad_enabled():
            self._called(part, x)

        def read(gradient: torch.Tensor) -> None:
            self.features[part.name] = self.every
            self.of_normalisations[part.name] += gradient

        dtype = torch.promote_types(x.dtype, torch.float32)
        weight = part.offset + part.module.get_parameter("weight").to(dtype)
        return _RmsNorm.apply(x.to(dtype), weight, norm_epsilon(part.module), read).to(x.dtype)

    def _swiglu(self, part: Covered, x: torch.Tensor) -> torch.Tensor:
        gate, up, down = map(part.module.get_submodule, ("gate_proj", "up_proj", "down_proj"))
        return down(_Gated.apply(gate(x), up(x)))

    def _layer_norm(self, part: Covered, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor):
        if not torch.is_grad_enabled():
            return
        source = _only(part, inputs).detach()  # (N, T, d), or (N, T, heads, d)

        def read(gradient: torch.Tensor) -> None:
            x = _per_example(source)  # (N, T, d)
            normalised = nn.functional.layer_norm(x, x.shape[-1:], eps=norm_epsilon(module))
            of_weight = (gradient * normalised).sum(1)  # (N, d)
            of_bias = [gradient.sum(1)] if getattr(module, "bias", None) is not None else []
            self.of_normalisations[part.name] += torch.cat([of_weight, *of_bias], 1)

        self._read_gradient(part, output, read)

    def _embedding(self, part: Covered, module: nn.Embedding, inputs: tuple[torch.Tensor, ...], output: torch.Tensor):
        """An embedding is a linear layer on one-hot inputs: their Gram matrix says which tokens are equal. Its output
        becomes the leaf at which the backward pass ends."""
        ids = _only(part, inputs)  # (N, T)
        leaf = output.detach().requires_grad_()

        def read(gradient: torch.Tensor) -> None:
            gradient = gradient * embedding_scale(module)  # (N, T, d)
            if module.padding_idx is not None:  # torch gives this row no gradient, and so training does not move it
                gradient = gradient * (ids != module.padding_idx)[..., None]
            for sums in self.sums:
                of = sums.joined(ids[..., None]).squeeze(-1)  # (n, T')
                equal = [(of[:, i:j, None] == of[:, None, i:]).to(gradient.dtype) for i, j in spans(of.shape[1])]
                sums.squares[0, :, part.column] += gram_product(count_mirrored(equal), sums.weighted(gradient))

        self._read_gradient(part, leaf, read)
        return leaf

    def _called(self, part: Covered, output: torch.Tensor) -> None:
        self.calls[part.name] = self.calls.get(part.name, 0) + 1
        if len(output) != self.rows:
            raise UserError(
                f"{part.name}: expected {self.rows} rows, one an example, got {tuple(output.shape)}; "
                "the gradient norm of each example cannot be told from that"
            )

    def _read_gradient(self, part: Covered, output: torch.Tensor, read: Callable[[torch.Tensor], None]) -> None:
        self._called(part, output)

        def of_examples(gradient: torch.Tensor) -> None:
            gradient = _per_example(gradient)  # (N, T, d_out)
            if part.name in self.of_normalisations:  # its calls are added up before they are squared
                self.features[part.name] = self.every
            else:
                self._disjoint(part, gradient)
            read(gradient)

        output.register_hook(of_examples)

    def _disjoint(self, part: Covered, gradient: torch.Tensor) -> None:
        """Squared norms of a module's calls add up where no output feature got a gradient in two of them: of queries,
        keys and values that one module computes, the model's last layer reads a part in each call."""
        features = self.every if self.calls[part.name] == 1 else gradient.any(dim=1).any(dim=0)  # (d_out,)
        before = self.features.get(part.name)
        if before is not None and (before & features).any():
            raise _unknown(part, "got a gradient in several calls")
        self.features[part.name] = features if before is None else before | features


@contextmanager
def reading_states(layers: Sequence[nn.Module], decision: torch.Tensor, into: torch.Tensor) -> Iterator[None]:
    """Within it, a forward and backward pass of z leaves ||dz/dh_l||^2 rms(h_l)^2 in `into` (N, L) float64. h_l is what
    layer l gives at the decision token, columns `decision` (N,)."""
    rows = torch.arange(len(decision), device=decision.device)

    def take(column: int, module: nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        whole = output[0] if isinstance(output, tuple) else output  # (N, T, d)
        mean_square = whole.detach()[rows, decision].double().square().mean(-1)  # (N,)

        def read(gradient: torch.Tensor) -> None:
            into[:, column] = gradient[rows, decision].double().square().sum(-1) * mean_square

        whole.register_hook(read)

    with ExitStack() as until:
        for column, layer in enumerate(layers):
            until.enter_context(layer.register_forward_hook(partial(take, column)))
        yield


def _unknown(part: Covered, found: str) -> UserError:
    return UserError(
        f"{part.name}: expected to be used once on the way to the logit, but {found}; its gradient norm cannot be told "
        "from its calls"
    )


def _only(part: Covered, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    if len(inputs) != 1:
        raise UserError(f"{part.name}: expected to be called with one positional argument, got {len(inputs)}")
    return inputs[0]


def _per_example(x: torch.Tensor) -> torch.Tensor:
    """(N, d), (N, T, d) or (N, T, heads, d) -> (N, tokens, d), detached, at least float32."""
    x = x.detach().reshape(len(x), -1, x.shape[-1])
    return x if x.dtype == torch.float64 else x.float()


def _squares(gradient: torch.Tensor) -> torch.Tensor:
    """Squared norms of the sums over the tokens: (n, T, d) -> (n,) float64."""
    return gradient.sum(1).double().square().sum(-1)
