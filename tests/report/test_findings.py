"""The first lines follow the verdicts."""

import pytest

from fisher_ld.config.paths import DataPaths
from fisher_ld.experiments.peers import smallest_not_below
from fisher_ld.report.findings import QUESTIONS, answer, findings, headline, rests_on

PATHS = DataPaths("movielens-100k")
MARGIN = 0.01
ROW = {
    "seeds": 3,
    "difference": 0.031,
    "low": 0.012,
    "high": 0.05,
    "detectable": 0.018,
    "detectable_holm": 0.024,
    "why": None,
}


def part(results):
    return results.parts["movielens-100k"]


def lines(results):
    return {finding.question: finding for finding in findings(part(results), "small", "fisher-ld", MARGIN)}


def change_rows(chosen, **numbers):
    def change(content):
        rows = [row for row in content["comparisons"]["matched"] if chosen(row)]
        assert rows
        for row in rows:
            row.update(numbers)

    return change


def change_question(key, **numbers):
    return change_rows(lambda row: row["question"] == key, **numbers)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"verdict": "shown above"}, "adds 0.031 NDCG@10 (0.012 to 0.050)"),
        (
            {"verdict": "shown below", "difference": -0.031, "low": -0.05, "high": -0.012},
            "costs 0.031 NDCG@10 (0.012 to 0.050)",
        ),
        ({"verdict": "equal", "low": -0.004, "high": 0.006}, "adds nothing: equal within 0.01 (-0.004 to +0.006)"),
        (
            {"verdict": "not shown", "low": -0.01},
            "no difference shown (-0.010 to +0.050); one of 0.024 or more would have been (power 80%)",
        ),
        (
            {"verdict": "not shown", "low": -0.3, "detectable_holm": 1.07},
            "no difference shown (-0.300 to +0.050); none could have been, seeds differ (power 80%)",
        ),
        (
            {"verdict": "not shown", "low": -0.3, "detectable_holm": 1.07, "seeds": 1},
            "no difference shown (-0.300 to +0.050); none could have been (power 80%)",
        ),
        ({"verdict": "equal", "low": 0.001, "high": 0.009}, "differs by less than 0.01 (+0.001 to +0.009)"),
        ({"verdict": "not tested", "why": "small/none did not move"}, "not tested: small/none did not move"),
    ],
)
def test_an_answer_is_worded_by_its_verdict(numbers, words):
    assert answer(ROW | numbers, MARGIN) == words


@pytest.mark.parametrize("key", QUESTIONS)
def test_every_question_is_answered_by_its_own_pair(edited, key):
    results = edited(PATHS.evaluate, change_question(key, **ROW, verdict="shown above", n=321))
    found = lines(results)[QUESTIONS[key]]
    assert (found.answer, found.verdict) == ("adds 0.031 NDCG@10 (0.012 to 0.050)", "shown above")
    assert "321 users, 3 seeds; 80% power for 0.024, alone 0.018" in found.basis
    assert sum(line.answer == "adds 0.031 NDCG@10 (0.012 to 0.050)" for line in lines(results).values()) == 1


def test_a_pair_that_was_not_run_is_not_measured(edited):
    def drop(content):
        rows = content["comparisons"]["matched"]
        content["comparisons"]["matched"] = [row for row in rows if row["question"] != "fisher_over_shuffled"]

    found = lines(edited(PATHS.evaluate, drop))[QUESTIONS["fisher_over_shuffled"]]
    assert found.verdict == "not measured"


def test_what_the_student_keeps_is_of_the_teacher_and_of_its_gain_over_chance(edited):
    def change(content):
        above = {"share": 0.5, "low": 0.4, "high": 0.6}
        kept = {"share": 0.75, "low": 0.7, "high": 0.8, "above_chance": above}
        content["retained"]["matched"]["small/fisher-ld"].update(kept)

    found = lines(edited(PATHS.evaluate, change))["What does the student keep of the teacher?"]
    assert found.answer == "75.0% (70.0% to 80.0%) of its NDCG@10"
    assert "of what it has above chance 50.0% (40.0% to 60.0%)" in found.basis


def test_a_gate_that_was_not_passed_is_said_first(edited):
    change = {"passed": False, "overridden": True, "reasons": ["the teacher is not shown above its first layers"]}
    results = edited(PATHS.gate("small"), lambda gate: gate.update(change))
    first = headline(part(results), "small")[0]
    assert first.startswith("This is not a test of distillation") and "gate.override" in first
    found = lines(results)["Did the teacher pass the gate?"]
    assert (found.answer, found.verdict) == (change["reasons"][0], "not passed")


def test_a_passed_gate_needs_no_warning(results):
    assert not any("not a test" in line for line in headline(part(results), "small"))
    assert lines(results)["Did the teacher pass the gate?"].verdict == "passed"


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("shown above", "The teacher is shown above follow counts"),
        ("equal", "The teacher is not shown to be worth its cost"),
        ("not shown", "The teacher is not shown to be worth its cost"),
        ("shown below", "The teacher is not worth its cost"),
    ],
)
def test_the_teacher_is_worth_its_cost_where_it_is_shown_above_the_best_rival(edited, verdict, said):
    text = headline(part(edited(PATHS.evaluate, change_question("teacher_over_rival", verdict=verdict))), "small")
    assert sum(line.startswith(said) for line in text) == 1
    assert not any("truncation" in line for line in text)


def test_a_teacher_that_is_its_truncation_is_said(edited):
    results = edited(PATHS.evaluate, change_question("teacher_over_truncation", verdict="equal"))
    said = "The teacher is not shown above its own truncation (teacher's first 2 layers, adapted alone)."
    assert said in headline(part(results), "small")


@pytest.mark.parametrize(
    ("verdict", "end"), [("shown below", "labels."), ("not shown", "though it is not shown above the teacher.")]
)
def test_a_rival_with_all_labels_above_the_teacher_is_the_better_choice(edited, verdict, end):
    """The one that validation lists chose."""

    def best(content):
        content["rivals"]["rivals/ease-all"]["mean_b"] = 0.9

    edited(PATHS.gate("small"), best)
    change = change_rows(
        lambda row: (row["a"], row["b"]) == ("teacher", "rivals/ease-all"), difference=-0.02, verdict=verdict
    )
    [said] = [line for line in headline(part(edited(PATHS.evaluate, change)), "small") if "better choice" in line]
    assert said.startswith("The better choice on this data is EASE, all labels") and said.endswith(end)


def test_a_rival_with_all_labels_below_the_teacher_is_no_better_choice(results):
    assert not any("better choice" in line for line in headline(part(results), "small"))


def test_what_no_interval_holds_is_said(results):
    assert rests_on(len(results.run.teacher_seeds)) in headline(part(results), "small")
    assert rests_on(1).startswith("Each teacher is one run;")
    assert rests_on(3).startswith("Each shallow teacher, and the one that students learned from, is one run;")


def change_cost(throughput):
    def change(content):
        content["models"]["truncated-2"]["parameters"]["total"] = 1_000_000
        content["ratios"]["truncated-2"].update(parameters=134.5, throughput=throughput)

    return change


@pytest.mark.parametrize(
    ("verdict", "quality"),
    [
        ("equal", "equal"),
        ("not shown", "no difference shown"),
        ("shown below", "shown above the student"),
        ("shown above", None),
        ("not tested", None),
    ],
)
def test_the_cost_is_read_against_the_smallest_model_as_good(edited, verdict, quality):
    edited(PATHS.efficiency("small"), change_cost(10.0))
    pair = ("small/fisher-ld", "truncated-2")
    results = edited(PATHS.evaluate, change_rows(lambda row: (row["a"], row["b"]) == pair, verdict=verdict))
    peer, found = smallest_not_below(part(results), pair[0]), lines(results)["What does the student save?"]
    assert found.answer.startswith("5.0 (5.0 to 5.2) times the teacher's throughput")
    if quality is None:
        assert peer is None or peer.model == "teacher"
        assert "times that of" not in found.answer
    else:
        assert peer and (peer.model, peer.quality) == ("truncated-2", quality)
        assert peer.times["throughput"] == pytest.approx(0.5)
        assert (
            "0.5 times that of teacher's first 2 layers, adapted alone, the smallest model not shown below it"
            in found.answer
        )
        assert f"({quality})" in found.basis


def test_a_pair_that_was_compared_the_other_way_round_is_turned(edited):
    edited(PATHS.efficiency("small"), change_cost(10.0))
    pair = ("small/fisher-ld", "truncated-2")
    turned = change_rows(
        lambda row: (row["a"], row["b"]) == pair, a="truncated-2", b="small/fisher-ld", verdict="shown above"
    )
    peer = smallest_not_below(part(edited(PATHS.evaluate, turned)), pair[0])
    assert peer and (peer.model, peer.quality) == ("truncated-2", "shown above the student")


def test_the_smaller_of_two_models_as_good_is_taken(edited):
    """The teacher is as good too, and larger."""
    edited(PATHS.efficiency("small"), change_cost(10.0))
    results = edited(PATHS.evaluate, change_rows(lambda row: row["group"] in ("main", "peers"), verdict="equal"))
    peer = smallest_not_below(part(results), "small/fisher-ld")
    assert peer and peer.model == "truncated-2"


def test_what_is_compared_with_a_model_at_chance_says_so(edited):
    """To add much to nothing is not much."""

    def nothing(content):
        row = content["quality"]["matched"]["truncated-2"]["ndcg_10"]
        row.update(low=content["quality"]["matched"]["chance"]["ndcg_10"]["mean"])

    question = "What does the whole teacher add to its first layers, adapted alone?"
    results = edited(PATHS.evaluate, nothing)
    assert lines(results)[question].answer.endswith("adapted alone is itself not shown above chance")
    assert "chance" not in lines(results)["What does the student save?"].answer
