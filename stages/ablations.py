"""The tables of the paper, cut from what `distill`, `evaluate` and `efficiency` say: metrics/tables/NAME.csv, NAME.md
and NAME.tex, and all of them in tables.json."""

from __future__ import annotations

import polars as pl

from fisher_ld.config.params import Params
from fisher_ld.config.paths import TABLES
from fisher_ld.core.files import write_csv, write_json
from fisher_ld.experiments.results import Results
from fisher_ld.experiments.tables import fill, paper
from fisher_ld.report.blocks import write_page
from fisher_ld.report.latex import latex
from fisher_ld.report.markdown import markdown
from fisher_ld.report.paper import table_blocks, table_rows
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun) -> None:
    results = Results(params.run)
    tables = [fill(table, results) for table in paper()["tables"]]
    for table in tables:
        path = TABLES / table["name"]
        write_csv(path.with_suffix(".csv"), pl.DataFrame(table_rows(table), infer_schema_length=None))
        for suffix, written in ((".md", markdown), (".tex", latex)):
            write_page(path.with_suffix(suffix), written(table["title"], table_blocks(table)[1:]))
    write_json(TABLES / "tables.json", tables)


if __name__ == "__main__":
    stage(main)
