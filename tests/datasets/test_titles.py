import pytest

from fisher_ld.datasets.titles import article_first, categories, clean, fill, item, movie, split_year


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Empire Strikes Back, The", "The Empire Strikes Back"),
        ("Blue Angel, The (Blaue Engel, Der)", "The Blue Angel (Der Blaue Engel)"),
        ("Star Maker, The (Uomo delle stelle, L')", "The Star Maker (L'Uomo delle stelle)"),
        ("Hate (Haine, La)", "Hate (La Haine)"),
        ("Heat (a.k.a. Big Heat, The)", "Heat (a.k.a. The Big Heat)"),
        ("Cry, the Beloved Country", "Cry, the Beloved Country"),
        ("Corrina, Corrina", "Corrina, Corrina"),
        ("Good, The Bad, The", "The Good, The Bad"),
        ("Oh, A Day", "Oh, A Day"),
        ("Seven (Se7en)", "Seven (Se7en)"),
    ],
)
def test_the_article_comes_first(title, expected):
    assert article_first(title) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Toy Story (1995)", ("Toy Story", "1995")),
        ("Hate (Haine, La) (1995)", ("Hate (Haine, La)", "1995")),
        ("Fawlty Towers (1975-1979)", ("Fawlty Towers", "1975")),
        ("The Big Bang Theory (2007-)", ("The Big Bang Theory", "2007")),
        ("Stranger Things", ("Stranger Things", None)),
        ("(1995)", ("(1995)", None)),
        ("2001 (a film)", ("2001 (a film)", None)),
    ],
)
def test_the_year_is_split_off(title, expected):
    assert split_year(title) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("  Salt &amp; Pepper\n Mill ", "Salt & Pepper Mill"),
        ("", None),
        (None, None),
        (["a list"], None),
        (12, "12"),
        ("var aPageStart = (new Date()).getTime();", None),
        ("lone \ud800 surrogate", "lone ? surrogate"),
    ],
)
def test_clean(value, expected):
    assert clean(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Comedy|Drama", ["Comedy", "Drama"]),
        ("Beauty > Makeup > Nails", ["Beauty", "Makeup", "Nails"]),
        ([["Beauty", "Hair"], ["Beauty", "Skin"]], ["Beauty", "Hair", "Skin"]),
        (["Gift Cards", "Gift Cards", "</span></span>"], ["Gift Cards"]),
        (["Health | Care"], ["Health | Care"]),
        ("(no genres listed)", []),
        (["unknown"], []),
        (None, []),
    ],
)
def test_categories(value, expected):
    assert categories(value) == expected


@pytest.mark.parametrize(
    ("title", "short"),
    [
        (" ".join("abcdefghijklmnopq"), "a b c d e f g h i j k l m n o p"),
        ("a  &amp;\nb", "a & b"),
        (None, ""),
    ],
)
def test_a_short_title_is_its_first_16_words(title, short):
    assert item(title, ["x"]) == {"short_title": short, "title": title, "categories": ["x"]}


def test_a_field_of_the_source_is_kept_but_for_title_and_categories():
    found = item("a", ["x"], short_title="mine", title="b", categories="y", brand="c")
    assert found == {"short_title": "mine", "title": "a", "categories": ["x"], "brand": "c"}
    assert movie("Toy Story (1995)", "Animation")["short_title"] == "Toy Story"


def test_a_missing_field_leaves_no_empty_brackets():
    item = {"title": "Heat", "year": None, "categories": ["Crime", "Drama"]}
    assert fill("{title} ({year}) [{categories}]", item) == "Heat [Crime, Drama]"
    assert fill("{title} ({year})", item | {"year": "1995"}) == "Heat (1995)"
