"""The storage location: a folder, or the URL of an object store (``s3://bucket/results``, ``gs://...``; fsspec opens it)."""

from __future__ import annotations

import argparse
import errno
import os
import stat
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from core.atomic_files import read_file
from core.causes import explain
from core.errors import InputError
from core.paths import is_remote, local_path

_WRITTEN = ("trials", "sweeps", "artifacts")  # folders of a storage into which commands write

#: Object stores that a sweep can be kept in. fsspec opens others as well, which cannot be written to, or not by many at once.
_SCHEMES = ("s3", "gs", "gcs", "az", "abfs")
#: What begins so, and has a colon, is a URL even without //, and no folder's name.
_URLS = (*_SCHEMES, "file", "data", "memory", "http", "https", "ftp", "github", "zip")


def storage_path(text: str) -> Path:
    """Return the path that ``--storage`` names: a folder, or for a URL a UPath.

    Raises:
        argparse.ArgumentTypeError: if it is no path, or no store that can be written to, or no installed package supports it.
    """
    scheme, found, rest = text.partition("://")
    is_url = found or (":" in text and text.partition(":")[0].lower() in _URLS)
    if is_url and not (found and scheme in ("file", *_SCHEMES)):
        raise argparse.ArgumentTypeError(f"{text}: give a folder, or a URL that begins with {', '.join(_SCHEMES)} and ://")
    if not found:
        return folder_path(text)
    if scheme == "file":
        return folder_path(_of_file_url(rest))
    from upath import UPath

    try:
        # With a cached listing fsspec would miss files that other processes have written since.
        path = UPath(text, use_listings_cache=False)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    return cast(Path, path)


def folder_path(text: str) -> Path:
    """Return the path that a flag names, with the home folder in place of ``~``.

    Raises:
        argparse.ArgumentTypeError: if it is no path.
    """
    try:
        return local_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _of_file_url(rest: str) -> str:
    """Return the path of a ``file://`` URL, in which ``%20`` is a space, without that beginning."""
    if "?" in rest or "#" in rest:
        raise argparse.ArgumentTypeError(f"file://{rest}: in a URL, write %3F and %23 for ? and #; or give the path as it is")
    return unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest)


def check_folder(flag: str, path: Path, *, write: bool = True) -> None:
    """Check that files can be written (without ``write``: read) behind a URL, or below a folder.

    The folder need not exist yet.

    Raises:
        InputError: if they cannot.
    """
    if is_remote(path):
        marker = path / f".marker-{uuid.uuid4().hex[:8]}"
        try:
            if write:
                marker.write_text(marker.name, encoding="utf-8")
                marker.unlink()
            else:
                read_file(marker)  # is_file() would answer False where a store cannot be reached
        except Exception as error:  # whatever a store's library raises
            raise InputError(f"{flag} {path}: it cannot be {'written to' if write else 'read'} ({_reason(error)})") from None
        return
    try:
        existing = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    except OSError as error:
        raise InputError(f"{flag} {path}: {explain(error)}") from None
    if not existing.is_dir():
        raise InputError(f"{flag} {path}: {existing} is no folder")
    places = [existing, *(path / name for name in _WRITTEN if (path / name).is_dir())] if write else [existing]
    for place in places:
        if not os.access(place, os.R_OK | os.X_OK | (os.W_OK if write else 0)):
            raise InputError(f"{flag} {path}: {_refusal(place, write=write)}")
        if write and (reason := takes_no_file(place)):
            raise InputError(f"{flag} {path}: {place} cannot be written ({reason}); name another folder")


def takes_no_file(folder: Path) -> str | None:
    """Why no file can be made in a folder, though ``os.access`` allows it (as it does for root in /proc); None if one can."""
    try:
        tempfile.TemporaryFile(dir=folder).close()  # it has no name, or vanishes
    except OSError as error:
        # A full disk can be read, and is told of when something has to be written.
        return None if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
    return None


def _refusal(place: Path, *, write: bool) -> str:
    """Why this user cannot read or write a folder."""
    if write and os.statvfs(place).f_flag & os.ST_RDONLY:
        why = "its file system is read-only"
    else:
        status = place.stat()
        why = f"it belongs to user {status.st_uid}, with mode {stat.S_IMODE(status.st_mode):o}, and this is user {os.geteuid()}"
    return f"{place} cannot be {'written' if write else 'read'} ({why}); name another folder, or change that"


def reply_to_probe(storage: Path, question: str, node: str) -> str | None:
    """Read a marker file in the storage and write another; runs on every node. Return why that fails, or None."""
    try:
        text = (storage / question).read_text(encoding="utf-8")
        (storage / f"{question}-{node}").write_text(f"{text} {node}", encoding="utf-8")
    except Exception as error:  # whatever a file system or a store's library raises
        return _reason(error)
    return None


class StorageProbe:
    """A marker file in the storage that every node reads and answers with a file of its own."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self.name = f".marker-{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> StorageProbe:
        (self._storage / self.name).write_text(self.name, encoding="utf-8")
        return self

    def __exit__(self, *_: Any) -> None:
        for path in list(self._storage.glob(f"{self.name}*")):
            with suppress(OSError):
                path.unlink()

    def answered(self, node: str) -> bool:
        """Return whether a node's answer is in the storage."""
        with suppress(OSError):
            return (self._storage / f"{self.name}-{node}").read_text(encoding="utf-8") == f"{self.name} {node}"
        return False


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
