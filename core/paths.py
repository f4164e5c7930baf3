"""Paths of the file system, and paths of URLs.

A URL's (``s3://...``) is an object of universal_pathlib, which behaves like :class:`pathlib.Path` but is none.
"""

from __future__ import annotations

import os
from pathlib import Path

from core.errors import InputError


def is_remote(path: Path) -> bool:
    """Whether a path is a URL's and not one of the file system."""
    return not isinstance(path, os.PathLike)


def expand_home(text: str) -> str:
    """A path with the home folder in place of ``~`` or ``~user`` at its beginning.

    Raises:
        InputError: if there is no such home folder.
    """
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        whose = text.partition("/")[0].removeprefix("~")
        reason = f"there is no user {whose} with a home" if whose else "this user has no home folder, and HOME is not set"
        raise InputError(f"{text}: {reason}; write the whole path") from None


def local_path(text: str) -> Path:
    """The path that a user wrote, with the home folder in place of ``~``.

    Raises:
        InputError: if there is no such home folder, or it is no path: empty, or with a line end or another control character.
    """
    if not text:
        raise InputError("an empty path names no place; write . for this folder")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise InputError(f"{text!r}: a path with a line end or another control character cannot be used")
    return Path(expand_home(text))


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
