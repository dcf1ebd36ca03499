"""The pretrained teacher, before any adaptation."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fisher_ld.batches.lists import read_texts
from fisher_ld.batches.prompts import Prompts, answer_tokens, build_prompts, read_template
from fisher_ld.config.params import Answers
from fisher_ld.models.scorer import Scorer


def load_pretrained(
    base: Path, processed: Path, answers: Answers, shard: bool = False
) -> tuple[Scorer, PreTrainedTokenizerBase, Prompts]:
    """The causal language model in `base` as a scorer, its tokenizer, and the prompts over the items of a data
    set. `shard`: for ranks that divide it among themselves. Raises UserError where an answer is no single token, or the
    model cannot be a scorer."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = build_prompts(tokenizer, read_texts(processed), read_template(processed))
    tokens = answer_tokens(tokenizer, answers)
    scorer = Scorer.sharded(base, tokens) if shard else Scorer.from_causal_lm(base, *tokens)
    return scorer, tokenizer, prompts
