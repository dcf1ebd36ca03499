import pytest

from fisher_ld.datasets.titles import (
    _first_words,
    article_first,
    categories,
    clean,
    fill,
    find_separator,
    item,
    listed,
    movie,
    split_year,
)


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
        ("&lt;b&gt;Bold&lt;/b&gt; x", "Bold x"),
        ("Foo<script>var x=1;</script><STYLE type='a'>p {}</style >", "Foo"),
        ("Foo <script>if (a < b) x = 1;", "Foo"),
        ("<body><mark>Foo</mark></body><iframe src=x></iframe><button>Bar</button>", "Foo Bar"),
        ("<![CDATA[Foo]]>", "Foo"),
        ("<img src=\"x>y\" alt='<'>Foo", "Foo"),
        ("<b it's>Foo</b>", "Foo"),
        ("\u200b", None),
        ("&nbsp;\u200b ", None),
        ("<br>", None),
        ("I &lt;3 You", "I <3 You"),
        *((title, title) for title in ("I <3 You", "a < b > c", "<Untitled>", "<Scripted> & <Marked>", "1 <2")),
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
    ("value", "expected"),
    [
        ('["Books", "Sci-Fi"]', ["Books", "Sci-Fi"]),
        ("['Books' 'Fiction']", ["Books", "Fiction"]),
        ("[['Books' \"Kids' Fiction\"]\n ['It\\'s']]", ["Books", "Kids' Fiction", "It's"]),
        ("['Books' nan 'Fiction']", ["Books", "Fiction"]),
        ("['Books', nan]", ["Books"]),
        ("{'b', 'c', 'a'}", ["a", "b", "c"]),
        ("[&quot;Books&quot;]", ["Books"]),
        ('["&quot;Books&quot;"]', ['"Books"']),
        ("[Books] 'a' 'b'", ["[Books] 'a' 'b'"]),
        ("Home &amp; Garden", ["Home & Garden"]),
        ([{"genre": "Books"}], []),
    ],
)
def test_categories_of_a_table(value, expected):
    assert categories(listed(value)) == expected


def test_an_entity_does_not_separate():
    assert find_separator(["Home &amp; Garden", "Home &amp; Kitchen", "Arts &amp;amp; Crafts"]) is None
    assert find_separator(["Home &amp; Garden; Tools", "Tools; Toys"]) == ";"


@pytest.mark.parametrize(
    ("title", "short"),
    [
        (" ".join("abcdefghijklmnopq"), "a b c d e f g h i j k l m n o p"),
        ("a  &amp;\nb", "a & b"),
        ("神" * 99, "神" * 16),
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


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Heat of the night", "Heat of"),
        ("千と千尋の神隠し", "千と"),
        ("Spirited 千と千尋", "Spirited 千"),
        ("기생충 영화 제목", "기생충 영화"),
        ("ที่รัก", "ที่รั"),
        ("👩\u200d🚀👍🏽❤\ufe0f", "👩\u200d🚀👍🏽"),
        ("", ""),
    ],
)
def test_where_no_blanks_part_words_letters_count(text, first):
    assert _first_words(text, 2) == first
