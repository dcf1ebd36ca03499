"""Checks params.yaml where nothing else has to run: every other stage does so before it starts."""

from __future__ import annotations

import sys

from fisher_ld.config.paths import BASE
from fisher_ld.config.teacher_fit import check_teacher_fit
from fisher_ld.core.errors import told
from fisher_ld.run.stage import read_params

if __name__ == "__main__":
    try:
        check_teacher_fit(read_params(), BASE)
    except Exception as error:
        if message := told(error):
            sys.exit(f"check_params: {message}")
        raise
