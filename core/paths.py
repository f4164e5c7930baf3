"""Paths of the file system, and paths of URLs.

A URL's (``s3://...``) is an object of universal_pathlib, which behaves like :class:`pathlib.Path` but is none.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_remote(path: Path) -> bool:
    """Whether a path is a URL's and not one of the file system."""
    return not isinstance(path, os.PathLike)


def ensure_dir(path: Path) -> None:
    """Makes a folder and those above it, each on the disk when this returns; behind a URL folders need no making."""
    if is_remote(path) or path.is_dir():
        return
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Returns when the names in a folder of the file system are on the disk: a file's own fsync says nothing of its name."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
