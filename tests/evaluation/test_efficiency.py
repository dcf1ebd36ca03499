import time

import numpy as np
import pytest
from torch import nn

from fisher_ld.evaluation import efficiency
from fisher_ld.evaluation.efficiency import NOT_AVAILABLE, EnergyCounter


def make_package(root, number, energy, name="package-0", limit=1_000_000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder


def test_energy_of_two_packages_and_an_overflow(tmp_path):
    first = make_package(tmp_path, "0", 900_000)
    second = make_package(tmp_path, "1", 100, "package-1")
    make_package(tmp_path, "0:0", 5, "core")  # part of its package, not counted again
    counter = EnergyCounter(tmp_path)
    before = counter.read()
    (first / "energy_uj").write_text("400000")  # over the limit of 1 J once: 0.1 + 0.4
    (second / "energy_uj").write_text("250100")
    assert counter.joules(before, counter.read()) == pytest.approx(0.5 + 0.25)
    assert "RAPL" in counter.source


def test_no_counter_is_said(tmp_path):
    assert EnergyCounter(tmp_path).source == NOT_AVAILABLE
    assert EnergyCounter(tmp_path / "none").source == NOT_AVAILABLE
    (make_package(tmp_path, "0", 1) / "energy_uj").unlink()
    assert EnergyCounter(tmp_path).source == NOT_AVAILABLE


def recorder(name, calls):
    return lambda queries: calls.append((name, list(queries)))


def test_latency_warms_up_and_alternates(tmp_path):
    calls = []
    models = {name: recorder(name, calls) for name in "ab"}
    seconds, joules = efficiency.latency(models, [7, 8, 9, 5], EnergyCounter(tmp_path), warm_up=2)
    assert calls[:4] == [("a", [7]), ("a", [8]), ("b", [7]), ("b", [8])]
    turns = [("a", 7), ("b", 7), ("b", 8), ("a", 8), ("a", 9), ("b", 9), ("b", 5), ("a", 5)]
    assert calls[4:] == [(name, [query]) for name, query in turns]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4}
    assert len(joules["a"]) == 0


def test_latency_reads_the_counter_around_each_query(tmp_path):
    package = make_package(tmp_path, "0", 0)

    def burn(microjoules):
        energy = package / "energy_uj"
        return lambda queries: energy.write_text(str(int(energy.read_text()) + microjoules))

    models = {"teacher": burn(3000), "student": burn(1000)}
    seconds, joules = efficiency.latency(models, [0, 1], EnergyCounter(tmp_path))
    assert joules["teacher"] == pytest.approx([0.003] * 2)
    assert joules["student"] == pytest.approx([0.001] * 2)
    assert efficiency.summarise(seconds, joules, {n: {1: 1.0} for n in models})["student"][
        "joules_per_query"
    ] == pytest.approx(0.001)


def test_throughput_doubles_the_batch_while_it_gains(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    sizes = {"flat": [], "gains": []}

    def model(name, cost):
        def run(queries):
            sizes[name].append(len(queries))
            clock[0] += cost(len(queries))

        return run

    models = {"flat": model("flat", lambda n: 2.0 * n), "gains": model("gains", lambda n: 1.0 if n <= 4 else n)}
    rates = efficiency.throughput(models, list(range(10)), limit=16)
    assert rates["flat"] == {1: 0.5, 2: 0.5}
    assert rates["gains"] == pytest.approx({1: 1.0, 2: 2.0, 4: 10 / 3, 8: 10 / 9})
    assert sizes["gains"] == [1] * 11 + [2] * 6 + [4, 4, 4, 2] + [8, 8, 2]  # the first of a size untimed
    rows = efficiency.summarise({n: np.array([0.1, 0.2, 0.3]) for n in rates}, {n: np.array([]) for n in rates}, rates)
    assert (rows["gains"]["best_batch"], rows["flat"]["best_batch"]) == (4, 1)
    assert rows["flat"]["latency_p50_ms"] == pytest.approx(200)
    assert rows["flat"]["latency_p95_ms"] == pytest.approx(290)
    assert rows["flat"]["joules_per_query"] == NOT_AVAILABLE


def allocate(mib):
    np.ones(mib * 2**17)  # float64


def fail():
    raise ZeroDivisionError


def test_peak_memory_is_the_childs_own(monkeypatch):
    ballast = np.ones(400 * 2**17)  # a fat parent must not count
    small, large = efficiency.peak_memory(allocate, 8), efficiency.peak_memory(allocate, 200)
    assert large["peak_mib"] - small["peak_mib"] == pytest.approx(192, abs=16)
    assert large["peak_mib"] - large["idle_mib"] >= 190
    assert small["peak_mib"] < ballast.nbytes / 2**20 + small["idle_mib"] / 2
    monkeypatch.setattr(efficiency, "_resident_peak", lambda: None)
    assert efficiency.peak_memory(allocate, 1) == NOT_AVAILABLE


def test_a_failed_memory_run_is_an_error():
    with pytest.raises(RuntimeError, match="the process of fail ended with 1"):
        efficiency.peak_memory(fail)


def test_parameters_apart():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.score = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 2, bias=False)

        def get_input_embeddings(self):
            return self.embed

    assert efficiency.parameters(Model()) == {"body": 20, "embedding": 40, "head": 8, "total": 68}


def test_size_on_disk_leaves_scores_out(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "scores_test_uniform.parquet").write_bytes(b"x" * 1000)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_bytes(b"x" * 10)
    assert efficiency.size_on_disk(tmp_path) == 110


def test_ratios_are_gains_over_the_reference():
    def row(**values):
        base = {"latency_p50_ms": 10.0, "latency_p95_ms": 12.0, "queries_per_second": 100.0}
        base |= {"joules_per_query": NOT_AVAILABLE, "parameters": {"total": 100, "body": 80}, "size_bytes": 400}
        return base | {"memory": {"peak_mib": 1000.0, "idle_mib": 100.0}} | values

    student = row(latency_p50_ms=2.0, queries_per_second=400.0, parameters={"total": 25, "body": 10}, size_bytes=100)
    found = efficiency.ratios(student, row())
    assert found == {
        "latency_p50": 5,
        "latency_p95": 1,
        "throughput": 4,
        "parameters": 4,
        "body_parameters": 8,
        "size_on_disk": 4,
        "peak_memory": 1,
    }
    assert "peak_memory" not in efficiency.ratios(row(memory=NOT_AVAILABLE), row())
    assert efficiency.ratios(row(joules_per_query=1.0), row(joules_per_query=3.0))["energy"] == 3
