"""What a command leaves behind in the machine: processes, listening sockets, shared memory."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

#: Environment variable that all processes below a command inherit; its value names the command.
MARK = "CHAOS_RUN"
_SHARED = Path("/dev/shm")
_PATIENCE = 75.0  # seconds: Ray's agents (2.60) linger for a minute after a raylet that was killed


def marked(value: str) -> list[psutil.Process]:
    """All living processes that carry the mark."""
    wanted, found = f"{MARK}={value}".encode(), []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            lives = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if lives and wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
    return found


def shared_memory() -> set[str]:
    """The names in the machine's shared memory."""
    return {path.name for path in _SHARED.iterdir()} if _SHARED.is_dir() else set()


def left_behind(value: str, before: set[str], patience: float = _PATIENCE) -> list[str]:
    """What is left of the commands with that mark, after a while in which it may go; each in words.

    Args:
        value: the mark's value.
        before: the names in shared memory before the first command.
        patience: how many seconds processes may take to end.
    """
    until = time.monotonic() + patience
    while (living := marked(value)) and time.monotonic() < until:
        time.sleep(0.5)
    found = []
    for process in living:
        with suppress(psutil.Error):
            ports = [c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            found.append(f"process {process.name()} lives on" + (f" and listens on {ports}" if ports else ""))
    return found + [f"/dev/shm/{name} is left" for name in sorted(shared_memory() - before - _held())]


def _held() -> set[str]:
    """The names in shared memory that a living process holds: another sweep's, on a machine with several."""
    held = set()
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            for line in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8").splitlines():
                if f"{_SHARED}/" in line:
                    held.add(line.split(f"{_SHARED}/", 1)[1].removesuffix(" (deleted)"))
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    target = str(link.readlink())
                    if target.startswith(f"{_SHARED}/"):
                        held.add(target.removeprefix(f"{_SHARED}/").removesuffix(" (deleted)"))
    return held
