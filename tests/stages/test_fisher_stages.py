"""From the pretrained teacher to trained students: the stages between, on tiny data and a tiny teacher."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fisher_ld.batches.lists import list_file, read_lists, read_taught, read_texts
from fisher_ld.batches.prompts import build_prompts, read_template, saved_prompts
from fisher_ld.config.paths import BASE, DataPaths, cell
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.distillation.cache import TeacherCache
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.objective import objective
from fisher_ld.distillation.weights import OF_FISHER, ordered
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.evaluation.validation import validator
from fisher_ld.fisher.estimate import ONLINE, online_trace
from fisher_ld.fisher.gradient_norms import gradient_norms, pad_prompts
from fisher_ld.fisher.sample import draw_examples, draw_lists
from fisher_ld.models import together
from fisher_ld.models.scorer import Scorer, score_lists
from fisher_ld.models.student import initialised_anew
from fisher_ld.run.stage import declared_keys, restrict
from stages import (
    adapt_shallow,
    adapt_teacher,
    cache_signals,
    cache_teacher,
    choose_strength,
    distill,
    estimate_fisher,
    layer_weights,
    start_student,
)
from tests.given import ROOT, given

NO_PART = {"step", "loss", "validation_ndcg_10", "learning_rate", "gradient_norm", "tokens_per_second"}
ITEMS, LAYERS, DATA, TEACHER = 12, 4, DataPaths("tiny"), 0
PROMPT = {"prefix": "w0", "history": "{text}", "candidate": "{text} ?"}
LABELLED, TRANSFER = (4, 5), (6, 7)  # candidates of a user's two lists; the last four users' windows are unlabelled
FAMILIES = ("matched", "uniform", "popularity")
SMALL = {
    "seed": 5,
    "teacher": {
        "precision": "fp32",
        "answers": {"yes": "yes", "no": "no"},
        "adapt": {"steps": 2, "eval_every": 2, "val_users": 4},
        "truncated_steps": 2,
    },
    "fisher": {"samples": 20, "batch_size": 6, "beta": 2.0},
    "cache": {"shard_rows": 20},
    "students": {
        "small": {"init": "random", "layers": 2, "hidden_size": 8, "intermediate_size": 16, "heads": 2, "kv_heads": 1}
        | {"vocabulary": "full"},
        "first": {"init": "first", "layers": 2, "vocabulary": "full"},
    },
    "distill": {"precision": "fp32", "steps": 2, "eval_every": 2, "learning_rate": 1e-3},
}


def params(**changes):
    merged = {key: {**SMALL.get(key, {}), **value} for key, value in changes.items()}
    return given(SMALL | merged)


def words():
    known = ["[UNK]", "yes", "no", "?", *(f"w{i}" for i in range(ITEMS + 1))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[UNK]")


def write_data(rng):
    """Two training lists a user, those of the first four labelled, those of the others transfer windows; all of them
    for validation and test."""
    for folder in (DATA.processed, DATA.processed_test):
        folder.mkdir(parents=True)
    titles = [f"w{i} w{i + 1}" for i in range(ITEMS)]
    pl.DataFrame({"item": range(ITEMS), "text": titles}).write_parquet(DATA.processed / "items.parquet")
    sequences = [rng.permutation(ITEMS)[:6].tolist() for _ in range(8)]
    pl.DataFrame({"user": range(8), "items": sequences}).write_parquet(DATA.processed / "sequences.parquet")

    def rows(users, sizes, **more):
        places = [(user, n, size) for user in users for n, size in enumerate(sizes)]
        return pl.DataFrame(
            {"list": number, "user": user, "start": 0, "position": n + 3, "positive": n}
            | {"candidates": rng.permutation(ITEMS)[:size].tolist()} | more
            for number, (user, n, size) in enumerate(places)
        )  # fmt: skip

    everyone = rows(range(8), LABELLED)
    everyone.filter(pl.col("user") < 4).write_parquet(DATA.processed / "labelled.parquet")
    rows(range(4, 8), TRANSFER, positive=-1).write_parquet(DATA.processed / "transfer.parquet")
    for name in ("val", *(f"test_{family}" for family in FAMILIES)):
        everyone.write_parquet(list_file(DATA.processed, name))
    write_json(DATA.processed / "prompt.json", PROMPT)


def write_teachers():
    """The pretrained one, and one whose layers have gradients of different sizes in place of the adapted one."""
    shape = {"vocab_size": 4 + ITEMS + 1, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": LAYERS}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(BASE)
    scorer = Scorer.from_causal_lm(BASE, yes=1, no=2)
    for layer, factor in zip(scorer.layers, (1, 2, 3, 4), strict=True):
        for parameter in layer.parameters():
            parameter.data.mul_(factor)
    adapted = DATA.model("teacher", TEACHER)
    scorer.model.save_pretrained(adapted)
    for folder in (BASE, adapted):
        words().save_pretrained(folder)
    write_json(adapted / "prompt.json", PROMPT)


@pytest.fixture(scope="module")
def laid(tmp_path_factory, new_run):
    """Folders to copy: data and teachers; and these with traces, every method's weights and the cache."""
    folders = tmp_path_factory.mktemp("laid")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        (folders / "begun").mkdir()
        patch.chdir(folders / "begun")
        write_data(np.random.default_rng(0))
        write_teachers()
        shutil.copytree(folders / "begun", folders / "project")
        estimate_fisher.main(params(fisher={"unsampled": 60}), new_run(), DATA.name, TEACHER)
        for method in METHODS:
            layer_weights.main(params(), new_run(), DATA.name, method)
        cache_teacher.main(params(), new_run(), DATA.name, TEACHER)
        for method in METHODS:
            cache_signals.main(params(), new_run(), DATA.name, method, TEACHER)
            choose_strength.main(params(), new_run(), DATA.name, "small", method, TEACHER)
    return folders


def enter(folder, place, monkeypatch):
    shutil.copytree(folder, place, dirs_exist_ok=True)
    monkeypatch.chdir(place)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return place


@pytest.fixture
def project(laid, tmp_path, monkeypatch):
    return enter(laid / "project", tmp_path, monkeypatch)


@pytest.fixture
def begun(laid, tmp_path, monkeypatch):
    return enter(laid / "begun", tmp_path, monkeypatch)


def weights_of(method):
    return read_json(DATA.weights(method))


def weights_told(method, seed, student="small"):
    return pl.read_csv(DATA.training(f"{student}/{method}", seed) / "weights.csv")


def left_over(project):
    """Checkpoints that no stage has removed."""
    return [path for path in (project / "work").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_traces_and_weights_of_a_tiny_teacher(project, run):
    asked = params()
    estimate_fisher.main(asked, run, DATA.name, TEACHER)
    table = pl.read_parquet(DATA.traces)
    assert table["state"].unique(maintain_order=True).to_list() == ["adapted", "base"]
    transfer, labelled = (read_lists(DATA.processed, name) for name in ("transfer", "labelled"))
    prompts = build_prompts(words(), read_texts(DATA.processed), read_template(DATA.processed))
    adapted, base = Scorer.load(DATA.model("teacher", TEACHER)), Scorer.from_causal_lm(BASE, yes=1, no=2)
    for state, scorer, samples in (("adapted", adapted, 20), ("base", base, 10)):
        drawn = {
            "transfer": draw_lists(transfer, samples, asked.seed).flatten(),
            "labelled": draw_examples(int(labelled.offsets[-1]), samples, asked.seed),
        }
        for source, lists in (("transfer", transfer), ("labelled", labelled)):
            rows = table.filter(state=state, source=source)
            assert sorted(rows["example"].unique()) == sorted(drawn[source])
            example = int(rows["example"].max())
            index = max(i for i in range(len(lists)) if lists.offsets[i] <= example)
            place = example - int(lists.offsets[index])
            alone = gradient_norms(scorer, pad_prompts([prompts.example(lists, example)]))
            rows = rows.filter(example=example)
            assert rows["gradient_norm"][1:5].to_list() == pytest.approx(alone.layers[0].tolist(), rel=1e-4)
            label = int(place == lists.positive[index]) if source == "labelled" else None
            assert rows["label"].unique().to_list() == [label]
            assert rows["list"].unique().to_list() == [index]

    told = read_json(DATA.fisher)
    assert [told["base"][k]["source"] for k in ("model", "label", "list")] == ["transfer", "labelled", "transfer"]
    assert told["adapted"]["model"]["upper_lower_quarter"] != told["base"]["model"]["upper_lower_quarter"]
    profile = pl.read_csv(DATA.profile)
    assert len(profile) == 2 * 3 * LAYERS
    shares = {kind: np.array([row["share"] for row in found["layers"]]) for kind, found in told["adapted"].items()}
    share = shares["model"]
    assert profile.filter(state="adapted", kind="model")["share"].to_list() == pytest.approx(share)
    assert not run.metrics and not run.artifacts  # a light stage opens no run of MLflow

    sampled = [method for method, row in METHODS.items() if not row.layers or row.layers.sampled]
    for method in sampled:
        layer_weights.main(asked, run, DATA.name, method)
    found = {method: weights_of(method) for method in sampled}
    for method, entry in found.items():
        layers = METHODS[method].layers
        assert entry["strategy"] == (layers.strategy if layers else None)
        assert entry["order"] == (layers.order if layers else None)
        of_fisher = layers is not None and layers.strategy in OF_FISHER
        biased = of_fisher and layers.depth_bias
        assert entry["kind"] == ((layers.kind or "model") if of_fisher else None)
        assert len(entry["weights"]) == (LAYERS if layers else 0) and entry["mass"] is None
        assert entry["depth_bias"] == ([1.5, 2, 2.5, 3] if biased else [1] * 4 if layers else [])
    for method, kind in (("fisher", "model"), ("fisher-label", "label"), ("fisher-list", "list")):
        raised = shares[kind] * (1 + 2.0 * np.arange(1, 5) / 4)
        assert found[method]["weights"] == pytest.approx(raised / raised.sum())
    for method in ("fisher-shuffled", "fisher-reversed", "fisher-ld"):  # in their own order; a seed's comes later
        assert found[method]["weights"] == found["fisher"]["weights"]
    assert not run.metrics

    for kind in ("label", "list"):
        for method in sampled:
            layer_weights.main(params(fisher={"beta": 0.5, "kind": kind}), run, DATA.name, method)
        for method in ("none", "logits", "pkd", "uniform", "linear", "exponential"):
            assert weights_of(method) == found[method]
        raised = shares[kind] * (1 + 0.5 * np.arange(1, 5) / 4)
        assert weights_of("fisher")["weights"] == pytest.approx(raised / raised.sum())
        assert weights_of("fisher")["kind"] == kind
        assert weights_of("fisher") == weights_of(f"fisher-{kind}")  # whose kind is its own

    for method in sampled:  # without the depth bias, in its own order
        layer_weights.main(params(distill={"layer_map": "fisher"}), run, DATA.name, method)
        assert weights_of(method)["mass"] == pytest.approx(share)


def test_weights_without_sampling_are_of_the_larger_sample_and_the_others_do_not_change(project, run):
    estimate_fisher.main(params(), run, DATA.name, TEACHER)
    layer_weights.main(params(), run, DATA.name, "fisher-ld")
    sampled = weights_of("fisher-ld")
    estimate_fisher.main(params(fisher={"unsampled": 60}), run, DATA.name, TEACHER)
    for method in ("fisher-ld", "fisher-ld-no-sampling"):
        layer_weights.main(params(), run, DATA.name, method)
    assert weights_of("fisher-ld") == sampled
    estimate_fisher.main(params(fisher={"samples": 60}), run, DATA.name, TEACHER)
    layer_weights.main(params(), run, DATA.name, "fisher-ld")
    assert weights_of("fisher-ld-no-sampling") == weights_of("fisher-ld") != sampled


def test_without_transfer_windows_the_traces_are_of_labelled_lists(project, run, capsys):
    path = DATA.processed / "transfer.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    estimate_fisher.main(params(), run, DATA.name, TEACHER)
    assert "no transfer windows" in capsys.readouterr().out
    for state, lists in (("adapted", 5), ("base", 3)):  # a fourth of the examples, and no fewer than ten
        found = read_json(DATA.fisher)[state]
        assert [(found[k]["source"], found[k]["lists"]) for k in ("model", "label", "list")] == [
            ("labelled", lists)
        ] * 3


def test_weights_without_traces_name_the_stage(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run the stage estimate_fisher"):
        layer_weights.main(params(), run, DATA.name, "fisher-ld")


def test_the_cache_holds_what_the_methods_need_of_labelled_and_transfer_windows(begun):
    folder, lists = DATA.model("teacher", TEACHER), read_taught(DATA.processed)
    cache = TeacherCache.open(DATA.cache, {"logits", "states"})
    assert cache.examples == lists.offsets[-1] == 4 * sum(LABELLED) + 4 * sum(TRANSFER)
    expected = np.concatenate(score_lists(Scorer.load(folder), lists, saved_prompts(folder, DATA.processed)))
    assert cache.read(np.arange(cache.examples), "logits") == pytest.approx(expected, abs=1e-5)
    assert cache.read(np.arange(3), "states").shape == (3, LAYERS, 16)
    assert not left_over(begun)


def test_every_method_starts_from_one_student_and_learns_by_its_terms(begun, run):
    start_student.main(params(), run, DATA.name, "small", TEACHER)
    start = Scorer.load(DATA.model("small/start"))
    assert not run.metrics
    first, expected, parts_of = {}, weights_of("fisher")["weights"], {}
    for method in METHODS:
        distill.main(params(), run, DATA.name, "small", method, 0, TEACHER)
        told = DATA.training(f"small/{method}", 0)
        curve = pl.read_csv(told / "curve.csv")
        parts = parts_of[method] = set(curve.columns) - NO_PART
        assert parts <= {term.name for term in METHODS[method].terms}
        assert curve["step"].to_list() == [0, 1, 2]
        if len(METHODS[method].phases(2)) == 1:
            first[method] = curve["labels"][1]
            assert parts == {term.name for term in METHODS[method].terms}
        fit = read_json(told / "fit.json")
        assert (fit["steps"], fit["best_step"]) == (2, 2) and 0 <= fit["validation_ndcg_10"] <= 1
        weights = weights_told(method, 0)["weight"].to_list()
        assert bool(weights) == bool(METHODS[method].layers)
        if METHODS[method].weighting:
            assert len(weights) == LAYERS
            wanted = ordered(np.array(weights_of(method)["weights"]), METHODS[method].layers.order, 0)
            assert weights == pytest.approx(wanted.tolist(), rel=1e-5)
        trained = Scorer.load(DATA.model(f"small/{method}", 0))
        assert not torch.equal(trained.layers[0].mlp.up_proj.weight, start.layers[0].mlp.up_proj.weight)
        assert read_template(DATA.model(f"small/{method}", 0)) == read_template(DATA.model("small/start"))
    assert set(first.values()) == {first["none"]}  # the same start, the same data
    assert run.metrics["weight/layer_04"] == pytest.approx(expected[-1], rel=1e-5)  # of fisher-ld, the last
    assert {"loss", "labels", "output", "layers", "validation_ndcg_10"} <= run.metrics.keys()
    assert parts_of["tinybert"] == {"layers", "scores", "output"} and parts_of["minilm"] == {
        "relations",
        "labels",
        "output",
    }
    assert not left_over(begun)


def test_what_one_method_needs_of_the_teacher_is_its_own_to_cache(begun):
    for method, row in METHODS.items():
        files = {path.name for path in DATA.signals(method).iterdir()}
        assert {name.split("-")[0] for name in files - {"manifest.json", "none"}} == row.own_signals
        told = cell("cache_signals", DATA.name, method) / "signals.json"
        assert told.is_file() == bool(row.own_signals)
        assert not row.own_signals or read_json(told)["bytes"] > 1000 * len(row.own_signals)
    assert {method for method, row in METHODS.items() if row.own_signals} == {
        "attention-transfer", "tinybert", "minilm",
    }  # fmt: skip


def test_a_method_takes_the_strength_that_is_best_on_validation(begun, run, monkeypatch):
    start_student.main(params(), run, DATA.name, "small", TEACHER)
    best = {1.0: 0.3, 4.0: 0.5, 16.0: 0.4}

    def trained(params, run, paths, student, method, seed, teacher, strength, trial):
        assert seed == params.seed and trial
        done = real(params, run, paths, student, method, seed, teacher, strength, trial=trial)
        return done._replace(fit=replace(done.fit, best_score=best[strength]))

    real = distill.train
    monkeypatch.setattr(distill, "train", trained)
    asked = params(distill={"layer_weight": 0.25}, trials={"strength": [4.0, 16.0]})
    choose_strength.main(asked, run, DATA.name, "small", "uniform", TEACHER)
    assert read_json(DATA.strength("small", "uniform")) == {"strength": 4.0}
    told = read_json(DATA.strength_trials("small", "uniform"))
    assert {row["strength"]: row["validation_ndcg_10"] for row in told} == best
    monkeypatch.setattr(distill, "train", real)
    distill.main(asked, run, DATA.name, "small", "uniform", 0, TEACHER)
    assert read_json(DATA.training("small/uniform", 0) / "fit.json")["strength"] == 4.0
    curve = pl.read_csv(DATA.training("small/uniform", 0) / "curve.csv").row(1, named=True)
    asked_weights = {"labels": asked.distill.alpha, "output": asked.distill.output_weight, "layers": 1.0}
    assert curve["loss"] == pytest.approx(sum(w * curve[name] for name, w in asked_weights.items()), rel=1e-4)
    choose_strength.main(asked, run, DATA.name, "small", "none", TEACHER)
    assert read_json(DATA.strength("small", "none")) == {"strength": 1.0}
    assert read_json(DATA.strength_trials("small", "none")) == []


def test_trials_that_are_done_outlive_a_kill(begun, run, monkeypatch):
    start_student.main(params(), run, DATA.name, "small", TEACHER)
    asked, seen = params(trials={"strength": [4.0, 16.0]}), []
    train, load = distill.train, Checkpoint.load

    def killed(*given, **how):
        if given[-1] == 16.0:
            raise KeyboardInterrupt
        return train(*given, **how)

    def watched(checkpoint):
        found = load(checkpoint)
        seen.append(found and found[0])
        return found

    monkeypatch.setattr(distill, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        choose_strength.main(asked, run, DATA.name, "small", "logits", TEACHER)
    monkeypatch.setattr(distill, "train", train)
    monkeypatch.setattr(Checkpoint, "load", watched)
    for _ in range(2):
        choose_strength.main(asked, run, DATA.name, "small", "logits", TEACHER)
    assert seen == [asked.distill.steps, asked.distill.steps, None, None, None, None]


def test_the_start_is_the_teachers_first_layers_with_a_head_fitted_to_them(begun, run):
    start_student.main(params(), run, DATA.name, "first", TEACHER)
    start, teacher = Scorer.load(DATA.model("first/start")), Scorer.load(DATA.model("teacher", TEACHER))
    assert len(start.layers) == 2
    for own, source in zip(start.layers, teacher.layers, strict=False):
        assert torch.equal(own.mlp.up_proj.weight, source.mlp.up_proj.weight)
    assert not torch.equal(start.model.score.weight, teacher.model.score.weight)


PRETRAINED = {"init": "pretrained", "source": {"kind": "local", "name": str(BASE), "revision": None}} | {
    "layers": LAYERS, "hidden_size": 16, "intermediate_size": 24, "heads": 4, "kv_heads": 2, "vocabulary": "full",
}  # fmt: skip


def test_a_pretrained_student_has_its_own_weights_and_tokenizer(begun, run):
    """Of the adapted teacher it takes the answers and the states at the decision token alone."""
    asked = params(students={"own": PRETRAINED})
    shutil.copy(ROOT / "dvc.yaml", ".")
    seen = restrict(asked, "start_student", declared_keys("start_student", {"data": DATA.name, "student": "own"}))
    start_student.main(seen, run, DATA.name, "own", TEACHER)
    start, base = Scorer.load(DATA.model("own/start")), Scorer.from_causal_lm(BASE, yes=1, no=2)
    for own, source in zip(start.layers, base.layers, strict=True):
        assert torch.equal(own.mlp.up_proj.weight, source.mlp.up_proj.weight)
    assert not torch.equal(start.model.score.weight, base.model.score.weight)  # fitted to the labels
    choose_strength.main(asked, run, DATA.name, "own", "uniform", TEACHER)
    distill.main(asked, run, DATA.name, "own", "uniform", 0, TEACHER)
    assert read_json(DATA.training("own/uniform", 0) / "fit.json")["layer_loss"] >= 0


def test_a_pretrained_student_of_another_shape_is_refused_with_its_own(begun, run):
    asked = params(students={"own": PRETRAINED | {"heads": 2, "layers": 3}})
    with pytest.raises(UserError, match="set heads: 4, layers: 4"):
        start_student.main(asked, run, DATA.name, "own", TEACHER)


def test_token_by_token_needs_the_teachers_tokenizer(begun, run):
    prompts = saved_prompts(DATA.model("teacher", TEACHER), DATA.processed)
    prompts.check_alike(prompts, "minilm")
    other = replace(prompts, candidate=[piece[:1] for piece in prompts.candidate])
    with pytest.raises(UserError, match="minilm compares attention token by token"):
        prompts.check_alike(other, "minilm")


def test_a_narrower_student_starts_from_the_states_in_the_cache(begun, run):
    shape = {"init": "spaced", "hidden_size": 8, "heads": 2, "kv_heads": 1, "layers": 2, "vocabulary": "full"}
    asked = params(students={"projected": shape})
    start_student.main(asked, run, DATA.name, "projected", TEACHER)
    choose_strength.main(asked, run, DATA.name, "projected", "uniform", TEACHER)
    distill.main(asked, run, DATA.name, "projected", "uniform", 0, TEACHER)
    assert Scorer.load(DATA.model("projected/uniform", 0)).model.config.hidden_size == 8


def test_seeds_shuffle_the_weights_in_other_ways(begun, run):
    start_student.main(params(), run, DATA.name, "small", TEACHER)
    for seed in (0, 1):
        distill.main(params(), run, DATA.name, "small", "fisher-shuffled", seed, TEACHER)
    one, other = (weights_told("fisher-shuffled", seed)["weight"].to_list() for seed in (0, 1))
    fisher = weights_of("fisher")["weights"]
    assert sorted(one) == sorted(other) == pytest.approx(sorted(fisher), rel=1e-5)
    assert one != other and one != pytest.approx(fisher) and other != pytest.approx(fisher)


@pytest.mark.parametrize("init", ["random", "first"])
def test_another_seed_is_another_start_only_where_the_start_is_random(begun, run, init):
    asked = params(
        students={"drawn": {"init": init, "layers": 2, "vocabulary": "full"}},
        distill={"learning_rate": 1e-12},  # what is saved is what it starts from
    )
    start_student.main(asked, run, DATA.name, "drawn", TEACHER)
    choose_strength.main(asked, run, DATA.name, "drawn", "none", TEACHER)
    for seed in (5, 6):
        distill.main(asked, run, DATA.name, "drawn", "none", seed, TEACHER)
    start, same, other = (
        Scorer.load(DATA.model(f"drawn/{name}", seed)) for name, seed in (("start", 0), ("none", 5), ("none", 6))
    )
    anew = initialised_anew(start, seed=6)
    for name, parameter in start.named_parameters():
        torch.testing.assert_close(same.get_parameter(name), parameter, rtol=0, atol=1e-9)
        expected = anew.get_parameter(name) if init == "random" else parameter
        torch.testing.assert_close(other.get_parameter(name), expected, rtol=0, atol=1e-9)
    moved = not torch.allclose(other.layers[0].mlp.up_proj.weight, start.layers[0].mlp.up_proj.weight, atol=1e-6)
    assert moved == (init == "random")


def test_methods_without_layers_train_whatever_the_layer_map(begun, run):
    asked = params(distill={"layer_map": "fisher"})
    start_student.main(asked, run, DATA.name, "small", TEACHER)
    for method in ("none", "logits", "uniform"):
        layer_weights.main(asked, run, DATA.name, method)
        distill.main(asked, run, DATA.name, "small", method, 0, TEACHER)
    assert len(weights_told("logits", 0)) == 0 and len(weights_told("uniform", 0)) == 2


def test_dynamic_weights_from_the_teachers_traces(begun, run, monkeypatch):
    """Eq. 9 by hand, w <- 0.5 w + 0.5 b tr(F) / sum b tr(F), b the depth factor, with traces of the examples that the
    stage took, whether labelled or not."""
    weights, bias = [0.1, 0.2, 0.3, 0.4], [1.0, 1.0, 1.0, 2.0]
    weighting = {"kind": "model", "weights": weights, "depth_bias": bias, "mass": None}
    write_json(DATA.weights("fisher-ld"), weighting)
    asked = params(
        fisher={"update_from": "teacher", "update_rate": 0.5, "update_interval": 2},
        distill={"steps": 5},
    )
    start_student.main(asked, run, DATA.name, "small", TEACHER)
    taken = []
    monkeypatch.setattr(
        distill, "online_trace", lambda *given: taken.append(given[-1][:ONLINE]) or online_trace(*given)
    )
    distill.main(asked, run, DATA.name, "small", "fisher-ld", 0, TEACHER)

    folder, lists = DATA.model("teacher", TEACHER), read_taught(DATA.processed)
    prompt = partial(saved_prompts(folder, DATA.processed).example, lists)
    assert np.isnan(lists.labels()[np.concatenate(taken)]).any()
    expected = list(weights)
    for examples in taken:
        found = gradient_norms(Scorer.load(folder), pad_prompts([prompt(int(e)) for e in examples]))
        p = found.logits.sigmoid()[:, None]
        raised = (p * (1 - p) * found.layers).mean(0).numpy() * bias
        weights = (np.array(weights) + raised / raised.sum()) / 2
        expected += weights.tolist()
    found = weights_told("fisher-ld", 0)
    assert found["step"].unique(maintain_order=True).to_list() == [0, 2, 4] and len(taken) == 2
    assert found["weight"].to_list() == pytest.approx(expected, rel=1e-4)
    assert run.metrics["weight/layer_04"] == pytest.approx(expected[-1], rel=1e-4)


def test_a_cache_of_another_teacher_is_refused(begun, run):
    start_student.main(params(), run, DATA.name, "small", TEACHER)
    scorer = Scorer.load(DATA.model("teacher", TEACHER))
    scorer.model.score.weight.data.mul_(2)
    scorer.model.save_pretrained(DATA.model("teacher", TEACHER))
    with pytest.raises(UserError, match="made from another teacher"):
        distill.main(params(), run, DATA.name, "small", "logits", 0, TEACHER)


@pytest.mark.parametrize(
    ("model", "kept"), [("teacher", range(LAYERS)), ("truncated-2", [0, 1]), ("layerdrop-2", [1, 3])]
)
def test_a_teacher_is_adapted_saved_and_scored_on_the_validation_lists(project, run, model, kept):
    if model == "teacher":
        adapt_teacher.main(params(), run, DATA.name, 1)
        seed = 1
    else:
        adapt_shallow.main(params(), run, DATA.name, model)
        seed = 0
    adapted, base = Scorer.load(DATA.model(model, seed)), Scorer.from_causal_lm(BASE, yes=1, no=2)
    assert len(adapted.layers) == adapted.model.config.num_hidden_layers == len(kept)
    for layer, before in zip(adapted.layers, (base.layers[place] for place in kept), strict=True):
        assert not torch.equal(layer.mlp.up_proj.weight, before.mlp.up_proj.weight)
        assert torch.allclose(layer.mlp.up_proj.weight, before.mlp.up_proj.weight, atol=0.02)  # and no other layer's
    lists = read_lists(DATA.processed, "val")
    prompts = saved_prompts(DATA.model(model, seed), DATA.processed)
    expected = np.concatenate(score_lists(adapted, lists, prompts))
    scores = read_scores(DATA.validation(model, seed), lists)
    assert np.concatenate(scores.values) == pytest.approx(expected, abs=1e-5)
    told = DATA.training(model, seed)
    curve = pl.read_csv(told / "curve.csv")
    assert curve["step"].to_list() == [0, 1, 2] and {"bce", "list_softmax", "validation_ndcg_10"} < set(curve.columns)
    fit = read_json(told / "fit.json")
    assert fit["steps"] == 2 and "loss" in run.metrics
    validate = validator(adapted, DATA.processed, prompts, params().teacher.adapt.val_users, params().seed)
    assert fit["validation_ndcg_10"] == pytest.approx(validate())  # of the layers that were kept
    assert not left_over(project)


def test_steps_in_pieces_learn_the_same(begun, run, monkeypatch):
    start_student.main(params(), run, DATA.name, "small", TEACHER)
    divided, divide = [], together.parts
    monkeypatch.setattr(together, "parts", lambda *given: divided.append(given[-1]) or divide(*given))
    found = []
    for pieces in (1, 2):
        asked = params(cluster={"pieces": pieces}, teacher={"adapt": SMALL["teacher"]["adapt"] | {"batch_users": 2}})
        adapt_teacher.main(asked, run, DATA.name, 1)
        assert set(divided) == set(range(2, pieces + 1))
        divided.clear()
        distill.main(asked, run, DATA.name, "small", "fisher-ld", 0, TEACHER)
        assert set(divided) == set(range(2, pieces + 1))
        folders = DATA.model("teacher", 1), DATA.model("small/fisher-ld", 0)
        found.append([p.detach() for folder in folders for p in Scorer.load(folder).parameters()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_teacher_whose_matrices_rest_in_bf16_is_saved_so_and_starts_students(project, run, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    lora = {"precision": "bf16", "adapt": SMALL["teacher"]["adapt"] | {"method": "lora"}}
    adapt_teacher.main(params(teacher=lora), run, DATA.name, TEACHER)
    with safe_open(DATA.model("teacher", TEACHER) / "model.safetensors", "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    matrices = {name for name, value in saved.items() if value.dtype == torch.bfloat16}
    assert matrices == {name for name in saved if ".layers." in name and "norm" not in name}
    start_student.main(params(), run, DATA.name, "first", TEACHER)
    started = dict(Scorer.load(DATA.model("first/start")).model.named_parameters())
    assert {p.dtype for p in started.values()} == {torch.float32}
    assert all(torch.equal(p, saved[name].float()) for name, p in started.items() if ".layers." in name)


def test_prompts_beyond_the_context_stop_before_the_adaptation(project, run):
    config = read_json(BASE / "config.json")
    write_json(BASE / "config.json", config | {"max_position_embeddings": 8})
    with pytest.raises(UserError, match=r"a prompt has \d+ tokens, but the model's context ends at 8"):
        adapt_teacher.main(params(), run, DATA.name, 0)
    assert not DATA.training("teacher", 0).exists()


def test_a_stage_that_other_code_began_is_begun_anew(begun, run, new_run, monkeypatch):
    start_student.main(params(), run, DATA.name, "small", TEACHER)
    asked = params(distill={"steps": 4, "eval_every": 2, "checkpoint_every": 2})

    def attempt(code, breaks):
        """The steps that this run computed itself."""
        steps = []

        def loss(*given):
            if len(steps) == 3 and breaks:
                raise KeyboardInterrupt
            steps.append(1)
            return objective(*given)

        monkeypatch.setattr("fisher_ld.distillation.trainer.objective", loss)
        stage = new_run(code=code)
        if breaks:
            with pytest.raises(KeyboardInterrupt):
                distill.main(asked, stage, DATA.name, "small", "none", 0, TEACHER)
        else:
            distill.main(asked, stage, DATA.name, "small", "none", 0, TEACHER)
        return len(steps)

    assert attempt({"trainer.py": "a"}, breaks=True) == 3  # a checkpoint after the second
    assert attempt({"trainer.py": "b"}, breaks=False) == 4
    assert attempt({"trainer.py": "a"}, breaks=False) == 2
