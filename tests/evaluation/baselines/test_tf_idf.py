from math import log

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from fisher_ld.evaluation.baselines.tf_idf import Terms, TfIdf
from tests.evaluation.baselines.likes import lists_of

TEXTS = ["Toy Story", "toy toy soldiers", "Heat", "Se 7"]


def vectors_of(texts, longest):
    return Terms.of(texts, longest).vectors(texts).toarray()


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_vectors_are_those_of_scikit_learn(longest):
    rng = np.random.default_rng(longest)
    words = [*"abcdefgh", "Été", "x_1", "99%", "it's", "神", "—", ""]
    texts = [" ".join(rng.choice(words, rng.integers(9))) for _ in range(300)]
    theirs = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, longest), sublinear_tf=True, smooth_idf=False)
    expected = theirs.fit_transform(texts[:200]).toarray()
    ours = Terms.of(texts[:200], longest)
    assert list(ours.place) == theirs.get_feature_names_out().tolist()
    np.testing.assert_allclose(ours.vectors(texts[:200]).toarray(), expected, atol=1e-12)
    np.testing.assert_allclose(ours.vectors(texts[200:]).toarray(), theirs.transform(texts[200:]).toarray(), atol=1e-12)


def test_a_text_is_a_vector_of_length_1_over_its_words_by_how_rare_they_are():
    vectors = vectors_of(TEXTS, 1)
    common, rare = log(4 / 2) + 1, log(4) + 1
    expected = (1 + log(2)) * common * common / np.hypot(common, rare) / np.hypot((1 + log(2)) * common, rare)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[0] @ vectors[1] == pytest.approx(expected)
    assert np.count_nonzero(vectors[3]) == 2  # a word of one character is one


def test_a_candidate_is_like_the_history_by_its_words():
    lists = lists_of([0], [2], [[1, 2, 0, 3]], sequences=[np.array([0, 2])])
    found = TfIdf.fit(TEXTS, longest=1, decay=0.5).score(lists)[0]
    vectors = vectors_of(TEXTS, 1)
    assert found == pytest.approx([0.5 * vectors[0] @ vectors[1], 1, 0.5, 0])


def test_pairs_of_words_are_terms_where_asked():
    texts = ("a b c", "c b a")
    one, two = (vectors_of(texts, longest) for longest in (1, 2))
    assert one[0] @ one[1] == pytest.approx(1)
    assert two[0] @ two[1] < 0.9


def test_all_items_score_after_texts_as_after_the_items_that_have_them():
    fitted = TfIdf.fit(TEXTS, longest=2, decay=0.5)
    lists = lists_of([0], [2], [[0, 1, 2, 3]], sequences=[np.array([0, 2])])
    np.testing.assert_allclose(fitted.score_all(["Toy Story", "Heat"]), fitted.score(lists)[0], atol=1e-12)
    np.testing.assert_array_equal(fitted.score_all([]), np.zeros(4))
    np.testing.assert_array_equal(fitted.score_all(["never seen"]), np.zeros(4))
