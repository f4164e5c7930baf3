"""The folder in which Ray keeps its sockets, logs and token during a run on this machine: readable by this user alone.

Ray's own default, ``/tmp/ray``, is open to every user of the machine, and outlives the run.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from core.errors import InputError
from core.locks import marked_folder, remove_marked
from core.paths import expand_home

_PREFIX = "vr-"
_RAY = "r"  # Ray opens the folder that it is given to all users, so it gets one inside of ours
_MEGABYTE = 1_000_000
#: A run on two cores writes 1 MB of logs.
_LEAST_FREE = 20 * _MEGABYTE
#: Characters of the longest path of a socket, without the zero at its end.
_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
_BELOW = "/vr-12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_LONGEST = _SOCKET_PATH - len(_BELOW)


@contextmanager
def private_folder() -> Iterator[tuple[Path, str | None]]:
    """Make the folder for the length of the block.

    It lies in the folder that ``RAY_TMPDIR`` names, else (on Linux) ``TMPDIR``, else ``/tmp``.

    Yields:
        The folder, and a note to print if it does not lie where ``TMPDIR`` says.

    Raises:
        InputError: naming the variable or the folder, if none can be made there.
    """
    parent, name, note = _parent()
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(marked_folder(parent, _PREFIX))
        except OSError as error:
            raise InputError(_unusable(name, error.strerror or str(error))) from None
        _check_space(folder, name)
        (folder / _RAY).mkdir()
        yield folder, note


def remove_abandoned() -> None:
    """Remove the folders of commands that were killed, and those that were kept for their logs."""
    with suppress(InputError):  # a variable names no folder, which is said where one is needed
        remove_marked(_parent()[0], _PREFIX)


def ray_folder(folder: Path) -> Path:
    """Return Ray's folder inside of a private folder."""
    return folder / _RAY


def logs(folder: Path) -> Path:
    """Return where Ray, started in a private folder, writes its logs."""
    return ray_folder(folder) / "session_latest" / "logs"


def make_token(folder: Path) -> Path:
    """Write a new token that Ray asks of everyone who connects; return its file, which only this user can read."""
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="ascii")
    return path


def _parent() -> tuple[Path, str, str | None]:
    """Where the folder is to be made; how messages name that place; and a note if ``TMPDIR`` is not followed."""
    variables = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
    variable = next((name for name in variables if os.environ.get(name)), None)
    if variable is None:
        return Path("/tmp"), "/tmp", None
    try:
        parent = Path(expand_home(os.environ[variable])).absolute()
    except InputError as error:
        raise InputError(f"{variable}={error}") from None
    if len(os.fsencode(parent)) <= _LONGEST:
        return parent, f"{variable}={parent}", None
    reason = f"{variable}={parent}: too long for the paths of Ray's sockets ({_LONGEST} bytes at most)"
    if variable == "RAY_TMPDIR":
        raise InputError(f"{reason}; set RAY_TMPDIR to a shorter folder")
    return Path("/tmp"), "/tmp", f"{reason}: Ray's temporary files go to /tmp; RAY_TMPDIR names another folder"


def _unusable(name: str, reason: str) -> str:
    return (
        f"{name}: Ray cannot keep its sockets and logs there ({reason}); set RAY_TMPDIR to a short folder that can be written"
    )


def _check_space(folder: Path, name: str) -> None:
    """Raise InputError if Ray's files will not fit; a quota shows only when something is written."""
    free = shutil.disk_usage(folder).free
    try:
        if free >= _LEAST_FREE:
            probe = folder / "probe"
            probe.write_bytes(bytes(_MEGABYTE))
            probe.unlink()
            return
    except OSError as error:
        raise InputError(_unusable(name, error.strerror or str(error))) from None
    reason = f"{free / _MEGABYTE:.0f} MB are free, {_LEAST_FREE / _MEGABYTE:.0f} MB are needed"
    raise InputError(_unusable(name, reason))
