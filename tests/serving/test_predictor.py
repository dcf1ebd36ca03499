import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.onnx import same_rank
from fisher_ld.batches.lists import read_lists, read_texts
from fisher_ld.batches.prompts import saved_prompts
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.models.scorer import Scorer, score_lists
from fisher_ld.models.vocabulary import prune
from fisher_ld.serving.predictor import load
from tests.evaluation.world import PROMPT, one_by_one, write_model, write_processed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    write_processed(root / "processed")
    write_model(root / "model", 2)
    return root / "model", root / "processed"


def texts_of(processed):
    lists, texts = read_lists(processed, "test_popularity"), read_texts(processed)
    histories = [[texts[item] for item in lists.history(i)] for i in range(len(lists))]
    return lists, histories, [[texts[item] for item in candidates] for candidates in lists.candidates]


@pytest.mark.parametrize("batch_users", [1, 7])
def test_free_text_scores_as_the_stored_lists_do(world, batch_users):
    folder, processed = world
    lists, histories, candidates = texts_of(processed)
    found = load(folder, Compute(CPU, False, batch_users)).score(histories, candidates)
    expected = score_lists(Scorer.load(folder), lists, saved_prompts(folder, processed))
    assert [z.dtype for z in found[:2]] == [np.float32] * 2
    for mine, stored in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, stored, atol=1e-5)


def test_a_query_scores_as_one_prompt_for_each_candidate(world):
    folder, processed = world
    lists, histories, candidates = texts_of(processed)
    predictor = load(folder)
    for q in (4, 9):
        (found,) = predictor.score([histories[q]], [candidates[q]])
        np.testing.assert_allclose(found, one_by_one(predictor.backend.scorer, lists, q), atol=1e-5)


def test_bf16_is_near_and_repeats(world):
    folder, processed = world
    _, histories, candidates = texts_of(processed)
    exact = load(folder).score(histories[:5], candidates[:5])
    rounded = load(folder, Compute(CPU, True, 2))
    first, again = (np.concatenate(rounded.score(histories[:5], candidates[:5])) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert 0 < np.abs(first - np.concatenate(exact)).max() < 0.05


def test_a_text_that_training_never_saw_is_read_in_smaller_pieces(tmp_path):
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(alphabet | {"to": 256, "toy": 257, "un": 258}, [("t", "o"), ("to", "y"), ("u", "n")]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    pruned, _ = prune(PreTrainedTokenizerFast(tokenizer_object=inner), ["toy", PROMPT["history"], PROMPT["candidate"]])
    write_model(tmp_path, 2, pruned)
    predictor, texts = load(tmp_path), ["toy", "tot", "un\u73a9", "\U0001f3ac"]
    pieces = [len(ids) for ids in predictor.tokenizer(texts).input_ids]
    assert pieces == [1, 2, 5, 4], "bytes, as un is in no text that was seen"
    scores = predictor.rank(["toy", "never seen"], texts).scores
    assert np.isfinite(scores).all() and len(set(scores.tolist())) == len(texts)


def test_a_ranking_is_of_one_user_the_best_first(world):
    predictor = load(world[0])
    ranking = predictor.rank(["m1", "m2"], ["m3", "m9", "m3", "m4"])
    np.testing.assert_array_equal(ranking.scores, predictor.score([["m1", "m2"]], [["m3", "m9", "m3", "m4"]])[0])
    assert (np.diff(ranking.scores[ranking.order]) <= 0).all()
    assert ranking.order.tolist().index(0) < ranking.order.tolist().index(2), "equal ones as they were given"


def test_in_float64_it_is_what_the_model_says_of_each_stored_prompt_to_1e_9(world, float64_norms):
    folder, processed = world
    lists, histories, candidates = texts_of(processed)
    predictor, whole = load(folder), Scorer.load(folder).double()
    predictor.backend.scorer.double()
    found = predictor.score(histories, candidates)
    assert found[0].dtype == np.float64
    for number, mine in enumerate(found):
        np.testing.assert_allclose(mine, one_by_one(whole, lists, number), rtol=0, atol=1e-9)


def test_under_bf16_the_positive_keeps_the_rank_that_it_has_in_the_stored_scores(world):
    folder, processed = world
    lists, histories, candidates = texts_of(processed)
    stage = Scorer.placed(folder, Compute(CPU, True, 4), frozen=True)  # as score_student has it
    stored = score_lists(stage, lists, saved_prompts(folder, processed))
    assert same_rank(load(folder, Compute(CPU, True)).score(histories, candidates), stored, lists.positive) >= 0.99


def test_bf16_hardly_changes_the_rank_of_the_positive(world):
    lists, histories, candidates = texts_of(world[1])
    exact, rounded = (load(world[0], Compute(CPU, bf16, 4)).score(histories, candidates) for bf16 in (False, True))
    assert same_rank(rounded, exact, lists.positive) >= 0.9


def test_the_share_of_positives_that_keep_their_rank():
    exact, rounded = [np.array([3.0, 2, 1]), np.array([3.0, 2, 1])], [np.array([3.0, 1, 2]), np.array([3.0, 1, 2])]
    assert same_rank(rounded, exact, np.array([0, 1])) == 0.5
    assert same_rank([np.zeros(3)], exact[:1], np.array([0])) == 0, "a tie is another rank"


def test_many_candidates_are_read_in_pieces(world, monkeypatch):
    predictor = load(world[0])
    rows = []
    monkeypatch.setattr(
        predictor.backend.scorer,
        "pack",
        lambda *given, inner=predictor.backend.scorer.pack: rows.append(1) or inner(*given),
    )
    many = [f"m{i % 40}" for i in range(6000)]
    scores = predictor.rank(["m1", "m2"], many).scores
    assert len(rows) > 1
    np.testing.assert_allclose(scores[:40], predictor.rank(["m1", "m2"], many[:40]).scores, atol=1e-5)


def test_what_is_no_text_or_no_model_is_refused(world, tmp_path):
    predictor = load(world[0])
    with pytest.raises(ValueError, match="expected a text, got 7 of type int"):
        predictor.rank(["m1"], ["m2", 7])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="expected a list of texts, got the text 'm1'"):
        predictor.rank("m1", ["m2"])
    with pytest.raises(UserError, match="expected the folder of a model"):
        load(tmp_path)


def test_queries_of_several_sizes_texts_that_repeat_and_users_without_history(world):
    predictor = load(world[0], Compute(CPU, False, 4))
    histories, candidates = [["m1", "m2"], [], ["m1", "m1"]], [["m3", "m1", "m3"], ["m2"], ["m4", "m5"]]
    found = predictor.score(histories, candidates)
    assert [len(z) for z in found] == [3, 1, 2]
    assert found[0][0] == pytest.approx(found[0][2], abs=1e-6)
    for query in range(3):
        alone = predictor.score(histories[query : query + 1], candidates[query : query + 1])
        np.testing.assert_allclose(alone[0], found[query], atol=1e-5)
    assert predictor.score([], []) == []


def test_the_order_of_the_history_counts(world):
    forth, back = load(world[0]).score([["m1", "m2"], ["m2", "m1"]], [["m3"], ["m3"]])
    assert abs(forth[0] - back[0]) > 1e-4


@pytest.mark.parametrize(("histories", "candidates"), [([["m1"]], []), ([["m1"]], [[]]), ([], [["m1"]])])
def test_queries_that_do_not_match_are_refused(world, histories, candidates):
    with pytest.raises(ValueError, match="one or more candidates for each of"):
        load(world[0]).score(histories, candidates)


def test_a_query_longer_than_the_context_is_refused(world):
    with pytest.raises(UserError, match="context ends at 64"):
        load(world[0]).score([["m1 " * 70]], [["m2"]])


def test_of_a_long_history_the_latest_are_read_as_many_as_the_data_set_says(world, tmp_path):
    predictor = load(world[0])
    assert predictor.history_length == 3
    long = [f"m{i}" for i in range(9)]
    np.testing.assert_array_equal(predictor.score([long], [["m20"]]), predictor.score([long[-3:]], [["m20"]]))
    shutil.copytree(world[0], tmp_path / "alone")
    assert load(tmp_path / "alone").history_length is None


def test_several_threads_get_what_one_gets(world):
    """As MLflow's server asks, of lists of many lengths."""
    _, histories, candidates = texts_of(world[1])
    asked = [(histories[i], candidates[i][: 1 + i % 7]) for i in range(24)]
    predictor = load(world[0])
    expected = [predictor.rank(*one).scores for one in asked]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda one: predictor.rank(*one).scores, asked))
    for mine, its in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-5)


def test_a_candidate_without_a_token_is_refused(world, tmp_path):
    shutil.copytree(world[0], tmp_path / "model")
    template = read_json(tmp_path / "model/prompt.json")
    write_json(tmp_path / "model/prompt.json", template | {"candidate": "{text}"})
    with pytest.raises(UserError, match=r"a candidate has no token.*template such as"):
        load(tmp_path / "model").rank(["m1"], ["m2", ""])


def test_half_a_letter_is_refused(world):
    with pytest.raises(UserError, match=r"expected a text in Unicode, got 'a\\ud800'"):
        load(world[0]).rank(["m1"], ["a\ud800"])
