import polars as pl
import pytest

from fisher_ld.datasets.titles import text
from fisher_ld.preprocessing.ids import same_id, same_ids

SAME = {
    "7": "7", "7.0": "7", "7.00": "7", "7,0": "7", "7,00": "7", "-7.0": "-7", "007.0": "007", "1e+16": "1" + "0" * 16,
    "1.5E+16": "15" + "0" * 15,
}  # fmt: skip
OTHER = ["7.5", "1,000", "7.0.0", "a.0", "1e5", "1e16", "1e-7", "1.5e+0", "12e+3", "B00", "", "e+", "v1.0", "7.", ",0"]


@pytest.mark.parametrize(("text", "expected"), [*SAME.items(), *((text, text) for text in OTHER)])
def test_an_id_is_one_text(text, expected):
    assert same_id(text) == expected
    assert same_ids(pl.Series([text, None])).to_list() == [expected, None]


def test_many_ids_at_once():
    texts = [*SAME, None, *OTHER]
    assert same_ids(pl.Series(texts)).to_list() == [text if text is None else same_id(text) for text in texts]


def test_a_float_beyond_whole_digits_is_the_same_in_both_files():
    numbers = [1.0849005750755005e18, 12345678901234567.0, 1e22]
    assert same_ids(pl.Series(numbers).cast(pl.String)).to_list() == [text(number) for number in numbers]
