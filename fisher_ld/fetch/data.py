"""The source of a data set -> data/DATA/raw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fisher_ld.config.params import DataSource
from fisher_ld.core.errors import Unavailable
from fisher_ld.core.files import atomic_path
from fisher_ld.datasets.catalogue import SOURCES
from fisher_ld.datasets.kind import Kind
from fisher_ld.fetch.archives import unpack
from fisher_ld.fetch.source import Source, fetch, place


def fetch_data(
    source: DataSource, raw: Path, store: Path, lock_file: Path, catalogue: Mapping[str, Kind] = SOURCES
) -> None:
    """Makes the folder `raw` with the parts of this kind of source, all of them or none. Raises UserError, which is
    Unavailable where an address gives no file."""
    parts = catalogue[source.kind].parts(source)
    with atomic_path(raw) as folder:
        folder.mkdir()
        for part in parts:
            try:
                path = fetch(Source(part.address, part.sha256, part.size), store, lock_file)
            except Unavailable as error:
                raise Unavailable(f"{error} {part.instead}".rstrip()) from error
            if isinstance(part.target, str):
                place(path, folder / part.target, store)
            else:
                unpack(path, folder, part.target)
