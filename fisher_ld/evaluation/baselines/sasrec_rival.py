"""SASRec (Kang and McAuley 2018): self-attention over the history, trained on the next like. RecBole's, whose pins do
not go with ours: `make sasrec` gives it an environment of its own, in which sasrec.py runs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl

from fisher_ld.batches.lists import Lists
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, write_json
from fisher_ld.core.locks import work_root
from fisher_ld.evaluation.baselines.interactions import Interactions
from fisher_ld.evaluation.baselines.tuning import Grid

SCRIPT = Path(__file__).with_name("sasrec.py")
HISTORY, BATCH, SEED = 10, 256, 0  # likes that it reads, at most; likes a step


class Evidence(NamedTuple):
    likes: Interactions
    folder: Path  # for trained models


@dataclass(frozen=True)
class SASRec:
    GRID: ClassVar[Grid] = {"steps": (2000, 500, 6000), "dropout": (0.2, 0.5)}
    model: Path  # settings and likes, and once it has scored, its weights

    @classmethod
    def fit(cls, evidence: Evidence, steps: int, dropout: float) -> SASRec:
        """RecBole counts epochs: it trains as many as come next to so many `steps`."""
        likes, n_items = evidence.likes, evidence.likes.shape[1]
        each = -(-max(1, len(likes.flat) - len(likes.runs)) // BATCH)  # the first like of a run follows nothing
        settings = {"n_items": n_items, "history": HISTORY, "batch": BATCH, "seed": SEED, "dropout": dropout}
        settings["epochs"] = max(1, round(steps / each))
        mark = hashlib.sha256(json.dumps(settings).encode())
        for run in likes.runs:
            mark.update(run.astype(np.int32).tobytes() + b"end")
        model = evidence.folder / mark.hexdigest()[:16]
        if not model.is_dir():
            with atomic_path(model) as temporary:
                write_json(temporary / "settings.json", settings)
                pl.DataFrame({"items": likes.runs}, {"items": pl.List(pl.Int32)}).write_parquet(
                    temporary / "runs.parquet"
                )
        return cls(model)

    def score(self, lists: Lists) -> list[np.ndarray]:
        """Raises UserError where the environment is missing or RecBole fails."""
        python = work_root() / ".venv-recbole" / "bin" / "python"
        if not python.is_file():
            raise UserError(f"{python}: no such file, rivals.sasrec needs it; run `make sasrec`, or set it to false")
        histories = [lists.history(number) for number in range(len(lists))]
        with tempfile.TemporaryDirectory() as folder:
            asked, scores = Path(folder) / "lists.parquet", Path(folder) / "scores.parquet"
            types = {"history": pl.List(pl.Int32), "candidates": pl.List(pl.Int32)}
            pl.DataFrame({"history": histories, "candidates": lists.candidates}, types).write_parquet(asked)
            command = [python.absolute(), "-P", SCRIPT, self.model.absolute(), asked, scores]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{SCRIPT} failed in {python.parents[1]}:\n{done.stderr[-2000:]}")
            return [np.asarray(row, np.float32) for row in pl.read_parquet(scores)["scores"]]
