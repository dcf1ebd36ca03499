"""What `benchmarks.distillation` compares the cache with."""

import numpy as np
import torch

from benchmarks.distillation import OnlineTeacher
from fisher_ld.batches.packing import pack
from fisher_ld.distillation.signals import StateStatistics
from fisher_ld.models.scorer import unit_rms


def test_the_online_teacher_gives_the_signals_of_the_examples_it_is_asked_for(tiny):
    scorer = tiny.scorer()
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, scorer.context())
    with torch.no_grad():
        scored = scorer(batch, with_states=True)
    examples = np.array([7, 6, 8, 0, 2, 1])  # of two lists
    online = OnlineTeacher(scorer, tiny.lists, tiny.prompts, 2, 32, StateStatistics.of(unit_rms(scored.states)))
    found = online.signals(examples, ["logits", "states"])
    place = batch.examples.argsort()[torch.from_numpy(examples)]
    torch.testing.assert_close(found["logits"], scored.logits[place], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["states"], unit_rms(scored.states)[place], rtol=1e-4, atol=1e-5)
