"""Families of test lists beside each other."""

import pytest

from fisher_ld.config.paths import DataPaths, cell
from fisher_ld.core.files import write_json
from fisher_ld.report.blocks import Table, Text
from fisher_ld.report.families import families, flagged, order, turned

PATHS = DataPaths("movielens-100k")


def part(results):
    return results.parts["movielens-100k"]


def set_means(family, means):
    def change(content):
        for model, mean in means.items():
            content["quality"][family][model]["ndcg_10"]["mean"] = mean

    return change


def test_families_that_order_alike_correlate_fully(edited):
    def same(content):
        content["quality"]["uniform"] = content["quality"]["matched"]

    assert order(part(edited(PATHS.evaluate, same)), "uniform") == pytest.approx(1)


def test_families_that_order_the_other_way_correlate_the_other_way(edited):
    def opposite(content):
        for model, row in content["quality"]["uniform"].items():
            row["ndcg_10"]["mean"] = 1 - content["quality"]["matched"][model]["ndcg_10"]["mean"]

    assert order(part(edited(PATHS.evaluate, opposite)), "uniform") == pytest.approx(-1)


@pytest.mark.parametrize(("main", "other", "said"), [
    ("shown above", "shown below", True), ("shown below", "shown above", True),
    ("shown above", "not shown", False), ("shown above", "shown above", False), ("equal", "shown below", False),
])  # fmt: skip
def test_a_pair_changes_sides_where_both_families_show_it(edited, main, other, said):
    pair = ("small/uniform", "small/logits")

    def change(content):
        for rows in content["comparisons"].values():
            for row in rows:
                row["verdict"] = "not shown"
        for family, verdict in (("matched", main), ("popularity", other)):
            for row in content["comparisons"][family]:
                if (row["a"], row["b"]) == pair:
                    row["verdict"] = verdict

    assert turned(part(edited(PATHS.evaluate, change)), "popularity") == ([pair] if said else [])


@pytest.mark.parametrize(("suffix", "inverse", "knn", "flag"), [
    ("", 0.5, 0.4, True), ("-all", 0.5, 0.4, True), ("", 0.4, 0.5, False),
])  # fmt: skip
def test_a_family_in_which_inverse_popularity_beats_item_knn_is_flagged(edited, suffix, inverse, knn, flag):
    means = {f"rivals/inverse-popularity{suffix}": inverse, f"rivals/item-knn{suffix}": knn}
    results = edited(PATHS.evaluate, set_means("popularity", means))
    assert flagged(part(results), "popularity") is flag and not flagged(part(results), "matched")
    agreement = [block for block in families(part(results)) if isinstance(block, Table)][1]
    assert [bool(row[-1]) for row in agreement.rows] == [False, False, flag]


def test_the_main_family_stands_first(results):
    table = next(block for block in families(part(results)) if isinstance(block, Table))
    assert list(table.header[1:4]) == ["matched", "uniform", "popularity"]
    assert "inverse popularity" in [row[0] for row in table.rows]


def test_what_the_first_stage_left_out_is_counted(edited):
    def add(content):
        for of_family in content.values():
            if "uniform" in of_family:
                of_family["two-stage"] = of_family["uniform"]

    results = edited(PATHS.evaluate, add)
    found = {"first_stage": "ease-all", "lists": 500, "missing": 61, "share_missing": 0.122}
    write_json(cell("rivals", "movielens-100k") / "two_stage.json", found)
    said = [block.text for block in families(part(results)) if isinstance(block, Text)]
    assert "The first stage (EASE, all labels) left the true item out of 12.2% of its lists" in said[0]
