"""Prompts as token ids, tokenised piece by piece so that packed and single prompts agree to the token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fisher_ld.batches.lists import Lists, read_texts
from fisher_ld.config.params import Answers, Prompt
from fisher_ld.core.errors import WHOLE, UserError, reading
from fisher_ld.core.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIRS = ((" yes", " no"), (" Yes", " No"), ("yes", "no"), ("Yes", "No"), (" 1", " 0"), ("1", "0"))  # of answers


@dataclass(frozen=True)
class Prompts:
    """prefix + history pieces + one candidate piece is a prompt; its last token is the decision token."""

    prefix: list[int]
    history: list[list[int]]  # index: item number
    candidate: list[list[int]]  # index: item number

    def tokens(self) -> list[int]:
        """Every token id of any prompt, and the 0 of padding, in order."""
        return sorted({0, *self.prefix, *chain(*self.history), *chain(*self.candidate)})

    def check_alike(self, teacher: Prompts, method: str) -> None:
        """Raises UserError where a teacher's tokenizer cuts any piece otherwise, for a method that compares token by
        token."""
        pieces = [("the prefix", self.prefix, teacher.prefix)]
        for own, others in ((self.history, teacher.history), (self.candidate, teacher.candidate)):
            pieces += [(f"item {number}", a, b) for number, (a, b) in enumerate(zip(own, others, strict=True))]
        for piece, a, b in pieces:
            if len(a) != len(b):
                raise UserError(
                    f"{method} compares attention token by token, but the student's tokenizer cuts {piece} into "
                    f"{len(a)} tokens and the teacher's into {len(b)}: take a student with the teacher's tokenizer, or "
                    "a method of logits or states"
                )

    def longest(self, lists: Lists) -> int:
        """Tokens of the longest prompt of any candidate of these lists."""
        history = {user: lists.sequences[user] for user in np.unique(lists.user)}
        upto = {user: np.cumsum([0, *(len(self.history[item]) for item in items)]) for user, items in history.items()}
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
            "lower history_length or shorten item_text or prompt of the data set"
        )


def answer_tokens(tokenizer: PreTrainedTokenizerBase, answers: Answers) -> tuple[int, int]:
    """The token ids of yes and no. Raises UserError, with a pair that would do, unless they are two tokens."""
    words = (answers.yes, answers.no)
    if found := _tokens_of(tokenizer, words):
        return found
    read = [f"{word!r}, which this tokenizer reads as {tokenizer.tokenize(word)}" for word in words]
    pair = next((pair for pair in PAIRS if _tokens_of(tokenizer, pair)), None)
    remedy = "choose two words that it has"
    if pair:
        remedy = "set teacher.answers to {{yes: {}, no: {}}}".format(*map(json.dumps, pair))
    raise UserError(f"teacher.answers: expected two words of one token each, got {' and '.join(read)}; {remedy}")


def _tokens_of(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[int, int] | None:
    """None unless each word is a token of its own that the tokenizer knows."""
    found: list[list[int]] = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    tokens = {ids[0] for ids in found if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}
    return (found[0][0], found[1][0]) if len(tokens) == len(words) else None


def read_template(folder: Path) -> Prompt:
    """The template that `preprocess` wrote beside the data, or that a saved model was trained on."""
    with reading(folder / "prompt.json", WHOLE):
        return Prompt(**read_json(folder / "prompt.json"))


def build_prompts(tokenizer: Any, texts: Sequence[str], template: Prompt) -> Prompts:
    """The pieces of all prompts over items with these texts. `tokenizer`: of transformers, or a SavedTokenizer."""

    named = [name for name in getattr(tokenizer, "added_tokens_encoder", {}) if name.strip()]

    def encode(pieces: list[str], **options: Any) -> list[list[int]]:
        return tokenizer(pieces, add_special_tokens=False, **options).input_ids if pieces else []

    def filled(form: str) -> list[list[int]]:
        """Names of special tokens are plain text in an item's, and special in the template."""
        pieces = encode([form.format(text=text) for text in texts])
        odd = [i for i, text in enumerate(texts) if any(name in text for name in named)]
        special = any(name in form for name in named)
        parts = form.format(text="\0").split("\0") if special else ["", ""]
        around = [encode([part])[0] if part else [] for part in parts]
        plain = [texts[i] if special else form.format(text=texts[i]) for i in odd]
        for i, ids in zip(odd, encode(plain, split_special_tokens=True), strict=True):
            pieces[i] = [*around[0], *(token for after in around[1:] for token in (*ids, *after))]
        return pieces

    special = list(tokenizer("").input_ids)  # a beginning-of-text token where the tokenizer sets one
    return Prompts(
        prefix=special + encode([template.prefix])[0],
        history=filled(template.history),
        candidate=filled(template.candidate),
    )


def saved_prompts(model: Path, processed: Path) -> Prompts:
    """The prompts of a saved model over the items of a data set: its own tokenizer and template."""
    from transformers import AutoTokenizer

    return build_prompts(AutoTokenizer.from_pretrained(model), read_texts(processed), read_template(model))
