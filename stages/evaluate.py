"""Quality of teacher, students and baselines on the stored test lists, and their efficiency."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.batches.lists import read_lists
from fisher_ld.core.compute import setup
from fisher_ld.core.files import atomic_path, write_csv, write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation import evaluate as ev
from fisher_ld.evaluation import serving
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.run.stage import stage

PROCESSED, CACHE, STUDENTS = Path("data/processed"), Path("data/cache"), Path("data/students")
TEACHER, ZERO_SHOT = Path("data/teacher/adapted"), Path("data/zero_shot")


def main(params, run):
    compute = setup(params.cluster, params.seed)
    categories = ev.read_categories(PROCESSED)
    seeds = {name: METHODS[name].seeds(params.distill.seeds) for name in params.methods}

    frames, result = {}, {"quality": {}, "seeds": {}, "comparisons": {}, "claims": {}, "retained": {}}
    for family in ev.FAMILIES:
        name = f"test_{family}"
        lists = read_lists(PROCESSED, name)
        models = {"teacher": [read_scores(CACHE / f"teacher_{name}.parquet", lists)]}
        models["zero-shot"] = [read_scores(ZERO_SHOT / f"{name}.parquet", lists)]
        baselines = ev.read_baselines(PROCESSED, lists, params.evaluate.neighbours)
        models |= {baseline: [scores] for baseline, scores in baselines.items()}
        models |= ev.read_students(STUDENTS, seeds, name, lists)
        frames[family] = ev.family_frames(lists, models, categories, "teacher", partial=["zero-shot"])
        for part, value in ev.evaluate_family(frames[family], params.methods, params.evaluate, params.seed).items():
            result[part][family] = value

    count = params.evaluate.latency_queries
    timed = {"teacher": TEACHER, **{method: STUDENTS / method / "0" for method in sorted(params.methods)}}
    result["efficiency"] = serving.measure(
        timed, "teacher", PROCESSED, f"test_{ev.FAMILIES[0]}", count, compute, params.seed
    )

    with atomic_path("data/scores/per_user.parquet") as temporary:
        ev.per_user(frames).write_parquet(temporary)
    write_csv("metrics/plots/quality.csv", ev.plot_rows(result["quality"]))
    write_json("metrics/evaluate.json", result)
    for family, models in result["quality"].items():
        run.log_metrics({f"{family}/{m}/{k}": cell["mean"] for m, row in models.items() for k, cell in row.items()})
        run.log_metrics({f"{family}/{s}/retained": row["share"] for s, row in result["retained"][family].items()})
    for model, ratio in result["efficiency"]["ratios"].items():
        run.log_metrics({f"efficiency/{model}/{name}_ratio": value for name, value in ratio.items()})


if __name__ == "__main__":
    stage("evaluate", main)
