import re
import subprocess
import sys

import pytest

from fisher_ld.core.progress import Progress, progress


def test_progress_yields_every_item_and_prints_lines(capsys, monkeypatch):
    monkeypatch.setattr(Progress, "interval", 0.0)
    assert list(progress(["a", "b"], "Reading", "files")) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"Reading: 1/2 files \(50%\), \S+ files/s, \d+:\d\d left", lines[0])
    assert re.fullmatch(r"Reading: 2 files in 0:00 \(\S+ files/s\)", lines[-1])


def test_progress_by_hand_counts_from_a_checkpoint(capsys, monkeypatch):
    monkeypatch.setattr(Progress, "interval", 0.0)
    with progress(10, "Training", "steps", done=8) as bar:
        bar.started -= 1.0
        bar.advance(1)
        assert 0 < bar.rate() < 1.01  # one step in a second, not nine
    first = capsys.readouterr().err.splitlines()[0]
    assert "9/10 steps (90%)" in first and first.endswith("0:01 left")


def test_progress_without_a_total_or_output(capsys):
    assert list(progress(iter(range(3)), "x")) == [0, 1, 2]
    with pytest.raises(TypeError, match="not iterable"):
        list(progress(3, "x"))
    assert capsys.readouterr().err == ""


def test_progress_draws_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(4, "Scoring", "lists") as bar:
        bar.advance(4)
    assert "Scoring" in capsys.readouterr().err and bar.bar.tasks[0].completed == 4


def test_bars_of_libraries_are_silenced_though_they_are_imported_already():
    code = """
import torch
from fisher_ld.core.progress import silence_bars
silence_bars()
from tqdm.auto import tqdm
for _ in tqdm(range(3)):
    pass
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")
