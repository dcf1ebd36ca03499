import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from torch import nn

from fisher_ld.evaluation import meters
from fisher_ld.evaluation.meters import NOT_AVAILABLE, EnergyCounter, GpuCounter


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


class Nvml(ModuleType):
    """Stands where pynvml is: a GPU that takes `millijoules` each time that it is asked."""

    class NVMLError(Exception):
        pass

    def __init__(self, *refused):
        super().__init__("pynvml")
        self.refused, self.energy, self.used = refused, 1000, 7 * 2**20

    def nvmlInit(self):
        self._refuse("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-1"
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        self._refuse("nvmlDeviceGetTotalEnergyConsumption")
        return self.energy

    def nvmlDeviceGetMemoryInfo(self, gpu):
        return SimpleNamespace(total=80 * 2**30, used=self.used)

    def _refuse(self, name):
        if name in self.refused:
            raise self.NVMLError(name)


@pytest.fixture
def nvml(monkeypatch):
    def put(*refused):
        monkeypatch.setitem(sys.modules, "pynvml", Nvml(*refused))
        return sys.modules["pynvml"]

    return put


def test_energy_of_a_gpu_is_that_of_all_queries_in_a_row(nvml, monkeypatch):
    clock, gpu = [0.0], nvml()
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def model(queries):
        clock[0] += 0.5
        gpu.energy += 20 * len(queries)

    counter = GpuCounter("GPU-1")
    assert counter.joules_per_query(model, range(4), seconds=5.0) == pytest.approx(0.02)
    assert clock[0] == 0.5 * (1 + 3 * 4)  # a first query is not counted; three rounds take six seconds
    assert "NVML" in counter.source


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_gpu_that_counts_no_energy_is_said(nvml, refused):
    nvml(refused)
    counter = GpuCounter("GPU-1")
    assert counter.source == counter.joules_per_query(print, range(4)) == NOT_AVAILABLE


def test_memory_of_a_gpu_is_what_a_process_added(nvml):
    gpu, sent = nvml(), []

    def take(mib):
        gpu.used += mib * 2**20

    meters._child(SimpleNamespace(send=sent.append), "GPU-1", take, (300,))
    assert sent == [(0, 300 * 2**20)]
    nvml("nvmlInit")
    assert meters.peak_memory(take, 1, gpu="GPU-1") == NOT_AVAILABLE


def recorder(name, calls):
    return lambda queries: calls.append((name, list(queries)))


def test_latency_warms_up_and_alternates(tmp_path):
    calls = []
    models = {name: recorder(name, calls) for name in "ab"}
    seconds, joules = meters.latency(models, [7, 8, 9, 5], EnergyCounter(tmp_path), warm_up=2)
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
    _, joules = meters.latency(models, [0, 1], EnergyCounter(tmp_path))
    assert joules["teacher"] == pytest.approx([0.003] * 2)
    assert joules["student"] == pytest.approx([0.001] * 2)


def test_in_a_round_all_models_answer_the_same_in_batches_of_their_own():
    calls = []
    models = {name: recorder(name, calls) for name in "ab"}
    seconds = meters.rounds(models, {"a": 2, "b": 4}, range(3, 10), 4)
    assert calls == [
        ("a", [3, 4]), ("b", [3, 4, 5, 6]),  # untimed
        ("a", [3, 4]), ("a", [5, 6]), ("b", [3, 4, 5, 6]),
        ("b", [7, 8, 9]), ("a", [7, 8]), ("a", [9]),
    ]  # fmt: skip
    assert {name: values.shape for name, values in seconds.items()} == {"a": (2,), "b": (2,)}


def test_the_best_batch_is_that_of_each_model(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def model(cost):
        def run(queries):
            clock[0] += cost(len(queries))

        return run

    models = {"flat": model(lambda n: 2.0 * n), "gains": model(lambda n: 1.0 if n <= 4 else n)}
    assert meters.best_batch(models, range(16), 16) == {"flat": 1, "gains": 4}


def allocate(mib):
    np.ones(mib * 2**17)  # float64


def fail():
    raise ZeroDivisionError


def test_peak_memory_is_the_childs_own(monkeypatch):
    ballast = np.ones(400 * 2**17)  # a fat parent must not count
    small, large = meters.peak_memory(allocate, 8), meters.peak_memory(allocate, 200)
    assert large["peak_mib"] - small["peak_mib"] == pytest.approx(192, abs=16)
    assert large["peak_mib"] - large["idle_mib"] >= 190
    assert small["peak_mib"] < ballast.nbytes / 2**20 + small["idle_mib"] / 2
    monkeypatch.setattr(meters, "_resident_peak", lambda: None)
    assert meters.peak_memory(allocate, 1) == NOT_AVAILABLE


def test_a_failed_memory_run_is_an_error():
    with pytest.raises(RuntimeError, match="the process of fail ended with 1"):
        meters.peak_memory(fail)


def test_parameters_apart():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.score = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 2, bias=False)

        def get_input_embeddings(self):
            return self.embed

    assert meters.parameters(Model()) == {"body": 20, "embedding": 40, "head": 8, "total": 68}


def test_size_on_disk_is_of_all_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_bytes(b"x" * 10)
    assert meters.size_on_disk(tmp_path) == 110
