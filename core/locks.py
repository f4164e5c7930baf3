"""Locks among the processes of one machine, and folders that vanish with the process that made them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.paths import ensure_dir, is_remote

_LOCK = "lock"  # in a scratch folder, held as long as its process lives


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Within the block no other process of this machine is within one for the same file; waits for its turn.

    Args:
        path: the lock's file, made where it is missing.
        on_wait: called once where another process has to be waited for.

    A lock of the operating system (flock): it is free at once when its process dies, however that dies. Where the file system
    knows no locks, nothing is locked; files are whole all the same, and at worst something is made twice. What lies behind a
    URL is locked among the processes of one user on one machine, by a temporary file.
    """
    import fcntl

    if is_remote(path):
        name = hashlib.sha256(str(path).encode()).hexdigest()[:20]
        path = Path(tempfile.gettempdir()) / f"vicreg-sweeps-locks-{os.getuid()}" / name
    ensure_dir(path.parent)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yields a new folder that vanishes when the block ends; where its process dies, :func:`remove_scratch` removes it.

    Below ``parent``, or among this machine's temporary files where that is a URL's.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=None if is_remote(parent) else parent))
    try:
        with file_lock(folder / _LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_scratch(parent: Path, prefix: str) -> None:
    """Removes the scratch folders of processes that died."""
    for left in (Path(tempfile.gettempdir()) if is_remote(parent) else parent).glob(f"{prefix}*"):
        remove_abandoned(left, left / _LOCK)


def remove_abandoned(path: Path, lock: Path) -> None:
    """Removes a file or folder that a process left which had ``lock`` locked and died; where locks are unknown, nothing."""
    import fcntl

    with suppress(OSError), lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
