"""The params of the project, with changes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fisher_ld.config.params import Params, merged, parse
from fisher_ld.core.files import read_yaml
from fisher_ld.datasets.catalogue import SOURCES
from fisher_ld.distillation.methods import METHODS

ROOT = Path(__file__).parents[1]


@cache
def raw() -> dict[str, Any]:
    return read_yaml(ROOT / "params.yaml")


def given(changes: Mapping[str, Any] | None = None) -> Params:
    """params.yaml with `changes` merged into it."""
    return parse(merged(raw(), changes or {}), {"methods": METHODS, "sources": SOURCES})
