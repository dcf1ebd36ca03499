from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from fisher_ld.config.paths import HISTORY
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import write_json
from fisher_ld.serving.recommender import Catalogue, Recommender, load_recommender, read_catalogue
from tests.evaluation.world import ITEMS, write_model
from tests.serving.conftest import student


def test_the_best_by_the_model_of_what_the_first_stage_found(recommender, liked):
    answer = recommender.recommend(liked, k=4, rerank=12)
    numbers, texts, _ = recommender.resolve(liked)
    found = recommender.catalogue.candidates(numbers, texts, 12)
    ranking = recommender.predictor.rank(texts, [f"m{i}" for i in found])
    assert [item.text for item in answer.items] == [f"m{found[place]}" for place in ranking.order[:4]]
    assert [item.score for item in answer.items] == sorted(ranking.scores.tolist(), reverse=True)[:4]
    assert answer.items[0].item_id == answer.items[0].text.replace("m", "id") and answer.unknown == []


def test_what_was_liked_is_not_recommended_and_all_else_can_be(recommender, liked):
    everything = recommender.recommend(liked, k=ITEMS, rerank=ITEMS)
    assert {item.text for item in everything.items} == {f"m{i}" for i in range(ITEMS)} - set(liked)


def test_candidates_come_by_turns_of_likes_and_words_then_of_popularity(recommender, liked):
    catalogue = recommender.catalogue
    numbers, texts, _ = recommender.resolve(liked)
    by_likes = catalogue.knn.similar[numbers].sum(0)
    found = catalogue.candidates(numbers, texts, 5)
    assert (by_likes[found] > 0).all(), "no other item shares a word, so all come by likes"
    assert (
        catalogue.candidates([], [], 3).tolist()
        == np.lexsort((range(ITEMS), -catalogue.items["count"].to_numpy()))[:3].tolist()
    )
    rare = min(set(range(ITEMS)) - set(numbers), key=lambda item: by_likes[item])
    assert catalogue.candidates(numbers, [*texts, f"m{rare}"], 2).tolist() == [found[0], rare]
    assert len(set(catalogue.candidates(numbers, texts, ITEMS).tolist())) == ITEMS - len(set(numbers))


def test_an_item_that_nobody_liked_is_found_by_its_words(recommender):
    catalogue = recommender.catalogue
    similar = catalogue.knn.similar.tolil()
    similar[:, 5] = similar[5] = 0
    nobody = pl.when(pl.int_range(ITEMS) == 5).then(0).otherwise(pl.col("count"))
    new = replace(catalogue, items=catalogue.items.with_columns(count=nobody))
    new = replace(new, knn=replace(catalogue.knn, similar=similar.tocsr()))
    assert new.candidates([], ["m5 of old"], 1).tolist() == [5]
    answer = Recommender(recommender.predictor, new).recommend(["m5 of old", "m1"], k=ITEMS)
    assert "m5" in [item.text for item in answer.items]


def test_titles_stand_for_texts_and_what_is_no_item_is_read_as_it_is(recommender):
    numbers, texts, unknown = recommender.resolve([" the third", "M5", "m6 of m7"])
    assert (numbers, texts, unknown) == ([3, 5], ["m3", "m5", "m6 of m7"], ["m6 of m7"])
    answer = recommender.recommend(["m6 of m7"], k=2)
    assert answer.unknown == ["m6 of m7"] and len(answer.items) == 2
    again = recommender.recommend(["The Third"], k=3).items
    assert again == recommender.recommend(["m3"], k=3).items


@pytest.fixture(scope="module")
def renamed(recommender):
    """Over the same catalogue with other titles and texts by item number."""

    def make(**changed):
        items = recommender.catalogue.items.to_dict(as_series=False)
        for column, values in changed.items():
            for number, value in values.items():
                items[column][number] = value
        return Recommender(recommender.predictor, replace(recommender.catalogue, items=pl.DataFrame(items)))

    return make


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("Toy Story (1995)", 1),
        ("toy story (2010)", 2),
        ("Toy Story", 2),
        ("Toy Story (1937)", 2),
        ("Mummy, The (1932)", 4),
        ("Mummy, The", 5),
        ("  Caf&eacute; Society  (1995)", 6),
        ("Heat (1995)", None),
    ],
)
def test_a_title_as_its_source_spells_it_is_the_item_of_that_year(renamed, name, number):
    titles = {1: "Toy Story", 2: "Toy Story", 4: "The Mummy", 5: "The Mummy", 6: "Café Society"}
    texts = {1: "Toy Story '95", 2: "Toy Story (2010)", 4: "The Mummy '32", 5: "The Mummy 1999", 6: "Café Society '95"}
    films = renamed(title=titles, text=texts, count={1: 1, 2: 9, 4: 1, 5: 9})
    known, read, unknown = films.resolve([name])
    assert (known, read) == (([], [name]) if number is None else ([number], [texts[number]]))
    assert unknown == ([name] if number is None else [])


def test_a_text_that_two_items_have_is_not_recommended_twice_nor_after_it_was_liked(renamed):
    films = renamed(text={7: "M8", 9: "m10"}, count={7: 1, 8: 2, 9: 3, 10: 2})
    assert not {7, 8} & set(films.catalogue.candidates(films.resolve(["m8"])[0], ["m8"], ITEMS).tolist())
    found = films.catalogue.candidates([1], ["m1"], ITEMS - 3).tolist()
    assert len(found) == ITEMS - 3 and {8, 9} < set(found) and not {1, 7, 10} & set(found)


def test_a_user_without_likes_gets_the_popular_ones_ranked(recommender):
    assert len(recommender.recommend([], k=3).items) == 3


def test_the_explanation_is_true_of_the_model(recommender, liked):
    moved = recommender.explain(liked, "The Third")
    assert len(moved) == len(liked)
    for place in (0, len(liked) - 1):
        without = liked[:place] + liked[place + 1 :]
        whole, part = (recommender.predictor.rank(history, ["m3"]).scores[0] for history in (liked, without))
        assert moved[place] == pytest.approx(whole - part, abs=1e-5)


def test_of_a_long_history_the_model_reads_the_latest_and_nothing_liked_comes_back(recommender):
    long = [f"m{i}" for i in range(12)]
    assert recommender.predictor.history_length == 3
    found = recommender.first_stage(long, ITEMS)
    assert found.texts == long and sorted(found.candidates.tolist()) == list(range(12, ITEMS))
    candidates = [f"m{i}" for i in found.candidates]
    best = recommender.predictor.rank(long[-3:], candidates).scores.max()
    assert recommender.ranked(found, 1).items[0].score == pytest.approx(best, abs=1e-5)
    moved = recommender.explain(long, "m20")
    assert moved[:9] == [0] * 9 and all(moved[9:])


def test_a_written_catalogue_finds_the_same(recommender, liked, tmp_path):
    write_model(tmp_path / "[exported]", 2)
    recommender.catalogue.write(tmp_path / "[exported]" / "catalogue")
    write_json(tmp_path / "[exported]" / HISTORY, {"length": recommender.predictor.history_length})
    exported = load_recommender(tmp_path / "[exported]")
    assert exported.recommend(liked, 5).items == recommender.recommend(liked, 5).items


def test_first_stage_and_search(recommender, liked):
    numbers, texts, _ = recommender.resolve(liked)
    found = recommender.first_stage(liked, 12)
    alone = recommender.described(found.candidates[:4], [0] * 4)
    assert [item.text for item in alone] == [f"m{i}" for i in recommender.catalogue.candidates(numbers, texts, 4)]
    assert recommender.ranked(found, 4).items == recommender.recommend(liked, 4, 12).items
    assert set(recommender.find("M3", 50)) == {"m3", *(f"m3{i}" for i in range(10))}
    assert len(recommender.find("", 5)) == 5 and recommender.find("none such", 5) == []


@pytest.mark.parametrize(("k", "rerank"), [(0, 10), (5, 0)])
def test_numbers_below_1_are_refused(recommender, k, rerank):
    with pytest.raises(ValueError, match="k and rerank of at least 1"):
        recommender.recommend(["m1"], k, rerank)


def test_a_model_without_a_catalogue_and_a_data_set_without_rivals_say_so(data, tmp_path):
    with pytest.raises(UserError, match="no catalogue lies beside this model"):
        read_catalogue(tmp_path)
    with pytest.raises(UserError, match="run the stage preprocess"):
        Catalogue.of(type(data)("none", tmp_path))
    assert read_catalogue(student(data)).items.height == ITEMS
