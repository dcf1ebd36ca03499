import copy
import datetime
import re

import pytest
import yaml

from fisher_ld.config.messages import flatten, keys
from fisher_ld.config.params import Params, load_params, merged, parse
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_yaml
from fisher_ld.datasets.catalogue import SOURCES
from fisher_ld.distillation.methods import METHODS
from tests.given import ROOT, given, raw

CATALOGUES = {"methods": METHODS, "sources": SOURCES}
MINE = {"kind": "table", "interactions": "a.csv", "items": "b.csv"}  # without columns
COLUMNS = {"user": "u", "item": "i", "title": "t"}


def refusal(changes):
    with pytest.raises(UserError) as error:
        given(changes)
    return str(error.value)


def test_params_yaml_holds_every_key():
    """Those of a catalogue's entries may be left out: a data set's are in `data`, a student's widths the teacher's."""
    catalogues = ("data_sets.", "students.", "cluster.stages")
    written = {key for key in flatten(raw()) if not key.startswith(catalogues)}
    assert written == {key for key in keys(Params) if not key.startswith(catalogues)}


def test_params_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        given().seed = 1


@pytest.mark.parametrize("key", ["fisher.beta", "data.max_users", "rivals", "data", "students.small.layers"])
def test_a_missing_key_is_named(key):
    left = copy.deepcopy(raw())
    *path, last = key.split(".")
    section = left
    for name in path:
        section = section[name]
    del section[last]
    with pytest.raises(UserError) as error:
        parse(left, CATALOGUES)
    lines = str(error.value).splitlines()
    assert lines == ["1 error in the parameters:", f"  {key}: missing; params.yaml is the only place of defaults"]


def test_all_errors_at_once():
    changes = {"fisher": {"betta": 0.3, "update_rate": 2}, "distill": {"layer_map": "al"}}
    text = refusal(changes | {"students": {"small": {"layers": 0}}})
    assert text.startswith("4 errors in the parameters:")
    assert "fisher.betta: unknown key, did you mean beta?" in text
    assert "fisher.update_rate: expected at most 1, got 2" in text
    assert "distill.layer_map: expected 'all', 'spaced', 'last' or 'fisher', got 'al'; did you mean all?" in text
    assert "students.small.layers: expected at least 1, got 0" in text


def test_a_data_set_takes_from_data_what_it_does_not_say():
    changes = {"data": {"max_users": 7, "prompt": {"history": "- {text}\n"}}}
    mine = {"source": {"kind": "movielens-1m"}, "user_core": 3, "prompt": {"prefix": "Films:\n"}}
    params = given({**changes, "data_sets": {"mine": mine}})
    assert params.data_sets["mine"].max_users == params.data_sets["movielens-100k"].max_users == 7
    assert params.data_sets["mine"].user_core == 3 and params.data.user_core == 5
    assert params.data_sets["mine"].prompt.model_dump() == {
        "prefix": "Films:\n",
        "history": "- {text}\n",
        "candidate": params.data.prompt.candidate,
    }
    assert params.data_sets["mine"].source.kind == "movielens-1m"


def test_what_data_says_wrong_is_said_once():
    text = refusal({"data": {"max_userz": 1, "fold": 5}, "data_sets": {"movielens-100k": {"max_rejected": 2}}})
    assert text.splitlines() == [
        "3 errors in the parameters:",
        "  data.fold: expected 'none', 0, 1, 2, 3 or 4, got 5",
        "  data.max_userz: unknown key, did you mean max_users?",
        "  data_sets.movielens-100k.max_rejected: expected at most 1, got 2",
    ]
    assert "1 error" in refusal({"data": None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "sed: unknown key, did you mean seed?"),
        ({"fisher": {"alpha": 1}}, "fisher.alpha: unknown key, did you mean distill.alpha?"),
        ({"gate": {"max_users": 1}}, "gate.max_users: unknown key, did you mean data.max_users?"),
        ({"cache": {"zzz": 1}}, "cache.zzz: unknown key, valid are shard_rows"),
        ({"cache": None}, "cache: expected a section with keys of its own, got None"),
        ({"cache": 4}, "cache: expected a section with keys of its own, got 4"),
        ({"students": 4}, "students: expected a section with keys of its own, got 4"),
        ({"students": {"small": 4}}, "students.small: expected a section with keys of its own, got 4"),
        ({"data_sets": {"mine": 4}}, "data_sets.mine: expected a section with keys of its own, got 4"),
        ({"data_sets": {"mine": None}}, "data_sets.mine.source: missing"),
        (
            {"data_sets": {"mine": {"source": {"kind": "movielens-1m"}, "max_usres": 4}}},
            "data_sets.mine.max_usres: unknown key, did you mean max_users?",
        ),
        (
            {"data_sets": {"movielens-100k": {"prompt": {"prefx": "Films"}}}},
            "data_sets.movielens-100k.prompt.prefx: unknown key, did you mean prefix?",
        ),
        ({"students": {"small": {"layer": 4}}}, "students.small.layer: unknown key, did you mean layers?"),
        (
            {"data_sets": {"my set": {"source": {"kind": "movielens-1m"}}}},
            "data_sets.my set: expected a name of letters, digits, _ and -, got 'my set'",
        ),
        (
            {"students": {"teacher": {"init": "first", "layers": 2, "vocabulary": "full"}}},
            "students.teacher: expected a name that is no model's (teacher, zero-shot, truncated, layerdrop, rivals)",
        ),
        ({"fisher": {"samples": True}}, "fisher.samples: expected a valid integer, got True"),
        ({"fisher": {"kind": True}}, "fisher.kind: expected 'model', 'label' or 'list', got True"),
        ({"fisher": {"samples": "8"}}, "fisher.samples: expected a valid integer, got '8'"),
        ({"fisher": {"beta": False}}, "fisher.beta: expected a number, not true or false, got False"),
        ({"fisher": {"beta": "high"}}, "fisher.beta: expected a valid number"),
        ({"fisher": {"beta": float("nan")}}, "fisher.beta: expected a finite number, got nan"),
        ({"distill": {"explicit_l2": "no"}}, "distill.explicit_l2: expected a valid boolean, got 'no'"),
        ({"distill": {"temperature": 0}}, "distill.temperature: expected greater than 0, got 0"),
        ({"run": {"seeds": [0, 0]}}, "run.seeds: expected a list of one or more, each once, got [0, 0]"),
        ({"run": {"shallow": []}}, "run.shallow: expected a list of one or more, each once, got []"),
        (
            {"run": {"methods": ["uniform", "fishr"]}},
            "run.methods.1: expected a name of the methods, got 'fishr'; did you mean fisher?",
        ),
        (
            {"run": {"methods": ["none"], "further_methods": ["none"]}},
            "run: further_methods: expected each once and none",
        ),
        (
            {"run": {"data": ["movielens-10k"]}},
            "  run.data: data_sets has no entry 'movielens-10k'; did you mean movielens-100k?",
        ),
        ({"run": {"students": ["smal"]}}, "  run.students: students has no entry 'smal'; did you mean small?"),
        (
            {"data_sets": {"mine": {"source": {"kind": "movielens-10m"}}}},
            "mine.source.kind: expected a name of the sources, got 'movielens-10m'; did you mean movielens-1m?",
        ),
        ({"data": {"max_items_lacking": 2}}, "data.max_items_lacking: expected at most 1, got 2"),
        (
            {"data_sets": {"movielens-100k": {"source": {"encoding": "utf-9"}}}},
            "movielens-100k.source.encoding: expected a name of an encoding such as utf-8 or cp1252, got 'utf-9'",
        ),
        ({"data": {"fold": 5}}, "data.fold: expected 'none', 0, 1, 2, 3 or 4, got 5"),
        ({"teacher": {"adapt": {"method": "loraa"}}}, "got 'loraa'; did you mean lora?"),
        ({"data": {"test_from": "soon", "split": "global_time"}}, "expected a date such as 2018-01-31, got 'soon'"),
        ({"data": {"split": "global_time"}}, "data: split: global_time and `test_from`"),
        ({"data": {"test_from": datetime.date(2020, 2, 1)}}, 'data.test_from: expected a date in quotes, "2020-02-01"'),
        (
            {"data_sets": {"movielens-100k": {"history_block": 30}}},
            "movielens-100k: history_block (30) must not exceed history_length (10)",
        ),
        ({"data": {"item_text": "a film"}}, "data: item_text: 'a film' must hold {title}"),
        ({"data": {"item_text": "{title"}}, "'{title' is not a template"),
        ({"data": {"item_text": "{title:d}"}}, "'{title:d}' is not a template"),
        ({"data": {"prompt": {"candidate": "{text.name}?"}}}, "'{text.name}?' is not a template"),
        ({"data": {"prompt": {"history": "liked\n"}}}, "data.prompt: history: 'liked\\n' must hold {text}"),
        ({"data": {"prompt": {"candidate": "?"}}}, "data.prompt: candidate: '?' must hold {text}"),
        (
            {"data": {"families": ["uniform", "matched"]}},
            "data: families: expected matched first, by which models are compared, got uniform",
        ),
        ({"data": {"families": ["matched", "matched"]}}, "data.families: expected a list of one or more, each once"),
        ({"data": {"families": ["matched", "unifrm"]}}, "got 'unifrm'; did you mean uniform?"),
        ({"data": {"test_users": 1}}, "data.test_users: expected at least 2, got 1"),
        ({"data": {"labelled_windows": 0}}, "data.labelled_windows: expected at least 1, got 0"),
        ({"data": {"transfer_windows": -1}}, "data.transfer_windows: expected at least 0, got -1"),
        ({"data": {"zero_shot_users": 1}}, "data.zero_shot_users: expected at least 2, got 1"),
        ({"teacher": {"answers": {"yes": "no", "no": "no"}}}, "teacher.answers: `yes` and `no` must differ"),
        (
            {"teacher": {"answers": {"yes": "Yes", "no": " No"}}},
            "teacher.answers: expected a blank before both words or before neither, got 'Yes' and ' No'",
        ),
        ({"seed": 2**31}, "seed: expected at most 2147483647, got 2147483648"),
        (
            {"tracking": {"experiment": 12}},
            """tracking.experiment: expected a text, got 12; quote it: "12", and in -S 'tracking.experiment="12"'""",
        ),
        ({"teacher": {"source": {"name": True}}}, 'teacher.source.name: expected a text, got True; quote it: "true"'),
        (
            {"run": {"methods": ["none", "fisher-ld-no-sampling"]}, "fisher": {"samples": 60, "unsampled": 60}},
            "fisher.unsampled: fisher-ld-no-sampling takes more examples than fisher.samples (60), got 60; raise it",
        ),
        (
            {"run": {"methods": ["none", "ranking"]}, "data": {"transfer_windows": 0}},
            "run.methods: ranking learns from transfer windows, of which movielens-100k has none",
        ),
        ({"distill": {"alpha": 0}}, "  distill.alpha: the method none learns from labels alone; raise it above 0"),
        (
            {"data_sets": {"mine": {"source": MINE}}},
            "mine.source: kind: table needs `interactions` and `items`",
        ),
        (
            {"data_sets": {"mine": {"source": {**MINE, "columns": COLUMNS}}}},
            "table needs `columns.timestamp` (times) or `columns.order`",
        ),
        (
            {
                "data_sets": {
                    "mine": {
                        "source": {**MINE, "columns": {**COLUMNS, "order": "place"}},
                        "split": "global_time",
                        "test_from": "2020-01-01",
                    }
                }
            },
            "data_sets.mine: split: global_time needs timestamps, and `source.columns.timestamp` names none",
        ),
        (
            {"data_sets": {"mine": {"source": {"kind": "amazon-2023"}}}},
            "data_sets.mine.source: kind: amazon-2023 needs `category`",
        ),
        (
            {"data_sets": {"movielens-100k": {"source": {"category": "Books"}}}},
            "data_sets.movielens-100k.source: `category` is for the Amazon kinds only",
        ),
        (
            {"data_sets": {"movielens-100k": {"source": {"items": "i.csv"}}}},
            "`: for kind: table only",
        ),
        (
            {"students": {"first": {"hidden_size": 64}}},
            "students.first: init: first keeps the teacher's widths; leave out hidden_size",
        ),
        (
            {"students": {"small": {"init": "random", "hidden_size": 30, "heads": 4}}},
            "hidden_size (30) must be a multiple of heads",
        ),
        (
            {"students": {"small": {"init": "random", "heads": 4, "kv_heads": 3}}},
            "heads (4) must be a multiple of kv_heads (3)",
        ),
        ({"distill": {"alpha": 0, "output_weight": 0, "layer_weight": 0}}, "there is no loss to train on"),
        ({"teacher": {"source": {"revision": "abc"}}}, "revision: of kind: hub only, kind is package"),
        ({"trials": {"strength": [1.0, 4.0]}}, "expected each factor once beside 1, got [1.0, 4.0]"),
        ({"cluster": {"memory": "64GB"}}, "cluster.memory: expected an amount such as 64G, got '64GB'"),
        ({"cluster": {"time": "4h"}}, "cluster.time: expected a time such as 4:00:00, got '4h'"),
        ({"cluster": {"sbatch": ["-p"]}}, "cluster.sbatch.0: expected an option such as --constraint=a100, got '-p'"),
        ({"run": {"shallow": ["truncated-0"]}}, "expected truncated-K, of K layers or layerdrop-K, of K layers, got"),
        (
            {"data_sets": {"mine": {"source": {**MINE, "columns": {**COLUMNS, "item": "u", "order": "o"}}}}},
            "`user` and `item` must be two columns, both are 'u'",
        ),
        (
            {"data_sets": {"mine": {"source": {**MINE, "columns": {**COLUMNS, "order": ""}}}}},
            "columns.order: expected at least 1 character, got ''",
        ),
        (
            {"data_sets": {"mine": {"source": {**MINE, "columns": {**COLUMNS, "order": "o"}, "encoding": "base64"}}}},
            "encoding: expected a name of an encoding such as utf-8 or cp1252, got 'base64'",
        ),
    ],
)
def test_refused(changes, message):
    text = refusal(changes)
    assert text.startswith("1 error in the parameters:")
    assert message in text


def test_contradictions_of_one_section_come_together():
    text = refusal({"students": {"first": {"hidden_size": 30, "heads": 4, "kv_heads": 3}}})
    assert text.startswith("3 errors")


def test_values_are_coerced(tmp_path):
    path = tmp_path / "params.yaml"
    changes = (
        "teacher:\n  adapt:\n    learning_rate: 1e-5\n  answers:\n    yes: A\n    no: B\n"
        "data_sets:\n  movielens-100k:\n    split: global_time\n    test_from: '2018-01-31'\nfisher:\n  beta: 1\n"
    )
    path.write_text(changes)
    params = given(read_yaml(path))
    assert params.teacher.adapt.learning_rate == 1e-5
    assert (params.teacher.answers.yes, params.teacher.answers.no) == ("A", "B")
    assert params.data_sets["movielens-100k"].test_from == "2018-01-31"
    assert params.fisher.beta == 1.0
    assert given({"distill": {"learning_rate": "1e-4"}}).distill.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("- a\n- b\n", "expected sections with keys, got list"),
        ("seed: [1\n", "not YAML"),
        ("seed: 1\nseed: 2\n", "not YAML"),
    ],
)
def test_bad_file(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        load_params(path, CATALOGUES)


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").iterdir()), ids=lambda path: path.name)
def test_profiles_are_valid_and_quick_is_small(profile):
    changes = {}
    for line in profile.read_text().splitlines():
        key, value = line.split("=", 1)
        assert key in flatten(raw()), f"{key} is no key of params.yaml"
        for name in reversed(key.split(".")):
            value = {name: yaml.safe_load(value) if isinstance(value, str) else value}
        changes = merged(changes, value)
    assert given(changes).data.max_users == (40 if profile.name == "quick" else None)
