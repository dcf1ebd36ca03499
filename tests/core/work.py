"""All that ranks do together, on a small world: `python -m tests.core.work FOLDER` writes FOLDER/RANK.npz."""

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fisher_ld.config.params import Adapt
from fisher_ld.core import ranks
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import Compute
from fisher_ld.distillation.cache import CacheWriter, TeacherCache, fill
from fisher_ld.distillation.matching import Weighting
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.signals import Sizes
from fisher_ld.distillation.trainer import distill
from fisher_ld.fisher.estimate import estimate
from fisher_ld.fisher.sample import Sample
from fisher_ld.models.scorer import Scorer, score_lists
from fisher_ld.training.adapt import adapt
from fisher_ld.training.loop import Training
from tests.conftest import tiny_world
from tests.distillation.conftest import PAIRS, WEIGHTS, MemoryTeacher
from tests.given import given

TINY = tiny_world()
STEPS = 20
PIECES = 2 if ranks.world() > 1 else 1  # three ranks have too few lists


def training(folder: Path, name: str, scorer: Scorer) -> Training:
    def validate() -> float:
        return float(np.mean([scores[0] for scores in score_lists(scorer, TINY.lists, TINY.prompts)]))

    return Training(name, 0, validate, Checkpoint(name, {}, folder), lambda values, step: None)


def weights(scorer: Scorer) -> np.ndarray:
    return np.concatenate(
        [ranks.whole(value).detach().float().numpy().ravel() for value in scorer.state_dict().values()]
    )


def divided(folder: Path, scorer: Scorer, bf16: bool = False) -> Scorer:
    """A copy of it whose layers are divided among the ranks; in bf16 its matrices rest so too."""
    if ranks.leader():
        scorer.model.save_pretrained(folder / "model")
    ranks.gather(None)
    shard = ranks.world() > 1
    copy = Scorer.placed(folder / "model", Compute(torch.device("cpu"), bf16, shard=shard), frozen=bf16)
    ranks.gather(None)  # all have read it before the next one is written there
    return copy


def resumed(folder: Path, settings: Adapt) -> np.ndarray:
    """The weights of an adaptation that was interrupted at step 15 and goes on from step 10."""

    def interrupt(values: dict[str, float], step: int) -> None:
        if step == 15:
            raise KeyboardInterrupt

    settings = settings.model_copy(update={"checkpoint_every": 10})
    first, second = (divided(folder, TINY.scorer(layers=4)) for _ in range(2))
    told = training(folder, "interrupted", first)
    with suppress(KeyboardInterrupt):
        adapt(first, TINY.lists, TINY.prompts, settings, STEPS, replace(told, log=interrupt), 0.2)
    ranks.gather(None)  # the leader has saved
    adapt(second, TINY.lists, TINY.prompts, settings, STEPS, told, 0.2)
    return weights(second)


def adapted(folder: Path, found: dict[str, np.ndarray]) -> None:
    ways = ["full", "lora", "full in parts", "lora in parts", "full again", "lora again in parts"]
    for method in (*ways, "full in parts in pieces", "lora again in parts in pieces", "lora in parts in bf16"):
        users, pieces = (4, PIECES) if "in pieces" in method else (3, 1)
        small = {"eval_every": 10, "batch_users": users, "learning_rate": 1e-3, "method": method[:4], "lora_rank": 2}
        settings, scorer = given({"teacher": {"adapt": small}}).teacher.adapt, TINY.scorer(layers=4)
        if "parts" in method:
            scorer = divided(folder, scorer, "bf16" in method)
        told = training(folder, method, scorer)
        fit = adapt(scorer, TINY.lists, TINY.prompts, settings, STEPS, told, 0.2, "again" in method, pieces)
        found[method] = weights(scorer)
        if method == "full in parts":
            found["resumed in parts"] = resumed(folder, settings)
        found[f"{method} curve"] = np.array([row.get("loss", row.get("validation_ndcg_10")) for row in fit.curve])


def distilled(folder: Path, found: dict[str, np.ndarray]) -> None:
    some_known = replace(TINY.lists, positive=np.array([1, -1, -1, 1]))
    for method in ("fisher-ld", "list-kl", "ranking", "minilm", "tinybert", "fitnets"):
        settings = given({"distill": {"steps": STEPS, "batch_users": 2, "transfer_users": 2, "eval_every": 10}}).distill
        student, teacher = TINY.scorer(), MemoryTeacher(TINY)
        weighting = Weighting(PAIRS, WEIGHTS, (1.0, 1.5, 2.0, 2.5), 0.5, 5)
        told = training(folder, method, student)
        _, moved = distill(
            student, teacher, METHODS[method], weighting, some_known, TINY.prompts, settings, told, PIECES
        )
        found[method], found[f"{method} weights"] = weights(student), moved["weight"].to_numpy()


def read_once(folder: Path, found: dict[str, np.ndarray], name: str, scorer: Scorer) -> None:
    """What a teacher says that does not change: cache, scores, gradient norms."""
    examples = int(TINY.lists.offsets[-1])
    sizes = Sizes(4, 32, TINY.prompts.longest(TINY.lists))
    half, signals = folder / f"work {name}", ["logits", "states"]
    writer = CacheWriter(half, signals, examples, sizes, 5, {}) if ranks.leader() else None
    fill(writer, signals, scorer, TINY.lists, TINY.prompts)
    if writer:
        writer.finish(folder / f"cache {name}")
    ranks.gather(None)  # not before the leader is done
    cache = TeacherCache.open(folder / f"cache {name}", signals)
    found |= {f"{signal} {name}": cache.read(np.arange(examples), signal) for signal in signals}
    found[f"scores {name}"] = np.concatenate(score_lists(scorer, TINY.lists, TINY.prompts))
    table = estimate(scorer, TINY.prompts, Sample("labelled", TINY.lists, np.arange(9).reshape(3, 3)), "adapted", 3)
    table = table.sort("example", "layer").select("gradient_norm", "list_norm", "sensitivity", "mean_square")
    found[f"fisher {name}"] = table.fill_null(0).to_numpy()


def pretrained(folder: Path, found: dict[str, np.ndarray]) -> None:
    torch.manual_seed(0)
    causal = LlamaForCausalLM(LlamaConfig(**TINY.scorer().model.config.to_dict() | {"tie_word_embeddings": True}))
    if ranks.leader():
        causal.save_pretrained(folder / "causal")
    ranks.gather(None)
    compute = Compute(torch.device("cpu"), bf16=False, shard=ranks.world() > 1)
    scorer = Scorer.placed(folder / "causal", compute, 3, 7)
    found["scores pretrained"] = np.concatenate(score_lists(scorer, TINY.lists, TINY.prompts))


def work(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    adapted(folder, found)
    distilled(folder, found)
    pretrained(folder, found)
    teacher = TINY.scorer(layers=4)
    read_once(folder, found, "whole", teacher)
    read_once(folder, found, "in parts", divided(folder, teacher))
    return found


if __name__ == "__main__":
    ranks.meet("cpu")
    np.savez(Path(sys.argv[1]) / f"{ranks.rank()}.npz", **work(Path(sys.argv[1])))
    ranks.part()
