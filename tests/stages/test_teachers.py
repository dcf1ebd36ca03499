"""A teacher of every supported architecture, from its folder to the scores of its students."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fisher_ld.batches.lists import read_tests
from fisher_ld.config.paths import student
from fisher_ld.core.files import read_json
from fisher_ld.evaluation.scores import read_scores
from stages import (
    adapt_teacher,
    cache_signals,
    cache_teacher,
    choose_strength,
    distill,
    download_teacher,
    estimate_fisher,
    layer_weights,
    score_student,
    score_zero_shot,
    start_student,
)
from tests.stages.test_fisher_stages import DATA, TEACHER, params, write_data
from tests.teachers import CONFIGS, TOKENIZERS, write_teacher

METHOD, SEED, SHAPES = "fisher-ld", 0, ("small", "first")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_data(np.random.default_rng(0))
    pl.DataFrame({"user": range(8), "train_positives": 2}).write_parquet(DATA.processed / "users.parquet")
    pl.DataFrame({"user": range(8), "zero_shot": True}).write_parquet(DATA.processed_test / "users.parquet")
    return tmp_path


def asked(architecture):
    byte_level = TOKENIZERS[architecture][0] == "byte-level"
    shape = {"layers": 2, "vocabulary": "pruned" if byte_level else "full"}
    narrow = {"hidden_size": 8, "intermediate_size": 16, "heads": 2, "kv_heads": 1}
    words = (" yes", " no") if byte_level else ("yes", "no")
    return params(
        teacher={
            "source": {"kind": "local", "name": "mine", "revision": None},
            "answers": dict(zip(("yes", "no"), words, strict=True)),
        },
        students={"small": {"init": "random", **shape, **narrow}, "first": {"init": "first", **shape}},
    )


def end_to_end(asked, run):
    """Everything between the folder and the scores, in so few steps that nothing is learned. Nothing that is trained
    looks at the test lists."""
    download_teacher.main(asked, run)
    score_zero_shot.main(asked, run, DATA.name)
    aside = DATA.processed_test.rename("aside")
    adapt_teacher.main(asked, run, DATA.name, TEACHER)
    cache_teacher.main(asked, run, DATA.name, TEACHER)
    estimate_fisher.main(asked, run, DATA.name, TEACHER)
    layer_weights.main(asked, run, DATA.name, METHOD)
    cache_signals.main(asked, run, DATA.name, METHOD, TEACHER)
    for shape in SHAPES:
        start_student.main(asked, run, DATA.name, shape, TEACHER)
        choose_strength.main(asked, run, DATA.name, shape, METHOD, TEACHER)
        distill.main(asked, run, DATA.name, shape, METHOD, SEED, TEACHER)
    aside.rename(DATA.processed_test)
    for shape in SHAPES:
        score_student.main(asked, run, DATA.name, shape, METHOD, SEED)


def check_saved(folder):
    """Loaded as anybody would, it scores two texts of one batch as each alone."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id < model.config.vocab_size
    texts = ["w1 w2 w3 ?", "w2"]
    both = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    for text, found in zip(texts, both, strict=True):
        alone = model(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(found.tolist(), alone.tolist(), atol=1e-4)


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=[] if name == "gemma3" else pytest.mark.slow) for name in CONFIGS]
)
def test_a_teacher_of_every_architecture_comes_to_its_students(project, run, architecture):
    shards = {"dtype": torch.bfloat16, "max_shard_size": "10KB"}
    write_teacher(project / "mine", architecture, changes={"eos_token_id": [1, 0]}, **shards)
    end_to_end(asked(architecture), run)
    models = [(name, SEED) for name in (student("small", METHOD), student("first", METHOD))]
    for model in [("teacher", TEACHER), *models]:
        check_saved(DATA.model(*model))
    for model in [("zero-shot", 0), *models]:
        for family, lists in read_tests(DATA).items():
            scores = np.concatenate(read_scores(DATA.test(*model) / f"{family}.parquet", lists).values)
            assert np.isfinite(scores).all() and scores.std() > 0
    assert read_json(DATA.model("teacher", TEACHER) / "config.json")["model_type"].startswith(architecture)
