"""A saved model in use: free text in, scores out. What is timed is what is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fisher_ld.batches.lists import Lists, make_lists
from fisher_ld.batches.packing import longest_first
from fisher_ld.batches.prompts import Prompts, build_prompts, read_template
from fisher_ld.config.params import Prompt
from fisher_ld.core.compute import Compute
from fisher_ld.models.scorer import Scorer


def query_lists(histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]) -> tuple[Lists, list[str]]:
    """Queries as lists of a user each, and the texts by the item numbers that the lists use. Raises ValueError where
    the two do not match, or a query has no candidate."""
    if len(histories) != len(candidates) or any(len(texts) == 0 for texts in candidates):
        counts = [len(texts) for texts in candidates]
        raise ValueError(f"expected one or more candidates for each of {len(histories)} histories, got {counts}")
    number: dict[str, int] = {}

    def items(queries: Sequence[Sequence[str]]) -> list[np.ndarray]:
        return [np.array([number.setdefault(text, len(number)) for text in texts], np.int64) for texts in queries]

    liked, asked = items(histories), items(candidates)
    none = np.zeros(len(liked), np.int64)  # as the positive: it is not known
    columns = {"user": np.arange(len(liked)), "start": none, "positive": none}
    return make_lists(columns | {"position": np.array([len(h) for h in liked])}, asked, liked), list(number)


class Predictor:
    """Scores of candidates for users that are known by what they liked."""

    def __init__(self, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, template: Prompt):
        self.scorer, self.tokenizer, self.template = scorer, tokenizer, template

    @classmethod
    def load(cls, folder: Path, compute: Compute | None = None) -> Predictor:
        """`folder`: what `save` of fisher_ld.models.student wrote. `compute` None: the CPU in float32, a query at a
        time; its `batch_users` is how many queries are scored at once."""
        scorer = Scorer.load(folder).on(compute or Compute(torch.device("cpu"), bf16=False))
        if scorer.bf16:  # once here, and not at every call by autocast
            for module in scorer.body.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.data = module.weight.data.bfloat16()
        return cls(scorer, AutoTokenizer.from_pretrained(folder), read_template(folder))

    def score(self, histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """z = logit(yes) - logit(no) of each candidate of each query, float32. `histories`: texts of what a user liked,
        oldest first. Raises ValueError where the queries do not match, UserError where one is longer than the model's
        context."""
        if len(histories) == len(candidates) == 0:
            return []
        lists, texts = query_lists(histories, candidates)
        prompts: Prompts = build_prompts(self.tokenizer, texts, self.template)
        logits = np.empty(lists.offsets[-1], np.float32)
        with torch.inference_mode():
            for group in longest_first(lists, prompts, self.scorer.batch_users):
                batch = self.scorer.pack(lists, group, prompts)
                logits[batch.examples.cpu()] = self.scorer(batch).logits.float().cpu()
        return np.split(logits, lists.offsets[1:-1])
