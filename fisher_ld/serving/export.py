"""A saved model as a folder that ONNX Runtime, transformers and vLLM read."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import mask_of, pack_rows
from fisher_ld.batches.prompts import Prompts, build_prompts, read_template
from fisher_ld.config.paths import HISTORY
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, read_json, write_json
from fisher_ld.kernels.last_layer import only_at_columns
from fisher_ld.models.scorer import Scorer
from fisher_ld.serving.card import model_card
from fisher_ld.serving.onnx import CONTEXT, FP32, OnnxBackend
from fisher_ld.serving.predictor import INT8, history_length, query_lists
from fisher_ld.serving.recommender import Catalogue
from fisher_ld.serving.tokenizer import SavedTokenizer
from fisher_ld.serving.torch_backend import TorchBackend

OPSET = 23  # the first that has attention as one operator
NEAR = 1e-4  # how far from torch z of the graph in float32 may be
HEAD = "score.weight"
QUERIES = ((0, 1), (1, 3), (3, 20), (5, 7))  # on which it is checked: liked texts, candidates


class Exported(NamedTuple):
    """The largest differences of z to torch, over the queries of the check, and how 8 bits order their candidates."""

    fp32: float
    int8: float
    order: float  # the share of pairs of candidates of a query that stand as in torch


def export(folder: Path, out: Path, catalogue: Catalogue | None = None) -> Exported:
    """Writes `out`, whole or not at all: the saved model in `folder` with z as its only label, its graph in float32,
    another with linear layers and embeddings in 8 bits, a model card, and the `catalogue` that it recommends from.
    Raises UserError for an `out` that holds something else, and for a model whose graph or tokenizer does not give
    what transformers does."""
    _check_place(folder, out)
    length = history_length(folder)
    template = read_template(folder)
    backend = TorchBackend(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lists, texts = query_lists(*_queries(tokenizer))
    prompts = build_prompts(tokenizer, texts, template)
    if build_prompts(SavedTokenizer(folder), texts, template) != prompts:
        raise UserError(
            f"{folder}: its tokenizer.json cuts texts otherwise than transformers' {type(tokenizer).__name__} does, so "
            "that it cannot be exported: take a teacher or a student with another tokenizer"
        )
    expected = backend.logits(lists, prompts)
    with atomic_path(out) as temporary:
        shutil.copytree(folder, temporary)
        write_one_label(temporary, backend.scorer)
        write_graph(backend.scorer, lists, prompts, temporary / FP32)
        write_int8(temporary)
        fp32, int8 = (OnnxBackend(temporary, rounded).logits(lists, prompts) for rounded in (False, True))
        apart = (float(np.abs(z - expected).max()) for z in (fp32, int8))
        found = Exported(*apart, order=_agreement(*(np.split(z, lists.offsets[1:-1]) for z in (int8, expected))))
        if not found.fp32 <= NEAR:  # nan is not
            raise UserError(
                f"{folder}: z of its ONNX graph differs by {found.fp32:.1e} from torch's, expected {NEAR:.0e} at "
                "most: this architecture cannot be exported"
            )
        card = model_card(folder, read_json(folder / "config.json"), template, *found, len(expected))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        write_json(temporary / HISTORY, {"length": length})
        if catalogue:
            catalogue.write(temporary / "catalogue")
    return found


def _check_place(folder: Path, out: Path) -> None:
    """Raises UserError where `out` would take the place of something that is no export, or lie in the model."""
    own, other = folder.resolve(), out.resolve()
    if own == other or own in other.parents or other in own.parents:
        raise UserError(f"{out}: expected another folder than the model's own, and none above or in it")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / INT8).is_file()):
        raise UserError(f"{out}: expected a new or an empty folder, or an earlier export; it holds something else")


def _queries(tokenizer: Any) -> tuple[list[list[str]], list[list[str]]]:
    """Seeded histories and candidates, made of random tokens."""
    rng = np.random.default_rng(0)

    def texts(count: int) -> list[str]:
        drawn = [rng.integers(0, tokenizer.vocab_size, length).tolist() for length in rng.integers(1, 7, count)]
        return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in drawn]

    histories, candidates = zip(*((texts(liked), texts(asked)) for liked, asked in QUERIES), strict=True)
    return list(histories), list(candidates)


def _agreement(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """The share of pairs of candidates of a list whose order is the same by the scores of `a` and of `b`."""

    def order(lists: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.sign(z[:, None] - z)[np.triu_indices(len(z), 1)] for z in lists])

    return float(np.mean(order(a) == order(b)))


class Graph(nn.Module):
    """A scorer of packed rows as a function of tensors alone."""

    def __init__(self, scorer: Scorer):
        super().__init__()
        self.scorer = scorer

    def forward(
        self,
        input_ids: torch.Tensor,  # (B, T)
        position_ids: torch.Tensor,  # (B, T)
        segment: torch.Tensor,  # (B, T)
        visible: torch.Tensor,  # (B, T)
        decision: torch.Tensor,  # (B, n) columns; those of a row with fewer repeat
    ) -> torch.Tensor:  # (B, n) z
        with only_at_columns(self.scorer.layers[-1], decision):
            last = self.scorer.body(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=mask_of(segment, visible),
                use_cache=False,
            ).last_hidden_state  # (B, T, d), the last layer's only at the decision tokens
        at_decision = last[torch.arange(decision.shape[0])[:, None], decision]  # (B, n, d)
        return (at_decision * self.scorer.direction()).sum(-1)  # no matrix product, which would be put into 8 bits


def write_graph(scorer: Scorer, lists: Lists, prompts: Prompts, path: Path) -> None:
    """The graph of a scorer in float32, its context among the metadata, traced on two rows of `lists`. `scorer` has
    transformers' own attention afterwards. Raises UserError for a model that torch cannot export."""
    scorer.model.set_attn_implementation("sdpa")
    rows = pack_rows(lists, lists.windows()[-2:], prompts, scorer.context())
    given = {k: torch.from_numpy(getattr(rows, k)) for k in ("input_ids", "position_ids", "segment", "visible")}
    given["decision"] = torch.zeros(2, 3, dtype=torch.long)
    batch, tokens, candidates = (torch.export.Dim(name) for name in ("B", "T", "n"))
    shapes = {name: {0: batch, 1: candidates if name == "decision" else tokens} for name in given}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                Graph(scorer).eval(),
                kwargs=given,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(given),
                output_names=["logits"],
                dynamic_shapes=shapes,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"torch cannot export {type(scorer.model).__name__} to ONNX: {error.__cause__}") from error
    assert program is not None
    program.model.metadata_props[CONTEXT] = str(scorer.context())
    program.save(path)
    onnx.checker.check_model(path)


def write_int8(folder: Path) -> None:
    """The graph in float32 once more, linear layers and embeddings in 8 bits; what they multiply is rounded to 8 bits
    when it is there."""
    with _quiet():
        quantize_dynamic(
            folder / FP32,
            folder / INT8,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # to 7 bits, for sums of two products of 8 overflow where a processor has no VNNI
            extra_options={"MatMulConstBOnly": True},  # attention stays in float32
        )


def write_one_label(folder: Path, scorer: Scorer) -> None:
    """Into the saved model of `scorer`: one label, yes, whose logit is z, as rerankers have it and what serves them
    asks for. Everything but the head stays to the bit."""
    for file in folder.glob("*.safetensors"):  # the shard that has the head
        if HEAD in (tensors := load_file(file)):
            with atomic_path(file) as temporary:
                save_file(tensors | {HEAD: scorer.direction()[None]}, temporary, {"format": "pt"})
    labels = {"id2label": {"0": "yes"}, "label2id": {"yes": 0}}
    write_json(folder / "config.json", read_json(folder / "config.json") | labels)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
