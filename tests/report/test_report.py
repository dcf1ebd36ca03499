"""The whole report from a sample run."""

import re
from functools import cache

import pytest

from fisher_ld.config.paths import DataPaths, cell
from fisher_ld.core.files import write_json
from fisher_ld.experiments.results import Results
from fisher_ld.report.charts import charts
from fisher_ld.report.html import html
from fisher_ld.report.markdown import markdown
from fisher_ld.report.page import document
from tests.experiments.conftest import FEWER, write
from tests.given import given

TWO = FEWER | {
    "run": {
        "data": ["movielens-100k", "mine"], "students": ["small", "tiny"], "methods": ["none", "uniform", "fisher-ld"],
        "seeds": [0, 1], "depths": [2],
    },
    "data_sets": {"mine": {"source": {"kind": "movielens-1m"}}},
    "students": {"tiny": {"init": "first", "layers": 2, "vocabulary": "full"}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def undrawn(monkeypatch, request):
    """Pictures take most of the time: drawn only where a test is about them."""
    if "drawn" not in request.fixturenames:

        def names(part, method):
            students = [f"{s}/{what}" for s in part.run.students for what in ("training", "trajectory")]
            common = ("quality", "tradeoff", "profile", "weights", "data")
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
    return markdown("t", document(results, 0.5))


def test_html_is_self_contained_and_always_the_same(results, drawn):
    @cache
    def page(number):
        return html("t", document(Results(results.run), 0.5))

    assert page(1) == page(2)
    assert re.findall(r"https?://", page(1)) == []
    assert "<script" not in page(1) and "<link" not in page(1)
    sources = re.findall(r'src="([^"]{0,30})', page(1))
    assert len(sources) == 7 and all(source.startswith("data:image/svg+xml") for source in sources)


def test_methods_are_said_to_train_as_they_do(text):
    assert "Fixed in training: uniform layers; linear depth; exponential depth; Fisher, fixed weights." in text
    assert "Changed in training (Eq. 9): Fisher-LD shuffled; Fisher-LD reversed; Fisher-LD." in text
    assert text.count("a share of 0.5 of it (distill.list_weight) is a softmax over the list") == 1


def test_weights_that_never_changed_are_said_to(here):
    folders = [DataPaths("movielens-100k").training(f"small/{method}") for method in ("fisher", "fisher-ld")]
    fixed = (folders[0] / "weights.csv").read_text()
    for seed in (0, 1):
        (folders[1].with_name(folders[1].name[:-1] + str(seed)) / "weights.csv").write_text(fixed)
    results = Results(given(FEWER).run)
    text = markdown("t", document(results, 0.5))
    assert "The weights of Fisher-LD (Eq. 9) were not updated in this run." in text
    assert "Changed in training (Eq. 9): Fisher-LD shuffled; Fisher-LD reversed.\n" in text


def test_one_data_set_and_one_student_read_simply(text):
    assert "Data set" not in text and "Student small" not in text and "(small)" not in text
    assert "| student, Fisher-LD |" in text and "| student's start, head fitted |" in text


def test_several_say_which_is_meant(double, monkeypatch):
    monkeypatch.chdir(double)
    text = markdown("t", document(Results(given(TWO).run), 0.5))
    assert re.findall(r"\n## (Data set .*)", text) == ["Data set movielens-100k", "Data set mine"]
    assert text.count("\n### Student tiny") == 2
    assert "| student tiny, Fisher-LD |" in text and "| student, Fisher-LD |" not in text
    assert "Fisher-LD (tiny) keeps" in text
    assert "Ours of movielens-100k and student small where a table names no other" in text
    tiny = next(line for line in text.splitlines() if line.startswith("| Tiny, FISHER-LD |"))
    assert "paper 0.702" in tiny and "(a) (paper 0.702)" not in tiny


def test_every_student_has_its_pictures(double, monkeypatch, drawn):
    monkeypatch.chdir(double)
    part = Results(given(TWO).run).parts["mine"]
    names = {f"{student}/{what}" for student in ("small", "tiny") for what in ("training", "trajectory")}
    pictures = charts(part, "fisher-ld")
    assert names | {"quality", "tradeoff", "profile", "weights", "data"} == set(pictures)
    assert all("<svg" in picture for picture in pictures.values())


def test_the_truncated_teacher_stands_between_teacher_and_student(text):
    section = text.split("### The teacher, its truncation, the student")[1].split("###")[0]
    rows = [line.split(" | ")[0].strip("| ") for line in section.split("Small:")[0].splitlines()]
    models = [name for name in rows if name][1:]
    assert models == ["teacher, adapted", "teacher's first 2 layers, adapted alone", "student, Fisher-LD"]
    assert "| 134.5 | 106.0 |" in section and "29.6 (4.55x)" in section and "not available" in section


def test_the_papers_tables_and_doubts_are_in_it(text):
    assert len(re.findall(r"### Table [IVX]+: ", text)) == 10
    assert "If every list has one positive" in text and "### What the paper claims in its text" in text
    assert "repository" not in text and "quiet" not in text.lower()


def test_what_each_stage_took_of_this_run_alone(here):
    cost = {"run_id": None, "seconds": 1.0, "peak_memory_mib": 1.0}
    for stage, name in (("evaluate", "older"), ("adapt_teacher", "movielens-100k-2"), ("report", "run")):
        write_json(cell(stage, name) / "run.json", cost | {"stage": stage, "cell": name})
    write_json(cell("ablations") / "run.json", cost | {"stage": "ablations", "cell": "run"})
    section = markdown("t", document(Results(given(FEWER).run), 0.5)).split("## What the run took")[1]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert rows == ["| layer_weights | 9 | 22 | 300 |", "| evaluate | 1 | 60 | 900 |", "| ablations | 1 | 1 | 1 |"]


def test_a_run_without_the_proposed_method_is_reported_too(sample, monkeypatch):
    monkeypatch.chdir(sample)
    changed = FEWER["run"] | {"methods": ["none", "uniform"]}
    text = markdown("t", document(Results(given(FEWER | {"run": changed}).run), 0.5))
    assert "The uniform layers student keeps" in text
