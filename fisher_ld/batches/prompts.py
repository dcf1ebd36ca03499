"""Prompts as token ids, tokenised piece by piece so that packed and single prompts agree to the token."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fisher_ld.batches.lists import Lists
from fisher_ld.config.params import Prompt
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json


@dataclass(frozen=True)
class Prompts:
    """prefix + history pieces + one candidate piece is a prompt; its last token is the decision token."""

    prefix: list[int]
    history: list[list[int]]  # index: item number
    candidate: list[list[int]]  # index: item number
    yes: int
    no: int

    def tokens(self) -> list[int]:
        """Every token id of any prompt, and the 0 of padding, in order."""
        return sorted({0, *self.prefix, *chain(*self.history), *chain(*self.candidate)})

    def longest(self, lists: Lists) -> int:
        """Tokens of the longest prompt of any candidate of these lists."""
        upto = [np.cumsum([0, *(len(self.history[item]) for item in items)]) for items in lists.sequences]
        candidate = np.array([len(piece) for piece in self.candidate])
        places = zip(lists.user, lists.start, lists.position, lists.candidates, strict=True)
        lengths = [upto[user][end] - upto[user][begin] + candidate[c].max() for user, begin, end, c in places]
        return len(self.prefix) + int(max(lengths, default=0))

    def example(self, lists: Lists, example: int) -> list[int]:
        """Token ids of one candidate of one list, as a prompt of its own."""
        index = int(np.searchsorted(lists.offsets, example, side="right")) - 1
        place = example - int(lists.offsets[index])
        return [
            *self.prefix,
            *(token for item in lists.history(index) for token in self.history[item]),
            *self.candidate[lists.candidates[index][place]],
        ]


def check_context(tokens: int, context: int) -> None:
    """Raises UserError where a prompt of so many `tokens` is longer than what the model takes."""
    if tokens > context:
        raise UserError(
            f"a prompt has {tokens} tokens, but the model's context ends at {context}: "
            "lower data.history_length or shorten data.item_text or teacher.prompt"
        )


def single_token(tokenizer: PreTrainedTokenizerBase, word: str, key: str) -> int:
    """The one token id of an answer word. Raises UserError where it is several."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        pieces = tokenizer.convert_ids_to_tokens(ids)
        raise UserError(
            f"teacher.prompt.{key}: expected a word of one token, got {word!r}, which this tokenizer splits into "
            f"{pieces}. Choose another word (a leading space often makes the difference)."
        )
    return ids[0]


def build_prompts(tokenizer: PreTrainedTokenizerBase, processed: Path, prompt: Prompt) -> Prompts:
    texts = pl.read_parquet(processed / "items.parquet").sort("item")["text"].to_list()

    def encode(pieces: list[str]) -> list[list[int]]:
        return tokenizer(pieces, add_special_tokens=False).input_ids

    special = list(tokenizer("").input_ids)  # a beginning-of-text token where the tokenizer sets one
    return Prompts(
        prefix=special + encode([prompt.prefix])[0],
        history=encode([prompt.history.format(text=text) for text in texts]),
        candidate=encode([prompt.candidate.format(text=text) for text in texts]),
        yes=single_token(tokenizer, prompt.yes, "yes"),
        no=single_token(tokenizer, prompt.no, "no"),
    )


def saved_prompts(model: Path, processed: Path) -> Prompts:
    """The prompts of a saved model: its own tokenizer and template."""
    template = Prompt(**read_json(model / "prompt.json"))
    return build_prompts(AutoTokenizer.from_pretrained(model), processed, template)
