"""A disk that fails: what a full, a read-only or a broken file system answers to calls below one folder.

While the file exists that CHAOS_DISK names, calls below the folder fail with the error in it: ``ENOSPC`` (whatever needs
space), ``EROFS`` (whatever writes) or ``EIO once`` (the next call that touches the disk, then none). What C and C++ code writes
by itself (SQLite, torch) is not reached; the product syncs each file from Python before it counts.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import os
from typing import Any

_FLAG = os.environ.get("CHAOS_DISK", "")
#: Call -> the errors that it can meet.
_CALLS = {
    "mkdir": ("ENOSPC", "EROFS", "EIO"),
    "fsync": ("ENOSPC", "EIO"),
    "rename": ("EROFS", "EIO"),
    "replace": ("EROFS", "EIO"),
    "unlink": ("EROFS",),
    "remove": ("EROFS",),
    "rmdir": ("EROFS",),
}


def install(folder: str) -> None:
    """Put the failing disk under a folder, for this process."""
    if not _FLAG:
        return

    def fail(path: Any, kinds: tuple[str, ...]) -> None:
        try:
            with os.fdopen(os.open(_FLAG, os.O_RDONLY)) as file:
                kind, *once = file.read().split()
        except (OSError, ValueError):
            return
        where = _named(path)
        if kind in kinds and where is not None and where.startswith(folder + os.sep):
            if once:
                try:
                    _unlink(_FLAG)
                except FileNotFoundError:
                    return
            code = getattr(errno, kind)
            raise OSError(code, os.strerror(code), where)

    _unlink, _open = os.unlink, builtins.open

    def wrapped(call: Any, kinds: tuple[str, ...]) -> Any:
        @functools.wraps(call)
        def failing(path: Any, *arguments: Any, **named: Any) -> Any:
            fail(path, kinds)
            return call(path, *arguments, **named)

        return failing

    @functools.wraps(_open)
    def failing_open(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if isinstance(mode, str) and set(mode) & set("wax+"):
            new = not isinstance(path, int) and not os.path.exists(path)  # noqa: PTH110
            fail(path, ("ENOSPC", "EROFS", "EIO") if new else ("EROFS", "EIO"))
        return _open(path, mode, *arguments, **named)

    for name, kinds in _CALLS.items():
        setattr(os, name, wrapped(getattr(os, name), kinds))
    builtins.open = failing_open
    io.open = failing_open


def _named(path: Any) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fspath(path))  # noqa: PTH100, PTH115
    except (OSError, TypeError):
        return None
