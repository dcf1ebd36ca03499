"""Adapting the pretrained teacher to the task: LoRA or full fine-tuning on packed windows of training lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from transformers.pytorch_utils import Conv1D

from fisher_ld.batches.lists import Lists, take
from fisher_ld.batches.packing import step_plan
from fisher_ld.batches.prompts import Prompts
from fisher_ld.config.params import Adapt
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError
from fisher_ld.models.items import learn_items
from fisher_ld.models.scorer import Scorer
from fisher_ld.training.head import fit_head
from fisher_ld.training.loop import Fit, Schedule, fit

ALL_AT_ONCE = "null, with some 400 teacher.adapt.steps and a learning_rate of 1.0e-4, adapts all layers at once"
QUIET = 0.1  # of what a layer above the first ones adds to the residual stream, where its training starts


def ranking_loss(z: torch.Tensor, labels: torch.Tensor, lists: int, list_weight: float):
    """Binary cross-entropy (Eq. 2), and the softmax cross-entropy of the positive within its list, mixed by
    `list_weight`. z and labels (N,) hold `lists` lists of equal length, one after the other."""
    bce = F.binary_cross_entropy_with_logits(z, labels)
    softmax = F.cross_entropy(z.view(lists, -1), labels.view(lists, -1).argmax(1))
    return (1 - list_weight) * bce + list_weight * softmax, {"bce": bce.item(), "list_softmax": softmax.item()}


def adapt(
    scorer: Scorer,
    lists: Lists,
    prompts: Prompts,
    params: Adapt,
    validate: Callable[[], float],
    checkpoints: Sequence[Checkpoint],
    log: Callable[[dict[str, float], int], None],
    seed: int,
) -> Fit:
    """Trains `scorer` in place. With `params.first_layers` in three parts, each with one of the `checkpoints`: all of
    the first layers but the last learn which items follow which (items.py), in the windows that are read later; the
    first layers alone read several times as many windows in the same time as all would; then those above follow on top
    of them, on the windows that come next, and what the first have learned by then is left alone. The layers above
    were pretrained on other states than they now read: each starts with a tenth of what it adds to the residual stream,
    so that the model starts where the first ones ended (LLaMA Pro, arXiv:2401.02415, starts its new layers at zero).
    The parts that read windows start with the head fitted to the depth that they stand at. Their steps are numbered as
    planned, so that a first part that stops early leaves a gap.

    Raises UserError if no layers are left above the first, or if what those above add to the stream cannot be named."""
    depth, first = len(scorer.layers), params.first_layers
    if first is not None and first >= depth:
        raise UserError(
            f"teacher.adapt.first_layers: expected less than the teacher's {depth} layers, got {first}; {ALL_AT_ONCE}"
        )
    above = [] if first is None else [matrix for layer in scorer.layers[first:] for matrix in writers(layer)]
    begin = 0 if first is None else params.first_steps
    plan = step_plan(lists, prompts, params.batch_users, begin + params.steps, seed)

    def loss(windows: list[np.ndarray], step: int):
        batch = scorer.pack(lists, windows, prompts)
        z, _ = scorer(batch)
        total, parts = ranking_loss(z, batch.labels, sum(map(len, windows)), params.list_weight)
        return total, parts, batch.tokens

    def train(layers: range, steps: range, rate: float, checkpoint: Checkpoint) -> Fit:
        part = plan[steps.start : steps.stop]
        with scorer.cut(layers.stop), scorer.only_rows(prompts):
            if first is not None:
                fit_head(scorer, lists, list(chain(*part)), prompts)
            with _trainable(scorer, layers, params, seed):
                fitted = fit(
                    scorer, part, loss, validate, schedule(rate), checkpoint,
                    lambda values, step: log(values, steps.start + step), f"adapting {len(layers)} of {depth} layers",
                )  # fmt: skip
        curve = [row | {"step": steps.start + row["step"], "depth": layers.stop} for row in fitted.curve]
        return Fit(fitted.best_score, steps.start + fitted.best_step, steps.start + fitted.steps, curve)

    def schedule(rate: float) -> Schedule:
        return Schedule(
            rate, params.weight_decay, params.warmup, params.eval_every, params.patience, params.checkpoint_every
        )

    of_items, of_first, of_above = checkpoints
    curve = []
    if first is not None:
        if params.item_steps:
            read = take(lists, np.unique(np.concatenate(list(chain(*plan)))))
            with scorer.cut(first - 1), scorer.only_rows(prompts), _trainable(scorer, range(first - 1), params, seed):
                learn_items(
                    scorer, read, prompts, params.item_steps, schedule(params.item_learning_rate), of_items,
                    lambda values, step: log({f"items/{name}": value for name, value in values.items()}, step), seed,
                )  # fmt: skip
        curve = train(range(first), range(begin), params.first_learning_rate, of_first).curve
        for weight in chain(*(matrix.parameters() for matrix in above)):
            weight.data.mul_(QUIET)
    last = train(range(first or 0, depth), range(begin, begin + params.steps), params.learning_rate, of_above)
    scorer.requires_grad_(False)
    return replace(last, curve=curve + last.curve)


def writers(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """The two matrices of a layer whose outputs are added to the residual stream as they are."""
    names = ("o_proj", "down_proj", "c_proj")
    matrices = [module for name, module in layer.named_modules() if name.endswith(names)]
    normalised = any(hasattr(layer, norm) for norm in ("post_feedforward_layernorm", "post_mlp_layernorm"))
    if len(matrices) != 2 or normalised:  # a norm there undoes any scale
        raise UserError(
            "teacher.adapt.first_layers: expected layers that add the outputs of two matrices, named o_proj, down_proj "
            f"or c_proj, to their input as they are, got {type(layer).__name__}, which cannot start quietly above the "
            f"first; {ALL_AT_ONCE}"
        )
    return matrices


@contextmanager
def _trainable(scorer: Scorer, layers: range, params: Adapt, seed: int) -> Iterator[None]:
    """Within it these layers and all above them require a gradient, the embedding where it is next to them; or only the
    head, and adapters of these layers, which are merged into them at the end."""
    if params.method == "full":
        embeddings = [module for module in scorer.body.children() if isinstance(module, torch.nn.Embedding)]
        scorer.requires_grad_(True)
        for module in chain(embeddings if layers.start else [], scorer.layers[: layers.start]):
            module.requires_grad_(False)
        yield
        return
    torch.manual_seed(seed)
    names = {id(module): name for name, module in scorer.model.named_modules()}
    trained = scorer.layers[layers.start :].modules()
    linear = [names[id(m)] for m in trained if isinstance(m, torch.nn.Linear | Conv1D)]
    config = LoraConfig(r=params.lora_rank, lora_alpha=2 * params.lora_rank, target_modules=linear)
    tuner = LoraModel(scorer.model, config, "default")  # freezes all but the adapters
    scorer.model.score.requires_grad_(True)
    yield
    scorer.model = tuner.merge_and_unload()
