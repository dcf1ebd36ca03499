"""Time of the layer norms against one training step, against the naive per-example loop, and against the floor.

    python -m benchmarks.fisher                                  a random model of the default teacher's shape, 6 layers
    python -m benchmarks.fisher --teacher data/teacher/adapted   the real one

One process, all contestants in turn on the same batch, medians. `step` is a plain forward and backward of sum(z) with
only the layers' parameters trainable; `floor` the same with only the input embeddings' gradient; `naive` one forward
and backward per example. The error is the largest relative difference to the naive loop over examples and layers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedModel

from fisher_ld.fisher.coverage import transformer_layers
from fisher_ld.fisher.traces import PromptBatch, layer_norms, logits_of, pad_prompts

CASES = ((8, 96), (16, 32), (4, 256), (2, 512))  # examples, tokens


def load(teacher: Path | None, layers: int) -> PreTrainedModel:
    if teacher is not None:
        return AutoModelForSequenceClassification.from_pretrained(teacher, dtype=torch.float32).eval()
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


def naive(model: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    train_only(model, layers=True)
    rows = []
    for row in range(len(batch.input_ids)):
        one = PromptBatch(*(tensor[row : row + 1] for tensor in vars(batch).values()))
        logits_of(model, one).sum().backward()
        rows.append(
            [
                sum(float(p.grad.square().sum()) for p in layer.parameters() if p.grad is not None)
                for layer in transformer_layers(model)
            ]
        )
        model.zero_grad(set_to_none=True)
    return torch.tensor(rows, dtype=torch.float64)  # (N, L)


def median_times(model: PreTrainedModel, batch: PromptBatch, repeats: int) -> dict[str, float]:
    """Seconds of each contestant, all in turn."""
    contestants = {"step": step, "floor": floor, "ours": layer_norms, "naive": naive}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run(model, batch)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--layers", type=int, default=6, help="layers of the random model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = load(arguments.teacher, arguments.layers)

    print(f"{len(transformer_layers(model))} layers, {arguments.threads} threads, {arguments.repeats} repeats")
    print("  N    T   step s  floor/step  ours/step  naive/step  naive/ours  largest error")
    for examples, tokens in CASES:
        prompts = torch.randint(1, model.config.vocab_size, (examples, tokens)).tolist()
        batch = pad_prompts(prompts)
        ours, expected = layer_norms(model, batch).layers, naive(model, batch)
        error = float(((ours - expected) / expected).abs().max())
        times = median_times(model, batch, arguments.repeats)
        ratio = {name: seconds / times["step"] for name, seconds in times.items()}
        print(
            f"{examples:3d} {tokens:4d} {times['step']:8.2f} {ratio['floor']:11.2f} {ratio['ours']:10.2f} "
            f"{ratio['naive']:11.2f} {times['naive'] / times['ours']:11.2f} {error:14.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
