"""A causal language model as a yes/no scorer of packed candidates."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import PackedBatch, in_pieces, longest_first, pack, sees
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core import ranks
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import ANOTHER, WHOLE, UserError
from fisher_ld.core.progress import progress
from fisher_ld.kernels.attention import STRIPS
from fisher_ld.kernels.flex import FLEX, block_mask
from fisher_ld.kernels.last_layer import only_at_decisions
from fisher_ld.models import sharded, weights
from fisher_ld.models.layers import layers_name
from fisher_ld.models.relations import Attended, keeping


def unit_rms(states: torch.Tensor) -> torch.Tensor:
    """States (..., d) scaled to a root mean square of 1 each."""
    return F.rms_norm(states, states.shape[-1:], eps=1e-6)


@dataclass(frozen=True)
class Scored:
    """What a scorer gives for N candidates."""

    logits: torch.Tensor  # (N,) z
    states: torch.Tensor | None  # (N, L, d) h_l at the decision token before the final norm, where asked for
    hidden: Sequence[torch.Tensor] = ()  # L of (B, T, d), of all tokens, where asked for with gradients
    attended: Sequence[Attended] = ()  # L, where asked for
    attention: Mapping[str, torch.Tensor] = field(default_factory=dict)  # what it says by name, (N, .., P) each, and
    # which places of a candidate's prompt there are, `present` (N, P): what `signals.asked` makes of `attended`

    def sensitivity(self, batch: PackedBatch) -> torch.Tensor:
        """||dz/ds_l||^2 of each candidate, s_l = h_l / rms(h_l): (N, L). Scaling a layer's stream changes nothing."""
        row, column = batch.decision.unbind(1)
        assert self.states is not None
        gradients = torch.autograd.grad(self.logits.sum(), list(self.hidden), retain_graph=True)
        at_decision = torch.stack([gradient[row, column] for gradient in gradients], 1)  # (N, L, d)
        return (at_decision.square().sum(-1) * self.states.square().mean(-1)).detach()


class Scorer(nn.Module):
    """z = logit(yes) - logit(no) at the decision token, from a sequence-classification model of transformers with
    the labels 0 = no, 1 = yes. Only these two rows of the output embedding are ever multiplied. Raises UserError for a
    model whose layers or context it cannot name."""

    model: Any  # a PreTrainedModel; its attributes differ by architecture

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.bf16, self.batch_users = False, 1
        self._layers_name = layers_name(model)
        self.context()

    def on(self, compute: Compute) -> Scorer:
        """Itself, moved. The weights, the residual stream and the head stay as they are at any precision, but for the
        weights within `inference` and those that ranks divide. Raises UserError for a model whose attention takes no
        mask of packed rows (transformers' own, `eager`, would add it to the scores)."""
        self._attend(compute)
        return self.to(compute.device)

    def _attend(self, compute: Compute) -> None:
        self.bf16, self.batch_users = compute.bf16, compute.batch_users
        wanted = STRIPS if compute.device.type == "cpu" else FLEX
        with suppress(ValueError):  # says that a model has no sdpa
            self.model.set_attn_implementation(wanted)
        if self.model.config._attn_implementation != wanted:
            raise UserError(
                f"{type(self.model).__name__} has its own attention, which does not take the masks of packed rows: "
                + ANOTHER
            )

    @property
    def body(self) -> Any:
        return self.model.base_model

    @property
    def layers(self) -> Any:
        return getattr(self.body, self._layers_name)

    def keep(self, kept: Sequence[int]) -> Scorer:
        """Itself, with the layers `kept` (from 0) alone before the final norm and the head. Raises ValueError where
        it has no such layers."""
        layers, config = self.layers, self.model.config
        if not kept or not set(kept) <= set(range(len(layers))):
            raise ValueError(f"expected some of {len(layers)} layers to keep, got {list(kept)}")
        types = getattr(config, "layer_types", None)
        self._stack(nn.ModuleList(layers[layer] for layer in kept), types and [types[layer] for layer in kept])
        return self

    def _stack(self, layers: nn.ModuleList, types: Sequence[str] | None) -> None:
        setattr(self.body, self._layers_name, layers)
        self.model.config.num_hidden_layers = len(layers)
        if types:
            self.model.config.layer_types = types

    @contextmanager
    def only(self, kept: Sequence[int]) -> Iterator[None]:
        """Within it the layers `kept` alone."""
        layers, types = self.layers, getattr(self.model.config, "layer_types", None)
        self.keep(kept)
        try:
            yield
        finally:
            self._stack(layers, types)

    def pack(self, lists: Lists, windows: list[np.ndarray], prompts: Prompts) -> PackedBatch:
        """The windows packed within the model's context, where the model is."""
        return pack(lists, windows, prompts, self.context()).to(self.model.device)

    def _mask(self, batch: PackedBatch) -> Any:
        if self.model.config._attn_implementation == FLEX:
            rows, length = batch.segment.shape
            return block_mask(partial(sees, batch.segment, batch.visible), rows, length, batch.segment.device)
        return batch.mask

    def forward(self, batch: PackedBatch, with_states: bool = False, with_attention: bool = False) -> Scored:
        row, column = batch.decision.unbind(1)
        states: list[torch.Tensor] = []
        hidden: list[torch.Tensor] = []  # kept by autograd in any case

        def keep(module, inputs, output):
            whole = output[0] if isinstance(output, tuple) else output  # (B, T, d)
            states.append(whole[row, column])  # (N, d)
            if torch.is_grad_enabled():
                hidden.append(whole)

        mask = self._mask(batch)
        keep_attention = keeping(self.model) if with_attention else nullcontext(())
        with only_at_decisions(self.layers[-1], batch.decision), keep_attention as attended, ExitStack() as until:
            for layer in self.layers if with_states else ():
                until.enter_context(layer.register_forward_hook(keep))
            with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=self.bf16):
                last = self.body(
                    input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=mask, use_cache=False
                ).last_hidden_state  # (B, T, d), the last layer's only at the decision tokens
        answers = self.model.score(last[row, column].to(self.model.score.weight.dtype))  # (N, 2), or (N, 1)
        return Scored(_margin(answers.mT), torch.stack(states, 1) if states else None, hidden, attended)

    def direction(self) -> torch.Tensor:
        """(d,) whose product with the last state is z."""
        return _margin(self.model.score.weight)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """For many forward passes without gradients. Where matrices multiply in bf16 they are cast once here, and not
        at every pass by autocast."""
        if sharded.is_sharded(self):  # casts what it collects, and keeps it for a pass with gradients
            with torch.no_grad():
                yield
            return
        parameters = [m.get_parameter("weight") for m in weights.matrices(self.body)] if self.bf16 else []
        exact = [parameter.data for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.data = parameter.data.bfloat16()
            with torch.inference_mode():
                yield
        finally:
            for parameter, weight in zip(parameters, exact, strict=True):
                parameter.data = weight

    @contextmanager
    def only_rows(self, prompts: Prompts) -> Iterator[None]:
        """The input embedding with the rows of `prompts` alone, so that its gradient and the optimiser's state are not
        of a whole vocabulary. Token ids stay as they are. At the end it is whole again, with these rows as trained."""
        embedding = self.body.get_input_embeddings()
        whole, padding = embedding.weight, embedding.padding_idx
        tokens = torch.tensor(prompts.tokens(), device=whole.device)
        place = torch.full((len(whole),), -1, device=whole.device)
        place[tokens] = torch.arange(len(tokens), device=whole.device)
        embedding.weight = nn.Parameter(whole.detach()[tokens], requires_grad=whole.requires_grad)
        embedding.padding_idx = int(place[padding]) if padding is not None and padding in tokens else None
        try:
            with embedding.register_forward_pre_hook(lambda module, given: (place[given[0]],)):
                yield
        finally:
            whole.data[tokens] = embedding.weight.detach()
            embedding.weight, embedding.padding_idx = whole, padding

    @classmethod
    def from_causal_lm(cls, folder: Path, yes: int, no: int) -> Scorer:
        """A pretrained causal LM with its two answer rows as head (float32). Raises UserError where its logits are not
        these rows times the last state alone (a bias, a scale, soft capping)."""
        causal = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(_with_answers(causal, yes, no))

    @classmethod
    def of_first_layer(cls, config: Any) -> Scorer:
        """One with random weights, of four words and the first layer alone of what a causal LM's config describes.
        Raises UserError as `from_causal_lm` does."""
        try:
            causal = AutoModelForCausalLM.from_config(with_layers(config, 1, words=4), dtype=torch.float32)
        except ValueError as error:
            raise UserError(f"transformers has no causal language model for {config.model_type}: {ANOTHER}") from error
        for parameter in causal.get_output_embeddings().parameters():  # so that a bias or soft capping tells
            parameter.data.normal_(0, 3)
        return cls(_with_answers(causal, 1, 2))

    @classmethod
    def load(cls, folder: Path) -> Scorer:
        """One that was saved (float32). Raises UserError where its weights are not those that its config describes."""
        how: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
        model, info = cast("tuple[Any, Any]", AutoModelForSequenceClassification.from_pretrained(folder, **how))
        lacking, further = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
        if lacking or further:
            raise UserError(
                f"{folder}: its weights are not those that its config.json describes: "
                + "; ".join(
                    f"{what} {', '.join(names[:3])} ({len(names)} in all)"
                    for what, names in (("it lacks", lacking), ("it has beside them", further))
                    if names
                )
                + f"; {WHOLE}"
            )
        return cls(model.eval())

    @classmethod
    def on_disk(cls, folder: Path) -> Scorer:
        """One that was saved, as it is stored: to take weights from, which take no memory before."""
        model = weights.empty(AutoConfig.from_pretrained(folder)).eval()
        if not weights.are_named(model, folder):
            return cls.load(folder)
        weights.fill(model, folder, torch.device("cpu"), as_stored=True)
        return cls(model)

    @classmethod
    def placed(cls, folder: Path, compute: Compute, *answers: int, frozen: bool = False) -> Scorer:
        """One that was saved, or with the tokens of yes and no one of a causal LM, where it computes. The matrices of a
        `frozen` one rest in bf16 where they multiply so, which changes no score. Then, on a GPU, or where ranks divide
        it, main memory never has a whole in float32: weights are read one by one, and each rank reads its own rows.
        Raises UserError as `from_causal_lm` and `on` do, and where the weights do not fit."""
        config = AutoConfig.from_pretrained(folder)
        if answers:
            cls.of_first_layer(config)  # as it raises
        scorer = cls(weights.empty(answering(copy.deepcopy(config)) if answers else config).eval())
        one_by_one = compute.shard or compute.device.type != "cpu" or (frozen and compute.bf16)
        given = ["score.weight"] if answers else []
        if one_by_one and (compute.shard or weights.are_named(scorer.model, folder, given)):
            return scorer._filled(folder, compute, frozen, config, answers)
        weights.check_room(scorer.model, compute)
        scorer = (cls.from_causal_lm(folder, *answers) if answers else cls.load(folder)).on(compute)
        if frozen and compute.bf16:
            weights.narrow(scorer.model)
        return scorer

    def _filled(self, folder: Path, compute: Compute, frozen: bool, config: Any, answers: Sequence[int]) -> Scorer:
        """Itself, empty before, of a model of this config."""
        self._attend(compute)
        if frozen:
            self.requires_grad_(False)
            if compute.bf16:
                weights.narrow(self.model)
        if compute.shard:
            sharded.shard(self.layers, compute)
        weights.check_room(self.model, compute)
        head = {"score.weight": weights.head_rows(folder, config, [*reversed(answers)])} if answers else {}
        weights.fill(self.model, folder, compute.device, head)
        return self.to(compute.device)

    def context(self) -> int:
        """The longest prompt the model takes, in tokens: beyond a sliding window, packed rows would see too much."""
        length = getattr(self.model.config, "max_position_embeddings", None)
        if length is None:
            raise UserError(
                f"the config of {type(self.model).__name__} has no max_position_embeddings, so that prompts cannot be "
                f"checked against its context: {ANOTHER}"
            )
        return min(length, getattr(self.model.config, "sliding_window", None) or length)


def score_lists(
    scorer: Scorer,
    lists: Lists,
    prompts: Prompts,
    label: str = "scoring",
) -> list[np.ndarray]:
    """z of every candidate of every list, in the lists' order. Lists of one user and history share a packed row. Ranks
    share the rows, and each gets all of it."""
    logits = np.zeros(lists.offsets[-1], np.float32)
    pieces = in_pieces(lists, prompts)
    groups = longest_first(pieces, prompts, scorer.batch_users)
    with scorer.inference():
        for group, counts in progress(ranks.share(groups), label, unit="batch"):
            batch = scorer.pack(pieces, group, prompts)
            z = scorer(batch).logits
            if counts:
                logits[batch.examples.cpu()] = z.float().cpu()
    return np.split(ranks.total(logits), lists.offsets[1:-1])


def _margin(answers: torch.Tensor) -> torch.Tensor:
    """What is of yes less what is of no: (2, ...) -> (...). An export has this margin alone: (1, ...)."""
    *no, yes = answers
    return yes - no[0] if no else yes


def with_layers(config: Any, count: int, words: int | None = None) -> Any:
    """A config with the first layers alone, and with so few words (None: its own), of which none is for padding."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    if words:
        config.vocab_size, config.pad_token_id = words, None
    return config


def answering(config: Any) -> Any:
    """The config of a causal LM as that of a classifier of yes and no."""
    config.num_labels, config.tie_word_embeddings = 2, False
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    return config


def _with_answers(causal: Any, yes: int, no: int) -> Any:
    """A causal LM as a classifier by two rows of its head."""
    rows = causal.get_output_embeddings().weight.detach()[[no, yes]]  # (2, d)
    config = answering(causal.config)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(
            f"transformers has no sequence classification model for {config.model_type}, which teacher "
            f"and students are: {ANOTHER}"
        ) from error
    setattr(model, model.base_model_prefix, causal.base_model)
    model.score = nn.Linear(rows.shape[1], 2, bias=False)
    model.score.weight.data.copy_(rows)
    probe = torch.tensor([[no, yes, no]])
    with torch.inference_mode():
        expected = causal.eval()(probe, use_cache=False).logits[0, -1, [no, yes]]
        answer = model.score(model.eval().base_model(probe, use_cache=False).last_hidden_state[0, -1])
    if not torch.allclose(answer, expected, 1e-3, 1e-3):
        raise UserError(
            f"the yes and no rows of the head of {type(causal).__name__} give {answer.tolist()}, the model itself "
            f"{expected.tolist()}: a head with a bias, a scale or soft capping is not supported; {ANOTHER}"
        )
    return model
