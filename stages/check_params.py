"""Checks params.yaml where nothing else has to run: every other stage does so before it starts."""

from __future__ import annotations

import sys

from fisher_ld.config.params import load_params
from fisher_ld.core.errors import UserError

if __name__ == "__main__":
    try:
        load_params("params.yaml")
    except UserError as error:
        sys.exit(f"check_params: {error}")
