"""A world whose answer is known, and a toy teacher that forms it in known layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from transformers import LlamaConfig, LlamaForSequenceClassification

from fisher_ld.batches.lists import Lists, make_lists
from fisher_ld.batches.prompts import Prompts
from fisher_ld.distillation.signals import StateStatistics
from fisher_ld.fisher.estimate import SCHEMA
from fisher_ld.fisher.sample import Sample
from fisher_ld.models.scorer import Scorer, unit_rms

ITEMS, KNOWN, HISTORY, CANDIDATES = 60, 4, 6, 20  # KNOWN: numbers by which an item is known
TOKENS = [[2 + item] for item in range(ITEMS)]
PROMPTS = Prompts([1], TOKENS, TOKENS)


class World:
    """Items are directions in KNOWN dimensions, and users like those near their own. The taste of a user is the mean
    of what was liked, and the positive of a list the candidate nearest to it. One list a user, after the whole
    history: `labelled`, `transfer` without labels, and `test`, of users each its own."""

    def __init__(self, labelled: int, transfer: int, test: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        users = labelled + transfer + test
        self.items = _unit(rng.standard_normal((ITEMS, KNOWN)))
        leaning = 3 * _unit(rng.standard_normal((users, KNOWN))) @ self.items.T  # (users, ITEMS)
        self.histories = (leaning + rng.gumbel(size=leaning.shape)).argsort(1)[:, -HISTORY:]
        self.tastes = _unit(self.items[self.histories].mean(1))  # (users, KNOWN)
        others = [rng.permutation(np.setdiff1d(np.arange(ITEMS), history)) for history in self.histories]
        self.candidates = np.stack(others)[:, :CANDIDATES]  # (users, CANDIDATES)
        cuts = np.split(np.arange(users), np.cumsum([labelled, transfer]))
        self.labelled, self.transfer, self.test = (self._lists(c, i != 1) for i, c in enumerate(cuts))

    def _lists(self, users: np.ndarray, told: bool) -> Lists:
        candidates = self.candidates[users]
        nearest = np.einsum("nck,nk->nc", self.items[candidates], self.tastes[users]).argmax(1)
        columns = {
            "user": users,
            "start": np.zeros_like(users),
            "position": np.full_like(users, HISTORY),
            "positive": nearest if told else np.full_like(users, -1),
        }
        return make_lists(columns, list(candidates), list(self.histories))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Teacher(nn.Module):
    """h_l = W_l x_l for `layers` layers. Of the two planted ones the first holds the item, the second the taste, and z
    is SCALE times their inner product. All others hold one and the same signal of item and history, LARGE times as
    large and in as many dimensions as a state has, of which nothing but a LEAK reaches z. Without planted layers every
    one holds item and taste, and z is the mean of what each of them says. Has the signals of `lists`."""

    SCALE, LARGE, LEAK = 6.0, 10.0, 0.05
    layers, width = 12, 16

    def __init__(self, world: World, lists: Lists, planted: tuple[int, int] | None):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.planted = planted
        item, user = np.concatenate(lists.candidates), np.repeat(lists.user, np.diff(lists.offsets))  # (N,)
        nearness = [torch.tensor(found, dtype=torch.float32) for found in (world.items[item], world.tastes[user])]
        of_item, of_history = torch.randn(2, ITEMS, self.width // 2, generator=rng)
        aside = torch.cat([of_item[item], of_history[world.histories[user]].mean(1) * HISTORY**0.5], 1)  # (N, width)
        both = torch.cat(nearness, 1)
        held = [both if not planted else aside] * self.layers
        for layer, found in zip(planted or (), nearness, strict=False):
            held[layer - 1] = found
        self.inputs = tuple(x * (self.LARGE if x is aside else 1.0) for x in held)  # (N, size) each
        turned = [torch.linalg.qr(torch.randn(self.width, x.shape[1], generator=rng))[0] for x in held]
        self.weights = nn.ParameterList(turned)  # W_l (width, size)
        self.readers = [w.detach().clone().T for w in self.weights]  # (size, width), which undo them
        self.leaks = self.LEAK * torch.randn(self.layers, self.width, generator=rng) / self.width
        self.own = dict(self.named_parameters())
        with torch.no_grad():
            states = torch.stack([x @ w.T for x, w in zip(self.inputs, self.weights, strict=True)], 1)
            self.known = {"logits": vmap(self)(self.inputs), "states": unit_rms(states)}

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """z of one example."""
        states = [w @ x for w, x in zip(self.weights, inputs, strict=True)]
        read = [reader @ h for reader, h in zip(self.readers, states, strict=True)]
        if not self.planted:
            return self.SCALE * torch.stack([r[:KNOWN] @ r[KNOWN:] for r in read]).mean()
        item, taste = (read[layer - 1] for layer in self.planted)
        others = [h @ leak for layer, (h, leak) in enumerate(zip(states, self.leaks, strict=True), 1) if layer not in self.planted]
        return self.SCALE * item @ taste + sum(others)

    def statistics(self) -> StateStatistics:
        return StateStatistics.of(self.known["states"])

    def signals(self, examples: np.ndarray, names: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: self.known[name][examples] for name in names}
