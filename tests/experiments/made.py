"""A run as its stages leave it, from models of a chosen skill; numbers come from the stages' own code."""

import numpy as np
import polars as pl

from fisher_ld.batches.lists import list_file, read_lists
from fisher_ld.config.params import all_methods, methods_of, trained
from fisher_ld.config.paths import DataPaths, cell, for_tests, kind_and_depth, rival
from fisher_ld.core.files import write_csv, write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation import efficiency, gate, meters
from fisher_ld.evaluation.baselines.catalogue import rivals_of
from fisher_ld.evaluation.calibration import calibration
from fisher_ld.evaluation.comparisons import Known, cut, evaluate
from fisher_ld.evaluation.examples import examples
from fisher_ld.evaluation.metrics.catalogue import METRICS
from fisher_ld.evaluation.metrics.diversity import category_matrix
from fisher_ld.evaluation.metrics.ties import rank
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.fisher import profile
from fisher_ld.preprocessing.report import data_report

LAYERS, SIZE = 30, 20
FAMILIES = ("matched", "uniform", "popularity")
SKILL = {
    "chance": None, "zero-shot": 0.0, "teacher": 1.75, "truncated": 1.2, "start": 0.0, "none": 1.0, "logits": 1.4,
    "uniform": 1.55, "linear": 1.5, "exponential": 1.45, "fisher": 1.56, "fisher-shuffled": 1.55,
    "fisher-reversed": 1.3, "fisher-ld": 1.58,
    "rivals/popularity": 0.05, "rivals/inverse-popularity": 0.02, "rivals/item-knn": 1.0, "rivals/follow-counts": 1.1,
    "rivals/ease": 1.05, "rivals/tf-idf": 0.5, "rivals/mean-states": 0.4,
}  # fmt: skip
MORE = 0.45  # what all labels add to a rival's


def skill(model):
    if model.endswith("-all"):
        return SKILL[model.removesuffix("-all")] + MORE
    return SKILL["truncated" if model.startswith("truncated-") else model if model in SKILL else model.split("/")[1]]


def models(params):
    """Every model of the run with the number of its seeds."""
    run = params.run
    found = dict.fromkeys(("chance", "zero-shot", *map(rival, rivals_of(params.rivals))), 1)
    found |= {"teacher": len(run.teacher_seeds)} | dict.fromkeys(run.shallow, 1)
    for student in run.students:
        found |= {f"{student}/start": 1}
        found |= {f"{student}/{method}": len(run.seeds) for method in methods_of(run, student)}
    return found


def per_user(params, users, seed):
    """Metrics of models that share most of their noise, as students of one teacher do."""
    rng = np.random.default_rng(seed)
    categories = category_matrix([[str(i % 3), str(i % 5)] for i in range(SIZE)])
    frames = []
    for family in FAMILIES:
        positive = rng.integers(0, SIZE, users)
        shared, at = rng.normal(size=(users, SIZE)), np.arange(SIZE) == positive[:, None]
        for model, seeds in models(params).items():
            for number in range(seeds):
                noisy = 0.9 * shared + 0.45 * rng.normal(size=(users, SIZE)) + (skill(model) or 0) * at
                z = np.zeros((users, SIZE)) if model == "chance" else noisy
                ranking = rank(list(z), positive, [np.arange(SIZE)] * users, categories)
                names = {"model": model, "family": family, "seed": number}
                columns = {name: metric.of(ranking) for name, metric in METRICS.items()}
                frames.append(pl.DataFrame({**names, "user": np.arange(users), **columns}))
    return pl.concat(frames)


def write_evaluation(params, paths, users, seed):
    """After the trainings, which say what was tested."""
    table = per_user(params, users, seed)
    frames, (shallow, *_) = cut(table, "matched"), params.run.shallow
    labels = {rival(name): row.labels for name, row in rivals_of(params.rivals).items()}
    asked = {name: frames[name] for name in ("teacher", shallow, *labels)}
    for student in params.run.students:
        write_json(
            paths.gate(student),
            gate.judge(asked, kind_and_depth(shallow)[1], labels, 0) | {"overridden": False, "lists": users},
        )
        write_json(paths.efficiency(student), timed(params, student))
    write_json(paths.evaluate, evaluate(table, Known.read(paths, params.run), params.evaluate, 0))


def timed(params, student):
    """Of efficiency.measure what no clock decides."""
    rng = np.random.default_rng(0)
    scales = {"teacher": 1.0, student: 0.2} | dict.fromkeys(params.run.shallow, 0.22)
    rows, seconds = {}, {}
    for name, scale in scales.items():
        seconds[name] = 0.6 * scale * rng.uniform(0.9, 1.1, 40)
        rows[name] = {
            "latency_p50_ms": 610 * scale, "latency_p95_ms": 890 * scale, "queries_per_second": 1.9 / scale,
            "best_batch": 4, "joules_per_query": meters.NOT_AVAILABLE,
            "memory": {"peak_mib": 1310 - 700 * (1 - scale), "idle_mib": 420.0},
            "parameters": {"body": int(106e6 * scale), "embedding": int(28.3e6 * scale), "head": 1152,
                           "total": int(134.5e6 * scale)},
            "size_bytes": int(538e6 * scale), "precision": "fp32",
        }  # fmt: skip
    reference = seconds["teacher"]
    return {
        "reference": "teacher", "models": rows, "queries": 40, "candidates": 20.0,
        "threads": 2, "device": "cpu", "precision": "fp32", "energy_counter": meters.NOT_AVAILABLE,
        "ratios": {name: efficiency.ratios(row, rows["teacher"]) for name, row in rows.items() if name != "teacher"},
        "intervals": {
            name: {"latency_p50": efficiency.latency_interval(reference, own, 0),
                   "throughput": efficiency.throughput_interval(reference, own, 0)}
            for name, own in seconds.items() if name != "teacher"
        },
    }  # fmt: skip


def write_fisher(paths):
    """Of 8 lists of transfer windows and 40 labelled examples."""
    rng = np.random.default_rng(0)
    columns = LAYERS + 2
    depth = np.arange(columns) / LAYERS
    shape = {"base": np.exp(-depth), "adapted": np.exp(1.5 * depth) + 30 * (np.arange(columns) == LAYERS)}
    sometimes = {"label": pl.Int8, "list_norm": pl.Float64, "list_normalisation_part": pl.Float64}
    tables = []
    for state, level in shape.items():
        for source in ("transfer", "labelled"):
            squared, example = (level * rng.gamma(4, 0.25, (40, columns))).ravel(), np.repeat(np.arange(40), columns)
            of_list = np.repeat(0.1 * squared.reshape(8, 5, columns).min(1), 5, axis=0).ravel()
            taken = source == "transfer"
            table = {
                "state": state, "source": source, "list": example // 5, "example": example,
                "label": [None] * len(example) if taken else example % 2,
                "logit": np.repeat(rng.normal(size=40), columns), "layer": np.tile(np.arange(columns), 40),
                "gradient_norm": squared, "normalisation_part": 0.2 * squared,
                "list_norm": of_list if taken else [None] * len(example),
                "list_normalisation_part": 0.2 * of_list if taken else [None] * len(example),
                "sensitivity": np.tile(1 + depth, 40) * rng.gamma(4, 0.25, len(example)),
                "attention": np.tile(1 + depth, 40),
                "parameters": 3_540_096, "mean_square": np.tile(1 + depth[::-1], 40),
            }  # fmt: skip
            tables.append(pl.DataFrame(table, schema_overrides=sometimes))
    table = pl.concat(tables)
    write_json(paths.fisher, profile.summary(table, 0))
    write_csv(paths.profile, profile.plot_rows(table))
    return profile.layer_traces(table.filter(pl.col("state") == "adapted"), "model").share


def write_training(params, paths, share):
    rng = np.random.default_rng(1)
    steps = np.arange(1, 201)
    fall = np.exp(-steps / 60)
    for shape, method in [(s, m) for s in params.run.students for m in methods_of(params.run, s)]:
        others = params.trials.strength if METHODS[method].weighed else []
        tried = {factor: 0.4 - 0.1 * abs(factor - 4) for factor in ([1.0, *others] if others else [])}
        trials = [{"strength": factor, "validation_ndcg_10": score} for factor, score in tried.items()]
        write_json(paths.strength_trials(shape, method), trials)
        write_json(paths.strength(shape, method), {"strength": max(tried, key=tried.__getitem__, default=1.0)})
    for model, seeds in models(params).items():
        method = model.split("/")[-1]
        if model in ("chance", "zero-shot") or model.startswith("rivals/") or method == "start":
            continue
        layers = METHODS[method].layers if method in METHODS else None
        for seed in range(seeds):
            noise = rng.normal(0, 0.02, (2, 200))
            columns = {"step": steps, "loss": 0.4 + 0.3 * fall + noise[0], "bce": 0.45 + 0.2 * fall + noise[1]}
            if "/" in model:
                columns["labels"] = columns["bce"] + 0.1
            if layers:
                columns["layers"] = 0.3 + 0.6 * fall + noise[0]
            score = 0.1 + 0.35 * (1 - fall) * skill(model) / 1.75
            taken = [v if step % 50 == 0 else None for step, v in zip(steps, score, strict=True)]
            folder = paths.training(model, seed)
            write_csv(folder / "curve.csv", pl.DataFrame(columns | {"validation_ndcg_10": taken}))
            fit = {"steps": 200, "best_step": 200, "validation_ndcg_10": score[-1]}
            if "/" in model:
                fit |= {"moved": 0.4, "same_order": 0.02, "layer_loss": 0.6 if layers else None}
                fit |= {"validation_start": 0.1, "gain_last": 0.001}
            write_json(folder / "fit.json", fit)
            if "/" in model:
                cost = {"stage": "distill", "cell": folder.name, "run_id": None, "seconds": 72.0 * (1 + seed)}
                write_json(folder / "run.json", cost | {"peak_memory_mib": 1000.0})
                write_csv(folder / "weights.csv", trajectory(layers, share, rng))


def trajectory(layers, share, rng):
    rows = []
    if layers:
        at = np.arange(1, LAYERS + 1)
        start = {"uniform": at**0, "linear": at, "exponential": np.exp(5 * at / LAYERS), "fisher": share}[
            layers.strategy
        ]
        start = {"natural": start, "reversed": start[::-1], "shuffled": rng.permutation(start)}.get(layers.order, start)
        start = start / start.sum()
        for step in range(0, 200, 10) if layers.dynamic else [0]:
            weight = start + (1 - 0.95 ** (step / 10)) * (1 / LAYERS - start)
            rows += [{"step": step, "layer": i + 1, "weight": w} for i, w in enumerate(weight.tolist())]
    return pl.DataFrame(rows, schema={"step": pl.Int64, "layer": pl.Int64, "weight": pl.Float64})


def lists(count, candidates, positive=0, **columns):
    """So many lists, two a window."""
    user = np.arange(count) // 2
    columns |= {"list": np.arange(count), "user": user, "start": 0, "position": 6 + np.arange(count) % 2}
    columns |= {"positive": positive}
    drawn = np.random.default_rng(3).integers(0, 1007, (count, candidates))
    return pl.DataFrame(columns | {"candidates": drawn.tolist()})


def write_data(params, paths, folder):
    rng = np.random.default_rng(2)
    for made in (folder, for_tests(folder)):
        made.mkdir(parents=True)
    lengths = rng.geometric(0.02, 938) + 5
    users = {"length": lengths, "train_positives": lengths - 2, "fold": np.arange(938) % 5}
    pl.DataFrame(users).write_parquet(folder / "users.parquet")
    count = np.sort(rng.zipf(1.6, 1007).clip(0, 400))
    items = {"count": count, "total": count, "cold": [False] * 1007, "text": [f"m{i}" for i in range(1007)]}
    items |= {"item": range(1007), "categories": [["x"]] * 1007}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    lists(600, 5).write_parquet(folder / "labelled.parquet")
    lists(2000, 10, positive=-1).write_parquet(folder / "transfer.parquet")
    for name in ("val", *(f"test_{family}" for family in FAMILIES)):
        lists(500, SIZE).write_parquet(list_file(folder, name))
    liked = pl.DataFrame({"user": np.arange(938), "items": [[7, 8, 9, 10, 11, 12, 13]] * 938})
    liked.write_parquet(folder / "sequences.parquet")
    rejected = pl.DataFrame({"file": [], "row": [], "reason": [], "raw": []}, schema_overrides={"reason": pl.String})
    filters = [
        {"step": "read", "users": 943, "items": 1682, "interactions": 100_000},
        {"step": "positives", "users": 942, "items": 1447, "interactions": 55_375},
        {"step": "k-core", "users": 938, "items": 1007, "interactions": 54_413},
    ]
    write_json(
        paths.data_report,
        data_report(
            folder, for_tests(folder), params.data_sets[paths.name], rejected, {"u.data": 100_000}, filters, 0.31
        ),
    )


def write_scored(params, paths):
    """Calibration and examples, of scores that start from a share of likes of a fifth."""
    rng = np.random.default_rng(4)
    for model, seed in ((model, seed) for model, seeds in trained(params.run).items() for seed in seeds):
        for name, path in (("val", paths.validation(model, seed)), ("test_matched", paths.test(model, seed))):
            own = read_lists(paths.processed, name)
            z = rng.normal(-1.8, 1, (len(own), SIZE)) + skill(model) * (np.arange(SIZE) == own.positive[:, None])
            write_scores(path if name == "val" else path / "matched.parquet", range(len(own)), list(z))
    write_json(paths.calibration, calibration(paths, params.run))
    write_json(paths.examples, examples(paths, params.run, 0))


def write_run(params, users=300):
    """All files of the run's cells that its report reads, below the working directory."""
    for seed, data in enumerate(params.run.data):
        paths = DataPaths(data)
        write_training(params, paths, write_fisher(paths))
        write_data(params, paths, paths.processed)
        write_scored(params, paths)
        write_evaluation(params, paths, users, seed)
        for method in all_methods(params.run):
            cost = {"stage": "layer_weights", "cell": f"{data}-{method}", "run_id": None, "seconds": 2.5}
            write_json(cell("layer_weights", data, method) / "run.json", cost | {"peak_memory_mib": 300.0})
        cost = {"stage": "evaluate", "cell": data, "run_id": "a", "seconds": 60.0, "peak_memory_mib": 900.0}
        write_json(cell("evaluate", data) / "run.json", cost)
