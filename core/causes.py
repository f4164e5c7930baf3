"""What the operating system's errors mean for the user: the file, the file system, and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: What the operating system says where this user may not write.
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_PROBE_BYTES = 2**16
#: What torch's and faiss's RuntimeErrors say if memory was used up: the CPU's, CUDA's, that of cuBLAS and cuDNN.
_USED_UP = ("DefaultCPUAllocator", "out of memory", "_ALLOC_FAILED")


def explain(error: OSError | MemoryError) -> str:
    """Return one line: what failed, where, and the remedy."""
    if isinstance(error, MemoryError):
        said = f" ({error})" if str(error) else ""
        return f"the memory is used up{said}: run fewer trials at once, or use fewer images (train_subset)"
    what = error.strerror or " ".join(str(error).split()) or type(error).__name__
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    remedy = _remedy(error)
    return f"{where}{what}{f'; {remedy}' if remedy else ''}"


def as_memory_error(error: Exception) -> MemoryError | None:
    """Return the error as a MemoryError if memory was used up, a GPU's too, for which torch raises RuntimeErrors; else None."""
    if isinstance(error, MemoryError):
        return error
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    used_up = any(text in said for text in _USED_UP)
    return MemoryError(said) if isinstance(error, RuntimeError) and used_up else None


def _remedy(error: OSError) -> str:
    mount = _file_system(error.filename)
    there = f"the file system {mount}" if mount else "the file system"
    match error.errno:
        case errno.ENOSPC:
            return f"{there} is full{_room(mount)}: free some space there"
        case errno.EDQUOT:
            return f"your quota on {there} is used up: free some space there"
        case errno.EROFS:
            return f"{there} is read-only: make it writable, or name another folder"
        case errno.EACCES | errno.EPERM:
            return f"this user ({os.geteuid()}) may not do that: change owner or mode, or name another folder"
        case errno.EIO | errno.ESTALE | errno.ENODEV | errno.ETIMEDOUT:
            return f"{there} answers with an error: look at the disk or the network that it is on"
        case errno.EFBIG:
            return "no file may become so large there: see ulimit -f"
        case errno.EMFILE | errno.ENFILE:
            return "too many files are open: see ulimit -n"
        case errno.ENOMEM:
            return "the memory is used up: run fewer trials at once, or use fewer images (train_subset)"
    return ""


@contextmanager
def named_write_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Within the block, in which ``temporary`` is written, an error of writing names ``path``.

    Libraries hide what the operating system said: torch raises a RuntimeError on a full disk, and numpy an OSError without a
    number. Hence after any error a few bytes are added to the file; if that fails, its error is the cause.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            _probe(path, temporary, error)
        elif error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        _probe(path, temporary, error)
        raise


def _probe(path: Path, temporary: Path, error: Exception) -> None:
    """Raise OSError, with its number and the name ``path``, if nothing can be written to ``temporary``."""
    try:
        with temporary.open("ab") as file:
            file.write(b"\0" * _PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as cause:
        raise OSError(cause.errno, os.strerror(cause.errno or 0), str(path)) from error


def _file_system(filename: object) -> Path | None:
    """The folder at which a path's file system is mounted; None if the path is not known."""
    if not isinstance(filename, str | bytes):
        return None
    path = Path(os.fsdecode(filename)).absolute()
    with suppress(OSError):
        return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))
    return None


def _room(mount: Path | None) -> str:
    if mount is None:
        return ""
    with suppress(OSError):
        usage, inodes = shutil.disk_usage(mount), os.statvfs(mount)
        if inodes.f_files and not inodes.f_favail:
            return " (it can hold no further file)"
        unit, size = ("GB", 1e9) if usage.total >= 1e9 else ("MB", 1e6)
        return f" ({usage.free / size:.1f} of {usage.total / size:.1f} {unit} free)"
    return ""
