"""Adapting the pretrained teacher, or a shallow one, to the task: LoRA or full fine-tuning on packed windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraModel
from transformers.pytorch_utils import Conv1D

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import PackedBatch, step_plan
from fisher_ld.batches.prompts import Prompts
from fisher_ld.config.params import Adapt
from fisher_ld.kernels.recompute import recomputed
from fisher_ld.models.scorer import Scored, Scorer
from fisher_ld.models.sharded import divided_as, is_sharded
from fisher_ld.models.together import score_together
from fisher_ld.training.loop import Fit, Schedule, Training, fit
from fisher_ld.training.losses import ranking_loss

LAYER_DROP = 0.2  # Fan 2020


def adapt(
    scorer: Scorer,
    lists: Lists,
    prompts: Prompts,
    params: Adapt,
    steps: int,
    training: Training,
    layer_drop: float = 0.0,
    recompute: bool = False,
    pieces: int = 1,
) -> Fit:
    """Trains all of `scorer` in place, `params.batch_users` windows of `lists` a step, by `ranking_loss`; `steps` at
    most. `layer_drop`: the probability with which a step leaves out a layer, but never the last. `recompute`:
    activations in the backward pass, so that none are kept. `pieces`: of a step, computed one after the
    other, for less memory."""
    depth = len(scorer.layers)
    plan = step_plan(lists, lists.windows(), prompts, params.batch_users, steps, training.seed)
    schedule = Schedule(
        params.learning_rate, params.weight_decay, params.warmup, params.eval_every, params.patience,
        params.checkpoint_every,
    )  # fmt: skip

    def loss(windows: list[np.ndarray], step: int) -> tuple[torch.Tensor, dict[str, float], int]:
        stays = np.random.default_rng([training.seed, step]).random(depth) >= layer_drop  # the same after a kill

        def score(batch: PackedBatch) -> Scored:
            with (
                scorer.only([layer for layer in range(depth) if stays[layer] or layer == depth - 1]),
                recomputed(scorer.layers[:-1] if recompute else ()),
            ):
                return scorer(batch)

        scored, batch = score_together(scorer, lists, windows, prompts, score, pieces)
        total, parts = ranking_loss(scored.logits, batch.labels, batch.list_of, params.list_weight)
        return total, parts, batch.tokens

    with scorer.only_rows(prompts), _trainable(scorer, params, training.seed):
        fitted = fit(scorer, plan, loss, schedule, training)
    scorer.requires_grad_(False)
    return fitted


@contextmanager
def _trainable(scorer: Scorer, params: Adapt, seed: int) -> Iterator[None]:
    """Within it all of a scorer requires a gradient, or only its head and adapters, which are merged at the end."""
    if params.method == "full":
        scorer.requires_grad_(True)
        yield
        return
    torch.manual_seed(seed)
    inner = scorer.layers.modules()
    names = {id(module): name for name, module in scorer.model.named_modules()}
    linear = [names[id(m)] for m in inner if isinstance(m, torch.nn.Linear | Conv1D)]
    config = LoraConfig(r=params.lora_rank, lora_alpha=2 * params.lora_rank, target_modules=linear)
    tuner = LoraModel(scorer.model, config, "default")  # freezes all but the adapters
    for adapter in tuner.parameters():
        if adapter.requires_grad:
            adapter.data = adapter.data.float()  # peft makes it as what it adapts, whose matrices may rest in bf16
    scorer.model.score.requires_grad_(True)
    yield
    if is_sharded(scorer):
        with torch.no_grad():
            for layer in tuner.model.modules():
                if isinstance(layer, LoraLinear):
                    weight = cast("torch.Tensor", layer.get_base_layer().weight)
                    weight.add_(divided_as(layer.get_delta_weight("default"), weight))
        scorer.model = tuner.unload()
    else:
        scorer.model = tuner.merge_and_unload()
