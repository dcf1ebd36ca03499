"""Exported models against PyTorch's."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from scipy.stats import spearmanr
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from fisher_ld.batches.packing import pack_rows
from fisher_ld.batches.prompts import Prompts, build_prompts, read_template
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import write_json
from fisher_ld.models.scorer import Scorer, score_lists
from fisher_ld.serving import export as exporting
from fisher_ld.serving.card import origin
from fisher_ld.serving.export import export, write_graph, write_int8
from fisher_ld.serving.onnx import FP32, INT8, OnnxBackend
from fisher_ld.serving.predictor import Predictor, load, query_lists
from fisher_ld.serving.recommender import Recommender
from fisher_ld.serving.tokenizer import SavedTokenizer
from tests.batches.test_packing import CANDIDATES, CONFIGS
from tests.batches.test_packing import world as packed_world
from tests.evaluation.world import ITEMS, write_model
from tests.serving.conftest import student

QUERIES = (
    [["m1", "m2", "m3"], [], ["m4"], ["m5", "m6", "m1", "m1"]],
    [["m7"], ["m1", "m2"], ["m5", "m5", "m3"], [f"m{i}" for i in range(8)]],
)
ALONE = """
import sys
from pathlib import Path
from fisher_ld.batches.prompts import read_template
from fisher_ld.serving.onnx import OnnxBackend
from fisher_ld.serving.predictor import Predictor
from fisher_ld.serving.tokenizer import SavedTokenizer

folder = Path(sys.argv[1])
model = Predictor(OnnxBackend(folder, int8=False), SavedTokenizer(folder), read_template(folder))
print(*model.rank(["m1", "m2"], ["m3", "m4", "m5"]).scores)
assert not {"torch", "transformers", "onnx"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, its export, and the differences that the export told. Heads share keys, and weights are large, so that
    z is not near 0."""
    folder, out = tmp_path_factory.mktemp("onnx") / "model", tmp_path_factory.mktemp("onnx") / "out"
    write_model(folder, 2)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ITEMS + 4, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, num_labels=2, pad_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder, out, export(folder, out)


def onnx_predictor(out, int8):
    return Predictor(OnnxBackend(out, int8), SavedTokenizer(out), read_template(out))


def test_float32_is_near_torch_in_several_shapes(exported):
    folder, out, told = exported
    assert 0 < told.fp32 < 1e-4 < told.int8 and 0.5 < told.order <= 1
    found, expected = onnx_predictor(out, int8=False).score(*QUERIES), load(folder).score(*QUERIES)
    assert [len(z) for z in found] == [1, 2, 3, 8] and found[0].dtype == np.float32
    assert np.ptp(expected[3]) > 0.1
    for mine, torchs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, torchs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2-biases", "qwen3-norms", "mistral", "gemma", "gpt2"])
def test_architectures_that_are_taken_can_be_exported(name, tmp_path):
    torch.manual_seed(0)
    scorer = Scorer(AutoModelForSequenceClassification.from_config(CONFIGS[name], dtype=torch.float32).eval())
    lists, prompts = packed_world(CANDIDATES["ragged"])
    expected = np.concatenate(score_lists(scorer, lists, prompts))
    write_graph(scorer, lists, prompts, tmp_path / FP32)
    write_int8(tmp_path)
    np.testing.assert_allclose(OnnxBackend(tmp_path, int8=False).logits(lists, prompts), expected, atol=1e-4)
    assert 0 < np.abs(OnnxBackend(tmp_path).logits(lists, prompts) - expected).max() < 0.1
    assert (tmp_path / INT8).stat().st_size < (tmp_path / FP32).stat().st_size


def test_rows_of_several_lengths_in_one_batch(exported):
    out = exported[1]
    backend, (lists, texts) = OnnxBackend(out, int8=False), query_lists(*QUERIES)
    prompts = build_prompts(SavedTokenizer(out), texts, read_template(out))
    rows = pack_rows(lists, lists.windows(), prompts, 64, multiple=32)
    assert (rows.segment == -1).any(1).all()  # every row is padded
    decision = np.zeros((4, 8), np.int64)
    for row in range(4):
        columns = rows.decision[rows.decision[:, 0] == row, 1]
        decision[row] = np.resize(columns, 8)
    given = {name: getattr(rows, name) for name in ("input_ids", "position_ids", "segment", "visible")}
    (found,) = backend.session.run(["logits"], {**given, "decision": decision})
    sizes = np.diff(lists.offsets)
    together = np.concatenate([found[row, : sizes[row]] for row in range(4)])
    np.testing.assert_allclose(together, backend.logits(lists, prompts), atol=1e-5)


def test_eight_bits_rank_nearly_alike(exported):
    folder, out, _ = exported
    histories, candidates = [["m1", "m2"], ["m9", "m3", "m4"]], [[f"m{i}" for i in range(30)]] * 2
    rounded = np.concatenate(onnx_predictor(out, int8=True).score(histories, candidates))
    exact = np.concatenate(load(folder).score(histories, candidates))
    assert spearmanr(rounded, exact).statistic > 0.98
    assert 0 < np.abs(rounded - exact).max() < 0.2 * np.ptp(exact)


def test_an_export_answers_in_float32_where_it_is_asked_to_and_explains_so(exported):
    out = exported[1]
    rounded, exact = load(out), load(out, int8=False)
    expected = np.concatenate(onnx_predictor(out, int8=False).score(*QUERIES))
    np.testing.assert_array_equal(np.concatenate(exact.score(*QUERIES)), expected)
    np.testing.assert_array_equal(np.concatenate(rounded.exact.score(*QUERIES)), expected)
    assert exact.exact is exact and not np.array_equal(np.concatenate(rounded.score(*QUERIES)), expected)


def test_an_explanation_does_not_ask_the_graph_in_eight_bits(exported, recommender):
    explained = [Recommender(load(exported[1], int8=int8), recommender.catalogue) for int8 in (True, False)]
    rounded, exact = (films.explain(["m1", "m2", "m4"], "m3") for films in explained)
    assert rounded == exact


def test_of_pairs_of_candidates_the_share_in_the_same_order():
    first, second = [np.array([1.0, 2, 3]), np.array([1.0])], [np.array([1.0, 3, 2]), np.array([5.0])]
    assert exporting._agreement(first, first) == 1
    assert exporting._agreement(first, second) == pytest.approx(2 / 3)


def test_scoring_imports_neither_torch_nor_transformers(exported):
    out = exported[1]
    answer = subprocess.run([sys.executable, "-c", ALONE, out], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    expected = onnx_predictor(out, int8=False).rank(["m1", "m2"], ["m3", "m4", "m5"]).scores
    np.testing.assert_allclose(np.array(answer.stdout.split(), float), expected, atol=1e-6)


def test_a_prompt_beyond_the_context_is_refused(exported):
    backend, (lists, _) = OnnxBackend(exported[1]), query_lists([["a"]], [["b"]])
    assert backend.context == 64
    with pytest.raises(UserError, match="a prompt has 65 tokens, but the model's context ends at 64"):
        backend.logits(lists, Prompts([2], [[4] * 60, []], [[], [5] * 4]))


def test_the_card_says_how_to_load_it_with_transformers(exported):
    folder, out, _ = exported
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "text-classification"
    code = re.findall(r"```python\n(.*?)```", text, re.S)[-1]
    for name, value in (("FOLDER", out), ("liked first", "m1"), ("liked last", "m2"), ("a candidate", "m3")):
        code = code.replace(name, str(value))
    names = {}
    exec(code, names)
    assert names["z"] == pytest.approx(load(folder).rank(["m1", "m2"], ["m3"]).scores[0], abs=1e-5)


def test_an_export_has_z_as_its_only_label_and_is_a_model_as_before(exported, tmp_path):
    folder, out, _ = exported
    config = AutoConfig.from_pretrained(out)
    assert (config.num_labels, config.id2label, config.label2id) == (1, {0: "yes"}, {"yes": 0})
    before, after = (load_file(path / "model.safetensors") for path in (folder, out))
    no, yes = before.pop("score.weight")
    torch.testing.assert_close(after.pop("score.weight"), (yes - no)[None], rtol=0, atol=0)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    expected = np.concatenate(load(folder).score(*QUERIES))
    again = tmp_path / "again"
    export(out, again)  # an export of an export
    for path in (out, again):
        found = load(path, Compute(torch.device("cpu"), bf16=False)).score(*QUERIES)
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)


def test_score_of_vllm_makes_the_prompts_of_training(exported):
    """It tokenises a query, here prefix and history, and a document, here the candidate, as a pair."""
    out = exported[1]
    tokenizer, template, (lists, texts) = AutoTokenizer.from_pretrained(out), read_template(out), query_lists(*QUERIES)
    prompts = build_prompts(tokenizer, texts, template)
    for history, candidates, numbers in zip(*QUERIES, lists.candidates, strict=True):
        query = template.prefix + "".join(template.history.format(text=text) for text in history)
        liked = sum((prompts.history[texts.index(text)] for text in history), prompts.prefix)
        for candidate, number in zip(candidates, numbers, strict=True):
            pair = tokenizer(text=query, text_pair=template.candidate.format(text=candidate))
            assert pair.input_ids == liked + prompts.candidate[number]


def test_a_card_tells_where_a_model_comes_from(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.root.parent)
    folder = student(data)
    assert origin(folder) == {
        "model": f"small/fisher-ld of {data.name}, seed 0", "data set": data.name, "method": "fisher-ld",
        "teacher": "adapted on the same data set",
    }  # fmt: skip
    write_json(data.training("small/fisher-ld", 0) / "fit.json", {"validation_ndcg_10": 0.3256})
    own, other = ({"ndcg_10": {"mean": mean, "low": 0.1, "high": 0.5, "n": 9}} for mean in (0.25, 0.375))
    write_json(data.evaluate, {"quality": {"matched": {"small/fisher-ld": own, "teacher": other}}})
    facts = origin(folder)
    assert facts["NDCG@10, validation lists"] == "0.326"
    assert facts["NDCG@10, test lists, teacher"] == "0.375 (0.100 to 0.500)"
    assert origin(tmp_path) == {}


def test_a_folder_that_holds_something_else_is_not_replaced(exported, tmp_path):
    (tmp_path / "mine").write_text("work")
    for out in (tmp_path, exported[0], exported[0] / "below", exported[0].parent):
        with pytest.raises(UserError, match="expected"):
            export(exported[0], out)
    assert (tmp_path / "mine").read_text() == "work"


def test_a_graph_that_differs_leaves_nothing(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "write_graph", lambda *given: None)
    monkeypatch.setattr(exporting, "write_int8", lambda *given: None)

    class Other:
        def __init__(self, folder, int8):
            pass

        def logits(self, lists, prompts):
            return np.zeros(lists.offsets[-1], np.float32)

    monkeypatch.setattr(exporting, "OnnxBackend", Other)
    with pytest.raises(UserError, match="this architecture cannot be exported"):
        export(exported[0], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_cuts_otherwise_is_refused(exported, tmp_path, monkeypatch):
    class Other(SavedTokenizer):
        def __call__(self, text, **options):
            return super().__call__(text if isinstance(text, str) else [one + "?" for one in text], **options)

    monkeypatch.setattr(exporting, "SavedTokenizer", Other)
    with pytest.raises(UserError, match="cuts texts otherwise"):
        export(exported[0], tmp_path / "out")


def test_a_folder_without_a_graph_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.int8\.onnx: no such file; write it with: fisher-ld export"):
        OnnxBackend(tmp_path)
