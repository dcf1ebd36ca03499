"""The whole report from a sample run."""

import re
from functools import cache
from itertools import takewhile

import pytest

from fisher_ld.config.paths import DataPaths, cell
from fisher_ld.core.files import write_json
from fisher_ld.experiments.peers import front, places
from fisher_ld.experiments.results import Results
from fisher_ld.report.blocks import Heading
from fisher_ld.report.charts import charts, reliability, tradeoff
from fisher_ld.report.html import html
from fisher_ld.report.markdown import markdown
from fisher_ld.report.names import label
from fisher_ld.report.page import document
from fisher_ld.report.sections import GROUPS, compared
from tests.docs.prose import sentences
from tests.experiments.conftest import FEWER, write
from tests.given import given

TWO = FEWER | {
    "run": {
        "data": ["movielens-100k", "mine"], "students": ["small", "tiny"], "methods": ["none", "uniform", "fisher-ld"],
        "further_methods": ["linear"], "seeds": [0, 1], "shallow": ["truncated-2"],
    },
    "data_sets": {"mine": {"source": {"kind": "movielens-1m"}}},
}  # fmt: skip


PARAMS = given(FEWER)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch, request):
    """Pictures take most of the time: drawn only where a test is about them."""
    if "drawn" not in request.fixturenames:

        def names(part, method):
            students = [f"{s}/{what}" for s in part.run.students for what in ("training", "trajectory")]
            common = ("quality", "reliability", "tradeoff", "profile", "weights", "data")
            return dict.fromkeys([*common, *students], "<svg/>")

        monkeypatch.setattr("fisher_ld.report.page.charts", names)


@pytest.fixture
def drawn():
    pass


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """Two data sets and two students."""
    folder = tmp_path_factory.mktemp("double")
    write(folder, given(TWO))
    return folder


@pytest.fixture
def text(results):
    return markdown("t", document(results, PARAMS))


def test_html_is_self_contained_and_always_the_same(results, drawn):
    @cache
    def page(number):
        return html("t", document(Results(results.run), PARAMS))

    assert page(1) == page(2)
    assert re.findall(r"https?://", page(1)) == []
    assert "<script" not in page(1) and "<link" not in page(1)
    sources = re.findall(r'src="([^"]{0,30})', page(1))
    assert len(sources) == 8 and all(source.startswith("data:image/svg+xml") for source in sources)


def test_methods_are_said_to_train_as_they_do(text):
    assert "Fixed in training: uniform layers; linear depth; exponential depth; Fisher, fixed weights." in text
    assert "Changed in training (Eq. 9): Fisher-LD shuffled; Fisher-LD reversed; Fisher-LD." in text
    assert text.count("a share of 0.5 of it (distill.list_weight) is a softmax over the list") == 1


def test_weights_that_never_changed_are_said_to(here):
    folders = [DataPaths("movielens-100k").training(f"small/{method}") for method in ("fisher", "fisher-ld")]
    fixed = (folders[0] / "weights.csv").read_text()
    for seed in (0, 1):
        (folders[1].with_name(folders[1].name[:-1] + str(seed)) / "weights.csv").write_text(fixed)
    text = markdown("t", document(Results(PARAMS.run), PARAMS))
    assert "The weights of Fisher-LD (Eq. 9) were not updated in this run." in text
    assert "Changed in training (Eq. 9): Fisher-LD shuffled; Fisher-LD reversed.\n" in text


def test_one_data_set_and_one_student_read_simply(text):
    assert "Data set" not in text and "Student small" not in text and "(small)" not in text
    assert "| student, Fisher-LD |" in text and "| student's start |" in text


def test_several_say_which_is_meant(double, monkeypatch):
    monkeypatch.chdir(double)
    text = markdown("t", document(Results(given(TWO).run), given(TWO)))
    assert re.findall(r"\n## (Data set .*)", text) == ["Data set movielens-100k", "Data set mine"]
    assert text.count("\n### Student tiny") == 2
    assert "| student tiny, Fisher-LD |" in text and "| student, Fisher-LD |" not in text
    assert "Ours of movielens-100k and student small where a table names no other" in text
    tiny = next(line for line in text.splitlines() if line.startswith("| Tiny, FISHER-LD |"))
    assert "paper 0.702" in tiny and "(a) (paper 0.702)" not in tiny


def test_every_student_has_its_pictures(double, monkeypatch, drawn):
    monkeypatch.chdir(double)
    part = Results(given(TWO).run).parts["mine"]
    names = {f"{student}/{what}" for student in ("small", "tiny") for what in ("training", "trajectory")}
    pictures = charts(part, "fisher-ld")
    assert names | {"quality", "reliability", "tradeoff", "profile", "weights", "data"} == set(pictures)
    assert all("<svg" in picture for picture in pictures.values())


def test_all_methods_are_drawn_with_the_front_and_rivals_that_were_not_timed(results):
    part = results.parts["movielens-100k"]
    left, right = tradeoff(part).axes
    assert len(left.containers) == len(right.containers) == 2 + 9  # teacher, truncated, methods
    assert [line.get_linestyle() for line in left.lines].count(":") == 2  # with and without all labels
    stepped, none = ([line for line in axes.lines if line.get_drawstyle() == "steps-pre"] for axes in (left, right))
    unbeaten = [part.quality(model)["mean"] for model in front(places(part))]
    assert [list(line.get_ydata()) for line in stepped] == [unbeaten] and none == []
    assert unbeaten == sorted(unbeaten, reverse=True)


def test_a_rival_that_was_timed_is_a_point(edited):
    def change(content):
        content["ratios"]["rivals/ease-all"] = {"throughput": 50.0, "parameters": 20.0}

    part = edited(DataPaths("movielens-100k").efficiency("small"), change).parts["movielens-100k"]
    left, _ = tradeoff(part).axes
    assert "EASE, all labels" in [container.get_label() for container in left.containers]


def test_what_nothing_beats_is_named_below_the_picture(text, results):
    part = results.parts["movielens-100k"]
    names = "; ".join(label(model, part.run) for model in front(places(part)))
    [said] = [line for line in text.splitlines() if line.startswith("By their means, no other model")]
    assert said.endswith(f"than these: {names}.") and "teacher, adapted" in said


def test_a_group_of_comparisons_has_a_heading_where_it_has_rows(results):
    def headings(part):
        return [block.text for block in compared(part) if isinstance(block, Heading)]

    part = results.parts["movielens-100k"]
    assert headings(part) == list(GROUPS.values())  # the group `best` has none: marks in the tables say it
    part.evaluate["comparisons"]["matched"] = part.comparisons(None, "main")
    assert headings(part) == [GROUPS["main"]]


def rows_of(text, heading):
    """The rows of the first table below a heading, as lists of cells."""
    lines = text.split(f"# {heading}\n")[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = takewhile(lambda line: line.startswith("|"), lines[first:])
    return [line.strip("| ").split(" | ") for line in table][2:]


def test_the_first_lines_come_first(text):
    assert text.index("| Did the teacher pass the gate? | yes") < text.index("\n## ")


def test_the_truncated_teacher_stands_between_teacher_and_student(text):
    section = text.split("## Quality against speed")[1].split("\n## ")[0]
    rows = [line.split(" | ")[0].strip("| ") for line in section.splitlines() if line.startswith("| ")]
    at = rows.index("model")
    assert rows[at + 2 :] == ["teacher, adapted", "teacher's first 2 layers, adapted alone", "student, Fisher-LD"]
    assert "| 134.5 | 106.0 |" in section and "| 5.00x (4.96 to 5.15) |" in section and "not available" in section


def test_rivals_with_all_labels_stand_apart(text):
    same, informed = rows_of(text, "Quality"), rows_of(text, "Rivals with all labels")
    assert {row[1] for row in informed} == {"all"} and {row[1] for row in same} == {"same", "none"}
    assert [row[0] for row in same].count("item-kNN") == 1
    assert [row[0] for row in informed][:2] == ["popularity, all labels", "inverse popularity, all labels"]


def test_the_recipe_says_what_was_trained_on_what(text):
    read = {row[0]: row[1:4] for row in rows_of(text, "Recipe: what was trained on what")}
    assert read["labels"] == ["300", "600", "5"]
    assert read["transfer: the teacher's answers alone"] == ["1,000", "2,000", "10"]
    assert read["validation labels"] == ["", "500", "20"] and read["read by both"][0] == "300"
    assert "teacher and students, which read 1,300 windows" in text
    assert "| student, no distillation | 200 | 2 | 2 labelled windows | labels |" in text
    answers = "| student, logits alone | 200 | 2 | 2 labelled windows, 2 transfer windows | labels, teacher's answers |"
    assert answers in text
    assert (
        "| student: uniform layers; linear depth;" in text and "labels, teacher's answers, teacher's states |" in text
    )


def test_how_often_the_test_lists_were_scored(text):
    models = 12 + 1 + 1 + 1 + 1 + 9 * 2  # rivals, zero-shot, teacher, truncated, start, methods with two seeds each
    assert f"This run scored the test lists {3 * models} times" in text


def test_whether_anything_happened_is_a_row_a_method(text):
    rows = {row[0]: row[1:] for row in rows_of(text, "Did anything happen?")}
    assert len(rows) == 9
    assert rows["student, uniform layers"][:4] == ["40.0%", "2.0%", "0.600", "0.100"]
    assert rows["student, logits alone"][2] == "" and rows["student, logits alone"][-2:] == ["+0.001", "never, never"]


def test_what_each_method_tried_and_took_is_a_row_of_those_with_a_choice(text):
    rows = {row[0]: row[1:] for row in rows_of(text, "How much is taken from the teacher")}
    assert len(rows) == 8 and "student, no distillation" not in rows
    assert rows["student, uniform layers"] == rows["student, logits alone"] == ["0.100", "0.400", "4x"]
    assert "8 took the largest, beyond which others may be better" in text and "the least" not in text


def test_a_model_with_an_earlier_step_says_which(edited):
    path = DataPaths("movielens-100k").training("truncated-2") / "fit.json"
    results = edited(path, lambda fit: fit.update(best_step=150))
    text = markdown("t", document(results, PARAMS))
    assert "| teacher's first 2 layers, adapted alone | 150 of 200 | 1 |" in text


def test_the_fisher_profile_has_measures_that_no_parametrisation_changes(text):
    rows = rows_of(text, "Where the Fisher information is")
    assert [row[1] for row in rows] == ["transfer", "labelled", "transfer"] * 2
    found = Results(PARAMS.run).parts["movielens-100k"].fisher["adapted"]["model"]
    [row] = [row for row in rows if row[0] == "after adaptation, label of the model"]
    for value, measure in zip(row[2:5], (found, found["relative"], found["state_fisher"]), strict=True):
        assert value.startswith(f"{measure['upper_lower_quarter']:.2f} (")


def test_the_papers_tables_and_doubts_are_in_it(text):
    assert len(re.findall(r"### Table [IVX]+: ", text)) == 6
    assert "Of Table II, Table IV, Table V, Table IX this run has nothing" in text
    assert "| if every list has one positive | 8 of the 8 rows" in text
    assert "### What the paper claims in its text" in text
    assert "repository" not in text and "quiet" not in text.lower()


def test_calibration_is_a_row_a_model(text, results):
    rows = {row[0]: row[1:] for row in rows_of(text, "Are the scores probabilities?")}
    found = results.parts["movielens-100k"].calibration["models"]
    assert len(rows) == len(found) == 2 + 9
    [teacher], uniform = found["teacher"], found["small/uniform"]
    kinds = ("as_scored", "temperature", "with_bias")
    assert [cell[:5] for cell in rows["teacher, adapted"][:3]] == [f"{teacher[k]['log_loss']:.3f}" for k in kinds]
    assert rows["teacher, adapted"][3:] == [f"{teacher[kind]['ece']:.3f}" for kind in kinds]
    assert rows["teacher, adapted"][1].endswith(f"(T = {teacher['temperature']['temperature']:.2f})")
    both = [f"{run['with_bias']['bias']:.2f}" for run in sorted(uniform, key=lambda run: run["with_bias"]["bias"])]
    assert rows["student, uniform layers"][2].endswith(f"b = {both[0]} to {both[1]})")
    assert "lists of which 20.0% is liked" in text and "add logit(s) - logit(0.05) to z / T + b" in text


def test_the_reliability_is_drawn_before_and_after(results):
    part = results.parts["movielens-100k"]
    before, alone, after = reliability(part, "fisher-ld").axes
    assert [axes.get_title() for axes in (before, alone, after)][::2] == ["as scored", "temperature and bias"]
    for axes in (before, alone, after):
        assert [line.get_label() for line in axes.containers] == ["teacher, adapted", "student, Fisher-LD"]
    drawn = after.containers[0].lines[0].get_xydata()
    rows = part.calibration["models"]["teacher"][0]["with_bias"]["reliability"]
    assert drawn.tolist() == [[row["predicted"], row["liked"]] for row in rows]


def test_prose_is_short(text, double, monkeypatch):
    monkeypatch.chdir(double)
    several = markdown("t", document(Results(given(TWO).run), given(TWO)))
    assert [s.text for s in (*sentences(text), *sentences(several)) if s.words > 35 or s.numbers > 2] == []


def test_what_each_stage_took_of_this_run_alone(here):
    cost = {"run_id": None, "seconds": 1.0, "peak_memory_mib": 1.0}
    for stage, *names in (("evaluate", "older"), ("adapt_teacher", "movielens-100k", 2), ("report", "run")):
        write_json(cell(stage, *names) / "run.json", cost | {"stage": stage, "cell": "-".join(map(str, names))})
    write_json(cell("ablations") / "run.json", cost | {"stage": "ablations", "cell": "run"})
    section = markdown("t", document(Results(PARAMS.run), PARAMS)).split("## What the run took")[1]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| layer_weights | 9 | 22 | 300 |", "| distill | 18 | 1,944 | 1,000 |", "| evaluate | 1 | 60 | 900 |",
        "| ablations | 1 | 1 | 1 |",
    ]  # fmt: skip


def test_what_the_teachers_signals_take_is_said_where_they_were_cached(here):
    data, told = PARAMS.run.data[0], {"cache_teacher": ["logits", "states"], "cache_signals": ["relations"]}
    assert "cached for" not in markdown("t", document(Results(PARAMS.run), PARAMS))
    for stage, signals in told.items():
        folder = cell(stage, data, *([] if stage == "cache_teacher" else ["uniform"]))
        write_json(folder / "signals.json", {"signals": signals, "bytes": 72_400_000})
        write_json(folder / "run.json", {"seconds": 61.4, "peak_memory_mib": 1.0})
    text = markdown("t", document(Results(PARAMS.run), PARAMS))
    assert f"| {data} | every method with a teacher | logits, states | 72 | 61 |" in text
    assert f"| {data} | uniform layers | relations | 72 | 61 |" in text


def test_a_run_without_the_proposed_method_is_reported_too(sample, monkeypatch):
    monkeypatch.chdir(sample)
    changed = FEWER["run"] | {"methods": ["none", "uniform"]}
    params = given(FEWER | {"run": changed})
    text = markdown("t", document(Results(params.run), params))
    assert "(student, uniform layers; of what it has above chance" in text
