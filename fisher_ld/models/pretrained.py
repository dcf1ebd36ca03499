"""The pretrained teacher, before any adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from fisher_ld.batches.lists import read_texts
from fisher_ld.batches.prompts import Prompts, answer_tokens, build_prompts, read_template
from fisher_ld.config.params import Answers
from fisher_ld.core.compute import Compute
from fisher_ld.models.scorer import Scorer, answering, with_layers


@dataclass(frozen=True)
class Pretrained:
    """The causal language model in a folder, which is not read yet, its tokenizer, and the prompts over the items of a
    data set."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    tokens: tuple[int, int]  # of yes and no

    @classmethod
    def of(cls, folder: Path, processed: Path, answers: Answers) -> Pretrained:
        """Raises UserError where an answer is no single token."""
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompts = build_prompts(tokenizer, read_texts(processed), read_template(processed))
        return cls(folder, tokenizer, prompts, answer_tokens(tokenizer, answers))

    def config(self, first: int | None = None) -> Any:
        """Of the scorer, or of its first layers."""
        config = answering(AutoConfig.from_pretrained(self.folder))
        return with_layers(config, first) if first else config

    def scorer(self, compute: Compute | None = None, frozen: bool = False) -> Scorer:
        """Where it computes (None: in float32 and main memory); `frozen` as of `Scorer.placed`. Raises UserError where
        the model cannot be a scorer."""
        if compute is None:
            return Scorer.from_causal_lm(self.folder, *self.tokens)
        return Scorer.placed(self.folder, compute, *self.tokens, frozen=frozen)
