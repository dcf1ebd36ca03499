"""What the terms of Eq. 7 and of its rivals compute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F

from fisher_ld.batches.packing import PackedBatch
from fisher_ld.models.relations import log_softmax
from fisher_ld.models.scorer import Scored
from fisher_ld.training.losses import list_cross_entropy, list_log_softmax, ranking_loss

TOP, DECAY = 3, 1.0  # of Ranking Distillation: so many candidates of a list, the r-th weighted by e^(-r / DECAY)


def label_loss(z: torch.Tensor, batch: PackedBatch, list_weight: float) -> torch.Tensor | None:
    """L_task: `ranking_loss` of the logits z (N,) over the lists whose labels are known; None where there are none."""
    known = batch.labels.isfinite()  # (N,), alike in a list
    if not known.any():
        return None
    return ranking_loss(z[known], batch.labels[known], batch.list_of[known], list_weight)[0]


def output_loss(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """L_output: KL of the Bernoulli distributions of two logits (N,) at `temperature`, times temperature^2."""
    t, s = teacher / temperature, student / temperature
    p = torch.sigmoid(t)
    kl = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return kl.mean() * temperature**2


def list_output_loss(
    teacher: torch.Tensor, student: torch.Tensor, list_of: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL of the softmax over each list from the teacher's, of logits (N,) at `temperature`, times temperature^2, mean
    over lists."""
    t, s = teacher / temperature, student / temperature
    p = list_log_softmax(t, list_of).exp()
    return (list_cross_entropy(s, p, list_of) - list_cross_entropy(t, p, list_of)) * temperature**2


def top_ranked_loss(teacher: torch.Tensor, student: torch.Tensor, batch: PackedBatch) -> torch.Tensor | None:
    """L_RD of Ranking Distillation (Tang & Wang 2018): -sum_r w_r log sigmoid(z_S) over the candidates that the teacher
    ranks 1..TOP in a list without label, w_r falling with r and of sum 1; mean over such lists, None where there are
    none."""
    unknown = batch.labels.isnan().nonzero()[:, 0]
    if not len(unknown):
        return None
    by_score = unknown[teacher[unknown].argsort(descending=True, stable=True)]
    by_list = by_score[batch.list_of[by_score].argsort(stable=True)]  # each list's from the best down
    number, own, size = batch.list_of[by_list].unique(return_inverse=True, return_counts=True)
    rank = torch.arange(len(by_list), device=own.device) - (size.cumsum(0) - size)[own]  # 0, 1, ..
    weight = torch.where(rank < TOP, (-rank.to(student.dtype) / DECAY).exp(), 0.0)
    weight = weight / weight.new_zeros(len(number)).index_add(0, own, weight)[own]
    return -(weight * F.logsigmoid(student[by_list])).sum() / len(number)


def layer_losses(targets: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
    """Eq. 8 for each pair: mean squared error of standardised teacher states (N, P, d_T), as (P,). A share of the
    constant predictor's error: 1 where the student knows no more than the mean, 0 where it is exact."""
    return (targets - adapted).square().mean((0, 2))


def cosine_losses(targets: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
    """1 - cosine for each pair, of standardised teacher states (N, P, d_T), as (P,): half of the squared distance of
    unit vectors, which PKD takes."""
    return 1 - F.cosine_similarity(targets, adapted, dim=-1).mean(0)


def attention_map_loss(teacher: torch.Tensor, student: Scored, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Squared distance of unit attention maps, for each pair of layers (from 1), mean over candidates and pairs.
    teacher: (N, L_T, P), P of the longest prompt of all."""
    own, targets = _paired("attention", teacher, student, pairs)  # (N, pairs, p)
    return (F.normalize(own, dim=-1) - F.normalize(targets, dim=-1)).square().sum(-1).mean()


def attention_score_loss(teacher: torch.Tensor, student: Scored, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Squared distance of attention scores in common relation heads over the places and heads of a prompt, as a share
    of the teacher's squares, mean over candidates and pairs. Scores as they are would drown all other terms. teacher:
    (N, L_T, HEADS, P)."""
    own, targets = _paired("scores", teacher, student, pairs)  # (N, pairs, HEADS, p)
    present = student.attention["present"][:, None, None]  # (N, 1, 1, p)
    left, whole = ((values.square() * present).sum((2, 3)) for values in (own - targets, targets))  # (N, pairs)
    return (left / whole.clamp(min=torch.finfo(whole.dtype).tiny)).mean()


def relation_loss(teacher: torch.Tensor, student: Scored) -> torch.Tensor:
    """MiniLM: KL of the student's relations from the teacher's, of attention and of values in the last layers, mean
    over heads and candidates, summed over the two. teacher: (N, 2, HEADS, P)."""
    own, present = student.attention["relations"].flatten(1, 2), student.attention["present"]  # (N, 2 HEADS, p), (N, p)
    t, s = (log_softmax(scores, present) for scores in (teacher.flatten(1, 2)[..., : own.shape[-1]], own))
    return 2 * (t.exp() * present[:, None] * (t - s)).sum(-1).mean()


def _paired(
    signal: str, teacher: torch.Tensor, student: Scored, pairs: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The signal of the student's layer of each pair, and the teacher's of the other, as far as the prompts go."""
    own = student.attention[signal][:, [layer - 1 for _, layer in pairs]]
    return own, teacher[:, [layer - 1 for layer, _ in pairs], ..., : own.shape[-1]]


def ridge_maps(
    states: torch.Tensor, student_layers: Sequence[int], targets: torch.Tensor, ridge: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """What Adapt starts as: the ridge regression of targets (N, P, d_T) on the states (N, L_S, d_S) of the student
    layer (from 0) that each is matched with, as maps (P, d_T, d_S) and offsets (P, d_T). `ridge` is relative to the
    mean square of a state's channel, not to its variance: the states of a random start hardly differ, and maps that
    read their small differences would turn the student's first steps into large errors."""
    mean = states.double().mean(0)  # (L_S, d_S)
    centred = (states.double() - mean).transpose(0, 1)  # (L_S, N, d_S)
    moments = centred.mT @ centred  # (L_S, d_S, d_S)
    diagonal = moments.diagonal(dim1=1, dim2=2)
    diagonal += ridge * states.double().square().sum(0).mean(1, keepdim=True)
    found = targets.double().transpose(0, 1)  # (P, N, d_T)
    mean_target = found.mean(1)  # (P, d_T)
    layers, root = list(student_layers), torch.linalg.cholesky(moments)  # (L_S, d_S, d_S)
    maps = torch.cholesky_solve(centred[layers].mT @ (found - mean_target[:, None]), root[layers]).mT  # (P, d_T, d_S)
    offsets = mean_target - (maps @ mean[layers][..., None])[..., 0]
    return maps.float(), offsets.float()


def l2(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """L_reg of Eq. 7: the mean of all squared parameters. Their sum would drown the task."""
    found = list(parameters)
    return torch.stack([p.square().sum() for p in found]).sum() / sum(p.numel() for p in found)
