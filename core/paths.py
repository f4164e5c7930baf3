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
    """Makes a folder and those above it; behind a URL folders need no making."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)
