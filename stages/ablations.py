"""Table III: the layer weightings against uniform; Fisher-LD against its shuffle, its reversal and fixed weights."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.batches.lists import read_lists
from fisher_ld.core.files import write_csv, write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation import evaluate as ev
from fisher_ld.run.stage import stage

PROCESSED, STUDENTS = Path("data/processed"), Path("data/students")


def main(params, run):
    strategies = [name for name in params.methods if METHODS[name].weighting != "none"]
    seeds = {name: METHODS[name].seeds(params.distill.seeds) for name in strategies}
    categories = ev.read_categories(PROCESSED)
    result = {"quality": {}, "comparisons": {}}
    for family in ev.FAMILIES:
        lists = read_lists(PROCESSED, f"test_{family}")
        models = ev.read_students(STUDENTS, seeds, f"test_{family}", lists)
        frames = ev.family_frames(lists, models, categories, "uniform")
        result["quality"][family] = ev.quality(frames, params.evaluate, params.seed)
        pairs = ev.ablation_pairs(strategies)
        result["comparisons"][family] = ev.comparisons(frames, pairs, params.evaluate, params.seed)

    write_csv("metrics/plots/ablations.csv", ev.plot_rows(result["quality"]))
    write_json("metrics/ablations.json", result)
    for family, rows in result["comparisons"].items():
        run.log_metrics({f"{family}/{row['a']}-minus-{row['b']}": row["difference"] for row in rows})


if __name__ == "__main__":
    stage("ablations", main)
