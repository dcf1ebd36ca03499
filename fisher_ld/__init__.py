"""Fisher-guided layerwise distillation of LLM recommenders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fisher_ld.serving.predictor import load as load
    from fisher_ld.serving.recommender import load_recommender as load_recommender

PLACES = {"load": "fisher_ld.serving.predictor", "load_recommender": "fisher_ld.serving.recommender"}


def __getattr__(name: str) -> Any:
    """What users import from here, imported when it is first asked for."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(PLACES[name]), name)
