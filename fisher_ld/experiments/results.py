"""What a run measured: the files of its cells, found by the names in `run` of params.yaml. Each is read at most once,
when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import polars as pl

from fisher_ld.batches.lists import MAIN
from fisher_ld.config import paths
from fisher_ld.config.params import Run, methods_of, trained
from fisher_ld.config.paths import TABLES, DataPaths, cell
from fisher_ld.core.files import present, read_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation.comparisons import Pair
from fisher_ld.evaluation.metrics.catalogue import PRIMARY

PROPOSED = "fisher-ld"  # the method of the paper
OPPOSITE = {"shown above": "shown below", "shown below": "shown above"}


def _csv(path: Path) -> pl.DataFrame:
    return pl.read_csv(present(path), infer_schema_length=None)


@dataclass(frozen=True)
class Part:
    """What a run measured on one data set. A model is named as in `paths`."""

    name: str
    run: Run

    @cached_property
    def paths(self) -> DataPaths:
        return DataPaths(self.name)

    @cached_property
    def evaluate(self) -> dict[str, Any]:
        return read_json(self.paths.evaluate)

    @cached_property
    def calibration(self) -> dict[str, Any]:
        return read_json(self.paths.calibration)

    @cached_property
    def examples(self) -> dict[str, Any]:
        return read_json(self.paths.examples)

    @cached_property
    def efficiency(self) -> dict[str, dict[str, Any]]:
        """By student."""
        return {student: read_json(self.paths.efficiency(student)) for student in self.run.students}

    @cached_property
    def gates(self) -> dict[str, dict[str, Any]]:
        """By student."""
        return {student: read_json(self.paths.gate(student)) for student in self.run.students}

    @cached_property
    def data(self) -> dict[str, Any]:
        return read_json(self.paths.data_report)

    @cached_property
    def two_stage(self) -> dict[str, Any] | None:
        """Whose best the two-stage lists are, and how often it left out the true item; None without such lists."""
        return read_json(cell("rivals", self.name) / "two_stage.json") if "two-stage" in self.families else None

    @cached_property
    def fisher(self) -> dict[str, Any]:
        return read_json(self.paths.fisher)

    @cached_property
    def profile(self) -> pl.DataFrame:
        return _csv(self.paths.profile)

    @cached_property
    def fits(self) -> dict[str, list[dict[str, Any]]]:
        """Model -> fit.json of each seed."""
        models = trained(self.run)
        return {m: [read_json(self.paths.training(m, s) / "fit.json") for s in seeds] for m, seeds in models.items()}

    @cached_property
    def strengths(self) -> dict[str, dict[str, Any]]:
        """Student that tried several factors -> the one taken, and validation NDCG@10 of each."""
        found = {}
        for shape in self.run.students:
            for method in methods_of(self.run, shape):
                if trials := read_json(self.paths.strength_trials(shape, method)):
                    taken = read_json(self.paths.strength(shape, method))
                    found[paths.student(shape, method)] = {**taken, "trials": trials}
        return found

    @cached_property
    def costs(self) -> dict[str, list[dict[str, Any]]]:
        """Student -> what the training of each seed took: `seconds`, `peak_memory_mib`."""
        students = {model: seeds for model, seeds in trained(self.run).items() if "/" in model}
        return {m: [read_json(self.paths.training(m, s) / "run.json") for s in seeds] for m, seeds in students.items()}

    @cached_property
    def curves(self) -> dict[str, pl.DataFrame]:
        """Model -> its training curves, a column `seed` among them."""
        return {model: self._by_seed(model, "curve.csv") for model in trained(self.run)}

    @cached_property
    def weights(self) -> dict[str, pl.DataFrame]:
        """Student with a layer loss -> seed, step, layer, weight."""
        frames = {model: self._by_seed(model, "weights.csv") for model in trained(self.run) if "/" in model}
        return {model: frame for model, frame in frames.items() if len(frame)}

    def _by_seed(self, model: str, file: str) -> pl.DataFrame:
        frames = [
            _csv(self.paths.training(model, seed) / file).select(pl.lit(seed).alias("seed"), pl.all())
            for seed in trained(self.run)[model]
        ]
        return pl.concat(frames, how="diagonal_relaxed")

    def weighted(self, student: str) -> list[str]:
        """Its models that differ in the weights of their layers alone."""
        return [paths.student(student, method) for method in methods_of(self.run, student) if METHODS[method].weighting]

    def changing(self, model: str) -> bool:
        """Whether its layer weights changed in training (Eq. 9)."""
        return model in self.weights and self.weights[model]["step"].n_unique() > 1

    @property
    def families(self) -> list[str]:
        """Those whose test lists were written, the main one first."""
        return list(self.evaluate["quality"])

    @property
    def scored(self) -> int:
        """How often test lists were scored: a model's run and a family each, chance apart."""
        counted = self.evaluate["seeds"].values()
        return sum(len(runs) for models in counted for model, runs in models.items() if model != "chance")

    def quality(self, model: str, metric: str = PRIMARY, family: str = MAIN) -> dict[str, Any] | None:
        """mean, low, high, spread, n; None where it was not measured."""
        return self.evaluate["quality"][family].get(model, {}).get(metric)

    def at_chance(self, model: str) -> bool:
        """Whether the interval of its mean holds that of a random order, or lies below."""
        found, chance = self.quality(model), self.quality("chance")
        return found is not None and chance is not None and found["low"] <= chance["mean"]

    def comparisons(self, student: str | None, group: str) -> list[dict[str, Any]]:
        """The rows of a student (None: those of no student) that were tested together."""
        rows = self.evaluate["comparisons"][MAIN]
        return [row for row in rows if row["student"] == student and row["group"] == group]

    def asked(self, question: str, student: str) -> dict[str, Any] | None:
        """The row of the main lists that answers a question about a student; None where no pair of this run does."""
        pair = Pair.of(question, student, self.gates[student])
        return self.comparison(pair.a, pair.b)

    def comparison(self, a: str, b: str, metric: str = PRIMARY) -> dict[str, Any] | None:
        """a minus b with interval and verdict, whichever was asked to be above; None where neither was."""
        for row in self.evaluate["comparisons"][MAIN]:
            if row["metric"] == metric and {row["a"], row["b"]} == {a, b}:
                return row if row["a"] == a else _turned(row)
        return None

    def best(self, student: str) -> str:
        """Its model that is best on the validation lists, over seeds."""
        found = {model: mean(seeds) for model, seeds in self.evaluate["validation"].items()}
        return max((m for m in found if m.startswith(f"{student}/")), key=found.__getitem__)


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison of a with b as one of b with a."""
    signs: dict[str, Any] = {"difference": -row["difference"], "d": None if row["d"] is None else -row["d"]}
    signs["by_seed"] = [-value for value in row["by_seed"]]
    ends = {"a": row["b"], "b": row["a"], "mean_a": row["mean_b"], "mean_b": row["mean_a"]}
    verdict = OPPOSITE.get(row["verdict"], row["verdict"])
    return {**row, **signs, **ends, "low": -row["high"], "high": -row["low"], "question": None, "verdict": verdict}


@dataclass(frozen=True)
class Results:
    """A run: a part a data set, in the order of `run.data`."""

    run: Run

    @cached_property
    def parts(self) -> dict[str, Part]:
        return {name: Part(name, self.run) for name in self.run.data}

    @property
    def several(self) -> bool:
        """Whether a method's name alone leaves open which student is meant."""
        return len(self.run.data) > 1 or len(self.run.students) > 1

    @property
    def method(self) -> str:
        """The method that the report is about, which every student learned."""
        everywhere = all(PROPOSED in methods_of(self.run, student) for student in self.run.students)
        return PROPOSED if everywhere else self.run.methods[-1]

    @cached_property
    def tables(self) -> list[dict[str, Any]]:
        """The paper's, filled by the stage `ablations`."""
        return read_json(TABLES / "tables.json")
