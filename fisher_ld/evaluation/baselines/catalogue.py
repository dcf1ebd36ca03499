"""The rivals: a row each. From here come their names in files, their labels, and what each has learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fisher_ld.batches.lists import read_texts
from fisher_ld.config.params import Rivals
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import read_json
from fisher_ld.evaluation.baselines.ease import Ease
from fisher_ld.evaluation.baselines.follow_counts import FollowCounts
from fisher_ld.evaluation.baselines.interactions import Interactions, Labels, read_interactions
from fisher_ld.evaluation.baselines.inverse_popularity import InversePopularity
from fisher_ld.evaluation.baselines.item_knn import ItemKNN
from fisher_ld.evaluation.baselines.mean_states import MeanStates, read_states
from fisher_ld.evaluation.baselines.popularity import Popularity
from fisher_ld.evaluation.baselines.sasrec_rival import Evidence, SASRec
from fisher_ld.evaluation.baselines.tf_idf import TfIdf
from fisher_ld.evaluation.baselines.tuning import Fitted


@dataclass(frozen=True)
class Rival:
    label: str  # in tables and pictures
    kind: type[Fitted]
    labels: Labels  # it learns from: those that models have; those of all training positives; none
    read: Callable[[DataPaths], Any]  # what it is fitted on


def _likes(labels: Labels, data: DataPaths) -> Interactions:
    return read_interactions(data.processed, labels)


def _sasrec(labels: Labels, data: DataPaths) -> Evidence:
    return Evidence(_likes(labels, data), data.rivals / "sasrec")


def _learned(
    name: str, label: str, kind: type[Fitted], read: Callable[[Labels, DataPaths], Any] = _likes
) -> dict[str, Rival]:
    return {
        name: Rival(label, kind, "same", partial(read, "same")),
        f"{name}-all": Rival(f"{label}, all labels", kind, "all", partial(read, "all")),
    }


RIVALS: Mapping[str, Rival] = {
    **_learned("popularity", "popularity", Popularity),
    **_learned("inverse-popularity", "inverse popularity", InversePopularity),
    **_learned("item-knn", "item-kNN", ItemKNN),
    **_learned("follow-counts", "follow counts", FollowCounts),
    **_learned("ease", "EASE", Ease),
    **_learned("sasrec", "SASRec", SASRec, _sasrec),
    "tf-idf": Rival("TF-IDF of the text", TfIdf, "none", lambda data: read_texts(data.processed)),
    "mean-states": Rival("teacher's mean states, not adapted", MeanStates, "none", read_states),
}


def rivals_of(settings: Rivals) -> dict[str, Rival]:
    """Those that a run has."""
    return {name: row for name, row in RIVALS.items() if row.kind is not SASRec or settings.sasrec}


def settings_file(data: DataPaths, name: str) -> Path:
    """What was chosen for a rival. Fitted again with that on the same likes or texts, it gives the same scores."""
    return data.rivals / f"{name}.json"


def fit_chosen(data: DataPaths, name: str) -> Fitted:
    """A rival with the settings that the stage `rivals` chose. Raises UserError where it has not run."""
    return RIVALS[name].kind.fit(RIVALS[name].read(data), **read_json(settings_file(data, name)))
