"""Quality of teacher, students and baselines on the stored test lists, and their efficiency."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.data.lists import read_lists
from fisher_ld.evaluation import evaluate as ev
from fisher_ld.evaluation import serving
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.runtime import UserError, atomic_path, setup, write_json
from stages.common import stage

PROCESSED, CACHE, STUDENTS = Path("data/processed"), Path("data/cache"), Path("data/students")
TEACHER = Path("data/teacher/adapted")


def main(params, run):
    compute = setup(params.cluster, params.seed)
    folders = {folder.name: folder for folder in sorted(STUDENTS.glob("[!.]*")) if folder.is_dir()}
    if not folders:
        raise UserError(f"{STUDENTS}: expected one folder a student, found none; run the stage distill (dvc repro)")
    categories = ev.read_categories(PROCESSED)

    frames, result = {}, {"quality": {}, "comparisons": {}, "retained": {}}
    for family in ev.FAMILIES:
        name = f"test_{family}"
        lists = read_lists(PROCESSED, name)
        models = {"teacher": read_scores(CACHE / f"teacher_{name}.parquet", lists)}
        models["zero-shot"] = read_scores(CACHE / f"zero_shot_{name}.parquet", lists)
        models |= ev.read_baselines(PROCESSED, lists, params.evaluate.neighbours)
        models |= {s: read_scores(folder / f"scores_{name}.parquet", lists) for s, folder in folders.items()}
        frames[family] = ev.family_frames(lists, models, categories, "teacher", partial=["zero-shot"])
        for part, value in ev.evaluate_family(frames[family], list(folders), params.evaluate, params.seed).items():
            result[part][family] = value
    result["gate"] = ev.teacher_gate(frames[ev.FAMILIES[0]], params.seed)

    count, timed = params.evaluate.latency_queries, {"teacher": TEACHER, **folders}
    result["efficiency"] = serving.measure(
        timed, "teacher", PROCESSED, f"test_{ev.FAMILIES[0]}", count, compute, params.seed
    )

    with atomic_path("data/scores/per_user.parquet") as temporary:
        ev.per_user(frames).write_parquet(temporary)
    with atomic_path("metrics/plots/quality.csv") as temporary:
        ev.plot_rows(result["quality"]).write_csv(temporary)
    write_json("metrics/evaluate.json", result)
    for family, models in result["quality"].items():
        run.log_metrics({f"{family}/{m}/{k}": cell["mean"] for m, row in models.items() for k, cell in row.items()})
        run.log_metrics({f"{family}/{s}/retained": row["share"] for s, row in result["retained"][family].items()})
    for model, ratio in result["efficiency"]["ratios"].items():
        run.log_metrics({f"efficiency/{model}/{name}_ratio": value for name, value in ratio.items()})


if __name__ == "__main__":
    stage("evaluate", main)
