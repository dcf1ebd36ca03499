"""A small project folder: data, models of random weights, and score files of models of a chosen skill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from fisher_ld.batches.lists import Lists, list_file, read_lists, read_tests
from fisher_ld.config.paths import HISTORY, DataPaths, for_tests
from fisher_ld.core.files import write_json
from fisher_ld.evaluation.baselines.catalogue import rivals_of
from fisher_ld.evaluation.scores import Scores, write_scores
from fisher_ld.models.scorer import Scorer
from tests.given import given

USERS, ITEMS, CANDIDATES, SEEDS = 60, 40, 12, 2
DATA = DataPaths("movielens-100k")
PROMPT = {"prefix": "liked\n", "history": "{text}\n", "candidate": "{text}?"}
METHODS = ("none", "logits", "uniform", "fisher", "fisher-reversed", "fisher-ld")
RIVALS = {f"rivals/{name}": row.labels for name, row in rivals_of(given().rivals).items()}  # -> their labels
SKILL = {
    "teacher": 3.0, "zero-shot": 0.0, "truncated-1": 1.0, "small/start": 0.6, "small/none": 0.8, "small/logits": 1.2,
    "small/uniform": 1.5, "small/fisher": 1.5, "small/fisher-reversed": 0.0, "small/fisher-ld": 1.6,
    **dict.fromkeys(RIVALS, 0.3), "rivals/item-knn": 0.5,
}  # fmt: skip
CHANGES = {
    "students": {
        "small": {"init": "first", "layers": 1, "vocabulary": "full"}
        | dict.fromkeys(("hidden_size", "intermediate_size", "heads", "kv_heads"))
    },
    "run": {"methods": list(METHODS), "seeds": list(range(SEEDS)), "shallow": ["truncated-1"]},
    "evaluate": {"permutations": 1000},
    "efficiency": {"queries": 6},
    "gate": {"override": False},
    "cluster": {"threads": 1},
    "teacher": {"precision": "fp32", "answers": {"yes": "yes", "no": "no"}},
    "distill": {"precision": "fp32"},
}  # of params.yaml


def write_processed(folder: Path) -> None:
    """One list a user in each file, of the popularity family for the first 40; others were not written. User u likes
    5 to 9 items."""
    rng = np.random.default_rng(0)
    for made in (folder, for_tests(folder)):
        made.mkdir(parents=True)
    sequences = [rng.permutation(ITEMS)[: rng.integers(5, 10)] for _ in range(USERS)]
    numbers = range(ITEMS)
    item = {"item": numbers, "text": [f"m{i}" for i in numbers], "categories": [[f"c{i % 5}"] for i in numbers]}
    pl.DataFrame(item).write_parquet(folder / "items.parquet")
    user = {"user": range(USERS), "train_positives": [len(s) - 2 for s in sequences]}
    pl.DataFrame(user).write_parquet(folder / "users.parquet")
    tested = {"user": range(USERS), "zero_shot": [u % 3 == 0 for u in range(USERS)]}
    pl.DataFrame(tested).write_parquet(for_tests(folder) / "users.parquet")
    pl.DataFrame({"user": range(USERS), "items": sequences}).write_parquet(folder / "sequences.parquet")
    for name, users, back in (("val", USERS, 2), ("test_matched", USERS, 1), ("test_popularity", 40, 1)):
        rows = []
        for u, items in enumerate(sequences[:users]):
            place = len(items) - back
            others = rng.choice(np.setdiff1d(np.arange(ITEMS), items), CANDIDATES - 1, replace=False)
            candidates = rng.permutation([items[place], *others])
            row = {"list": u, "user": u, "start": max(0, place - 3), "position": place}
            positive = int(np.flatnonzero(candidates == items[place])[0])
            rows.append(row | {"candidates": candidates.tolist(), "positive": positive})
        pl.DataFrame(rows).write_parquet(list_file(folder, name))
    write_json(folder / "prompt.json", PROMPT)
    write_json(folder / HISTORY, {"length": 3})


def write_model(folder: Path, layers: int, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """A sequence-classification model; of a tokenizer whose words are m0, m1, .., unless one is given. Its ids: yes 0,
    no 1, liked 2, ? 3, m{i} 4 + i."""
    if tokenizer is None:
        words = ["yes", "no", "liked", "?", *(f"m{i}" for i in range(ITEMS))]
        inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(layers)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    write_json(folder / "prompt.json", PROMPT)


def make_scores(lists: Lists, skill: float, seed: int) -> Scores:
    """Normal scores, the positive's raised by `skill`."""
    rng = np.random.default_rng(seed)
    values = [
        rng.normal(size=len(c)) + skill * (np.arange(len(c)) == p)
        for c, p in zip(lists.candidates, lists.positive, strict=True)
    ]
    return Scores(np.arange(len(lists)), values)


def write_skilled(path: Path, lists: Lists, skill: float, seed: int, every: int = 1) -> None:
    """Scores of every so many-th list."""
    scores = make_scores(lists, skill, seed)
    write_scores(path, scores.numbers[::every], scores.values[::every])


def write_shelf() -> None:
    """Test scores of every model of SKILL, below the working directory, those of the validation lists of models that
    answer yes or no, and what was known before."""
    for family, lists in read_tests(DATA).items():
        for number, (model, skill) in enumerate(SKILL.items()):
            for seed in range(SEEDS if trained(model) else 1):
                path = DATA.test(model, seed) / f"{family}.parquet"
                write_skilled(path, lists, skill, SEEDS * number + seed, 3 if model == "zero-shot" else 1)
    for model in ("teacher", "truncated-1", *filter(trained, SKILL)):
        for seed in range(SEEDS if trained(model) else 1):
            write_skilled(DATA.validation(model, seed), read_lists(DATA.processed, "val"), SKILL[model], 99 + seed)
    write_json(DATA.gate("small"), {"truncated": {"depth": 1}, "best_rival": "rivals/item-knn"})
    for model in filter(trained, SKILL):
        for seed in range(SEEDS):
            write_json(DATA.training(model, seed) / "fit.json", fit(SKILL[model]))


def trained(model: str) -> bool:
    return model.startswith("small/") and model != "small/start"


def fit(quality: float, **changes: float) -> dict[str, float | None]:
    """fit.json of a student that learned."""
    learned = {"moved": 0.3, "same_order": 0.05, "layer_loss": None, "validation_ndcg_10": quality}
    return {**learned, **changes}


def one_by_one(scorer: Scorer, lists: Lists, number: int) -> list[float]:
    """z of each candidate of a list, each as a prompt of its own: liked m.. m.. m..?"""
    found = []
    for item in lists.candidates[number]:
        ids = [2, *(4 + int(i) for i in lists.history(number)), 4 + int(item), 3]
        no, yes = scorer.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].tolist()
        found.append(yes - no)
    return found
