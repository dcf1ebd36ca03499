"""The fault list, row by row."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.table import ROWS, Row
from tests.faults.tables import CASES
from tests.faults.world import World

QUICK, SLOW = [row for row in ROWS if not row.slow], [row for row in ROWS if row.slow]
PARAMETERS = [*QUICK, *(pytest.param(row, marks=pytest.mark.faults) for row in SLOW)]


@pytest.fixture(scope="module")
def world(request, tmp_path_factory):
    heavy = any(item.get_closest_marker("faults") for item in request.session.items)
    made = World(tmp_path_factory.mktemp("faults"), heavy)
    yield made
    made.close()


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.name)
def test_fault(row: Row, world: World):
    row.test(world)


def test_the_list_is_whole():
    names = Counter(row.name for row in ROWS)
    assert not [name for name, count in names.items() if count > 1]
    assert {path.name for path in CASES.iterdir()} <= set(names)
    own = [row for row in ROWS if not row.name[0].isdigit()]
    assert len(own) >= 40
    assert max(Counter(row.kind for row in own).values()) <= 3
    assert all(row.injected and row.must for row in ROWS)
