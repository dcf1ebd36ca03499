"""A metrics folder as the stages leave it, from models of a chosen skill; numbers come from the stages' own code."""

import numpy as np
import polars as pl
import pytest

from fisher_ld.config.params import Evaluate
from fisher_ld.core.files import read_json, write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation import efficiency
from fisher_ld.evaluation import evaluate as ev
from fisher_ld.evaluation.ranking import chance, ranking_metrics
from fisher_ld.fisher import profile
from fisher_ld.preprocessing.report import data_report, plot_report

LAYERS, SIZE, SEEDS = 30, 20, 2
SKILL = {
    "popularity": 0.3, "item-knn": 1.0, "zero-shot": 0.0, "teacher": 1.75, "none": 1.35, "truncated": 1.3,
    "uniform": 1.68, "linear": 1.66, "exponential": 1.67, "fisher": 1.7, "fisher-shuffled": 1.69,
    "fisher-reversed": 1.6, "fisher-ld": 1.72,
}  # fmt: skip
STUDENTS = list(SKILL)[4:]


def frames(users, seed):
    """Per-user metrics of models that share most of their noise, as students of one teacher do. Students have two."""
    rng = np.random.default_rng(seed)
    positive = rng.integers(0, SIZE, users)
    shared = rng.normal(size=(users, SIZE))
    at = np.arange(SIZE) == positive[:, None]
    by_chance = {name: np.full(users, value) for name, value in chance(SIZE).items()}
    found = {"chance": [by_chance]}
    for model, skill in SKILL.items():
        runs = [0.9 * shared + 0.45 * rng.normal(size=(users, SIZE)) + skill * at for _ in range(SEEDS)]
        found[model] = [ranking_metrics(list(z), positive) for z in (runs if model in STUDENTS else runs[:1])]
    return {
        model: [
            pl.DataFrame({"user": np.arange(users), **m, "diversity_10": rng.uniform(0.6, 0.8, users)}) for m in runs
        ]
        for model, runs in found.items()
    }


def write_evaluation(metrics, users):
    params = Evaluate(bootstrap_samples=300, permutations=1999, neighbours=5)
    evaluate = {"quality": {}, "seeds": {}, "comparisons": {}, "claims": {}, "retained": {}}
    ablations = {"quality": {}, "comparisons": {}}
    strategies = ["uniform", "linear", "exponential", "fisher", "fisher-shuffled", "fisher-reversed", "fisher-ld"]
    for seed, family in enumerate(ev.FAMILIES):
        models = frames(users, seed)
        for part, value in ev.evaluate_family(models, STUDENTS, params, 0).items():
            evaluate[part][family] = value
        if family == "popularity":
            write_json(metrics / "gate.json", ev.teacher_gate(models, 0))
        own = {name: models[name] for name in ("chance", *strategies)}
        ablations["quality"][family] = ev.quality(own, params, 0)
        ablations["comparisons"][family] = ev.comparisons(own, ev.ablation_pairs(strategies), params, 0)
    rows = {}
    for name, scale, stands_for in (("teacher", 1.0, ["teacher"]), ("exponential", 0.2, STUDENTS)):
        rows[name] = {
            "latency_p50_ms": 610 * scale, "latency_p95_ms": 890 * scale, "queries_per_second": 1.9 / scale,
            "best_batch": 4, "joules_per_query": efficiency.NOT_AVAILABLE,
            "memory": {"peak_mib": 1310 - 700 * (1 - scale), "idle_mib": 420.0},
            "parameters": {"body": int(106e6 * scale), "embedding": int(28.3e6 * scale), "head": 1152,
                           "total": int(134.5e6 * scale)},
            "size_bytes": int(538e6 * scale), "stands_for": stands_for,
        }  # fmt: skip
    evaluate["efficiency"] = {
        "ratios": {"exponential": efficiency.ratios(rows["exponential"], rows["teacher"])},
        "reference": "teacher", "models": rows, "queries": 20, "candidates": 20.0, "threads": 2, "device": "cpu",
        "precision": "fp32",
        "energy_counter": efficiency.NOT_AVAILABLE,
    }  # fmt: skip
    write_json(metrics / "evaluate.json", evaluate)
    write_json(metrics / "ablations.json", ablations)


def write_fisher(metrics):
    rng = np.random.default_rng(0)
    depth = np.arange(LAYERS + 2) / LAYERS
    shape = {"base": np.exp(-depth), "adapted": np.exp(1.5 * depth) + 30 * (np.arange(LAYERS + 2) == LAYERS)}
    tables = []
    for state, level in shape.items():
        norm = level * rng.gamma(4, 0.25, (40, LAYERS + 2))
        tables.append(
            pl.DataFrame(
                {
                    "state": state,
                    "example": np.repeat(np.arange(40), LAYERS + 2),
                    "label": np.repeat(np.arange(40) % 2, LAYERS + 2),
                    "logit": np.repeat(rng.normal(size=40), LAYERS + 2),
                    "layer": np.tile(np.arange(LAYERS + 2), 40),
                    "norm": norm.ravel(),
                    "norms_part": 0.2 * norm.ravel(),
                    "parameters": 3_540_096,
                }
            )
        )
    table = pl.concat(tables)
    write_json(metrics / "fisher.json", profile.summary(table, 0))
    profile.plot(table, metrics / "plots/fisher.png")
    return profile.layer_traces(tables[1], "true").share


def of_seeds(frame):
    return pl.concat(frame.select(pl.lit(seed).alias("seed"), pl.all()) for seed in range(SEEDS))


def write_training(metrics, share):
    rng = np.random.default_rng(1)
    (metrics / "plots/training").mkdir(parents=True)
    (metrics / "plots/weights").mkdir(parents=True)
    steps = np.arange(1, 201)
    fall = np.exp(-steps / 60)
    order = {"uniform": np.ones(LAYERS), "linear": np.arange(1, LAYERS + 1), "exponential": np.exp(np.arange(30) / 30)}
    order |= {"fisher": share, "fisher-ld": share, "fisher-reversed": share[::-1]}
    order["fisher-shuffled"] = rng.permutation(share)
    for name in ("teacher", *STUDENTS):
        noise = rng.normal(0, 0.02, (2, 200))
        columns = {"step": steps, "loss": 0.4 + 0.3 * fall + noise[0], "bce": 0.45 + 0.2 * fall + noise[1]}
        if name in order:
            columns["layers"] = 0.3 + 0.6 * fall + noise[0]
        score = 0.1 + 0.35 * (1 - fall) * SKILL[name] / 1.75
        columns["validation_ndcg_10"] = [v if step % 50 == 0 else None for step, v in zip(steps, score, strict=True)]
        curve = pl.DataFrame(columns)
        best = {"steps": 200, "best_step": 200, "validation_ndcg_10": score[-1]}
        if name == "teacher":
            curve = curve.with_columns(depth=pl.when(pl.col("step") <= 120).then(4).otherwise(LAYERS))
            curve.write_csv(metrics / "plots/training/teacher.csv")
            write_json(metrics / "adapt_teacher.json", best)
            continue
        of_seeds(curve).write_csv(metrics / "plots/training" / f"{name}.csv")
        write_json(metrics / "distill" / f"{name}.json", best | {"seeds": [best] * SEEDS})
        rows = []
        if name in order:
            start = order[name] / order[name].sum()
            for step in range(0, 200, 10) if METHODS[name].dynamic else [0]:
                weight = start + (1 - 0.95 ** (step / 10)) * (1 / LAYERS - start)
                rows += [{"step": step, "layer": i + 1, "weight": w} for i, w in enumerate(weight.tolist())]
        schema = {"step": pl.Int64, "layer": pl.Int64, "weight": pl.Float64}
        of_seeds(pl.DataFrame(rows, schema=schema)).write_csv(metrics / "plots/weights" / f"{name}.csv")


def write_data(metrics, processed):
    rng = np.random.default_rng(2)
    processed.mkdir()
    lengths = rng.geometric(0.02, 938) + 5
    pl.DataFrame({"length": lengths, "train_positives": lengths - 2, "fold": np.arange(938) % 5}).write_parquet(
        processed / "users.parquet"
    )
    text = [f"m{i}" for i in range(1007)]
    items = {"count": np.sort(rng.zipf(1.6, 1007).clip(0, 400)), "text": text, "categories": [["x"]] * 1007}
    pl.DataFrame(items).write_parquet(processed / "items.parquet")
    for name in ("train", "val", "test_popularity", "test_uniform"):
        pl.DataFrame({"candidates": [[0, 1, 2]] * 938}).write_parquet(processed / f"{name}.parquet")
    rejected = pl.DataFrame({"file": [], "row": [], "reason": [], "raw": []}, schema_overrides={"reason": pl.String})
    filters = [
        {"step": "read", "users": 943, "items": 1682, "interactions": 100_000},
        {"step": "positives", "users": 942, "items": 1447, "interactions": 55_375},
        {"step": "k-core", "users": 938, "items": 1007, "interactions": 54_413},
    ]
    report = data_report(processed, rejected, {"u.data": 100_000}, filters)
    write_json(metrics / "preprocess.json", report)
    plot_report(report, processed, metrics / "plots/data")


def write_metrics(root, users=400):
    metrics = root / "metrics"
    write_evaluation(metrics, users)
    write_training(metrics, write_fisher(metrics))
    write_data(metrics, root / "processed")
    return metrics


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Read only; copy it to change it."""
    return write_metrics(tmp_path_factory.mktemp("report"))


@pytest.fixture
def edit():
    """edit(path, change): rewrites a JSON file by change(content)."""

    def apply(path, change):
        content = read_json(path)
        change(content)
        write_json(path, content)

    return apply
