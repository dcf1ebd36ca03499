"""A model on the hub -> a folder of verified files: safetensors, JSON and tokenizer, nothing that can run code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from fisher_ld.core.errors import UserError, is_disk_full
from fisher_ld.core.files import sha256
from fisher_ld.core.progress import progress
from fisher_ld.fetch.https import need_space, show_bytes, sizes
from fisher_ld.fetch.teacher_checks import weight_files

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

SMALL_FILES = ("*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt")


def is_small_file(name: str) -> bool:
    """Whether a file, by its path in a model's folder, is one beside the weights that is taken over. Subfolders hold
    other formats."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in SMALL_FILES)


def fetch_model(
    name: str,
    commit: str | None,
    store: Path,
    endpoint: str | None,
    check: Callable[[Path], None],
) -> Path:
    """store/COMMIT with the files of the model `name` (OWNER/NAME, or OWNER/NAME@REVISION) at `commit`, if given, else
    at its revision's present commit. Lengths, and SHA-256 of the large files, are checked against the hub's list.
    `check` is called before the weights are fetched. Raises UserError."""
    from huggingface_hub import HfApi, snapshot_download

    repository, _, revision = name.partition("@")
    revision = commit or revision or None
    with _hub_errors(name, revision or "main"):
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision, files_metadata=True)
    listed = {file.rfilename: file for file in info.siblings or [] if "/" not in file.rfilename}
    if info.sha is None or not any(file.endswith(".safetensors") for file in listed):
        raise UserError(f"{name}: expected safetensors weights on the hub, got none; no other format is loaded.")
    folder = store / info.sha

    def fetch(names: list[str]) -> None:
        missing = [file for file in names if not (folder / file).exists()]
        need_space(store, sum(listed[file].size or 0 for file in missing), f"download of {name}")
        with (
            _hub_errors(name, revision or "main"),
            _watched(folder, sum(listed[file].size or 0 for file in names), f"Downloading {name}"),
        ):
            snapshot_download(repository, revision=info.sha, local_dir=folder, allow_patterns=names, endpoint=endpoint)
        for file in names:
            _check(name, folder / file, listed[file])

    small = [file for file in listed if is_small_file(file)]
    fetch(small)
    check(folder)
    fetch([*small, *weight_files(folder, listed, name)])
    return folder


@contextmanager
def _hub_errors(name: str, revision: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or httpx2, whichever the hub's client uses
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"{name}: its owner asks you to accept terms on the hub; do, then run `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"{name}: the hub has no such model at {revision} (a private one needs `hf auth login`)."
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        if is_disk_full(error):
            raise
        raise UserError(f"{name}: the hub did not give it ({error}). Check name and network, run it again.") from error


@contextmanager
def _watched(folder: Path, total: int, label: str) -> Iterator[None]:
    """A bar of the bytes that arrive in `folder`: the hub's own bars are drawn on terminals alone."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    stop = Event()
    with progress(total // 1000, label, "kB") as bar:

        def watch() -> None:
            while not stop.wait(0.2):
                show_bytes(bar, sum(sizes(folder)))

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _check(name: str, path: Path, expected: RepoSibling) -> None:
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        path.unlink()
        raise UserError(f"{name}: {path.name}: expected {expected.size:,} bytes, got {size:,}. Not kept; run it again.")
    if expected.lfs is None:  # small files have a git hash only, and come from the pinned commit
        return
    if (digest := sha256(path)) != expected.lfs.sha256:
        path.unlink()
        raise UserError(
            f"{name}: {path.name}: expected SHA-256 {expected.lfs.sha256}, got {digest}. Not kept; run it again."
        )
