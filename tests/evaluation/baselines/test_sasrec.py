import sys
from pathlib import Path

import numpy as np
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.evaluation.baselines.catalogue import rivals_of
from fisher_ld.evaluation.baselines.interactions import first_likes
from fisher_ld.evaluation.baselines.sasrec_rival import SCRIPT, Evidence, SASRec
from tests.evaluation.baselines.likes import lists_of
from tests.given import ROOT, given

PYTHON = Path(".venv-recbole") / "bin" / "python"
RECBOLE = ROOT / PYTHON
# every user walks on by one on a circle of 30 items
SEQUENCES = [(np.arange(12) + 7 * user) % 30 for user in range(60)]
LISTS = lists_of([0, 1, 2], [5, 3, 9], [[19, 5], [18, 10], [20, 23]], sequences=SEQUENCES, positive=[1, 1, 1])
# scores a candidate by its number times the epochs, as what it is given says
FAKE = f"""#!{sys.executable}
import json, sys, polars as pl
from pathlib import Path
assert sys.argv[1] == "-P" and sys.argv[2] == {str(SCRIPT)!r} and Path.cwd() == Path(sys.argv[5]).parent, sys.argv
epochs = json.loads((Path(sys.argv[3]) / "settings.json").read_text())["epochs"]
assert pl.read_parquet(Path(sys.argv[3]) / "runs.parquet")["items"].to_list()[1] == {SEQUENCES[1].tolist()}
lists = pl.read_parquet(sys.argv[4])
assert lists["history"].to_list()[1] == [7, 8, 9]
sys.exit("the likes are broken") if epochs == 13 else None
pl.DataFrame({{"scores": [[float(epochs * i) for i in row] for row in lists["candidates"]]}}).write_parquet(sys.argv[5])
"""


def fit(folder, steps):
    """Of 60 times 11 likes that follow another, an epoch is 3 steps of 256."""
    return SASRec.fit(Evidence(first_likes(SEQUENCES, [12] * 60, 30), folder), steps=steps, dropout=0.2)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def test_what_is_asked_of_the_other_environment_and_what_comes_back(project):
    PYTHON.parent.mkdir(parents=True)
    PYTHON.write_text(FAKE)
    PYTHON.chmod(0o755)
    found = fit(project / "models", 12).score(LISTS)
    assert [scores.tolist() for scores in found] == [[76, 20], [72, 40], [80, 92]]
    assert fit(project / "models", 12).model == fit(project / "models", 13).model != fit(project / "models", 15).model
    with pytest.raises(UserError, match=r"sasrec\.py failed in .*recbole:\n.*the likes are broken"):
        fit(project / "models", 39).score(LISTS)


def test_without_the_other_environment_one_is_told_how_to_get_it(project):
    with pytest.raises(UserError, match="run `make sasrec`"):
        fit(project / "models", 4).score(LISTS)


def test_sasrec_is_a_rival_only_where_asked():
    without, with_it = (rivals_of(given({"rivals": {"sasrec": asked}}).rivals) for asked in (False, True))
    assert set(with_it) - set(without) == {"sasrec", "sasrec-all"}


@pytest.mark.slow
@pytest.mark.skipif(not RECBOLE.is_file(), reason="make sasrec")
def test_recbole_learns_what_comes_next_and_trains_once(project):
    (project / ".venv-recbole").symlink_to(RECBOLE.parents[1])
    model = fit(project / "models", 90)
    found = model.score(LISTS)
    assert all(after > other for other, after in found)
    weights = model.model / "weights.pt"
    trained = weights.stat().st_mtime_ns
    np.testing.assert_array_equal(np.concatenate(model.score(LISTS)), np.concatenate(found))
    assert weights.stat().st_mtime_ns == trained
    assert {file.name for file in project.iterdir()} == {".venv-recbole", "models"}  # RecBole leaves nothing behind
