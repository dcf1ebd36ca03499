"""Parquet in, the same with scores out, however many rows: in parts, so that a killed run goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fisher_ld.core.errors import UserError, reading
from fisher_ld.core.files import atomic_path, fingerprint, parquet_batches, read_json, write_json
from fisher_ld.core.locks import Lock
from fisher_ld.core.progress import progress
from fisher_ld.serving.predictor import Predictor

ROWS = 1024  # of a part
COLUMNS = ("history", "candidates")  # lists of texts
SCORES = pa.list_(pa.float32())


def score_file(predictor: Predictor, model: Path, source: Path, out: Path, fp32: bool = False) -> int:
    """Writes `out`, which has the columns of `source` and `scores`, a list of z in the order of the candidates; returns
    its rows. `source` has a row a query: history (texts, oldest first) and candidates (texts). `model`: the
    predictor's folder, of which parts of an earlier run must be, as must `fp32` (its graph in float32). Raises
    UserError for other columns, for a row that cannot be scored, by its number, for an `out` that is `source`, and for
    one that another process writes."""
    _check_place(source, out)
    with _open(source) as file, _alone(out):
        parts = out.with_name(f".{out.name}.parts")
        whose = {"source": fingerprint([source])[str(source)], "model": fingerprint([model])[str(model)]}
        _begin(parts, whose | {"graph": "float32" if fp32 else "8 bits where there are"})
        counts = _write_parts(predictor, file, source, parts)
        with atomic_path(out) as temporary, pq.ParquetWriter(temporary, _schema(file), compression="zstd") as writer:
            for number in range(counts):
                writer.write_table(pq.read_table(_part(parts, number)))
        _delete(parts)
        return file.metadata.num_rows


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    lock = Lock(out.with_name(f".{out.name}.lock"))
    if holder := lock.take():
        raise UserError(f"{out}: process {holder['pid']} on {holder['host']} writes it: wait for it, or name another")
    try:
        yield
    finally:
        lock.release(remove=True)


def _check_place(source: Path, out: Path) -> None:
    """Raises UserError where `out` would take the place of something that is no earlier answer."""
    if source.resolve() == out.resolve():
        raise UserError(f"{out}: expected another file than the one that is read")
    if out.is_dir():
        raise UserError(f"{out}: expected a file to write, got a folder: name a file in it")
    if out.exists():
        with reading(out, "expected a new file to write, or an earlier answer: name another"):
            names = pq.read_schema(out).names
        if "scores" not in names:
            raise UserError(f"{out}: holds other data than an earlier answer, which has scores: name another file")


def _write_parts(predictor: Predictor, file: pq.ParquetFile, source: Path, parts: Path) -> int:
    """Those that are not there yet; returns how many there are."""
    schema, count, there = _schema(file), 0, sum(1 for _ in parts.glob("[0-9]*.parquet"))
    total = file.metadata.num_rows
    if there:
        print(f"{parts}: going on after {there} parts of an earlier run", flush=True)
    with progress(total, f"scoring {source.name}", unit="query", done=min(total, there * ROWS)) as bar:
        for count, batch in enumerate(_batches(file, source), 1):
            if _part(parts, count - 1).exists():
                continue
            columns = {name: batch.column(name).to_pylist() for name in COLUMNS}
            scores = _scores(predictor, *columns.values(), first=(count - 1) * ROWS, source=source)
            table = pa.Table.from_batches([batch]).append_column("scores", pa.array(scores, SCORES)).cast(schema)
            with atomic_path(_part(parts, count - 1)) as temporary:
                pq.write_table(table, temporary)
            bar.advance(len(batch))
    return count


def _scores(
    predictor: Predictor, histories: list[list[str]], candidates: list[list[str]], first: int, source: Path
) -> list[list[float]]:
    """A query without candidates has no score."""
    for row, (history, texts) in enumerate(zip(histories, candidates, strict=True), first):
        for name, value in (("history", history), ("candidates", texts)):
            if value is None or any(text is None for text in value):
                raise UserError(f"{source}: row {row} (from 0): expected a list of texts as {name}, got {value!r}")
    asked = [row for row, texts in enumerate(candidates) if texts]
    found: list[list[float]] = [[] for _ in candidates]
    try:
        scores = predictor.score([histories[row] for row in asked], [candidates[row] for row in asked])
    except UserError:  # of one of them: which?
        for row in asked:
            try:
                predictor.score([histories[row]], [candidates[row]])
            except UserError as error:
                raise UserError(f"{source}: row {first + row} (from 0): {error}") from error
        raise
    for row, values in zip(asked, scores, strict=True):
        found[row] = values.tolist()
    return found


def _batches(file: pq.ParquetFile, source: Path) -> Iterator[pa.RecordBatch]:
    """Of ROWS rows each but the last, whatever the row groups."""
    rest: list[pa.RecordBatch] = []
    for batch in parquet_batches(file, source, batch_size=ROWS):
        rest.append(batch)
        if sum(map(len, rest)) >= ROWS:
            table = pa.Table.from_batches(rest).combine_chunks()
            yield table[:ROWS].to_batches()[0]
            rest = table[ROWS:].to_batches()
    if rest := [batch for batch in rest if len(batch)]:
        yield pa.Table.from_batches(rest).combine_chunks().to_batches()[0]


def _open(source: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{source}: expected a Parquet file: {error}") from error
    names = file.schema_arrow.names
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{source}: it has several columns {', '.join(repeated)}: rename or drop all but one of each")
    for name in COLUMNS:
        kind = file.schema_arrow.field(name).type if name in names else None
        if kind is None or not _is_texts(kind):
            found = ", ".join(f"{field.name} ({field.type})" for field in file.schema_arrow)
            raise UserError(f"{source}: expected the columns history and candidates, lists of texts, got {found}")
    if "scores" in names:
        raise UserError(f"{source}: it has a column scores already: rename it")
    return file


def _is_texts(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    own = kind.value_type  # null: every list is empty; a dictionary's lists cannot be read in parts
    return pa.types.is_string(own) or pa.types.is_large_string(own) or pa.types.is_null(own)


def _schema(file: pq.ParquetFile) -> pa.Schema:
    return file.schema_arrow.append(pa.field("scores", SCORES))


def _begin(parts: Path, key: dict[str, str]) -> None:
    """A folder of parts of this file by this model: an earlier run's, or an empty one."""
    manifest = parts / "manifest.json"
    if manifest.is_file() and read_json(manifest) != key:
        print(f"{parts}: parts of another file or model are deleted", flush=True)
        _delete(parts)
    elif (
        parts.is_dir() and any(not left.name.startswith(".new-") for left in parts.iterdir()) and not manifest.is_file()
    ):
        raise UserError(f"{parts}: parts of an earlier run would lie there, and it holds something else: move that")
    parts.mkdir(parents=True, exist_ok=True)
    write_json(manifest, key)


def _delete(parts: Path) -> None:
    """The manifest last, which says whose the parts are."""
    for part in parts.glob("[0-9]*.parquet"):
        part.unlink()
    shutil.rmtree(parts)


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.parquet"
