import os
import subprocess
import sys

import pytest
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPTNeoConfig,
    GraniteConfig,
    OPTConfig,
    PhiConfig,
    Qwen3MoeConfig,
    Qwen3NextConfig,
    T5Config,
)

from fisher_ld.config.params import Answers
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from stages import check_params, download, download_teacher
from tests.given import ROOT, given
from tests.teachers import fast, write_teacher


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def test_the_data_of_a_name_are_laid_down(project, run):
    (project / "likes.csv").write_text("12345")
    columns = {"user": "u", "item": "i", "title": "t", "order": "place"}
    source = {"kind": "table", "interactions": "likes.csv", "items": "likes.csv", "columns": columns}
    download.main(given({"data_sets": {"mine": {"source": source}}}), run, "mine")
    assert (project / "data/mine/raw/interactions.csv").read_text() == "12345"
    assert not run.metrics


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("", "unknown host mcauleylab.nowhere.invalid"),
        ("wrong", "got no interactions.csv and no items.jsonl in "),
    ],
)
def test_data_that_are_not_to_be_had_end_the_stage_with_2_and_a_sentence(project, named, said):
    changes = {"data_sets": {"mine": {"source": {"kind": "beauty-2014"}}}}
    write_json(project / "params.yaml", given(changes).model_dump(mode="json"))
    (project / "dvc.yaml").write_text("stages: {download: {params: [data_sets.mine.source]}}")
    code = (
        "import runpy; from fisher_ld.datasets import amazon_2014 as kind; "
        "kind.ADDRESS = 'https://mcauleylab.nowhere.invalid'; runpy.run_module('stages.download', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "mine"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FISHER_LD_DATA": named, "no_proxy": "*"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("download@mine: ") and said in line and "amazon-beauty-2014/" in line
    assert not (project / "data/mine/raw").exists()


def test_the_teacher_is_laid_down(project, run):
    write_teacher(project / "mine")
    download_teacher.main(given({"teacher": {"source": {"kind": "local", "name": "mine"}}}), run)
    assert read_json("data/teacher/base/config.json")["model_type"] == "llama"
    assert not run.metrics


SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
MIXED = {"num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PhiConfig(**SHAPE), "head of PhiForCausalLM .* a head with a bias"),
        (Gemma2Config(**SHAPE, num_key_value_heads=1, head_dim=8), "head of Gemma2ForCausalLM .* soft capping"),
        (GraniteConfig(**SHAPE), "no sequence classification model for granite"),
        (T5Config(d_model=16, num_layers=2, num_heads=2), "no causal language model for t5"),
        (OPTConfig(hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2),
         "one list of 1 transformer layers in OPTModel, found 0"),
        (GPTNeoConfig(hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]),
         "GPTNeoForSequenceClassification has its own attention"),
        (BloomConfig(hidden_size=16, n_layer=2, n_head=2), "no max_position_embeddings"),
        (Qwen3NextConfig(**SHAPE, num_key_value_heads=1, head_dim=8), r"linear_attn \(.*no gradient norm is known"),
        (Qwen3MoeConfig(**SHAPE, **MIXED, head_dim=8, mlp_only_layers=[0]),  # the first layer is a plain one
         r"model.layers.1.mlp.experts \(.*no gradient norm is known"),
    ],
)  # fmt: skip
def test_a_model_that_can_be_no_teacher_is_refused_by_its_config(config, message):
    with pytest.raises(UserError, match=message):
        download_teacher.accept(config, fast(), Answers(yes=" yes", no=" no"))


def test_what_is_refused_is_not_laid_down(project, run):
    AutoModelForCausalLM.from_config(
        Gemma2Config(**SHAPE, vocab_size=300, num_key_value_heads=1, head_dim=8)
    ).save_pretrained("mine")
    fast().save_pretrained("mine")
    with pytest.raises(UserError, match=r"^teacher mine: .*soft capping"):
        download_teacher.main(given({"teacher": {"source": {"kind": "local", "name": "mine"}}}), run)
    assert not [path for path in (project / "data").rglob("*") if path.is_file()]


def test_answers_of_several_tokens_are_refused_with_a_pair_that_would_do(project, run):
    write_teacher(project / "mine")
    teacher = {"source": {"kind": "local", "name": "mine"}, "answers": {"yes": " aye", "no": " nay"}}
    with pytest.raises(UserError, match=r'set teacher.answers to {yes: " yes", no: " no"}(.|\n)*params.yaml'):
        download_teacher.main(given({"teacher": teacher}), run)
    assert not (project / "data/teacher/base").exists()


@pytest.mark.parametrize("yes, no, said", [("ja", "nein", True), (" ja", " nein", False)])
def test_answers_that_lost_their_blank_are_said(project, capsys, yes, no, said):
    """As `dvc exp run -S 'teacher.answers.yes= ja'` takes it, of both."""
    check_params.check(given({"teacher": {"answers": {"yes": yes, "no": no}}}))
    assert ("no blank before the answers 'ja' and 'nein'; if" in capsys.readouterr().err) == said


@pytest.mark.parametrize("cluster", [{"launcher": "slurm"}, {"stages": {"distill": {"launcher": "slurm"}}}])
def test_a_store_that_jobs_cannot_share_is_refused_before_the_first_stage(project, cluster):
    with pytest.raises(UserError, match=r"^MLflow store sqlite:.*make server"):
        check_params.check(given({"cluster": cluster}))
    check_params.check(given({"cluster": cluster, "tracking": {"uri": "http://login:5000"}}))
