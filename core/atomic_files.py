"""Files that are whole or absent: written under another name in the same folder, then renamed into place.

Behind a URL an upload makes a file whole or not at all, and locks hold on one machine alone: what two machines make at once is
made twice and published once.
"""

from __future__ import annotations

import glob
import io
import os
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.causes import named_write_errors
from core.locks import file_lock, remove_abandoned
from core.paths import ensure_dir, is_remote, sync_folder


@contextmanager
def atomic_write(path: Path, on_complete: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yields a path to write to; it becomes ``path`` when the block ends, and vanishes when the block raises.

    The data is on the disk before the name is, so a crash at any instant leaves the old file or the new one; and the name is
    when the block has ended, so that nothing told later (to MLflow, say) knows more than the disk. What processes
    that died half-way left of the same file vanishes, too.

    Args:
        path: the file to write.
        on_complete: called with the complete file, before it gets its name.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as local_folder:
            local = Path(local_folder) / path.name
            yield local
            if on_complete is not None:
                on_complete(local)
            _upload(local, path)
        return
    ensure_dir(path.parent)
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
        remove_abandoned(left)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with file_lock(temporary), named_write_errors(path, temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if on_complete is not None:
                on_complete(temporary)
            temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Writes an uncompressed ``.npz``, whole or not at all."""
    save: Callable[..., None] = np.savez
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        save(file, **arrays)


def load_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of an ``.npz``; None where there is none, or none that can be read (it is then made anew).

    A store behind a URL that cannot be reached raises OSError.
    """
    try:
        content = read_file(path)
    except OSError:
        if is_remote(path):
            raise
        return None
    try:
        return None if content is None else parse_arrays(content)
    except (ValueError, EOFError, zipfile.BadZipFile):
        return None


def parse_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays in the bytes of an ``.npz``; objects, which would have to be unpickled, are refused with a ValueError."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def read_file(path: Path) -> bytes | None:
    """The file's bytes; None where there is no such file. A store behind a URL that cannot be reached raises OSError."""
    try:
        return _download(path) if is_remote(path) else path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_folder(path: Path) -> list[Path]:
    """The paths in a folder, sorted; none where there is no such folder. A store that cannot be reached raises OSError."""
    try:
        with as_os_errors(path):
            return sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _upload(local: Path, to: Any) -> None:
    with as_os_errors(to):
        to.fs.put_file(str(local), to.path)


def _download(path: Path) -> bytes:
    with as_os_errors(path):
        return path.read_bytes()


@contextmanager
def as_os_errors(path: Path) -> Iterator[None]:
    """Whatever a store's library raises is an OSError, as a file system's errors are."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error
