"""A batch in pieces against the whole of it, on one rank; tests/core/test_ranks.py has several."""

import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.prompts import Prompts
from fisher_ld.distillation.signals import SIGNALS, asked
from fisher_ld.models import together
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.together import division, score_together


def world():
    """8 items; lists of 2, 3 or 4 candidates: three of the first user, two of the second, one of the third."""
    candidates = [np.arange(n) for n in (2, 4, 3, 3, 2, 4)]
    columns = np.array([0, 0, 0, 1, 1, 2]), np.zeros(6, int), np.array([1, 2, 3, 2, 3, 3]), np.ones(6, int)
    offsets = np.cumsum([0, *map(len, candidates)])
    lists = Lists(*columns, candidates, offsets, [np.arange(u, u + 4) for u in range(3)])
    pieces = [[5 + item, *[3] * (item % 3)] for item in range(8)]
    return lists, Prompts([1, 2], pieces, pieces)


LISTS, PROMPTS = world()


def scorer(layers=2, **config):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": layers}
    own = LlamaConfig(**shape, vocab_size=32, max_position_embeddings=64, num_labels=2, pad_token_id=0, **config)
    return Scorer(LlamaForSequenceClassification(own)).eval().requires_grad_()


def in_pieces(count, own, signals=SIGNALS):
    return score_together(own, LISTS, LISTS.windows(), PROMPTS, lambda batch: asked(own, batch, signals), count)


@pytest.mark.parametrize("count", [2, 3, 100])
def test_what_a_loss_reads_and_its_gradients_are_those_of_the_whole(count):
    """With a loss that no list tells alone, and none that needs a gradient of the head."""
    given, told = [], []
    for pieces in (1, count):
        own = scorer()
        scored, batch = in_pieces(pieces, own)
        values = [scored.states, *(scored.attention[name].flatten(1) for name in sorted(scored.attention))]
        loss = sum((value.float().std(0) ** 3).sum() for value in values)
        told.append([*values, scored.logits, scored.sensitivity(batch), batch.examples, batch.labels, batch.list_of])
        loss.backward()
        given.append({name: parameter.grad for name, parameter in own.named_parameters()})
    torch.testing.assert_close(told[1], told[0], rtol=1e-5, atol=1e-6)
    assert given[0]["model.score.weight"] is None and given[1]["model.score.weight"] is None
    torch.testing.assert_close(given[1], given[0], rtol=1e-4, atol=1e-5)


def test_a_piece_that_is_computed_again_drops_out_the_same(monkeypatch):
    """All pieces kept, and all but the last computed twice."""
    found = []
    for again in (False, True):
        own = scorer(attention_dropout=0.5).train()
        if not again:
            monkeypatch.setattr(together, "_computed_again", lambda score, piece: score(piece))
        torch.manual_seed(5)
        scored, _ = in_pieces(3, own)
        after = torch.rand(1)
        scored.logits.square().sum().backward()
        found.append([after, *(p.grad for p in own.parameters())])
        monkeypatch.undo()
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


@dataclass
class Alive:
    """Bytes that autograd keeps, now and at most."""

    now: int = 0
    peak: int = 0
    seen: dict = field(default_factory=dict)

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        kept = self.seen.get(place) and self.seen[place]()
        if kept is None:
            kept = Kept(storage)
            self.seen[place] = weakref.ref(kept)
            weakref.finalize(kept, self.free, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        return kept, tensor

    def free(self, size):
        self.now -= size


class Kept:
    def __init__(self, storage):
        self.storage = storage


@pytest.mark.parametrize("count", [2, 6])
def test_only_one_piece_has_activations(count):
    peaks = []
    for pieces in (1, count):
        own, alive = scorer(layers=12), Alive()
        with torch.autograd.graph.saved_tensors_hooks(alive.pack, lambda packed: packed[1]):
            in_pieces(pieces, own, ())[0].logits.square().mean().backward()
        peaks.append(alive.peak - sum(4 * p.numel() for p in own.parameters()))
    print(peaks, alive.now)
    assert peaks[1] < peaks[0] * {2: 0.7, 6: 0.35}[count]


def test_a_piece_has_a_list_at_least(monkeypatch):
    assert division(5, 3) == (1, 3) and division(2, 3) == (1, 2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert division(9, 3) == (4, 2)
    assert division(3, 8) == (1, 3)  # each rank does all
