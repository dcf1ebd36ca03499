"""A student under PyTorch and as an ONNX graph in float32 and in 8 bits, and its teacher under PyTorch.

    python -m benchmarks.onnx [--data movielens-100k] [--model small/fisher-ld]    after `dvc repro`

First NDCG@10 on validation lists, as each scores them, PyTorch under bf16 too, and of how many lists the positive keeps
the rank that it has under PyTorch in float32; under bf16 also the one that the stages give it there. Then queries a
second at batch 1, a query one of these lists as texts, from texts in to scores out: all in float32 but the 8 bits, with
the same threads. The models take turns, each over all queries at once, for the threads of one do not sleep at once when
it is done; times are the sums over turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from fisher_ld.batches.lists import read_lists, read_texts, take
from fisher_ld.batches.prompts import read_template, saved_prompts
from fisher_ld.config.params import load_params
from fisher_ld.config.paths import DATA, DataPaths
from fisher_ld.core.compute import Compute, keep_freed_memory, usable_threads
from fisher_ld.evaluation.efficiency import Queries
from fisher_ld.evaluation.meters import rounds
from fisher_ld.evaluation.metrics.ndcg import ndcg
from fisher_ld.evaluation.metrics.ties import rank
from fisher_ld.evaluation.validation import same_order
from fisher_ld.models.scorer import Scorer, score_lists
from fisher_ld.serving.export import export
from fisher_ld.serving.onnx import INT8, OnnxBackend
from fisher_ld.serving.predictor import Predictor
from fisher_ld.serving.tokenizer import SavedTokenizer
from fisher_ld.serving.torch_backend import TorchBackend

BF16 = "torch bf16"  # not timed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=DATA, help="of the data sets (default: %(default)s)")
    parser.add_argument("--data", help="default: the first of run.data")
    parser.add_argument("--model", default="small/fisher-ld", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exported", type=Path, help="a folder of an earlier export, or to export to")
    parser.add_argument("--lists", type=int, default=200, help="validation lists at most (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=40, help="of a turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--without-teacher", action="store_true")
    return parser.parse_args()


def same_rank(a: Sequence[np.ndarray], b: Sequence[np.ndarray], positive: np.ndarray) -> float:
    """The share of lists whose positive has the same rank, alone, by the scores of `a` and of `b`."""
    one, other = rank(a, positive), rank(b, positive)
    return float(np.mean((one.better == other.better) & (one.tied == other.tied)))


def main() -> None:
    options = arguments()
    params = load_params("params.yaml", {})
    run = params.run
    paths = DataPaths(options.data or run.data[0], options.root)
    folder, threads = paths.model(options.model, options.seed), usable_threads(None)
    torch.set_num_threads(threads)
    keep_freed_memory()
    with TemporaryDirectory() as temporary:
        out = options.exported or Path(temporary) / "exported"
        if not (out / INT8).is_file():
            print("largest difference of z to torch, random texts:", export(folder, out))
        backends = {
            "torch": TorchBackend(folder),
            BF16: TorchBackend(folder, Compute(torch.device("cpu"), bf16=True)),
            "onnx fp32": OnnxBackend(out, int8=False, threads=threads),
            "onnx int8": OnnxBackend(out, int8=True, threads=threads),
        }
        exported = {name: SavedTokenizer(out) for name in backends if name.startswith("onnx")}
    lists, texts = read_lists(paths.processed, "val"), read_texts(paths.processed)
    lists = take(lists, np.sort(np.random.default_rng(0).permutation(len(lists))[: options.lists]))

    prompts, scores, quality = saved_prompts(folder, paths.processed), {}, {}
    for name, backend in backends.items():
        scores[name] = np.split(backend.logits(lists, prompts), lists.offsets[1:-1])
        quality[name] = ndcg(rank(scores[name], lists.positive), 10).mean()
        print(
            f"{name}: NDCG@10 {quality[name]:.4f}, {quality[name] / quality['torch'] - 1:+.2%} to torch's, on "
            f"{len(lists)} lists, of which {same_order(scores[name], scores['torch']):.1%} have the same order and "
            f"{same_rank(scores[name], scores['torch'], lists.positive):.1%} the same rank of the positive; z differs "
            f" by {max(np.abs(a - b).max() for a, b in zip(scores[name], scores['torch'], strict=True)):.1e}"
        )

    stages = Scorer.placed(folder, Compute(torch.device("cpu"), True, params.cluster.batch_users), frozen=True)
    kept = same_rank(scores[BF16], score_lists(stages, lists, prompts), lists.positive)
    print(f"{BF16}: {kept:.1%} of the lists have the same rank of the positive as in the stages, under bf16 too")

    template = read_template(folder)
    models = {
        name: Predictor(backend, exported[name], template) if name in exported else Predictor.of(folder, backend)
        for name, backend in backends.items()
        if name != BF16
    }
    if not options.without_teacher:
        teacher = paths.model("teacher", run.teacher_seeds[0])
        models["teacher, torch"] = Predictor.of(teacher, TorchBackend(teacher))
    numbers = range(min(options.queries, len(lists)))
    queries = Queries(
        [[texts[item] for item in lists.history(i)] for i in numbers],
        [[texts[item] for item in lists.candidates[i]] for i in numbers],
    )
    timed = {name: queries.model(model) for name, model in models.items()}
    turns = [rounds(timed, dict.fromkeys(timed, 1), numbers, 1) for _ in range(options.turns)]
    seconds = {name: sum(turn[name].sum() for turn in turns) for name in timed}
    for name, total in seconds.items():
        print(
            f"{name}: {options.turns * len(numbers) / total:.1f} queries a second on {threads} threads, "
            f"{seconds['torch'] / total:.2f} times torch's"
        )


if __name__ == "__main__":
    main()
