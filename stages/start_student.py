"""What the students of a shape start from, built once and itself a model: its vocabulary pruned where asked, its head
fitted unless it is random."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer

from fisher_ld.batches.lists import read_lists, read_texts
from fisher_ld.batches.prompts import build_prompts, read_template
from fisher_ld.config.params import Answers, Params, Student
from fisher_ld.config.paths import DataPaths, start
from fisher_ld.config.teacher_fit import check_shape
from fisher_ld.core.compute import setup
from fisher_ld.core.locks import work_root
from fisher_ld.distillation.cache import TeacherCache
from fisher_ld.fetch.teacher import fetch_teacher
from fisher_ld.models.pretrained import Pretrained
from fisher_ld.models.projection import SAMPLE
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import build_student, prompt_texts, prune_vocabulary, save
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun
from fisher_ld.training.head import fit_head, shuffled_windows


def pretrained(shape: Student, answers: Answers, processed: Path) -> tuple[Scorer, Any]:
    """A smaller pretrained model with its own tokenizer."""
    assert shape.source
    with TemporaryDirectory(prefix="pretrained-", dir=processed.parent) as folder:
        base = Path(folder) / "base"
        fetch_teacher(shape.source, base, work_root() / "work" / "downloads", work_root() / "sources.lock.json")
        check_shape(shape, base)
        found = Pretrained.of(base, processed, answers)
        scorer, tokenizer = found.scorer(), found.tokenizer
    if shape.vocabulary == "pruned":
        texts, template = read_texts(processed), read_template(processed)
        tokenizer = prune_vocabulary(scorer, tokenizer, prompt_texts(texts, template))
    return scorer, tokenizer


def of_teacher(params: Params, shape: Student, paths: DataPaths, folder: Path) -> tuple[Scorer, Any]:
    """A shape of the teacher in `folder`, or a random one of its tokenizer."""
    texts, template = read_texts(paths.processed), read_template(folder)
    states = None
    if shape.init == "spaced" and shape.hidden_size is not None:
        states = TeacherCache.open(paths.cache, ["states"]).sample("states", SAMPLE, params.seed).flatten(0, 1)
    whole, pieces = AutoTokenizer.from_pretrained(folder), prompt_texts(texts, template)
    return build_student(Scorer.on_disk(folder), shape, whole, pieces, params.seed, states)


def main(params: Params, run: StageRun, data: str, student: str, teacher: int) -> None:
    paths, shape = DataPaths(data), params.students[student]
    compute = setup(params.cluster, params.distill.precision, params.seed)
    folder, processed = paths.model("teacher", teacher), paths.processed
    if shape.source:
        built, tokenizer = pretrained(shape, params.teacher.answers, processed)
    else:
        built, tokenizer = of_teacher(params, shape, paths, folder)
    template = read_template(folder)
    if shape.init != "random":  # whose states hardly differ: a head fitted to them would explode with the first steps
        lists, prompts = read_lists(processed, "labelled"), build_prompts(tokenizer, read_texts(processed), template)
        fit_head(built.on(compute), lists, shuffled_windows(lists, params.seed), prompts)
    save(built, tokenizer, template, paths.model(start(student)))


if __name__ == "__main__":
    stage(main)
