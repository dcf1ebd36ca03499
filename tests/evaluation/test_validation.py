import numpy as np
import pytest
import torch

from fisher_ld.batches.lists import read_lists
from fisher_ld.batches.prompts import saved_prompts
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.evaluation.validation import same_order, score_validation, validator
from fisher_ld.models.scorer import Scorer
from tests.evaluation.world import DATA, USERS, one_by_one, write_model, write_processed


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_processed(DATA.processed)
    write_model(DATA.model("teacher"), 2)
    return Scorer.load(DATA.model("teacher")), saved_prompts(DATA.model("teacher"), DATA.processed)


def rank_of_positive(scores, positive):
    return 1 + int((scores > scores[positive]).sum())


def test_all_validation_lists_are_scored_as_one_prompt_each(model):
    scorer, prompts = model
    score_validation(scorer, DATA.processed, prompts, DATA.validation("teacher"))
    lists = read_lists(DATA.processed, "val")
    found = read_scores(DATA.validation("teacher"), lists)
    assert len(found.numbers) == USERS
    for number in (0, 17, 59):
        np.testing.assert_allclose(found.values[number], one_by_one(scorer, lists, number), atol=1e-5)


def test_validation_while_training_is_of_a_seeded_few_users(model):
    scorer, prompts = model
    score_validation(scorer, DATA.processed, prompts, DATA.validation("teacher"))
    lists = read_lists(DATA.processed, "val")
    scores = read_scores(DATA.validation("teacher"), lists).values
    ranks = [rank_of_positive(z, p) for z, p in zip(scores, lists.positive, strict=True)]
    gains = np.array([1 / np.log2(r + 1) if r <= 10 else 0 for r in ranks])
    assert validator(scorer, DATA.processed, prompts, USERS, 0)() == pytest.approx(gains.mean())
    some = np.random.default_rng(5).permutation(USERS)[:7]
    few = validator(scorer, DATA.processed, prompts, 7, 5)
    assert few() == pytest.approx(gains[some].mean())
    for values, number in zip(few.scores(), np.sort(some), strict=True):
        np.testing.assert_allclose(values, scores[number], atol=1e-5)


def test_a_validator_tells_whether_training_changed_an_order(model):
    scorer, prompts = model
    validate = validator(scorer, DATA.processed, prompts, 10, 0)
    before = validate.scores()
    assert same_order(before, validate.scores()) == 1
    with torch.no_grad():
        scorer.model.score.weight.neg_()
    assert same_order(before, validate.scores()) == 0


def test_same_order_is_that_of_whole_lists_with_ties():
    a = [np.array([0.1, 0.2, 0.3]), np.array([1.0, 1.0]), np.array([3.0, 2.0, 1.0]), np.array([0.0, 1.0])]
    b = [np.array([-9.0, 0.0, 7.0]), np.array([1.0, 2.0]), np.array([3.0, 1.0, 2.0]), np.array([5.0, 5.1])]
    assert same_order(a, b) == 0.5
