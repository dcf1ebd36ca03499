import numpy as np
import pytest

from fisher_ld.batches.lists import COLUMNS, make_lists, take
from fisher_ld.core.errors import UserError
from fisher_ld.fisher.sample import draw_examples, draw_lists, draw_samples
from tests.fisher.lists import LISTS, UNLABELLED

NONE = take(UNLABELLED, np.array([], int))


def test_drawn_examples_differ_by_seed_and_never_repeat():
    drawn = draw_examples(100, 30, seed=3)
    assert len(set(drawn)) == 30 and drawn.max() < 100
    assert (drawn == draw_examples(100, 30, seed=3)).all()
    assert (drawn != draw_examples(100, 30, seed=4)).any()
    assert len(draw_examples(10, 30, seed=3)) == 10


@pytest.mark.parametrize(("size", "each", "lists"), [(9, 5, 5), (3, 3, 8)])
def test_whole_lists_or_five_candidates_of_each_are_drawn(size, each, lists):
    places = {name: np.zeros(10, int) for name in COLUMNS}
    given = make_lists(places, [np.arange(size)] * 10, [np.arange(20)])
    drawn = draw_lists(given, 22, seed=3)
    assert drawn.shape == (lists, each)
    list_of = np.searchsorted(given.offsets, drawn, side="right") - 1
    assert (list_of == list_of[:, :1]).all()
    assert len(set(list_of[:, 0])) == lists and len(set(drawn.flat)) == drawn.size
    assert (drawn == draw_lists(given, 22, seed=3)).all() and (drawn != draw_lists(given, 22, seed=4)).any()
    assert len({tuple(row) for row in drawn - given.offsets[list_of]}) > 1 or size == each
    assert len(draw_lists(given, 10**4, seed=3)) == len(given)


def test_the_models_own_answers_come_from_windows_that_the_teacher_has_not_read():
    transfer, labelled = draw_samples(LISTS, UNLABELLED, 32, seed=0)
    assert (transfer.source, transfer.lists, transfer.examples.shape) == ("transfer", UNLABELLED, (7, 5))
    assert (labelled.source, labelled.lists, labelled.examples.shape) == ("labelled", LISTS, (32,))


def test_without_transfer_windows_labelled_lists_stand_for_both(capsys):
    (only,) = draw_samples(LISTS, NONE, 32, seed=0)
    assert (only.source, only.lists, only.examples.shape) == ("labelled", LISTS, (7, 5))
    assert "no transfer windows: " in capsys.readouterr().out


def test_no_examples_are_an_error():
    with pytest.raises(UserError, match="no list is labelled"):
        draw_samples(NONE, UNLABELLED, 32, seed=0)
