"""A saved tokenizer without transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from fisher_ld.core.errors import WHOLE, UserError, reading


class Tokens(NamedTuple):
    input_ids: Any  # list[int] of one text, list[list[int]] of several


class SavedTokenizer:
    """What `build_prompts` asks of a tokenizer, from the file tokenizer.json of a folder alone. Raises UserError where
    there is none."""

    def __init__(self, folder: Path):
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                f"{file}: no such file; without transformers a tokenizer is read from it alone. Take a teacher or a "
                "student whose tokenizer has one (a fast tokenizer)"
            )
        with reading(file, WHOLE):
            self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()  # the file may ask for both
        self._tokenizer.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder()
        self.added_tokens_encoder = {token.content: number for number, token in added.items()}

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> Tokens:
        """`split_special_tokens`: their names are read as plain text."""
        self._tokenizer.encode_special_tokens = split_special_tokens
        if isinstance(text, str):
            return Tokens(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        found = self._tokenizer.encode_batch_fast(list(text), add_special_tokens=add_special_tokens)
        return Tokens([encoding.ids for encoding in found])
