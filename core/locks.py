"""Locks among the processes of one machine, and folders that vanish with the process that made them.

Only what is ours is removed: a folder of this user that carries our mark, or a file of this user with a name that only we give,
which no process holds. No link is followed, for the folder of temporary files is shared with other users.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import InputError
from core.paths import ensure_dir, is_remote

_NAME = "vicreg-sweeps-"  # begins the name of a scratch folder
_MARK = ".vicreg-sweeps-scratch"  # in a marked folder, held as long as its process lives
_KEPT = ".kept"  # in a marked folder that outlives its block
_MAGIC = b"A scratch folder of vicreg-sweeps: any of its commands may remove it when the process that made it is gone.\n"


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Within the block no other process of this machine is within one for the same file; waits for its turn.

    Args:
        path: the lock's file, made where it is missing.
        on_wait: called once where another process has to be waited for.

    A lock of the operating system (flock): it is free at once when its process dies, however that dies. Where the file system
    knows no locks, nothing is locked; files are whole all the same, and at worst something is made twice. What lies behind a
    URL is locked among the processes of one user on one machine, by a temporary file.

    Raises:
        InputError: if the lock of a URL cannot be kept safely (:func:`user_folder`).
    """
    import fcntl

    if is_remote(path):
        path = user_folder() / f"{hashlib.sha256(str(path).encode()).hexdigest()[:20]}.lock"
    ensure_dir(path.parent)
    file = path.open("a", encoding="utf-8")
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass
            if _is_at(file.fileno(), path):
                break
            file.close()  # who took it for abandoned removed it before it was locked
            file = path.open("a", encoding="utf-8")
        yield
    finally:
        file.close()


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def user_folder() -> Path:
    """A folder among this machine's temporary files that this user alone can enter; made where it is missing.

    Raises:
        InputError: if something else has its name: another user may have put it there to have files written or removed.
    """
    path = Path(tempfile.gettempdir()) / f"{_NAME}{os.geteuid()}"
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return path
    raise InputError(
        f"{path}: it is no folder that this user alone can enter, and locks kept there might be another's trap; remove it, or "
        "set TMPDIR to a folder of your own"
    )


@contextmanager
def scratch_folder(parent: Path, kind: str) -> Iterator[Path]:
    """Yields a new folder that vanishes when the block ends; where its process dies, :func:`remove_scratch` removes it.

    Below ``parent``, or among this machine's temporary files where that is a URL's.
    """
    with marked_folder(_scratch_parent(parent), f"{_NAME}{kind}-") as folder:
        yield folder


def remove_scratch(parent: Path, kind: str) -> None:
    """Removes the scratch folders of that kind whose processes died; see :func:`scratch_folder`."""
    remove_marked(_scratch_parent(parent), f"{_NAME}{kind}-")


@contextmanager
def marked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yields a new folder that this user alone can enter, which vanishes when the block ends, unless :func:`keep` is called.

    Where its process dies, :func:`remove_marked` removes it.

    Args:
        parent: where it is made.
        prefix: how its name begins.
    """
    import fcntl

    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with (folder / _MARK).open("xb") as mark:
            with suppress(OSError):  # a file system without locks: nobody will remove the folder
                # Another command may hold the mark for an instant, to look whether it may remove the folder. It does not, for
                # the text is written after the lock is ours.
                fcntl.flock(mark, fcntl.LOCK_EX)
            mark.write(_MAGIC)
            mark.flush()
            yield folder
    finally:
        if not (folder / _KEPT).exists():
            with suppress(OSError):
                _remove(folder)


def keep(folder: Path) -> None:
    """Keeps a marked folder when its block ends, until the next command removes it."""
    (folder / _KEPT).touch()


def remove_marked(parent: Path, prefix: str) -> None:
    """Removes the folders of :func:`marked_folder` that no process holds any more."""
    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError), held(left / _MARK) as (file, _):
            if os.pread(file, len(_MAGIC) + 1, 0) == _MAGIC:
                _remove(left)


def _remove(folder: Path) -> None:
    """Removes a marked folder as far as that is possible; the mark goes last, for a later command to remove the rest."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _MARK:
            with suppress(OSError):
                path.unlink()
    if {path.name for path in folder.iterdir()} <= {_MARK}:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(path: Path) -> None:
    """Removes a file that a process left which had it locked and died; where locks are unknown, nothing."""
    with suppress(OSError), held(path.parent.resolve() / path.name) as (_, folder):
        os.unlink(path.name, dir_fd=folder)


@contextmanager
def held(path: Path) -> Iterator[tuple[int, int]]:
    """Within the block a file is locked; yields its descriptor and its folder's.

    Raises:
        OSError: if another process holds it, it is no regular file, it or its folder is another user's, or either is a link.
    """
    import fcntl

    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        file = os.open(path.name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or {found.st_uid, os.fstat(folder).st_uid} != {os.geteuid()}:
                raise PermissionError(f"{path}: not ours")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file, folder
        finally:
            os.close(file)
    finally:
        os.close(folder)


def _scratch_parent(parent: Path) -> Path:
    return user_folder() if is_remote(parent) else parent
