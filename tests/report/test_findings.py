"""Answers and the summary follow the numbers."""

from dataclasses import replace

import pytest

from fisher_ld.config.paths import DataPaths
from fisher_ld.report.findings import Finding, findings, gate_sentence, headline

PATHS = DataPaths("movielens-100k")
CASE = "small", "fisher-ld"


def part(results):
    return results.parts["movielens-100k"]


def found_in(results):
    return findings(part(results), *CASE)


def summary(results):
    return headline(part(results), *CASE, found_in(results))


def answered(results, **answers):
    """The summary where all targets are met, but for the answers given."""
    found = found_in(results)
    for name, finding in found.items():
        yes = "yes" if finding.answer in ("yes", "no") else "shown"
        found[name] = replace(finding, answer=answers.get(name, yes))
    return headline(part(results), *CASE, found)


def set_pair(a, b, difference, low, high, verdict):
    def change(content):
        for row in content["comparisons"]["popularity"]:
            if (row["a"], row["b"]) == (f"small/{a}", f"small/{b}"):
                row.update(difference=difference, low=low, high=high, verdict=verdict)

    return change


@pytest.mark.parametrize(
    ("low", "high", "answer"), [(0.93, 0.99, "yes"), (0.90, 0.99, "not shown"), (0.80, 0.90, "no")]
)
def test_quality_is_kept_where_the_whole_interval_says_so(edited, low, high, answer):
    def change(content):
        content["retained"]["popularity"]["small/fisher-ld"].update(share=(low + high) / 2, low=low, high=high)

    results = edited(PATHS.evaluate, change)
    assert found_in(results)["retained"].answer == answer
    assert ("can replace the teacher" in summary(results)[2]) == (answer == "yes")


def test_a_gate_that_was_not_passed_is_said_first(edited):
    reason = "the teacher is not shown above its own first 2 layers"
    results = edited(PATHS.gate("small"), lambda gate: gate.update(passed=False, overridden=True, reasons=[reason]))
    assert found_in(results)["gate"].answer == "no"
    first, _, deploy, _ = summary(results)
    assert first.startswith("This is not a test of distillation") and reason in first and "overridden" in first
    assert "on these numbers: “Is the teacher worth distilling?” no" in deploy


def test_a_passed_gate_is_said_with_its_lists(results):
    gate = part(results).gates["small"]
    assert gate_sentence(gate | {"passed": True}) == "The teacher passed its gate on 300 validation lists."
    refused = gate_sentence(gate | {"passed": False, "overridden": False, "reasons": ["a", "b"]})
    assert refused == "The teacher did not pass its gate on 300 validation lists: a; b."
    text = found_in(results)["gate"].text
    assert all(rival in text for rival in ("over popularity", "over item-kNN", "over teacher's first 2 layers"))


@pytest.mark.parametrize(
    ("numbers", "answer"),
    [
        ((0.05, 0.03, 0.07, "shown above"), "shown"),
        ((0.05, -0.01, 0.11, "not shown"), "not shown"),
        ((-0.05, -0.07, -0.03, "shown below"), "opposite shown"),
    ],
)
def test_answers_follow_verdicts(edited, numbers, answer):
    assert found_in(edited(PATHS.evaluate, set_pair("fisher-ld", "uniform", *numbers)))["uniform"].answer == answer


def test_a_shuffle_that_loses_is_said(results):
    assert "shown to beat its own shuffle, but not uniform" in answered(results, uniform="not shown")[3]
    both = answered(results)[3]
    assert both == "The Fisher weights are shown to help: over uniform layers and over their own shuffle."
    assert "but not its own shuffle" in answered(results, **{"fisher-shuffled": "not shown"})[3]


def test_a_loss_is_said_in_the_summary(edited):
    results = edited(PATHS.evaluate, set_pair("fisher-ld", "fisher-shuffled", -0.05, -0.07, -0.03, "shown below"))
    assert found_in(results)["fisher-shuffled"].answer == "opposite shown"
    assert summary(results)[3].endswith("Fisher-LD is below its own shuffle.")


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("start", "not shown", "It is not shown to beat what it started from"),
        ("start", "opposite shown", "what it started from, with the head fitted alone, is shown above it"),
        ("truncated", "not shown", "The teacher is not shown to beat its own first layers, adapted alone."),
        ("truncated", "opposite shown", "first layers, adapted alone, are shown above the whole teacher."),
        ("none", "not shown", "Distillation is not shown to beat training the same student on the labels alone."),
        ("none", "opposite shown", "Distillation is shown to cost quality"),
    ],
)
def test_limits_are_said_in_the_summary(results, name, answer, said):
    assert said in answered(results, **{name: answer})[2]
    assert said not in answered(results)[2] and said not in answered(results, **{name: "not measured"})[2]
    assert "can replace the teacher" in answered(results, **{name: answer})[2]


def test_a_rival_that_was_not_beaten_forbids_replacing(results):
    assert "It should not replace" in answered(results, **{"rivals/item-knn": "not shown"})[2]


def test_a_shuffle_that_was_not_run_is_not_measured(edited):
    def drop(content):
        rows = content["comparisons"]["popularity"]
        content["comparisons"]["popularity"] = [row for row in rows if row["b"] != "small/fisher-shuffled"]

    results = edited(PATHS.evaluate, drop)
    assert found_in(results)["fisher-shuffled"].answer == "not measured"
    assert summary(results)[3].endswith("the shuffled weights were not trained.")


def test_slow_and_large_students_fail(edited):
    def slow(content):
        content["ratios"]["small"].update(throughput=3.0, latency_p50=2.0, parameters=2.0)
        content["intervals"]["small"]["throughput"] = {"low": 2.5, "high": 3.9}

    found = found_in(edited(PATHS.efficiency("small"), slow))
    assert (found["parameters"].answer, found["throughput"].answer) == ("no", "no")


def test_an_unsteady_clock_shows_no_speed(edited):
    def unsteady(content):
        content["intervals"]["small"]["throughput"] = {"low": 3.0, "high": 8.0}

    found = found_in(edited(PATHS.efficiency("small"), unsteady))["throughput"]
    assert found.answer == "not shown" and "95% interval 3.0 to 8.0" in found.text


def test_what_counts_as_good():
    assert [a for a in ("yes", "no", "shown", "not shown", "not measured") if Finding("", a, "").good] == [
        "yes",
        "shown",
    ]
