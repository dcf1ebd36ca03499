"""The adapted teacher -> its scores of the stored test lists, those before adaptation, and its signals on training
windows; stops the pipeline in between if it is not worth distilling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from fisher_ld.batches.lists import read_lists
from fisher_ld.batches.packing import held_back
from fisher_ld.batches.prompts import build_prompts
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import setup
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import fingerprint, write_json
from fisher_ld.distillation.cache import CacheWriter, fill, signal_fingerprint
from fisher_ld.evaluation import evaluate as ev
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.evaluation.scoring import score_test_lists
from fisher_ld.models.scorer import Scorer
from fisher_ld.run.stage import stage

PROCESSED, BASE, ADAPTED = Path("data/processed"), Path("data/teacher/base"), Path("data/teacher/adapted")
CACHE, ZERO_SHOT = Path("data/cache"), Path("data/zero_shot")


def check_gate(teacher, lists, params):
    """Raises UserError unless the adapted teacher beats popularity and item-kNN, or the gate is off."""
    models = {"teacher": teacher, **ev.read_baselines(PROCESSED, lists, params.evaluate.neighbours)}
    scores = {name: [own] for name, own in models.items()}
    found = ev.teacher_gate(ev.family_frames(lists, scores, ev.read_categories(PROCESSED), "teacher"), params.seed)
    numbers = ", ".join(f"{name} {row['mean_b']:.3f}" for name, row in found["rivals"].items())
    verdict = f"teacher NDCG@10 {found['teacher']:.3f} on the popularity lists, {numbers}"
    print(f"gate {'passed' if found['passed'] else 'not passed'}: {verdict}")
    if not found["passed"] and not params.teacher.ignore_gate:
        raise UserError(
            f"the adapted teacher is not shown to beat popularity and item-kNN ({verdict}), so it is not worth "
            "distilling. Give it more steps (teacher.adapt.item_steps, first_steps, steps), another learning rate or "
            "item text; teacher.ignore_gate: true goes on all the same."
        )
    return found


def main(params, run):
    compute = setup(params.cluster, params.seed)
    train = held_back(read_lists(PROCESSED, "train"), params.cache.windows, params.seed)
    families = {name: read_lists(PROCESSED, f"test_{name}") for name in ev.FAMILIES}
    prompts = build_prompts(AutoTokenizer.from_pretrained(ADAPTED), PROCESSED, params.teacher.prompt)
    users = np.random.default_rng(params.seed).permutation(len(families["uniform"]))
    users = np.sort(users[: params.evaluate.uniform_users])
    few = np.sort(np.random.default_rng(params.seed).permutation(len(users))[: params.evaluate.zero_shot_users])
    everyone = np.arange(len(families["popularity"]))

    marks, inputs = signal_fingerprint(ADAPTED, PROCESSED, train), fingerprint([PROCESSED, BASE, ADAPTED])
    settings = params.model_dump(mode="json")
    del settings["teacher"]["ignore_gate"]  # the gate: what it stopped can go on
    key = {"params": settings, "compute": str(compute), "inputs": inputs, "marks": marks}
    checkpoint = Checkpoint("cache_teacher", key)
    work = checkpoint.folder / "cache"

    scorer = Scorer.load(ADAPTED).on(compute)
    files = {family: work / f"teacher_test_{family}.parquet" for family in families}
    if not all(file.is_file() for file in files.values()):
        numbers = {"popularity": everyone, "uniform": users}
        score_test_lists(scorer, families, numbers, prompts, "teacher on the test lists", files)
    teacher = read_scores(files["popularity"], families["popularity"])
    gate = check_gate(teacher, families["popularity"], params)
    layers, width = len(scorer.layers), scorer.model.config.hidden_size
    writer = CacheWriter(work, int(train.offsets[-1]), layers, width, params.cache.shard_rows, marks)
    fill(writer, scorer, train, prompts)
    del scorer  # of two large teachers only one fits
    base = Scorer.from_causal_lm(BASE, prompts.yes, prompts.no).on(compute)
    numbers = dict.fromkeys(families, users[few])
    files = {family: ZERO_SHOT / f"test_{family}.parquet" for family in families}
    score_test_lists(base, families, numbers, prompts, "the teacher before adaptation", files)
    writer.finish(CACHE)
    write_json("metrics/gate.json", gate)
    checkpoint.done()


if __name__ == "__main__":
    stage("cache_teacher", main)
