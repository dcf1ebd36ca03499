"""What `-S` sets in the text of params.yaml, and what it leaves."""

import pytest

from fisher_ld.config.overrides import set_params
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_yaml

TEXT = """\
# what it is
run:
  methods: [none, uniform]  # names
  seeds:  # as DVC writes a list

# about data
  - 0
  - 1
data:
  users: null  # all
  empty:       # the same
  yes: " yes"
stages: {}  # more
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("overrides", "before", "after"),
    [
        (["run.methods=[]"], "methods: [none, uniform]  # names", "methods: []  # names"),
        (["run.methods=[a,b-c]"], "methods: [none, uniform]", "methods: [a, b-c]"),
        (
            ["run.seeds=[5]"],
            "seeds:  # as DVC writes a list\n\n# about data\n  - 0\n  - 1\n",
            "seeds: [5]  # as DVC writes a list\n\n# about data\n",
        ),
        (["data.users=7"], "users: null  # all", "users: 7  # all"),
        (["data.empty=7"], "empty:       # the same", "empty: 7       # the same"),
        (['data.yes=" Yes, sir"'], 'yes: " yes"', "yes: ' Yes, sir'"),
        (["+data.rate=1e-05"], 'yes: " yes"\n', 'yes: " yes"\n  rate: 1e-05\n'),
        (["+stages.adapt={processes:2}"], "stages: {}  # more", "stages: {adapt: {processes: 2}}  # more"),
        (["data.users=1", "run.seeds=[0,1]"], "users: null", "users: 1"),
        (["data.users=null"], "", ""),
    ],
)
def test_what_is_set_changes_and_nothing_else(path, overrides, before, after):
    set_params(path, overrides)
    assert path.read_text() == TEXT.replace(before, after)


def test_a_list_is_set_again_and_again(path):
    for methods in (["a"], [], ["b", "c"], []):
        set_params(path, [f"run.methods=[{','.join(methods)}]"])
        assert read_yaml(path)["run"] == {"methods": methods, "seeds": [0, 1]}


def test_a_key_is_added_behind_a_last_line_without_a_break(path):
    path.write_text("data:\n  users: 1  # one")
    set_params(path, ["+data.items=2"])
    assert path.read_text() == "data:\n  users: 1  # one\n  items: 2"


def test_a_key_that_is_taken_away(path):
    set_params(path, ["~data.yes", "~run"])
    assert read_yaml(path) == {"data": {"users": None, "empty": None}, "stages": {}}


def test_a_wrong_key_or_value_is_named_and_leaves_the_file(path):
    for override, what in {
        "run.methds=[]": r"run has no key 'methds'; did you mean methods\?",
        "rum.seeds=[]": r"the file has no key 'rum'; did you mean run\?",
        "run.seeds.zzz=1": "run.seeds is no section, so -S cannot set run.seeds.zzz",
        "~data.zzz": "data has no key 'zzz'; valid are users, empty, yes",
    }.items():
        with pytest.raises(UserError, match=rf"params\.yaml: {what}"):
            set_params(path, [override])
    for override, what in {
        'data.yes="${x}"': r"data.yes holds \$\{",
        "data.users=range(0,1)": r"params\.yaml: .*stands in quotes",
        "data.users=???": r"params\.yaml: .*stands in quotes",
    }.items():
        with pytest.raises(UserError, match=what):
            set_params(path, [override])
    with pytest.raises(UserError, match=r"""kept in quotes alone: -S 'data.yes=" a"'"""):
        set_params(path, ["data.yes= a"])
    assert path.read_text() == TEXT


@pytest.mark.parametrize(
    "text",
    ["a: &a {b: 1}\nc: *a\n", "a: &a {b: 1}\nc: {<<: *a, d: 2}\n", "c:\n  b: |\n    text\n  d: 1\n"],
    ids=["alias", "merge", "lines"],
)
def test_what_cannot_be_set_in_the_text_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(UserError, match=r"cannot set this beside .* aliases"):
        set_params(path, ["c.b=other"])
    assert path.read_text() == text
