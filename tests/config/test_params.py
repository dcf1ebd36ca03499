import datetime
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from fisher_ld.config.messages import flatten, keys
from fisher_ld.config.params import Method, Params, load_params, parse
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_yaml
from fisher_ld.distillation.methods import METHODS

ROOT = Path(__file__).parents[1]


def refusal(raw):
    with pytest.raises(UserError) as error:
        parse(raw)
    return str(error.value)


def test_params_yaml_holds_exactly_the_keys():
    raw = read_yaml(ROOT / "params.yaml")
    assert sorted(flatten(raw)) == sorted(keys(Params))
    parse(raw)


def test_defaults_are_valid_and_frozen():
    params = parse({})
    with pytest.raises(Exception, match="frozen"):
        params.seed = 1


def test_all_errors_at_once():
    raw = {"fisher": {"betta": 0.3, "update_rate": 2}, "distill": {"layer_map": "al"}, "student": {"layers": 0}}
    text = refusal(raw)
    assert text.startswith("4 errors in the parameters:")
    assert "fisher.betta: unknown key, did you mean beta?" in text
    assert "fisher.update_rate: expected at most 1, got 2" in text
    assert "distill.layer_map: expected 'all', 'spaced', 'last' or 'fisher', got 'al'; did you mean all?" in text
    assert "student.layers: expected at least 1, got 0" in text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sed": 1}, "sed: unknown key, did you mean seed?"),
        ({"fisher": {"alpha": 1}}, "fisher.alpha: unknown key, did you mean distill.alpha?"),
        ({"cache": {"zzz": 1}}, "cache.zzz: unknown key, valid are windows, shard_rows"),
        ({"cache": None}, "cache: expected a section with keys of its own, got None"),
        ({"cache": 4}, "cache: expected a section with keys of its own, got 4"),
        ({"fisher": {"samples": True}}, "fisher.samples: expected a valid integer, got True"),
        ({"fisher": {"samples": "8"}}, "fisher.samples: expected a valid integer, got '8'"),
        ({"fisher": {"beta": False}}, "fisher.beta: expected a number, not true or false, got False"),
        ({"fisher": {"beta": "high"}}, "fisher.beta: expected a valid number"),
        ({"fisher": {"beta": float("nan")}}, "fisher.beta: expected a finite number, got nan"),
        ({"distill": {"explicit_l2": "no"}}, "distill.explicit_l2: expected a valid boolean, got 'no'"),
        ({"distill": {"temperature": 0}}, "distill.temperature: expected greater than 0, got 0"),
        (
            {"methods": ["none", "fisher-ld"]},
            "methods: expected a list that names each method once, uniform and fisher-ld among them",
        ),
        ({"methods": ["uniform", "fisher-ld", "fishr"]}, "got 'fishr'; did you mean fisher?"),
        ({"data": {"fold": 5}}, "data.fold: expected 'none', 0, 1, 2, 3 or 4, got 5"),
        ({"teacher": {"adapt": {"method": "loraa"}}}, "got 'loraa'; did you mean lora?"),
        ({"data": {"test_from": "soon", "split": "global_time"}}, "expected a date such as 2018-01-31, got 'soon'"),
        ({"data": {"split": "global_time"}}, "data: split: global_time and `test_from`"),
        ({"data": {"history_block": 30}}, "data: history_block (30) must not exceed history_length (10)"),
        ({"data": {"item_text": "a film"}}, "data: item_text: 'a film' must hold {title}"),
        ({"data": {"item_text": "{title"}}, "'{title' is not a template"),
        ({"data": {"item_text": "{title:d}"}}, "'{title:d}' is not a template"),
        ({"teacher": {"prompt": {"candidate": "{text.name}?"}}}, "'{text.name}?' is not a template"),
        ({"distill": {"alpha": 0}}, "  methods: none learns from labels alone, and distill.alpha gives them no weight"),
        ({"evaluate": {"zero_shot_users": 1}}, "evaluate.zero_shot_users: expected at least 2, got 1"),
        (
            {"data": {"source": {"kind": "table", "columns": {"order": "place"}}}},
            "data.source: kind: table needs `interactions` and `items`",
        ),
        (
            {"data": {"source": {"kind": "table", "interactions": "a", "items": "b"}}},
            "table needs `columns.timestamp` (seconds since 1970) or `columns.order`",
        ),
        (
            {
                "data": {
                    "source": {"kind": "table", "interactions": "a", "items": "b", "columns": {"order": "place"}},
                    "split": "global_time",
                    "test_from": "2020-01-01",
                }
            },
            "global_time needs timestamps, and `source.columns.timestamp` names none",
        ),
        ({"data": {"source": {"kind": "amazon-2023"}}}, "data.source: kind: amazon-2023 needs `category`"),
        ({"data": {"source": {"category": "Books"}}}, "data.source: `category` is for the Amazon kinds only"),
        ({"data": {"source": {"items": "i.csv"}}}, "data.source: `interactions` and `items` are for kind: table"),
        ({"teacher": {"prompt": {"history": "liked\n"}}}, "teacher.prompt: history: 'liked\\n' must hold {text}"),
        ({"teacher": {"prompt": {"candidate": "?"}}}, "teacher.prompt: candidate: '?' must hold {text}"),
        ({"teacher": {"prompt": {"yes": "no", "no": "no"}}}, "teacher.prompt: `yes` and `no` must differ"),
        ({"student": {"hidden_size": 64}}, "student: init: first keeps the teacher's widths; set hidden_size to null"),
        (
            {"student": {"init": "random", "hidden_size": 30, "heads": 4}},
            "hidden_size (30) must be a multiple of heads",
        ),
        ({"student": {"init": "random", "heads": 4, "kv_heads": 3}}, "heads (4) must be a multiple of kv_heads (3)"),
        ({"distill": {"alpha": 0, "output_weight": 0, "layer_weight": 0}}, "there is no loss to train on"),
        ({"teacher": {"adapt": {"first_layers": 1}}}, "item_steps must be 0 where first_layers is 1"),
    ],
)
def test_refused(raw, message):
    text = refusal(raw)
    assert text.startswith("1 error in the parameters:")
    assert message in text


def test_contradictions_of_one_section_come_together():
    text = refusal({"student": {"hidden_size": 30, "heads": 4, "kv_heads": 3}})
    assert text.startswith("3 errors")


def test_values_are_coerced(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "teacher:\n  adapt:\n    learning_rate: 1e-5\n  prompt:\n    yes: A\n    no: B\n"
        "data:\n  split: global_time\n  test_from: 2018-01-31\nfisher:\n  beta: 1\n"
    )
    params = load_params(path)
    assert params.teacher.adapt.learning_rate == 1e-5
    assert (params.teacher.prompt.yes, params.teacher.prompt.no) == ("A", "B")
    assert params.data.test_from == "2018-01-31"
    assert params.fisher.beta == 1.0
    assert parse({"distill": {"learning_rate": "1e-4"}}).distill.learning_rate == 1e-4
    assert (
        parse({"data": {"test_from": datetime.date(2020, 2, 1), "split": "global_time"}}).data.test_from == "2020-02-01"
    )


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
        load_params(path)


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").iterdir()), ids=lambda path: path.name)
def test_profiles_are_valid_and_quick_is_small(profile):
    raw = read_yaml(ROOT / "params.yaml")
    for line in profile.read_text().splitlines():
        *sections, key = line.split("=")[0].split(".")
        section = raw
        for name in sections:
            section = section[name]
        section[key] = yaml.safe_load(line.split("=")[1])
    users = parse(raw).data.max_users
    assert users == (40 if profile.name == "quick" else None)


def test_methods_are_those_that_distill_knows():
    assert set(get_args(Method)) == set(METHODS)
    assert set(load_params(ROOT / "params.yaml").methods) == set(METHODS)


def test_defaults_are_those_of_the_main_job():
    """Who leaves a key out gets what the README's job has; but a text that any data can fill, and the gate."""
    ours, main = (flatten(p.model_dump(mode="json")) for p in (Params(), load_params(ROOT / "params.yaml")))
    assert {key for key in main if ours[key] != main[key]} == {"data.item_text", "teacher.ignore_gate"}
