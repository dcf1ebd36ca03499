import numpy as np
import pytest

from fisher_ld.batches.lists import list_file, read_lists
from fisher_ld.evaluation.two_stage import choose_first_stage, pools, two_stage, write_lists
from tests.evaluation.baselines.likes import lists_of

N = 300
SEQUENCES = [np.array([5, 9, 3]), np.array([1, 2, 250])]
MAIN = lists_of([0, 1], [2, 2], [[3, 7], [8, 250]], sequences=SEQUENCES, positive=[0, 1])


LIKED = dict(enumerate(SEQUENCES))


class Smallest:
    """The smaller an item's number, the better."""

    def score(self, lists):
        return [-items.astype(float) for items in lists.candidates]


class Equal:
    def score(self, lists):
        return [np.zeros(len(items)) for items in lists.candidates]


def made(fitted=None, seed=0):
    return two_stage(fitted or Smallest(), MAIN, pools({"matched": MAIN}, np.zeros(N, bool), LIKED), seed)


def test_the_best_that_the_user_does_not_like_are_handed_on_with_the_true_item():
    lists, missing = made()
    expected = sorted(set(range(102)) - {5, 9})
    assert sorted(lists.candidates[0].tolist()) == expected and not missing[0]
    expected = sorted(set(range(101)) - {1, 2} | {250})  # 250 in place of the last
    assert sorted(lists.candidates[1].tolist()) == expected and missing[1]
    assert [c[p] for c, p in zip(lists.candidates, lists.positive, strict=True)] == [3, 250]
    assert lists.history(0).tolist() == [5, 9]


def test_the_place_of_the_true_item_tells_nothing_and_comes_from_the_seed():
    assert made().lists.positive.tolist() == made().lists.positive.tolist()
    places = np.array([made(seed=seed).lists.positive for seed in range(60)])
    assert (np.ptp(places, axis=0) > 60).all() and abs(places.mean() - 49.5) < 10


def test_equal_scores_are_drawn():
    drawn = {item for seed in range(20) for item in made(Equal(), seed).lists.candidates[0].tolist()}
    assert len(drawn) > 280
    assert np.mean([made(Equal(), seed).missing.mean() for seed in range(30)]) == pytest.approx(2 / 3, abs=0.15)


def test_what_the_user_touched_is_left_out_liked_or_not():
    touched = {0: np.arange(50), 1: LIKED[1]}
    lists, _ = two_stage(Smallest(), MAIN, pools({"matched": MAIN}, np.zeros(N, bool), touched), 0)
    assert sorted(lists.candidates[0].tolist()) == [3, *range(50, 149)]


def test_only_cold_items_of_test_lists_are_handed_on_where_some_are_cold():
    uniform = lists_of([0, 1], [2, 2], [[3, 40, 41], [250, 8, 42]], sequences=SEQUENCES, positive=[0, 0])
    cold = np.isin(np.arange(N), [3, 7, 8, 40, 41, 42, 250, 299])  # 299 is of the validation lists
    found = pools({"matched": MAIN, "uniform": uniform}, cold, LIKED)
    assert [items.tolist() for items in found] == [[3, 7, 8, 40, 41, 42, 250], [3, 7, 8, 40, 41, 42, 250]]


def test_the_first_stage_is_the_best_with_all_labels_or_reads_where_items_are_cold():
    quality = {"item-knn": 0.9, "item-knn-all": 0.5, "ease-all": 0.6, "tf-idf": 0.95}
    assert choose_first_stage(quality, cold=False) == "ease-all"
    assert choose_first_stage(quality, cold=True) == "tf-idf"


def test_lists_come_back_as_other_families_do(tmp_path):
    import polars as pl

    liked = {"user": range(2), "items": [items.tolist() for items in SEQUENCES]}
    processed = tmp_path / "processed"
    processed.mkdir()
    pl.DataFrame(liked).write_parquet(processed / "sequences.parquet")
    lists, _ = made()
    write_lists(list_file(processed, "test_two-stage"), lists)
    back = read_lists(processed, "test_two-stage")
    for name in ("user", "start", "position", "positive", "offsets"):
        np.testing.assert_array_equal(getattr(back, name), getattr(lists, name))
    np.testing.assert_array_equal(np.concatenate(back.candidates), np.concatenate(lists.candidates))
