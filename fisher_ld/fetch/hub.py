"""A model on the hub -> a folder of verified files: safetensors, JSON and tokenizer, nothing that can run code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from fisher_ld.core.errors import UserError, is_disk_full
from fisher_ld.core.progress import progress
from fisher_ld.fetch.https import need_space, show_bytes, sizes

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

MODEL_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt")


def is_model_file(name: str) -> bool:
    """Whether a file, by its path in a model's folder, is one that is taken over. Subfolders hold other formats."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in MODEL_FILES)


def fetch_model(name: str, commit: str | None, store: Path, endpoint: str | None) -> Path:
    """store/COMMIT with the files of the model `name` (OWNER/NAME, or OWNER/NAME@REVISION) at `commit`, if given, else
    at its revision's present commit. Lengths, and SHA-256 of the large files, are checked against the hub's list.
    Raises UserError."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or httpx2, whichever the hub's client uses
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        info = HfApi(endpoint=endpoint).model_info(repository, revision=commit or revision or None, files_metadata=True)
        files = [file for file in info.siblings or [] if is_model_file(file.rfilename)]
        if info.sha is None or not any(file.rfilename.endswith(".safetensors") for file in files):
            raise UserError(f"{name}: expected safetensors weights on the hub, got none; no other format is loaded.")
        folder = store / info.sha
        missing = [file for file in files if not (folder / file.rfilename).exists()]
        need_space(store, sum(file.size or 0 for file in missing), f"download of {name}")
        names = [file.rfilename for file in files]
        total = sum(file.size or 0 for file in files)
        with _watched(folder, total, f"Downloading {name}"):
            snapshot_download(repository, revision=info.sha, local_dir=folder, allow_patterns=names, endpoint=endpoint)
    except GatedRepoError as error:
        raise UserError(
            f"{name}: its owner asks you to accept terms on the hub; do, then run `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = commit or revision or "main"
        raise UserError(f"{name}: the hub has no such model at {at} (a private one needs `hf auth login`).") from error
    except (HTTPError, OSError, ValueError) as error:
        if is_disk_full(error):
            raise
        raise UserError(f"{name}: the hub did not give it ({error}). Check name and network, run it again.") from error
    for file in files:
        _check(name, folder / file.rfilename, file)
    return folder


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
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected.lfs.sha256:
        path.unlink()
        raise UserError(
            f"{name}: {path.name}: expected SHA-256 {expected.lfs.sha256}, got {digest}. Not kept; run it again."
        )
