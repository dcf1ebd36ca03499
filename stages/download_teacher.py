"""Fetches the teacher: teacher.source -> data/teacher/base. One that a later stage could not use is refused here."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from fisher_ld.batches.prompts import answer_tokens
from fisher_ld.config.params import Answers, Params, remedy
from fisher_ld.config.paths import BASE, PARAMS
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError
from fisher_ld.core.locks import work_root
from fisher_ld.fetch.teacher import fetch_teacher
from fisher_ld.fisher.coverage import check_covered
from fisher_ld.models.scorer import Scorer
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def accept(config: Any, tokenizer: Any, answers: Answers) -> None:
    """Raises UserError where a model of this config and tokenizer can be no teacher that gives these answers."""
    Scorer.of_first_layer(config).on(Compute(torch.device("cpu"), bf16=False))
    check_covered(config)
    try:
        answer_tokens(tokenizer, answers)
    except UserError as error:
        raise UserError(f"{error}\n{remedy(PARAMS)}") from None


def main(params: Params, run: StageRun) -> None:
    store, lock_file = work_root() / "work" / "downloads", work_root() / "sources.lock.json"
    accepted = partial(accept, answers=params.teacher.answers)
    fetch_teacher(params.teacher.source, BASE, store, lock_file, accepted)


if __name__ == "__main__":
    stage(main)
