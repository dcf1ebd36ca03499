"""What the students of a shape start from: built, its vocabulary pruned, its head fitted, once; itself a model."""

from __future__ import annotations

from transformers import AutoTokenizer

from fisher_ld.batches.lists import read_labelled, read_texts
from fisher_ld.batches.prompts import build_prompts, read_template
from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, start
from fisher_ld.core.compute import setup
from fisher_ld.distillation.cache import TeacherCache
from fisher_ld.models.projection import SAMPLE
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import build_student, prompt_texts, save
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun
from fisher_ld.training.head import fit_head, shuffled_windows


def main(params: Params, run: StageRun, data: str, student: str, teacher: int) -> None:
    paths, shape = DataPaths(data), params.students[student]
    compute = setup(params.cluster, params.distill.precision, params.seed)
    folder, processed = paths.model("teacher", teacher), paths.processed
    texts, template = read_texts(processed), read_template(folder)
    states = None
    if shape.init == "spaced" and shape.hidden_size is not None:
        states = TeacherCache.open(paths.cache, ["states"]).sample("states", SAMPLE, params.seed).flatten(0, 1)
    whole = AutoTokenizer.from_pretrained(folder)
    pieces = prompt_texts(texts, template)
    built, tokenizer = build_student(Scorer.load(folder), shape, whole, pieces, params.seed, states)
    if shape.init != "random":  # whose states hardly differ: a head fitted to them would explode with the first steps
        lists, prompts = read_labelled(processed), build_prompts(tokenizer, texts, template)
        fit_head(built.on(compute), lists, shuffled_windows(lists, params.seed), prompts)
    save(built, tokenizer, template, paths.model(start(student)))


if __name__ == "__main__":
    stage(main)
