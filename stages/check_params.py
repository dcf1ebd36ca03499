"""Checks params.yaml where nothing else has to run: every other stage does so before it starts."""

from __future__ import annotations

import sys

from fisher_ld.config.params import Params, remedy
from fisher_ld.config.paths import BASE, PARAMS
from fisher_ld.config.teacher_fit import check_teacher_fit
from fisher_ld.core.errors import UserError, told
from fisher_ld.core.progress import say
from fisher_ld.run.stage import read_params
from fisher_ld.run.tracking import check_shared


def check(params: Params) -> None:
    """Raises UserError where they do not fit the teacher, if there is one yet."""
    try:
        _check(params)
    except UserError as error:
        raise UserError(f"{error}\n{remedy(PARAMS)}") from None


def _check(params: Params) -> None:
    if any(place.launcher == "slurm" for place in (params.cluster, *params.cluster.stages.values())):
        check_shared(params.tracking.uri)
    check_teacher_fit(params, BASE)
    yes, no = params.teacher.answers.yes, params.teacher.answers.no
    if not yes[0].isspace():
        say(
            f"check_params: no blank before the answers {yes!r} and {no!r}; if there is to be one, -S takes it in "
            f"""quotes: -S 'teacher.answers.yes=" {yes}"'""",
        )


if __name__ == "__main__":
    try:
        check(read_params())
    except Exception as error:
        if message := told(error):
            sys.exit(f"check_params: {message}")
        raise
