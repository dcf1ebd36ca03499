import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import (
    Lists,
    concat,
    list_file,
    read_lists,
    read_sequences,
    read_taught,
    read_tests,
    take,
)
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import UserError


def lists():
    candidates = [np.array([3, 1]), np.array([2, 0, 4]), np.array([5])]
    columns = (np.array(c) for c in ([7, 3, 7], [0, 1, 0], [4, 2, 5], [1, 0, 0]))
    return Lists(*columns, candidates, np.array([0, 2, 5, 6]), [np.arange(9)] * 8)


def test_labels_stand_at_the_positives():
    assert lists().labels().tolist() == [0, 1, 1, 0, 0, 1]


def test_a_label_that_is_not_to_be_known_is_nan():
    some = lists()
    some.positive[1] = -1
    np.testing.assert_array_equal(some.labels(), np.array([0, 1, np.nan, np.nan, np.nan, 1], np.float32))


def test_the_history_ends_before_the_position():
    assert [lists().history(i).tolist() for i in range(3)] == [[0, 1, 2, 3], [1], [0, 1, 2, 3, 4]]


def test_windows_share_user_and_start():
    assert [w.tolist() for w in lists().windows()] == [[1], [0, 2]]


def test_take_and_concat_renumber():
    both = concat(take(lists(), np.array([2, 1])), lists())
    assert both.user.tolist() == [7, 3, 7, 3, 7]
    assert both.offsets.tolist() == [0, 1, 4, 6, 9, 10]
    assert [c.tolist() for c in both.candidates] == [[5], [2, 0, 4], [3, 1], [2, 0, 4], [5]]
    assert both.labels().tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 0, 1]


ROWS = {  # user, start, position, candidates, positive
    "labelled": [(0, 0, 1, [2, 1], 1), (0, 0, 2, [2, 3], 0)],
    "transfer": [(1, 0, 1, [3, 0, 2], -1), (1, 0, 2, [1, 2, 0], -1)],
    "test_matched": [(0, 0, 3, [0, 1], 1)],
    "test_uniform": [(0, 0, 3, [1, 2], 0)],
}


def write(folder, name):
    columns = ["user", "start", "position", "candidates", "positive"]
    table = pl.DataFrame(ROWS[name], schema=columns, orient="row").with_row_index("list")
    table.reverse().write_parquet(list_file(folder, name))  # the order of rows means nothing


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = DataPaths("mine")
    for folder in (paths.processed, paths.processed_test):
        folder.mkdir(parents=True)
    paths.first_stage.mkdir()
    sequences = {"user": [1, 0], "items": [[0, 3, 1], [3, 1, 2, 1]]}
    pl.DataFrame(sequences).write_parquet(paths.processed / "sequences.parquet")
    for name in ROWS:
        write(paths.processed, name)
    return paths


def rows(some):
    columns = zip(some.user, some.start, some.position, some.candidates, some.positive, strict=True)
    return [(u, s, p, c.tolist(), place) for u, s, p, c, place in columns]


def test_lists_are_read_in_the_order_of_their_numbers(data):
    labelled = read_lists(data.processed, "labelled")
    assert rows(labelled) == ROWS["labelled"]
    assert labelled.history(1).tolist() == [3, 1]


def test_sequences_of_users_whose_lists_are_not_read_are_empty(data):
    assert [row.tolist() for row in read_lists(data.processed, "test_matched").sequences] == [[3, 1, 2, 1], []]
    assert [row.tolist() for row in read_sequences(data.processed)] == [[3, 1, 2, 1], [0, 3, 1]]
    both = read_taught(data.processed).sequences
    assert [row.tolist() for row in both] == [[3, 1, 2, 1], [0, 3, 1]]
    with pytest.raises(IndexError, match="row 2 of 2"):
        both[2]


def test_the_teacher_answers_labelled_and_transfer_lists(data):
    taught = read_taught(data.processed)
    assert rows(taught) == ROWS["labelled"] + ROWS["transfer"]
    assert np.isnan(taught.labels()).tolist() == [False] * 4 + [True] * 6


def test_tests_are_the_families_that_were_written_wherever_they_stand(data):
    assert list(read_tests(data)) == ["matched", "uniform"]
    (data.processed_test / "test_uniform.parquet").rename(data.test_lists("two-stage"))
    found = read_tests(data)
    assert {family: rows(some) for family, some in found.items()} == {
        "matched": ROWS["test_matched"],
        "two-stage": ROWS["test_uniform"],
    }
    (data.processed_test / "test_matched.parquet").unlink()
    with pytest.raises(UserError, match=r"test_matched\.parquet: no such file; run the stage preprocess"):
        read_tests(data)


def test_lists_that_are_not_written_yet_name_the_stage(tmp_path):
    with pytest.raises(UserError, match=r"val\.parquet: no such file; run the stage preprocess"):
        read_lists(tmp_path, "val")


def test_arrays_of_a_table_are_parts_of_one(tmp_path):
    """An empty list among them."""
    rows = pl.DataFrame({"user": [1, 0, 2], "items": [[], [4, 5], [6]]}, {"user": pl.Int64, "items": pl.List(pl.Int32)})
    rows.write_parquet(tmp_path / "sequences.parquet", row_group_size=1)
    found = read_sequences(tmp_path)
    assert [part.tolist() for part in found] == [[4, 5], [], [6]] and found[0].dtype == np.int32
    assert found[0].base is found[2].base
