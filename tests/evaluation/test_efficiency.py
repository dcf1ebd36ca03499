import numpy as np
import pytest

from fisher_ld.evaluation.efficiency import Queries, latency_interval, ratios, throughput_interval
from fisher_ld.evaluation.meters import NOT_AVAILABLE


def test_ratios_are_gains_over_the_reference():
    def row(**values):
        base = {"latency_p50_ms": 10.0, "latency_p95_ms": 12.0, "queries_per_second": 100.0}
        base |= {"joules_per_query": NOT_AVAILABLE, "parameters": {"total": 100, "body": 80}, "size_bytes": 400}
        return base | {"memory": {"peak_mib": 1000.0, "idle_mib": 100.0}} | values

    student = row(latency_p50_ms=2.0, queries_per_second=400.0, parameters={"total": 25, "body": 10}, size_bytes=100)
    found = ratios(student, row())
    assert found == {
        "latency_p50": 5,
        "latency_p95": 1,
        "throughput": 4,
        "parameters": 4,
        "body_parameters": 8,
        "size_on_disk": 4,
        "peak_memory": 1,
    }
    assert "peak_memory" not in ratios(row(memory=NOT_AVAILABLE), row())
    assert ratios(row(joules_per_query=1.0), row(joules_per_query=3.0))["energy"] == 3


def test_intervals_of_models_that_differ_by_a_factor():
    rng = np.random.default_rng(0)
    student = rng.uniform(1, 2, 200)
    found = latency_interval(4 * student, student, 0)
    assert (found["low"], found["high"]) == pytest.approx((4, 4))  # paired by query
    noisy = latency_interval(4 * rng.uniform(1, 2, 200), student, 0)
    assert 3 < noisy["low"] < 4 < noisy["high"] < 5
    rounds = rng.uniform(1, 9, 12)
    rates = throughput_interval(4 * rounds, rounds, 0)
    assert (rates["low"], rates["high"]) == pytest.approx((4, 4))  # paired by round
    spread = throughput_interval(rng.uniform(1, 3, 12), np.full(12, 0.5), 0)
    assert spread["low"] < 4 < spread["high"]


def test_no_interval_from_a_few_rounds():
    assert throughput_interval(np.ones(3), np.ones(3), 0) is None


def test_the_longest_queries_set_the_peak():
    queries = Queries([["a"], ["a" * 9, "b"], []], [["x"], ["y"], ["z" * 30]])
    longest = queries.longest(2)
    assert longest.candidates == [["y"], ["z" * 30]]
    assert longest.histories == [["a" * 9, "b"], []]
