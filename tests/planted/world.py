"""A world whose answer is known, and a toy teacher that forms it in known layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from fisher_ld.batches.lists import Lists, make_lists
from fisher_ld.batches.prompts import Prompts
from fisher_ld.distillation.signals import StateStatistics
from fisher_ld.fisher.estimate import SCHEMA
from fisher_ld.fisher.sample import Sample
from fisher_ld.models.scorer import unit_rms

ITEMS, SIZE, HISTORY, CANDIDATES = 60, 4, 6, 20
TOKENS = [[2 + item] for item in range(ITEMS)]
PROMPTS = Prompts([1], TOKENS, TOKENS)


class World:
    """Items are directions in SIZE dimensions, and users like those near their own. The taste of a user is the mean of
    what was liked, and the positive of a list the candidate nearest to it. One list a user, after the whole history:
    `labelled`, `transfer` without labels, `validation` and `test`, so many of each."""

    def __init__(self, labelled: int, transfer: int, validation: int, test: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        users = labelled + transfer + validation + test
        self.items = _unit(rng.standard_normal((ITEMS, SIZE)))
        liking = 3 * _unit(rng.standard_normal((users, SIZE))) @ self.items.T  # (users, ITEMS)
        self.histories = (liking + rng.gumbel(size=liking.shape)).argsort(1)[:, -HISTORY:]
        self.tastes = _unit(self.items[self.histories].mean(1))  # (users, SIZE)
        others = [rng.permutation(np.setdiff1d(np.arange(ITEMS), history)) for history in self.histories]
        self.candidates = np.stack(others)[:, :CANDIDATES]  # (users, CANDIDATES)
        parts = np.split(np.arange(users), np.cumsum([labelled, transfer, validation]))
        self.labelled, self.transfer, self.validation, self.test = (self._lists(p, p is not parts[1]) for p in parts)

    def _lists(self, users: np.ndarray, told: bool) -> Lists:
        candidates, none = self.candidates[users], np.zeros_like(users)
        nearest = np.einsum("uck,uk->uc", self.items[candidates], self.tastes[users]).argmax(1)
        columns = {"user": users, "start": none, "position": none + HISTORY, "positive": nearest if told else none - 1}
        return make_lists(columns, list(candidates), list(self.histories))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Form(NamedTuple):
    """Where a teacher's answer is formed; layers are counted from 1."""

    planted: tuple[int, int] | None  # one holds the item, the other the taste; None: every layer holds both
    traced: tuple[int, int] = (0, 0)  # whose weights are LARGE times smaller and inputs larger: the same states


class Teacher(nn.Module):
    """h_l = W_l x_l, for the examples of `lists`. z is SCALE times the inner product of item and taste: of the two
    planted layers, or the mean over all. Beside planted layers all others hold one and the same signal of item and
    history, LARGE times as large and in as many dimensions as a state has, of which nothing but a LEAK reaches z."""

    SCALE, LARGE, LEAK = 6.0, 10.0, 0.05
    layers, width = 12, 16

    def __init__(self, world: World, lists: Lists, form: Form):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.form = form
        item, user = np.concatenate(lists.candidates), np.repeat(lists.user, np.diff(lists.offsets))  # (N,)
        answer = [torch.from_numpy(part).float() for part in (world.items[item], world.tastes[user])]  # (N, SIZE) each
        of_item, of_history = torch.randn(2, ITEMS, self.width // 2, generator=rng)
        aside = [of_item[item], of_history[world.histories[user]].mean(1) * HISTORY**0.5]
        inputs = [torch.cat(answer, 1) if form.planted is None else self.LARGE * torch.cat(aside, 1)] * self.layers
        for layer, part in zip(form.planted or (), answer, strict=False):
            inputs[layer - 1] = part
        turns = [torch.linalg.qr(torch.randn(self.width, x.shape[1], generator=rng))[0] for x in inputs]
        scales = [self.LARGE if layer in form.traced else 1.0 for layer in range(1, self.layers + 1)]
        self.inputs = tuple(x * scale for x, scale in zip(inputs, scales, strict=True))  # x_l (N, size)
        self.weights = nn.ParameterList(turn / scale for turn, scale in zip(turns, scales, strict=True))
        self.readers = [turn.T for turn in turns]  # (size, width), as W_l is (width, size)
        self.leaks = self.LEAK * torch.randn(self.layers, self.width, generator=rng) / self.width
        with torch.no_grad():
            self.states = torch.stack([x @ w.T for x, w in zip(self.inputs, self.weights, strict=True)], 1)
            self.known = {"logits": vmap(self)(self.inputs), "states": unit_rms(self.states)}

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """z of one example."""
        states = torch.stack([w @ x for w, x in zip(self.weights, inputs, strict=True)])  # (L, width)
        read = [reader @ h for reader, h in zip(self.readers, states, strict=True)]
        if self.form.planted is None:
            return self.SCALE * torch.stack([r[:SIZE] @ r[SIZE:] for r in read]).mean()
        item, taste = (read[layer - 1] for layer in self.form.planted)
        return self.SCALE * item @ taste + (self.leaks * states).sum()

    def statistics(self) -> StateStatistics:
        return StateStatistics.of(self.known["states"])

    def signals(self, examples: np.ndarray, names: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: self.known[name][examples] for name in names}

    def gradient_norms(self, sample: Sample) -> pl.DataFrame:
        """The table that `fisher.estimate` makes of a real teacher, by autograd. `sample`: of the lists it has."""
        chosen = sample.examples.reshape(len(sample.examples), -1)  # (M, C), C = 1 where drawn alone
        flat, columns = chosen.ravel(), self.layers + 2
        own = dict(self.named_parameters())
        gradients = vmap(grad(lambda own, x: functional_call(self, own, (x,))), (None, 0))
        found = [g.detach() for g in gradients(own, tuple(x[flat] for x in self.inputs)).values()]  # (S, width, size)
        norms = torch.stack([g.square().sum((1, 2)) for g in found], 1)  # (S, L)
        p = self.known["logits"][chosen].softmax(1)  # (M, C)
        means = [torch.einsum("mc,mcds->mds", p, g.unflatten(0, chosen.shape)) for g in found]
        of_lists = torch.stack([g.square().sum((1, 2)) for g in means], 1)  # (M, L)
        inputs = torch.stack([x[flat].square().sum(1) for x in self.inputs], 1)  # (S, L) ||dz/dW||^2 over ||dz/dh||^2
        whole_lists = sample.examples.ndim == 2

        def by_layer(values: torch.Tensor) -> np.ndarray:
            """(S, L) or (L,) -> of the columns 0..L + 1 of every example."""
            return nn.functional.pad(values.expand(len(flat), -1), (1, 1)).double().flatten().numpy()

        def each(values: np.ndarray) -> np.ndarray:
            return np.repeat(values, columns)

        weights = [w.detach() for w in self.weights]
        table = pl.DataFrame(
            {
                "list": each(np.searchsorted(sample.lists.offsets, flat, side="right") - 1),
                "example": each(flat),
                "label": each(sample.lists.labels()[flat]),
                "logit": each(self.known["logits"][flat].numpy()),
                "layer": np.tile(np.arange(columns), len(flat)),
                "gradient_norm": by_layer(norms),
                "list_norm": by_layer(of_lists.repeat_interleave(chosen.shape[1], 0)),
                "sensitivity": by_layer(norms / inputs * self.states[flat].square().mean(2)),
                "parameters": by_layer(torch.tensor([w.numel() for w in weights])),
                "mean_square": by_layer(torch.stack([w.square().mean() for w in weights])),
            }
        )
        return table.with_columns(
            pl.col("label").fill_nan(None),
            pl.when(whole_lists).then("list_norm"),
            state=pl.lit("adapted"),
            source=pl.lit(sample.source),
            normalisation_part=0.0,
            list_normalisation_part=pl.when(whole_lists).then(0.0),
            attention=pl.lit(None),  # it has none
        ).select(*SCHEMA).cast(SCHEMA)  # fmt: skip
