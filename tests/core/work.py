"""All that ranks do together, on a small world: `python -m tests.core.work FOLDER` writes FOLDER/RANK.npz."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from fisher_ld.core import ranks
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.distillation.cache import CacheWriter, TeacherCache, fill
from fisher_ld.distillation.matching import Weighting
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.signals import Sizes
from fisher_ld.distillation.trainer import distill
from fisher_ld.models.scorer import Scorer, score_lists
from fisher_ld.training.adapt import adapt
from fisher_ld.training.loop import Training
from tests.conftest import tiny_world
from tests.distillation.conftest import PAIRS, WEIGHTS, MemoryTeacher
from tests.given import given

TINY = tiny_world()
STEPS = 20


def training(folder: Path, name: str, scorer: Scorer) -> Training:
    def validate() -> float:
        return float(np.mean([scores[0] for scores in score_lists(scorer, TINY.lists, TINY.prompts)]))

    return Training(name, 0, validate, Checkpoint(name, {}, folder), lambda values, step: None)


def weights(scorer: Scorer) -> np.ndarray:
    return np.concatenate([value.detach().numpy().ravel() for value in scorer.state_dict().values()])


def work(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for method in ("full", "lora"):
        small = {"eval_every": 10, "batch_users": 3, "learning_rate": 1e-3, "method": method, "lora_rank": 2}
        settings, scorer = given({"teacher": {"adapt": small}}).teacher.adapt, TINY.scorer(layers=4)
        fit = adapt(scorer, TINY.lists, TINY.prompts, settings, STEPS, training(folder, method, scorer), layer_drop=0.2)
        found[method] = weights(scorer)
        found[f"{method} curve"] = np.array([row.get("loss", row.get("validation_ndcg_10")) for row in fit.curve])

    some_known = replace(TINY.lists, positive=np.array([1, -1, -1, 1]))
    for method in ("fisher-ld", "list-kl", "ranking", "minilm", "fitnets"):
        settings = given({"distill": {"steps": STEPS, "batch_users": 1, "eval_every": 10}}).distill
        student, teacher = TINY.scorer(), MemoryTeacher(TINY)
        weighting = Weighting(PAIRS, WEIGHTS, (1.0, 1.5, 2.0, 2.5), 0.5, 5)
        told = training(folder, method, student)
        _, moved = distill(student, teacher, METHODS[method], weighting, some_known, TINY.prompts, settings, told)
        found[method], found[f"{method} weights"] = weights(student), moved["weight"].to_numpy()

    scorer = TINY.scorer(layers=4)
    examples = int(TINY.lists.offsets[-1])
    sizes = Sizes(4, 32, TINY.prompts.longest(TINY.lists))
    writer = CacheWriter(folder / "work", ["logits", "states"], examples, sizes, 5, {}) if ranks.leader() else None
    fill(writer, ["logits", "states"], scorer, TINY.lists, TINY.prompts)
    if writer:
        writer.finish(folder / "cache")
    ranks.gather(None)  # not before the leader is done
    cache = TeacherCache.open(folder / "cache", ["logits", "states"])
    found |= {name: cache.read(np.arange(examples), name) for name in ("logits", "states")}
    found["scores"] = np.concatenate(score_lists(scorer, TINY.lists, TINY.prompts))
    return found


if __name__ == "__main__":
    ranks.meet("cpu")
    np.savez(Path(sys.argv[1]) / f"{ranks.rank()}.npz", **work(Path(sys.argv[1])))
    ranks.part()
