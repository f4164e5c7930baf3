"""The storage location: a folder, or the URL of an object store (``s3://bucket/results``, ``gs://...``; fsspec opens it)."""

from __future__ import annotations

import argparse
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from core.errors import InputError
from core.paths import is_remote


def storage_path(text: str) -> Path:
    """Return the path that ``--storage`` names: a folder, or for a URL a UPath.

    Raises:
        argparse.ArgumentTypeError: if no installed package supports the URL's scheme.
    """
    scheme, found, rest = text.partition("://")
    if not found or scheme == "file":
        return Path(rest if found else text)
    from upath import UPath

    try:
        # With a cached listing fsspec would miss files that other processes have written since.
        path = UPath(text, use_listings_cache=False)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    return cast(Path, path)


def check_folder(flag: str, path: Path, *, write: bool = True) -> None:
    """Check that files can be written (without ``write``: read) behind a URL, or written below a folder.

    The folder need not exist yet. Without ``write`` a folder is not checked.

    Raises:
        InputError: if they cannot.
    """
    if is_remote(path):
        marker = path / f".marker-{uuid.uuid4().hex[:8]}"
        try:
            if write:
                marker.write_text(marker.name)
                marker.unlink()
            else:
                marker.is_file()
        except Exception as error:  # whatever a store's library raises
            raise InputError(f"{flag} {path}: it cannot be {'written to' if write else 'read'} ({_reason(error)})") from None
        return
    existing = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if write and (not existing.is_dir() or not os.access(existing, os.W_OK)):
        raise InputError(f"{flag} {path}: {existing} is no folder that can be written to")


def reply_to_probe(storage: Path, question: str, node: str) -> str | None:
    """Read a marker file in the storage and write another; runs on every node. Return why that fails, or None."""
    try:
        text = (storage / question).read_text()
        (storage / f"{question}-{node}").write_text(f"{text} {node}")
    except Exception as error:  # whatever a file system or a store's library raises
        return _reason(error)
    return None


class StorageProbe:
    """A marker file in the storage that every node reads and answers with a file of its own."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self.name = f".marker-{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> StorageProbe:
        (self._storage / self.name).write_text(self.name)
        return self

    def __exit__(self, *_: Any) -> None:
        for path in list(self._storage.glob(f"{self.name}*")):
            with suppress(OSError):
                path.unlink()

    def answered(self, node: str) -> bool:
        """Return whether a node's answer is in the storage."""
        with suppress(OSError):
            return (self._storage / f"{self.name}-{node}").read_text() == f"{self.name} {node}"
        return False


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
