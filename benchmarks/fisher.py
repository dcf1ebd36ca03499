"""Each example's squared gradient norm in each layer: ours against a training step, the naive loop and other libraries.

    python -m benchmarks.fisher                                  a random model of the default teacher's shape, 6 layers
    python -m benchmarks.fisher --data movielens-100k            the adapted teacher of a data set, and 64 prompts of it
    python -m benchmarks.fisher --own                            without other libraries: more repeats in the time
    pip install '.[peers]'                                       before it: Opacus, BackPACK, curvlinops (peers.py)
    pip uninstall torchvision                                    after that, where torch is built for the CPU only

BackPACK asks for torchvision without using it here, and PyPI's, built for CUDA, breaks transformers next to such a
torch.

One process, all contestants in turn on the same batches. `step` is a plain forward and backward of sum(z) with only
the layers' parameters trainable; `floor` the same with only the input embeddings' gradient; `naive` one forward and
backward per example, without padding. These take torch's attention and products, as a model of transformers does;
ours brings its own attention and takes oneDNN's products, and `floor, our products` tells what the two are worth. The
real prompts are drawn as `estimate_fisher` draws labelled ones and batched by length. `ours, a list` also takes the
norm that `fisher.kind: list` needs, of all rows of a batch together.

time/step: medians, as a multiple of `step`; a peer's time holds the wrapping of the model that it needs each time.
extra MiB: by how much resident memory rises at most above the loaded model's. error, of a trace: the largest relative
differences to the naive loop, over examples and layers, and over layers of the mean of examples; a peer that fails,
leaves parameters out or is wrong says so. Goals for ours: at most 0.80, 0.70, 0.80, 0.88 of a step in the four cases,
and a 1.9th of the naive loop's time on the real prompts; errors of at most 1e-4 and 1e-5; at most 1.2 times the memory
of `floor`, and with checkpointing at most 250 MiB at 8 x 96 tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import re
import statistics
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedModel

from benchmarks import peers
from fisher_ld.batches.lists import read_lists
from fisher_ld.batches.prompts import saved_prompts
from fisher_ld.config.params import load_params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.compute import keep_freed_memory
from fisher_ld.fisher.coverage import cover
from fisher_ld.fisher.gradient_norms import PromptBatch, gradient_norms, logits_of, pad_prompts
from fisher_ld.fisher.sample import draw_examples
from fisher_ld.kernels.attention import by_strips
from fisher_ld.kernels.linear import by_onednn
from fisher_ld.models.layers import transformer_layers
from fisher_ld.models.scorer import Scorer

CASES = ((8, 96), (16, 32), (4, 256), (2, 512))  # examples, tokens
REAL_PROMPTS, REAL_BATCH, SEED = 64, 8, 0
TOLERANCE = 1e-4  # of the relative error; rounding in float32, eager attention included, stays below

Contestant = Callable[[PreTrainedModel, PromptBatch], torch.Tensor | None]


def load(teacher: Path | None, layers: int) -> PreTrainedModel:
    if teacher:
        model = AutoModelForSequenceClassification.from_pretrained(teacher, dtype=torch.float32).eval()
        for parameter in model.parameters():  # out of the mapped file, whose pages count only once they are read
            parameter.data = parameter.data.clone()
        return model
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        pad_token_id=0,
    )
    return AutoModelForSequenceClassification.from_config(config).eval()


def random_batch(model: PreTrainedModel, examples: int, tokens: int) -> PromptBatch:
    return pad_prompts(torch.randint(1, model.config.vocab_size, (examples, tokens)).tolist())


def real_batches(teacher: Path, processed: Path) -> list[PromptBatch]:
    prompts = saved_prompts(teacher, processed)
    lists = read_lists(processed, "labelled")
    drawn = draw_examples(len(lists.labels()), REAL_PROMPTS, SEED).tolist()
    by_length = sorted((prompts.example(lists, example) for example in drawn), key=len)
    return [pad_prompts(by_length[i : i + REAL_BATCH]) for i in range(0, len(by_length), REAL_BATCH)]


def train_only(model: PreTrainedModel, layers: bool) -> None:
    model.requires_grad_(False)
    transformer_layers(model).requires_grad_(layers)


def step(model: PreTrainedModel, batch: PromptBatch) -> None:
    train_only(model, layers=True)
    logits_of(model, batch).sum().backward()
    model.zero_grad(set_to_none=True)


def floor(model: PreTrainedModel, batch: PromptBatch) -> None:
    train_only(model, layers=False)
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_())
    logits_of(model, batch).sum().backward()
    handle.remove()


def floor_with_our_products(model: PreTrainedModel, batch: PromptBatch) -> None:
    with by_strips(model), by_onednn(part.module for part in covered(model)):
        floor(model, batch)


def naive(model: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    train_only(model, layers=True)
    rows = []
    for one in peers.examples(batch):
        logits_of(model, one).sum().backward()
        rows.append(
            [
                sum(float(p.grad.square().sum()) for p in layer.parameters() if p.grad is not None)
                for layer in transformer_layers(model)
            ]
        )
        model.zero_grad(set_to_none=True)
    return torch.tensor(rows, dtype=torch.float64)  # (N, L)


covered = functools.cache(cover)  # once a model, as `estimate` does


OWN: dict[str, Contestant] = {
    "naive": naive,  # first: the others are compared with it
    "step": step,
    "floor": floor,
    "floor, our products": floor_with_our_products,
    "ours": lambda model, batch: gradient_norms(Scorer(model), batch, covered=covered(model)).layers,
    "ours, checkpointing": lambda model, batch: (
        gradient_norms(Scorer(model), batch, checkpointing=True, covered=covered(model)).layers
    ),
    "ours, a list": lambda model, batch: (
        gradient_norms(Scorer(model), batch, covered=covered(model), candidates=len(batch.decision)).layers
    ),
}
PEERS: dict[str, Contestant] = {
    "torch.func vmap": peers.torch_func,
    "Opacus ghost norms": peers.opacus,
    "BackPACK": peers.backpack,
    "curvlinops": peers.curvlinops,
}


@dataclass
class Record:
    """What is known of one contestant in one case."""

    seconds: list[float] = field(default_factory=list)  # of all batches together, one entry a repeat
    extra: float = 0.0  # MiB
    error: float | None = None
    of_trace: float = 0.0
    remark: str = ""
    failed: bool = False


def check(
    run: Contestant, model: PreTrainedModel, batches: Sequence[PromptBatch], record: Record
) -> list[torch.Tensor]:
    """The norms of each batch, from one untimed run; notes its memory, and what it says it leaves out."""
    found = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in batches:
            record.extra = max(record.extra, extra_memory(lambda batch=batch: found.append(run(model, batch))))
    record.remark = "; ".join(sorted({str(w.message) for w in caught if issubclass(w.category, peers.LeftOut)}))
    return [norms for norms in found if norms is not None]


def extra_memory(run: Callable[[], object]) -> float:
    """MiB by which resident memory rises at most while `run` runs. nan where there is no Linux /proc."""
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        run()
        return float("nan")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator kept from earlier runs would be used unseen
    before = resident("VmRSS")
    peak.write_text("5")  # resets VmHWM
    run()
    return resident("VmHWM") - before


def resident(key: str) -> float:
    """MiB."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def measure(
    model: PreTrainedModel, batches: Sequence[PromptBatch], contestants: dict[str, Contestant], repeats: int
) -> dict[str, Record]:
    """Every contestant once for memory and correctness; then, for their times, all in turn batch by batch."""
    records = {name: Record() for name in contestants}
    expected = torch.empty(0)
    for name, run in contestants.items():
        record = records[name]
        try:
            found = check(run, model, batches, record)
        except Exception as error:
            if name in OWN:
                raise
            record.failed, record.remark = True, reason(error)
            continue
        if found:
            norms = torch.cat(found)  # (examples, L)
            expected = norms if name == "naive" else expected
            record.error = float(((norms - expected) / expected).abs().max())
            record.of_trace = float(((norms.mean(0) - expected.mean(0)) / expected.mean(0)).abs().max())
            if not record.error <= TOLERANCE:
                record.remark = f"wrong: {record.remark}".rstrip(": ")

    going = [name for name, record in records.items() if not record.failed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(repeats):
            for name in going:
                records[name].seconds.append(0.0)
            for batch in batches:
                for name in going:
                    gc.collect()
                    start = time.perf_counter()
                    contestants[name](model, batch)
                    records[name].seconds[-1] += time.perf_counter() - start
    return records


def reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "not installed: pip install '.[peers]'"
    return "fails: " + textwrap.shorten(f"{type(error).__name__}: {error}", 60, placeholder="...")


def show(title: str, records: dict[str, Record]) -> None:
    seconds = {name: statistics.median(record.seconds) for name, record in records.items() if record.seconds}
    times = seconds["naive"] / seconds["ours"]
    print(f"\n{title}: a step takes {seconds['step']:.2f} s, the naive loop {times:.2f} times as long as ours")
    print(f"{'':22} time/step  extra MiB    error  of a trace")
    for name, record in records.items():
        ratio = f"{seconds[name] / seconds['step']:.2f}" if name in seconds else ""
        extra = "" if record.failed else f"{record.extra:.0f}"
        compared = record.error is not None and name != "naive"
        error, of_trace = (f"{record.error:.0e}", f"{record.of_trace:.0e}") if compared else ("", "")
        print(f"{name:22} {ratio:>9}  {extra:>9}  {error:>7}  {of_trace:>10}  {record.remark}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a data set whose adapted teacher is there")
    parser.add_argument("--layers", type=int, default=6, help="layers of the random model")
    parser.add_argument("--own", action="store_true", help="without other libraries")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the stages do
    torch.manual_seed(SEED)
    paths = DataPaths(arguments.data or "")
    teacher = paths.model("teacher", load_params("params.yaml", {}).run.teacher_seeds[0]) if arguments.data else None
    model = load(teacher, arguments.layers)
    print(f"{len(transformer_layers(model))} layers, {arguments.threads} threads, {arguments.repeats} repeats")

    contestants = OWN if arguments.own else OWN | PEERS
    for run in contestants.values():  # imports and first calls
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(model, random_batch(model, examples=2, tokens=4))
    gc.freeze()  # the collections before each run then look at what is new only
    for examples, tokens in CASES:
        batch = random_batch(model, examples, tokens)
        show(f"{examples} x {tokens} tokens", measure(model, [batch], contestants, arguments.repeats))
    if teacher is None:
        print(f"\n{REAL_PROMPTS} real prompts: skipped, they need --data")
        return
    batches = real_batches(teacher, paths.processed)
    show(f"{REAL_PROMPTS} real prompts, sorted by length", measure(model, batches, contestants, arguments.repeats))


if __name__ == "__main__":
    main()
