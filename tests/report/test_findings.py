"""Verdicts follow the numbers."""

import shutil
from dataclasses import replace

import polars as pl
import pytest

from fisher_ld.report.compare import beside
from fisher_ld.report.findings import at_least, findings, headline
from fisher_ld.report.inputs import read_results
from fisher_ld.report.paper import TABLE_I, TABLES_ELSEWHERE, chance_ndcg_5, impossible


@pytest.fixture
def changed(sample, tmp_path, edit):
    """changed(file, change): the results after a change of one file."""

    def apply(file, change):
        metrics = shutil.copytree(sample, tmp_path / "metrics")
        edit(metrics / file, change)
        return read_results(metrics)

    return apply


def set_pair(a, b, difference, low, high, verdict):
    def change(content):
        for rows in content["comparisons"].values():
            for row in rows:
                if (row["a"], row["b"]) == (a, b):
                    row.update(difference=difference, low=low, high=high, verdict=verdict, mean_b=0.5)

    return change


def set_retained(share, low, high):
    return lambda e: e["retained"]["popularity"]["fisher-ld"].update(share=share, low=low, high=high)


def at_once(results):
    """As if the teacher had been adapted in one part."""
    curve = results.curves["teacher"].with_columns(depth=pl.lit(30))
    return replace(results, curves=results.curves | {"teacher": curve})


def answered(sample, **answers):
    """What the summary says of replacing the teacher where all targets are met, but for some answers."""
    results = read_results(sample)
    found = findings(results)
    for name, finding in found.items():
        yes = "yes" if finding.answer in ("yes", "no") else "shown"
        found[name] = replace(finding, answer=answers.get(name, yes))
    return headline(results, found)[1]


def row(results, what, where=None):
    return next(r for r in beside(results) if what in r.what and where in (None, r.where))


def test_at_least():
    assert at_least(0.92, 0.95, 0.92) == "yes"
    assert at_least(0.91, 0.95, 0.92) == "not shown"
    assert at_least(0.80, 0.91, 0.92) == "no"


@pytest.mark.parametrize(
    ("low", "high", "answer", "verdict", "reason"),
    [
        (0.93, 0.99, "yes", "reproduced", "at or above 92%"),
        (0.90, 0.99, "not shown", "not reproduced", "not shown: our interval holds 92%"),
        (0.80, 0.90, "no", "not reproduced", "below 92%"),
    ],
)
def test_retained(changed, low, high, answer, verdict, reason):
    results = changed("evaluate.json", set_retained((low + high) / 2, low, high))
    assert findings(results)["retained"].answer == answer
    found = row(results, "share of the teacher")
    assert found.verdict == verdict and reason in found.reason
    deploy = headline(results, findings(results))[1]
    assert ("can replace the teacher" in deploy) == (answer == "yes")


def test_failed_gate_forbids_a_share(changed):
    results = changed("gate.json", lambda gate: gate.update(passed=False))
    assert findings(results)["gate"].answer == "no"
    assert row(results, "share of the teacher").verdict == "cannot be compared"
    deploy = headline(results, findings(results))[1]
    assert "on these numbers: “Does the teacher beat popularity and item-kNN?” no" in deploy


@pytest.mark.parametrize(
    ("numbers", "answer", "verdict", "reason"),
    [
        ((0.05, 0.03, 0.07, "shown above"), "shown", "reproduced", "a gain is shown"),
        ((0.02, 0.01, 0.03, "shown above"), "shown", "not reproduced", "but not one of 5.1%"),
        ((0.05, -0.01, 0.11, "not shown"), "not shown", "not reproduced", "no gain is shown"),
        ((-0.05, -0.07, -0.03, "shown below"), "opposite shown", "not reproduced", "a loss"),
    ],
)
def test_fisher_ld_against_uniform(changed, numbers, answer, verdict, reason):
    difference, low, high, said = numbers

    def change(content):
        set_pair("fisher-ld", "uniform", *numbers)(content)
        for claim in content["claims"]["popularity"].values():
            claim.update(difference=difference, low=low, high=high, verdict=said, mean_b=0.5)

    results = changed("evaluate.json", change)
    assert findings(results)["uniform"].answer == answer
    found = row(results, "NDCG@5 over uniform")
    assert found.verdict == verdict and reason in found.reason


def test_shuffle_decides_the_summary(changed):
    results = changed("ablations.json", set_pair("fisher-ld", "fisher-shuffled", 0.05, 0.03, 0.07, "shown above"))
    found = findings(results)
    assert found["shuffled"].answer == "shown"
    assert "shown to beat its own shuffle, but not uniform" in headline(results, found)[2]


def test_a_loss_is_said_in_the_summary(changed):
    pair = set_pair("fisher-ld", "fisher-shuffled", -0.05, -0.07, -0.03, "shown below")
    results = changed("ablations.json", pair)
    found = findings(results)
    assert found["shuffled"].answer == "opposite shown"
    assert headline(results, found)[2].endswith("Fisher-LD is below its own shuffle.")


def test_a_better_start_is_said_in_the_summary(changed):
    results = changed("evaluate.json", set_pair("fisher-ld", "truncated", -0.012, -0.018, -0.006, "shown below"))
    assert "first layers, of the same size and not trained further, are" in headline(results, findings(results))[1]


@pytest.mark.parametrize(
    ("start", "teacher", "said"),
    [
        ("shown", "shown", ""),
        ("not shown", "shown", "It is not shown to beat the teacher's own first layers, of the student's size"),
        ("shown", "not shown", "The teacher is not shown to beat its own first layers, of the student's size"),
        ("not shown", "not shown", "Neither it nor the teacher is shown to beat the teacher's own first layers"),
        ("opposite shown", "shown", "not trained further, are shown above it."),
        ("opposite shown", "opposite shown", "are shown above it and the teacher."),
        ("opposite shown", "not shown", "are shown above it; the teacher is not shown to beat them."),
        ("not shown", "opposite shown", "are shown above the teacher; it is not shown to beat them."),
        ("not measured", "not measured", ""),
    ],
)
def test_first_layers_in_the_summary(sample, start, teacher, said):
    text = answered(sample, start=start, truncated=teacher)
    assert said in text
    assert ("first layers" in text) == bool(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("shown", ""),
        ("not shown", "Distillation is not shown to beat training the same student on the labels alone."),
        ("opposite shown", "Distillation is shown to cost quality"),
    ],
)
def test_distillation_in_the_summary(sample, answer, said):
    text = answered(sample, none=answer)
    assert "can replace the teacher" in text and said in text
    assert ("Distillation" in text) == bool(said)


def test_shuffle_that_was_not_run_is_not_measured(changed):
    def drop(content):
        for family, rows in content["comparisons"].items():
            content["comparisons"][family] = [r for r in rows if r["b"] != "fisher-shuffled"]

    results = changed("ablations.json", drop)
    found = findings(results)
    assert found["shuffled"].answer == "not measured"
    assert headline(results, found)[2].endswith("the shuffled weights were not trained.")


def test_slow_and_large_students_fail(changed):
    def slow(content):
        for ratios in content["efficiency"]["ratios"].values():
            ratios.update(throughput=2.0, latency_p50=2.0, parameters=2.0)

    results = changed("evaluate.json", slow)
    found = findings(results)
    assert (found["parameters"].answer, found["throughput"].answer) == ("no", "no")
    assert row(results, "shorter latency").verdict == "not reproduced"
    assert {r.verdict for r in beside(results) if r.what == "fewer parameters"} == {"not reproduced"}


def test_layers(changed):
    def flat(fisher):
        for entry in fisher["adapted"]["true"]["layers"]:
            entry.update(trace=1.0, standard_error=0.01)

    assert row(at_once(changed("fisher.json", flat)), "upper quarter").verdict == "not reproduced"


def test_top_layers_at_the_same_depth(changed):
    def peak(fisher):
        for entry in fisher["adapted"]["true"]["layers"]:
            inside = entry["layer"] in (27, 28, 29)  # of 30, where 28, 29 and 30 are of 32
            entry.update(share=0.2 if inside else 0.01, share_standard_error=0.001)

    assert row(at_once(changed("fisher.json", peak)), "most important layers").verdict == "reproduced"


def test_sample_carried_by_other_layers(sample):
    results = at_once(read_results(sample))
    assert row(results, "upper quarter").verdict == "reproduced"
    assert row(results, "most important layers").verdict == "not reproduced"


def test_a_profile_that_a_quiet_start_made_is_not_compared(sample):
    for what in ("upper quarter", "most important layers"):
        found = row(read_results(sample), what)
        assert found.verdict == "cannot be compared" and "started quietly" in found.reason


@pytest.mark.parametrize(
    ("verdict", "d", "ours", "answer"),
    [
        ("shown above", 0.9, "+0.90", "reproduced"),
        ("shown above", 0.1, "+0.10", "not reproduced"),
        ("not shown", None, "none: all differences are equal", "not reproduced"),
    ],
)
def test_effect_sizes(changed, verdict, d, ours, answer):
    results = changed("evaluate.json", lambda e: e["claims"]["popularity"]["ndcg_5"].update(verdict=verdict, d=d))
    found = row(results, "NDCG@5 over uniform: Cohen's d")
    assert (found.ours, found.verdict) == (ours, answer)


@pytest.mark.parametrize(
    ("verdict", "p", "answer", "reason"),
    [
        ("shown above", 0.0005, "reproduced", "over users"),
        ("shown above", 0.001, "not reproduced", "no gain at that level: MRR"),
        ("shown below", 0.0005, "not reproduced", "no gain at that level: MRR"),
    ],
)
def test_p_of_a_loss_shows_no_gain(changed, verdict, p, answer, reason):
    results = changed("evaluate.json", lambda e: e["claims"]["popularity"]["mrr"].update(verdict=verdict, p_t=p))
    found = row(results, "MRR over uniform: p")
    assert (found.ours, found.verdict) == (f"MRR {p:.2g}", answer) and found.reason.endswith(reason)


@pytest.mark.parametrize(("low", "verdict"), [(0.01, "shown above"), (-0.01, "not shown")])
def test_all_comparisons_of_the_paper(changed, low, verdict):
    def change(content):
        set_pair("fisher-ld", "uniform", 0.05, low, 0.09, verdict)(content)
        claims = content["claims"]["popularity"].values()
        pair = next(r for r in content["comparisons"]["popularity"] if (r["a"], r["b"]) == ("fisher-ld", "uniform"))
        for tested in (pair, *claims):
            tested.update(low=low, high=0.09, verdict=verdict, p_t=0.005)

    results = changed("evaluate.json", change)
    for what, ours in (("all metrics (here without Hit@5): p", "NDCG@5 0.005"), ("bootstrap intervals", f"{low:+.3f}")):
        found = row(results, what)
        assert found.verdict == ("reproduced" if low > 0 else "not reproduced") and ours in found.ours
        assert ("NDCG@5, MRR, NDCG@10" in found.reason) == (low < 0)


def test_table_iii_is_of_the_full_method(sample):
    results = read_results(sample)
    full = row(results, "Fisher-based", "Table III")
    assert full.ours == row(results, "full Fisher-LD over uniform", "Table X").ours
    assert row(results, "Attention-based over", "Table III").reason == "this strategy is not implemented yet"


def test_a_strategy_that_was_not_run_is_said_to(changed):
    def drop(content):
        for family, rows in content["comparisons"].items():
            content["comparisons"][family] = [r for r in rows if r["a"] != "linear"]

    assert row(changed("ablations.json", drop), "Linear Depth").reason == "not among the methods of this run"


def test_impossible_numbers_say_why(sample):
    results = read_results(sample)
    for method in ("teacher", "Fisher-LD"):
        for metric in ("NDCG@5", "NDCG@10", "MRR", "Hit@5"):
            found = row(results, f"{method}: {metric}", "Table I")
            assert found.verdict == "cannot be compared" and found.reason.startswith("impossible with one positive")
    assert "chance is 0.590" in row(results, "Micro").reason
    assert "768M does not follow" in row(results, "fewer parameters").reason


def test_every_table_of_the_paper_has_its_place(sample):
    rows = beside(read_results(sample))
    tables = {r.where for r in rows if r.where.startswith("Table ")}
    assert tables == {f"Table {n}" for n in ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X"]}
    rival = next(r for r in rows if r.what.startswith("TinyBERT: NDCG@5, NDCG@10"))
    assert rival.paper == "0.739, 0.716, 0.705, 0.571, 395, 4.4, 768, 152" and rival.ours == "not measured"
    for table, columns, numbers in TABLES_ELSEWHERE:
        assert {len(row.split()) for row in numbers.values()} == {len(columns.split(", "))}, table


def test_impossible_spares_what_can_be():
    possible = {"ndcg_5": 0.33, "ndcg_10": 0.40, "mrr": 0.33, "hit_5": 0.47}
    assert impossible(possible) == {}
    assert set(impossible(possible | {"ndcg_5": 0.48})) == {"ndcg_5", "ndcg_10", "hit_5"}
    assert set(impossible(possible | {"mrr": 0.60})) == {"mrr"}
    assert set(impossible(possible | {"ndcg_10": 0.70})) == {"ndcg_10"}
    assert TABLE_I["teacher"].ndcg_5 > TABLE_I["teacher"].hit_5


def test_chance():
    assert chance_ndcg_5(1) == 1
    assert chance_ndcg_5(20) == pytest.approx(0.1474, abs=1e-4)
