"""A saved model under PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import in_pieces, longest_first
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import WHOLE, UserError, reading
from fisher_ld.models.scorer import Scorer


class TorchBackend:
    """`folder`: what `save` of fisher_ld.models.student wrote. `compute` None: the CPU in float32, a query at a time;
    its `batch_users` is how many queries are scored at once. Raises UserError where a file lacks."""

    def __init__(self, folder: Path, compute: Compute | None = None):
        for name, pattern in (("config.json", "config.json"), ("model.safetensors", "*.safetensors")):
            if not any(folder.glob(pattern)):
                raise UserError(f"{folder / name}: no such file; {WHOLE}")
        cpu = Compute(torch.device("cpu"), bf16=False)
        with reading(folder, WHOLE):
            self.scorer = Scorer.placed(folder, compute or cpu, frozen=True)

    def logits(self, lists: Lists, prompts: Prompts) -> np.ndarray:
        """z of every example: (examples,), float64 where the weights are, else float32. Raises UserError for a prompt
        longer than the model's context."""
        exact = self.scorer.model.score.weight.dtype  # of z too
        logits = torch.empty(int(lists.offsets[-1]), dtype=exact)
        pieces = in_pieces(lists, prompts)
        with torch.inference_mode():
            for group in longest_first(pieces, prompts, self.scorer.batch_users):
                batch = self.scorer.pack(pieces, group, prompts)
                logits[batch.examples.cpu()] = self.scorer(batch).logits.cpu()
        return logits.numpy()
