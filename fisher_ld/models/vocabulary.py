"""A byte-level BPE tokenizer cut down to what some texts need."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fisher_ld.config.teacher_fit import not_byte_level
from fisher_ld.core.errors import UserError


def _derivation(token: str, ranks: dict[tuple[str, str], int]) -> set[str]:
    """`token` (which merges need not reach where the tokenizer looks whole words up first), and every token that BPE
    passes through on its way to it from single bytes."""
    parts, passed = list(token), {token, *token}
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(parts)))
        if rank == len(ranks):
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        passed.add(parts[place])
    return passed


def _renumber(processor: dict[str, Any] | None, new: dict[int, int]) -> None:
    """Puts the new ids into what adds special tokens around a text, in place."""
    if processor is None or processor["type"] == "ByteLevel":
        return
    if processor["type"] == "Sequence":
        for part in processor["processors"]:
            _renumber(part, new)
    elif processor["type"] == "TemplateProcessing":
        for special in processor["special_tokens"].values():
            special["ids"] = [new[i] for i in special["ids"]]
    elif processor["type"] in ("RobertaProcessing", "BertProcessing"):
        for name in ("sep", "cls"):
            token, number = processor[name]
            processor[name] = [token, new[number]]
    else:
        raise UserError(
            f"students: vocabulary: pruned does not know the tokenizer's post-processor {processor['type']}; "
            "set students: vocabulary: full"
        )


def prune(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """A tokenizer that splits `texts` exactly as before and everything else into smaller pieces, down to bytes, never
    an unknown token; and the old id of each new one (V,). A byte that the teacher itself has no token for (SmolLM2:
    some control characters) has no embedding to keep, and is dropped as the teacher drops it. Raises UserError for
    any other kind of tokenizer."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if isinstance(backend, Tokenizer) else {}
    if faults := not_byte_level(state):
        raise UserError(faults[0])
    model: dict[str, Any] = state["model"]
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    merges: list[tuple[str, str]] = [(first, second) for first, second in pairs]
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    added = {token["content"] for token in state["added_tokens"]}
    texts = list(texts)
    used = {i for ids in tokenizer(texts, add_special_tokens=False).input_ids for i in ids}
    if odd := [text for text in texts if any(name in text for name in added)]:
        used |= {
            i for ids in tokenizer(odd, add_special_tokens=False, split_special_tokens=True).input_ids for i in ids
        }
    kept = (set(ByteLevel.alphabet()) | added) & set(model["vocab"])  # every byte that the teacher knows
    for token in set(tokenizer.convert_ids_to_tokens(sorted(used))) - added:
        kept |= _derivation(token, ranks)

    old = sorted({model["vocab"][token] for token in kept} | {token["id"] for token in state["added_tokens"]})
    new = {number: place for place, number in enumerate(old)}
    model["vocab"] = {t: new[i] for t, i in sorted(model["vocab"].items(), key=lambda entry: entry[1]) if i in new}
    model["merges"] = [list(m) for m in merges if {*m, "".join(m)} <= kept]
    for token in state["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber(state.get("post_processor"), new)
    state["padding"] = state["truncation"] = None  # they hold old ids; each call sets its own
    names = {name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    pruned = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), model_max_length=tokenizer.model_max_length, **names
    )
    return pruned, np.array(old)
