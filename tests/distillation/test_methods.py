"""The table of methods, and what a row of one's own takes: a term and the row."""

import subprocess
import sys
from dataclasses import dataclass
from itertools import chain

import pytest
import torch

from fisher_ld.config.params import parse
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.methods import METHODS, Method, at_once
from fisher_ld.distillation.terms import Labels, Layers, Output, Term
from fisher_ld.distillation.weights import STRATEGIES
from fisher_ld.report import names
from tests.given import given, raw

RIVALS = [
    "none", "logits", "list-kl", "ranking", "attention-transfer", "fitnets", "progressive", "tinybert", "minilm",
    "distilbert", "pkd",
]  # fmt: skip
LAYERED = [
    "uniform", "linear", "exponential", "attention-based", "fisher", "fisher-label", "fisher-list",
    "fisher-ld-no-depth", "fisher-ld-no-sampling", "fisher-ld-no-output", "fisher-per-parameter",
    "fisher-relative", "fisher-without-last", "fisher-fixed-shuffled", "fisher-fixed-reversed",
    "fisher-shuffled", "fisher-reversed", "fisher-ld",
]  # fmt: skip


def test_the_methods_of_the_paper_its_rivals_and_their_controls_are_there():
    assert list(METHODS) == [*RIVALS, *LAYERED]
    assert [name for name, method in METHODS.items() if method.weighting] == [
        n for n in LAYERED if n != "fisher-ld-no-output"
    ]
    assert {name for name in LAYERED if METHODS[name].layers.dynamic} == {
        "fisher-shuffled", "fisher-reversed", "fisher-ld", "fisher-ld-no-depth", "fisher-ld-no-sampling",
        "fisher-ld-no-output",
    }  # fmt: skip
    assert {METHODS[name].layers.strategy for name in LAYERED} == set(STRATEGIES)
    assert [METHODS[f"fisher-{order}"].layers.order for order in ("shuffled", "reversed", "ld")] == [
        "shuffled", "reversed", "own",
    ]  # fmt: skip


def test_strength_is_of_what_stands_beside_other_terms():
    """All terms of TinyBERT's phases have one key; so has the first phase of others, whose last one counts."""
    weighed = {name: METHODS[name].weighed for name in RIVALS}
    assert weighed["none"] is None and weighed["tinybert"] == "layer_weight"
    in_phases = {"fitnets", "progressive", "minilm"}
    answers = {"logits", "list-kl", "ranking"} | in_phases
    assert {name for name, key in weighed.items() if key == "output_weight"} == answers
    assert {METHODS[name].weighed for name in LAYERED} == {"layer_weight"}


def test_what_a_method_needs_of_the_teacher_follows_from_its_terms():
    assert METHODS["none"].signals == set() and METHODS["none"].terms == [Labels()]
    assert METHODS["logits"].signals == {"logits"} and METHODS["logits"].terms == [Labels(), Output()]
    assert METHODS["minilm"].own_signals == {"relations"} and METHODS["fisher-ld"].own_signals == set()
    assert METHODS["fisher-ld-no-output"].signals == {"states"}
    assert all(METHODS[name].signals == {"logits", "states"} for name in LAYERED if METHODS[name].weighting)


def test_every_method_can_be_told_from_the_others():
    for key in ("label", "colour"):
        assert len({getattr(method, key) for method in METHODS.values()}) == len(METHODS)
    assert all(method.source for method in METHODS.values())


@pytest.mark.parametrize("layers", [1, 3, 7])
def test_every_term_weighs_by_a_key_of_distill_and_stands_once_in_a_phase(layers):
    for method in METHODS.values():
        phases = method.phases(layers)
        assert sum(phase.share for phase in phases) == pytest.approx(1)
        for phase in phases:
            assert len({term.name for term in phase.terms}) == len(phase.terms)
            assert all(hasattr(given().distill, term.weight) for term in phase.terms)
    only = [phase.only for phase in METHODS["progressive"].phases(layers)]
    assert only == [*((m, m) for m in range(1, layers + 1)), None]


def test_the_table_of_methods_is_read_without_torch():
    code = "import sys; import fisher_ld.distillation.methods; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "transformers", "mlflow"}.isdisjoint(loaded) and "fisher_ld" in loaded


@dataclass(frozen=True)
class Margin(Term):
    """The student's logit is to be as far from 0 as the teacher's, at least."""

    least: float

    name, weight, signals = "margin", "output_weight", ("logits",)

    def build(self, distill, matching):
        def loss(student, signals, batch):
            wanted = signals["logits"].abs().clamp(min=self.least)
            return torch.relu(wanted - student.logits * signals["logits"].sign()).mean()

        return loss


MARGIN = Method("Margin", "this test", "#123456", at_once(Labels(), Margin(least=1.0)))


@pytest.fixture
def margin(monkeypatch):
    monkeypatch.setitem(METHODS, "margin", MARGIN)


def asked(*names):
    return {**raw(), "run": {**raw()["run"], "methods": list(names)}}


def test_a_row_of_ones_own_may_be_run_and_no_other_name(margin):
    assert parse(asked("none", "margin"), {"methods": METHODS}).run.methods == ["none", "margin"]
    with pytest.raises(UserError, match=r"run\.methods.*'margins'.*margin"):
        parse(asked("none", "margins"), {"methods": METHODS})


def test_without_its_row_a_name_is_none_of_the_methods():
    with pytest.raises(UserError, match=r"run\.methods.*'margin'"):
        parse(asked("none", "margin"), {"methods": METHODS})


def test_a_row_of_ones_own_brings_its_label_its_colour_and_what_the_cache_must_hold(margin):
    assert (names.short("small/margin"), names.colour("small/margin")) == ("Margin", "#123456")
    assert METHODS["margin"].signals == {"logits"} and METHODS["margin"].layers is None


def test_a_row_of_ones_own_is_trained_by_its_term(margin, distilled):
    done = distilled("margin", steps=30, weights=(), output_weight=2.0)
    assert set(done.teacher.asked) == {("logits",)} and not any(done.with_states)
    first, last = done.curve[0], done.curve[-1]
    assert first["loss"] == pytest.approx(given().distill.alpha * first["labels"] + 2 * first["margin"], rel=1e-5)
    assert last["margin"] < 0.7 * first["margin"]


def test_a_row_of_ones_own_may_join_the_terms_that_are_there(monkeypatch, distilled):
    both = Method("Both", "this test", "#654321", at_once(Margin(least=0.0), Layers("uniform")))
    monkeypatch.setitem(METHODS, "both", both)
    done = distilled("both", steps=12)
    assert {*chain(*done.teacher.asked)} == {"logits", "states"} and all(done.with_states)
    assert {"margin", "layers"} < done.curve[0].keys() and "labels" not in done.curve[0]
    assert done.curve[-1]["margin"] < done.curve[0]["margin"] and len(done.trajectory) == 4
