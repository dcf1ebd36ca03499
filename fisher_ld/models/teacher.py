"""Adapting the pretrained teacher to the task: LoRA or full fine-tuning on packed windows of training lists."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import LoraModel

from fisher_ld.data.lists import Lists
from fisher_ld.data.packing import step_plan
from fisher_ld.data.prompts import Prompts
from fisher_ld.models.scorer import Scorer
from fisher_ld.params import Adapt
from fisher_ld.runtime import Checkpoint, UserError
from fisher_ld.training import Fit, Schedule, fit


def ranking_loss(z: torch.Tensor, labels: torch.Tensor, lists: int, list_weight: float):
    """Binary cross-entropy (Eq. 2), and the softmax cross-entropy of the positive within its list, mixed by
    `list_weight`. z and labels (N,) hold `lists` lists of equal length, one after the other."""
    bce = F.binary_cross_entropy_with_logits(z, labels)
    softmax = F.cross_entropy(z.view(lists, -1), labels.view(lists, -1).argmax(1))
    return (1 - list_weight) * bce + list_weight * softmax, {"bce": bce.item(), "list_softmax": softmax.item()}


def adapt(
    scorer: Scorer,
    lists: Lists,
    sequences: list[np.ndarray],
    prompts: Prompts,
    params: Adapt,
    validate: Callable[[], float],
    checkpoint: Checkpoint,
    log: Callable[[dict[str, float], int], None],
    seed: int,
) -> Fit:
    """Trains `scorer` in place; LoRA weights are merged at the end, so that the result is a plain model."""
    depth = len(scorer.layers)
    if params.frozen_layers >= depth:
        raise UserError(
            f"teacher.adapt.frozen_layers: expected less than the teacher's {depth} layers, got {params.frozen_layers}"
        )
    trained = scorer.layers[params.frozen_layers :]
    tuner = None
    if params.method == "lora":
        torch.manual_seed(seed)
        names = {id(module): name for name, module in scorer.model.named_modules()}
        linear = [names[id(m)] for layer in trained for m in layer.modules() if isinstance(m, torch.nn.Linear)]
        config = LoraConfig(r=params.lora_rank, lora_alpha=2 * params.lora_rank, target_modules=linear)
        tuner = LoraModel(scorer.model, config, "default")  # freezes all but the adapters
    else:
        scorer.requires_grad_(params.frozen_layers == 0)
        trained.requires_grad_(True)
    scorer.model.score.requires_grad_(True)

    plan = step_plan(lists, sequences, prompts, params.batch_users, params.steps, seed)

    def loss(windows: list[np.ndarray], step: int):
        batch = scorer.pack(lists, windows, sequences, prompts)
        z, _ = scorer(batch)
        total, parts = ranking_loss(z, batch.labels, sum(map(len, windows)), params.list_weight)
        return total, parts, batch.tokens

    schedule = Schedule(
        params.learning_rate,
        params.weight_decay,
        params.warmup,
        params.eval_every,
        params.patience,
        params.checkpoint_every,
    )
    result = fit(scorer, plan, loss, validate, schedule, checkpoint, log, "adapting the teacher")
    if tuner is not None:
        scorer.model = tuner.merge_and_unload()
    scorer.requires_grad_(False)
    return result
