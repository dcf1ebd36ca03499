"""Squared norms of every example's logit gradient, layer by layer, from one backward pass.

For an example with logit z, n_l = ||dz/dtheta_l||^2 over all parameters of layer l. Both Fishers follow from (z, n_l)
without the model: p(1 - p) n_l is the true one (Eq. 1, 10), (p - y)^2 n_l the empirical one (Eq. 3). No parameter
requires a gradient: the backward of sum(z) computes the gradients of activations only, which hooks and the backward
pass of RMS norms read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from fisher_ld.fisher.coverage import Covered, cover, embedding_scale, norm_epsilon, rms_scale
from fisher_ld.fisher.gram import count_mirrored, gradient_norm, gram, gram_is_cheaper, gram_product
from fisher_ld.models.attention import by_strips, spans
from fisher_ld.models.last_layer import only_at_decisions
from fisher_ld.models.scorer import Scorer
from fisher_ld.runtime import UserError


@dataclass(frozen=True)
class PromptBatch:
    """N independent prompts, one a row, padded on either side."""

    input_ids: torch.Tensor  # (N, T)
    attention_mask: torch.Tensor  # (N, T), 1 where a token is real
    decision: torch.Tensor  # (N,) column of each row's decision token

    def to(self, device: torch.device) -> PromptBatch:
        return PromptBatch(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class LayerNorms:
    """For each of N examples the logit z and ||dz/dtheta||^2, float64. Columns are the layers asked for."""

    logits: torch.Tensor  # (N,)
    layers: torch.Tensor  # (N, L)
    norms: torch.Tensor  # (N, L) the part of `layers` that belongs to normalisation parameters
    embedding: torch.Tensor  # (N,) token and position embeddings
    head: torch.Tensor  # (N,) final norm and the two rows of the head


def pad_prompts(prompts: Sequence[Sequence[int]], side: Literal["left", "right"] = "right") -> PromptBatch:
    """Prompts that end with their decision token, padded with token 0 to the longest. Raises ValueError where there is
    no prompt, or an empty one."""
    if not prompts or not all(prompts):
        raise ValueError(f"expected one prompt or more, none of them empty, got lengths {[len(p) for p in prompts]}")
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)  # (N, T)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        first = 0 if side == "right" else longest - len(prompt)
        ids[row, first : first + len(prompt)] = torch.tensor(prompt)
        mask[row, first : first + len(prompt)] = 1
    last = torch.tensor([longest if side == "left" else len(prompt) for prompt in prompts]) - 1
    return PromptBatch(ids, mask, last)


def logits_of(model: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    """z = logit(yes) - logit(no) at the decision tokens: (N,). Raises UserError for a model without a two-row head."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Module) or model.config.num_labels != 2:
        raise UserError(
            f"expected a sequence classification model with a head `score` of two labels (no, yes), got "
            f"{type(model).__name__} with {model.config.num_labels} labels; Scorer.from_causal_lm makes one"
        )
    positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)  # (N, T)
    hidden = model.base_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions, use_cache=False
    ).last_hidden_state  # (N, T, d)
    rows = torch.arange(len(hidden), device=hidden.device)
    no, yes = head(hidden[rows, batch.decision]).unbind(-1)  # (N,), (N,)
    return yes - no


def layer_norms(
    scorer: Scorer,
    batch: PromptBatch,
    layers: Sequence[int] | None = None,
    checkpointing: bool = False,
    covered: Sequence[Covered] | None = None,
) -> LayerNorms:
    """||dz/dtheta_l||^2 of every example and layer, in float32 at least.

    layers: which layers (1..L), default all. checkpointing: keep only each layer's input and recompute the rest in the
    backward pass. covered: `cover(scorer.model)`, where it was taken before: its probes cost some 2% of a batch.

    The last layer computes its queries, keys and values at all tokens, the rest at the decision tokens alone:
    elsewhere its gradient is zero.

    Raises UserError for a model whose parameters are not all covered (see `coverage`), for a module that is never used
    on the way to z or in another way than its norm is taken, for a linear layer of which one output gets a gradient in
    two calls, for a last layer that does not take transformers' cache, and for norms that are not finite.
    """
    model, stack = scorer.model, scorer.layers
    count = len(stack)
    wanted = list(layers) if layers is not None else list(range(1, count + 1))
    if not set(wanted) <= set(range(1, count + 1)):
        raise UserError(f"layers: expected numbers from 1 to {count}, got {wanted}")
    rows = torch.arange(len(batch.decision), device=batch.decision.device)
    if not batch.attention_mask[rows, batch.decision].all():
        raise UserError("the decision token of an example is padding: expected attention_mask 1 at its column")
    covered = [c for c in covered or cover(model) if c.column in {0, *wanted, count + 1}]
    size, device = len(batch.input_ids), batch.input_ids.device
    taps = _Taps(torch.zeros(2, size, count + 2, dtype=torch.float64, device=device))

    decision = torch.stack([rows, batch.decision], 1)
    recomputed = _forwards({layer: _recomputed for layer in stack[:-1]} if checkpointing else {})
    at_decisions = only_at_decisions(stack[-1], decision)
    with _frozen(model), by_strips(model), recomputed, at_decisions, taps.on(covered), torch.enable_grad():
        z = logits_of(model, batch)
        z.sum().backward()

    taps.finish(covered)
    total, norms = taps.norms  # (N, L + 2) each
    if not total.isfinite().all():
        row, column = (~total.isfinite()).nonzero()[0].tolist()
        raise UserError(
            f"the gradient norm of example {row} in layer {column} (0 embedding, {count + 1} head) is not finite: "
            "look at the model's weights and at the attention mask"
        )
    return LayerNorms(z.detach().double(), total[:, wanted], norms[:, wanted], total[:, 0], total[:, count + 1])


class _SharedInput:
    """The input of linear layers that are called one after the other on the same tensor (q/k/v, gate/up). Once its
    last user is known, it becomes either Gram strips or stays as it is, whichever makes the norms cheaper."""

    def __init__(self, source: torch.Tensor):
        self.source: torch.Tensor | None = source
        self.inputs = _per_example(source)  # (N, T, d_in)
        self.version = self.inputs._version
        self.outputs = 0
        self.strips: list[torch.Tensor] | None = None

    def close(self) -> None:
        """Decides. The tensor is let go where its Gram matrix, usually far smaller, stands for it."""
        if self.inputs._version != self.version:  # autograd, which does not keep it for a frozen layer, would not see
            raise UserError("the input of a linear layer was changed in place after the call: its norm is not known")
        if self.source is None:
            return
        self.source = None
        _, length, features = self.inputs.shape
        if gram_is_cheaper(length, features, self.outputs):
            self.strips = count_mirrored(gram(self.inputs))
            self.inputs = self.inputs.new_empty(0)
            self.version = self.inputs._version

    def norm(self, gradient: torch.Tensor) -> torch.Tensor:
        """||G^T A||_F^2 for each example: (N, T, d_out) -> (N,)."""
        self.close()
        return gradient_norm(self.inputs, gradient) if self.strips is None else gram_product(self.strips, gradient)


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


class _Taps:
    """Hooks, and RMS norms in place of the model's, that read inputs in the forward and output gradients in the
    backward pass, and add up squared norms."""

    def __init__(self, norms: torch.Tensor):
        self.norms = norms  # (2, N, L + 2): all parameters, normalisation parameters
        self.shared: _SharedInput | None = None
        self.calls: dict[str, int] = {}
        self.features: dict[str, torch.Tensor] = {}  # which outputs of a module got a gradient
        self.every = torch.ones(1, dtype=torch.bool, device=norms.device)
        self.of_norms: dict[str, torch.Tensor] = {}  # (N, parameters), the gradient of a norm, added up over its calls

    @contextmanager
    def on(self, covered: list[Covered]) -> Iterator[None]:
        for part in covered:  # before the passes: small tensors that stay would lie between large ones that go
            if part.kind.endswith("norm"):
                own = list(part.module.parameters(recurse=False))
                dtype = torch.promote_types(own[0].dtype, torch.float32)
                shape = self.norms.shape[1], sum(p.numel() for p in own)
                self.of_norms[part.name] = torch.zeros(shape, dtype=dtype, device=self.norms.device)
        hooks = {"linear": self._linear, "embedding": self._embedding, "layer_norm": self._layer_norm}
        handles = [c.module.register_forward_hook(partial(hooks[c.kind], c)) for c in covered if c.kind in hooks]
        forwards = {"rms_norm": self._rms_norm, "swiglu": self._swiglu}
        replaced = {
            c.module: lambda forward, part=c: partial(forwards[part.kind], part) for c in covered if c.kind in forwards
        }
        try:
            with _forwards(replaced):
                yield
        finally:
            self.shared = None
            for handle in handles:
                handle.remove()

    def finish(self, covered: list[Covered]) -> None:
        for part in covered:
            if part.kind != "swiglu" and part.name not in self.features:
                raise _unknown(part, f"got no gradient in {self.calls.get(part.name, 0)} calls")
            if part.name in self.of_norms:
                self.norms[:, :, part.column] += _squares(self.of_norms[part.name])

    def _linear(self, part: Covered, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor):
        if not torch.is_grad_enabled():  # the first, unrecorded pass of a checkpointed layer
            return
        source = _only(part, inputs)
        if self.shared is None or self.shared.source is not source:
            if self.shared is not None:
                self.shared.close()
            self.shared = _SharedInput(source)
        shared = self.shared
        shared.outputs += output.shape[-1]

        def read(gradient: torch.Tensor) -> None:
            squares = shared.norm(gradient)  # (N,)
            if module.bias is not None:
                squares += _squares(gradient.sum(1))
            self.norms[0, :, part.column] += squares

        self._tap(part, output, read)

    def _rms_norm(self, part: Covered, *inputs: torch.Tensor, **named: object) -> torch.Tensor:
        x = _only(part, () if named else inputs)
        if torch.is_grad_enabled():
            self._called(part, x)

        def read(gradient: torch.Tensor) -> None:
            self.features[part.name] = self.every
            self.of_norms[part.name] += gradient

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
            self.of_norms[part.name] += torch.cat([of_weight, *of_bias], 1)

        self._tap(part, output, read)

    def _embedding(self, part: Covered, module: nn.Embedding, inputs: tuple[torch.Tensor, ...], output: torch.Tensor):
        """An embedding is a linear layer on one-hot inputs: their Gram matrix says which tokens are equal. Its output
        becomes the leaf at which the backward pass ends."""
        ids = _only(part, inputs)  # (N, T)
        leaf = output.detach().requires_grad_()

        def read(gradient: torch.Tensor) -> None:
            gradient = gradient * embedding_scale(module)  # (N, T, d)
            if module.padding_idx is not None:  # torch gives this row no gradient, and so training does not move it
                gradient = gradient * (ids != module.padding_idx)[..., None]
            equal = [(ids[:, i:j, None] == ids[:, None, i:]).to(gradient.dtype) for i, j in spans(ids.shape[1])]
            self.norms[0, :, part.column] += gram_product(count_mirrored(equal), gradient)

        self._tap(part, leaf, read)
        return leaf

    def _called(self, part: Covered, output: torch.Tensor) -> None:
        self.calls[part.name] = self.calls.get(part.name, 0) + 1
        if len(output) != self.norms.shape[1]:
            raise UserError(
                f"{part.name}: expected one row an example, {self.norms.shape[1]} of them, got {tuple(output.shape)}; "
                "the gradient norm of each example cannot be told from that"
            )

    def _tap(self, part: Covered, output: torch.Tensor, read: Callable[[torch.Tensor], None]) -> None:
        self._called(part, output)

        def of_examples(gradient: torch.Tensor) -> None:
            gradient = _per_example(gradient)  # (N, T, d_out)
            if part.name in self.of_norms:  # its calls are added up before they are squared
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
    """(N, d) -> (N,) float64."""
    return gradient.double().square().sum(-1)


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No dropout, and no parameter that requires a gradient."""
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _forwards(wraps: dict[nn.Module, Callable[[Callable], Callable]]) -> Iterator[None]:
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


def _recomputed(forward: Callable) -> Callable:
    """A re-entrant checkpoint, which recomputes without dropout, as `_frozen` has it."""

    def checkpointed(states: torch.Tensor, *others: object, **named: object) -> object:
        return checkpoint(partial(forward, **named), states, *others, use_reentrant=True, preserve_rng_state=False)

    return checkpointed
