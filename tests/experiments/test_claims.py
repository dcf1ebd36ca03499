"""Verdicts on the paper's claims follow our numbers."""

import pytest

from fisher_ld.config.paths import DataPaths
from fisher_ld.experiments.claims import at_least, doubts, impossible, judge
from fisher_ld.experiments.tables import paper

PATHS = DataPaths("movielens-100k")


def judged(results, what, where=None):
    claim = next(c for c in paper()["claims"] if what in c["what"] and where in (None, c["where"]))
    return judge(claim, results)


def set_pair(a, b, **numbers):
    def change(content):
        for row in content["comparisons"]["matched"]:
            if (row["a"], row["b"]) == (f"small/{a}", f"small/{b}"):
                row.update(mean_b=0.5, **numbers)

    return change


def set_claims(**numbers):
    def change(content):
        for row in content["comparisons"]["matched"]:
            if row["metric"] in ("ndcg_5", "mrr"):
                row.update(mean_b=0.5, **numbers)

    return change


def set_ratios(**numbers):
    def change(content):
        content["ratios"]["small"].update(numbers)
        content["intervals"]["small"] = {name: {"low": 1.8, "high": 2.2} for name in ("latency_p50", "throughput")}

    return change


def test_at_least():
    assert at_least(0.92, 0.95, 0.92) == "yes"
    assert at_least(0.91, 0.95, 0.92) == "not shown"
    assert at_least(0.80, 0.91, 0.92) == "no"


@pytest.mark.parametrize(
    ("low", "high", "verdict", "reason"),
    [
        (0.93, 0.99, "reproduced", "at or above 92.0%"),
        (0.90, 0.99, "not reproduced", "not shown: our interval holds 92.0%"),
        (0.80, 0.90, "not reproduced", "below 92.0%"),
    ],
)
def test_a_share_is_reproduced_where_the_whole_interval_reaches_it(edited, low, high, verdict, reason):
    def change(content):
        content["retained"]["matched"]["small/fisher-ld"].update(share=(low + high) / 2, low=low, high=high)

    found = judged(edited(PATHS.evaluate, change), "share of the teacher")
    assert found.verdict == verdict and reason in found.reason


def test_nothing_is_reproduced_of_a_teacher_that_did_not_pass_the_gate(edited):
    results = edited(PATHS.gate("small"), lambda gate: gate.update(passed=False))
    rows = [judge(claim, results) for claim in paper()["claims"]]
    assert {row.verdict for row in rows} == {"cannot be compared"}
    found = judged(results, "shorter latency")
    assert found.ours.startswith("5.0x") and found.reason == "our teacher did not pass the gate"


def test_a_comparison_that_was_not_tested_is_not_judged(edited):
    found = judged(edited(PATHS.evaluate, set_claims(verdict="not tested")), "NDCG@5 over uniform")
    assert (found.verdict, found.reason) == ("cannot be compared", "not tested")


@pytest.mark.parametrize("where", ["abstract", "section V-E"])
def test_a_ratio_is_given_over_the_smallest_model_as_good_too(edited, where):
    def smaller(content):
        content["models"]["truncated-2"]["parameters"]["total"] = 1_000_000
        content["ratios"]["truncated-2"].update(latency_p50=10.0, throughput=10.0)

    edited(PATHS.efficiency("small"), smaller)
    pair = ("small/fisher-ld", "truncated-2")

    def equal(content):
        for row in content["comparisons"]["matched"]:
            if (row["a"], row["b"]) == pair:
                row["verdict"] = "equal"

    what = {"abstract": "shorter latency", "section V-E": "higher throughput"}[where]
    found = judged(edited(PATHS.evaluate, equal), what)
    assert found.reason.endswith("over truncated-2, the smallest model not shown below it (equal), it is 0.5x")


@pytest.mark.parametrize(
    ("numbers", "verdict", "reason"),
    [
        ((0.05, 0.03, 0.07, "shown above"), "reproduced", "a gain is shown"),
        ((0.02, 0.01, 0.03, "shown above"), "not reproduced", "but not one of 5.1%"),
        ((0.05, -0.01, 0.11, "not shown"), "not reproduced", "no gain is shown"),
        ((-0.05, -0.07, -0.03, "shown below"), "not reproduced", "a loss"),
    ],
)
def test_a_gain_needs_a_verdict_and_its_size(edited, numbers, verdict, reason):
    change = set_claims(**dict(zip(("difference", "low", "high", "verdict"), numbers, strict=True)))
    found = judged(edited(PATHS.evaluate, change), "NDCG@5 over uniform")
    assert found.verdict == verdict and reason in found.reason
    assert "Table I itself makes it +8.0% (0.779 over 0.721)" in found.reason and found.paper == "+5.1%"


def test_a_student_that_did_not_move_keeps_no_share_by_its_method(edited):
    def change(content):
        content["retained"]["matched"]["small/fisher-ld"].update(share=0.98, low=0.95, high=1.0, why="it did not move")

    found = judged(edited(PATHS.evaluate, change), "share of the teacher's quality")
    assert (found.ours, found.verdict) == ("not measured", "cannot be compared")
    assert "not tested: it did not move" in found.reason


def test_small_and_slow_students_reproduce_nothing(edited):
    results = edited(PATHS.efficiency("small"), set_ratios(throughput=2.0, latency_p50=2.0, parameters=2.0))
    slower = judged(results, "shorter latency")
    assert (slower.verdict, slower.ours) == ("not reproduced", "2.0x (1.8x to 2.2x)")
    for where in ("abstract", "section V-E"):
        fewer = judged(results, "fewer parameters", where)
        assert (fewer.verdict, fewer.ours) == ("chosen, not found", "50.0%")
        assert "lies below" in fewer.reason and "students.small" in fewer.reason
        assert "768M does not follow" in fewer.reason


def test_the_ratio_of_the_quarters_is_judged_by_its_interval(results, edited):
    found = judged(results, "upper quarter")
    assert found.verdict == "reproduced" and "without the last layer" in found.reason

    def flat(fisher):
        for row in fisher["adapted"]["model"]["layers"]:
            row.update(trace=1.0, standard_error=0.01)

    assert judged(edited(PATHS.fisher, flat), "upper quarter").verdict == "not reproduced"


@pytest.mark.parametrize(
    ("error", "verdict", "reason"), [(0.001, "reproduced", "above all others"), (0.1, "not reproduced", "not shown")]
)
def test_the_top_layers_are_those_at_the_same_depth(edited, error, verdict, reason):
    def peak(fisher):
        for row in fisher["adapted"]["model"]["layers"]:
            inside = row["layer"] in (27, 28, 29)  # of 30, where 28, 29 and 30 are of 32
            row.update(share=0.2 if inside else 0.01, share_standard_error=error)

    found = judged(edited(PATHS.fisher, peak), "most important layers")
    assert found.verdict == verdict and reason in found.reason


def test_the_top_layers_elsewhere_are_not_the_papers(results):
    found = judged(results, "most important layers")
    assert found.verdict == "not reproduced" and "elsewhere" in found.reason


def test_a_shallow_teacher_cannot_tell_the_top_layers(edited):
    def cut(fisher):
        del fisher["adapted"]["model"]["layers"][8:]

    found = judged(edited(PATHS.fisher, cut), "most important layers")
    assert found.verdict == "cannot be compared" and "too few" in found.reason


@pytest.mark.parametrize(
    ("verdict", "d", "ours", "answer"),
    [
        ("shown above", 1.0, "+1.00 (+0.90 to +1.10)", "reproduced"),
        ("shown above", 0.95, "+0.95 (+0.85 to +1.04)", "not reproduced"),  # the interval holds 0.89
        ("not shown", 1.0, "+1.00 (+0.90 to +1.10)", "not reproduced"),
        ("not shown", None, "none: the mean difference is 0", "not reproduced"),
    ],
)
def test_an_effect_has_a_size(edited, verdict, d, ours, answer):
    change = set_claims(verdict=verdict, d=d, difference=0.1, low=0.09, high=0.11)
    found = judged(edited(PATHS.evaluate, change), "NDCG@5 over uniform: Cohen's d")
    assert (found.ours, found.verdict) == (ours, answer)


@pytest.mark.parametrize(
    ("verdict", "p", "answer", "reason"),
    [
        ("shown above", 0.0005, "reproduced", "over users and seeds"),
        ("shown above", 0.001, "not reproduced", "no gain at that level: MRR"),
        ("shown below", 0.0005, "not reproduced", "no gain at that level: MRR"),
    ],
)
def test_p_of_a_loss_shows_no_gain(edited, verdict, p, answer, reason):
    found = judged(edited(PATHS.evaluate, set_claims(verdict=verdict, p=p)), "MRR over uniform: p")
    assert (found.ours, found.verdict, found.paper) == (f"MRR {p:.2g}", answer, "< 0.001")
    assert found.reason.endswith(reason)


@pytest.mark.parametrize(("low", "verdict"), [(0.01, "shown above"), (-0.01, "not shown")])
def test_all_comparisons_of_the_paper(edited, low, verdict):
    def change(content):
        numbers = {"difference": 0.05, "low": low, "high": 0.09, "verdict": verdict, "p": 0.005}
        set_pair("fisher-ld", "uniform", **numbers)(content)
        set_claims(**numbers)(content)

    results = edited(PATHS.evaluate, change)
    for what, ours in (("all metrics (here without Hit@5): p", "NDCG@5 0.005"), ("bootstrap intervals", f"{low:+.3f}")):
        found = judged(results, what)
        assert found.verdict == ("reproduced" if low > 0 else "not reproduced") and ours in found.ours
        assert ("NDCG@5, MRR, NDCG@10" in found.reason) == (low < 0)


def test_table_iii_is_of_the_full_method(results):
    full = judged(results, "Fisher-based", "Table III")
    assert full.paper == "+8.0%" and full.ours == judged(results, "over the uniform baseline", "Table X").ours
    other = judged(results, "Attention-based over", "Table III")
    assert (other.verdict, other.ours) == ("cannot be compared", "not measured")
    assert other.reason == "not among the methods of this student"
    assert judged(results, "without Fisher sampling").reason == "not among the methods of this student"


def test_a_comparison_that_was_not_made_is_not_judged(edited):
    def drop(content):
        rows = content["comparisons"]["matched"]
        content["comparisons"]["matched"] = [row for row in rows if row["a"] != "small/linear"]

    found = judged(edited(PATHS.evaluate, drop), "Linear Depth")
    assert (found.verdict, found.reason) == ("cannot be compared", "no such comparison was made")


def test_every_claim_has_a_verdict(results):
    rows = [judge(claim, results) for claim in paper()["claims"]]
    assert {row.verdict for row in rows} == {"reproduced", "not reproduced", "cannot be compared", "chosen, not found"}
    assert {row.what for row in rows if row.verdict.startswith("chosen")} == {"fewer parameters"}
    assert all(row.paper and row.ours and row.reason for row in rows)
    said = " ".join(f"{row.what} {row.paper}" for row in rows)
    for number in ("92.0%", "75.0%", "90.4%", "3.2x", "12.6x", "+5.1%", "+3.2%", "2.4x", "28, 29, 30", "0.84, 0.76"):
        assert number in said


def test_impossible_spares_what_can_be():
    possible = {"ndcg_5": 0.33, "ndcg_10": 0.40, "mrr": 0.33, "hit_5": 0.47}
    assert impossible(**possible) == []
    assert impossible(**possible | {"ndcg_5": 0.48}) == [
        "NDCG@5 0.48 above Hit@5 0.47",
        "NDCG@5 0.48 above NDCG@10 0.4",
    ]
    assert [fault[:8] for fault in impossible(**possible | {"mrr": 0.60})] == ["MRR 0.6 "]
    assert [fault[:12] for fault in impossible(**possible | {"ndcg_10": 0.70})] == ["NDCG@10 0.7 "]


def test_the_papers_own_numbers_are_doubted_with_an_if():
    (one, rows), (ratio, chance) = doubts()
    assert one == "every list has one positive" and rows.startswith("8 of the 8 rows of Table I are impossible")
    assert "NDCG@5 0.779 above Hit@5 0.603, NDCG@5 0.779 above NDCG@10 0.758" in rows
    assert ratio == "its test lists have its training ratio, 1 to 4"
    assert chance == "chance is NDCG@5 0.590, and the 0.587 of Table IV is chance"


def test_a_gain_over_what_learned_nothing_is_no_gain(edited):
    def nothing(content):
        set_pair("fisher-ld", "logits", difference=0.2, low=0.1, high=0.3, verdict="shown above")(content)
        models = content["quality"]["matched"]
        models["small/logits"]["ndcg_10"]["low"] = models["chance"]["ndcg_10"]["mean"]

    found = judged(edited(PATHS.evaluate, nothing), "without layer matching")
    assert (found.verdict, found.ours) == ("cannot be compared", "not measured")
    assert found.reason.startswith("small/logits is itself not shown above chance")
