"""The faults of :mod:`tests.fault_injection.chaos`: which one a seed and a number mean, and how it is done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.fault_injection.sweep_command import Command

#: Kinds of fault, in the order of their numbers; a number beyond the last begins again at the first, at another point.
KINDS = (
    "kill driver",
    "kill worker",
    "flip finished",
    "SIGTERM driver",
    "disk full",
    "kill raylet",
    "truncate finished",
    "two drivers",
    "SIGINT driver",
    "kill GCS",
    "disk read-only",
    "flip half-finished",
    "stop worker",
    "SIGHUP driver",
    "EIO once",
    "kill MLflow server",
    "truncate half-finished",
    "stop driver",
    "disk full for good",
    "two drivers, one killed",
)
_STOPPED = 3.0  # seconds between SIGSTOP and SIGCONT
#: Processes of Ray: kind -> program.
OF_RAY = {"kill raylet": "raylet", "kill GCS": "gcs_server"}
_OF_WORKERS = ("kill worker", "stop worker")
_WORK = ("trial", "epoch", "draw", "file trials/")
_NEVER_DAMAGED = ("lock", ".checksums.lock")  # hold nothing


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        number: its number.
        kind: one of KINDS.
        point: the point of the work at which it comes; "" for damage to a finished storage.
        target: the file that is damaged, below the storage; else "".
        share: where in the file, or how much of it is left, from 0 to 1.
        bit: which bit of the byte is flipped.
        group: whether a signal goes to the driver's whole process group, as Ctrl-C and a closed terminal send it.
    """

    number: int
    kind: str
    point: str
    target: str
    share: float
    bit: int
    group: bool

    @property
    def where(self) -> str:
        """The point and the target in words."""
        place = f"{self.target} at {self.share:.0%}" if self.target else ""
        group = "whole group" if self.group and self.kind.startswith("SIG") else ""
        return ", ".join(filter(None, (f"at {self.point}" if self.point else "", place, group)))


def draw_fault(seed: int, number: int, points: Sequence[str], files: Sequence[str]) -> Fault:
    """The fault that a seed and a number mean.

    Args:
        seed: of the whole table.
        number: from 0.
        points: the points of an undisturbed sweep, sorted.
        files: the files of an undisturbed sweep's storage below ``trials`` and ``sweeps``, sorted.
    """
    kind, draw = KINDS[number % len(KINDS)], random.Random(f"{seed}/{number}")
    chosen = [p for p in points if p.startswith(_WORK)] if kind in _OF_WORKERS or "half-finished" in kind else list(points)
    if kind in OF_RAY:  # which there are from the connection to its end
        chosen = [p for p in chosen if p.startswith(_WORK) or p.startswith(("stage put_images", "stage conclude"))]
    point = "" if kind.endswith(" finished") else draw.choice(chosen)
    target = draw.choice([name for name in files if Path(name).name not in _NEVER_DAMAGED]) if "finished" in kind else ""
    return Fault(number, kind, point, target, draw.random(), draw.randrange(8), draw.random() < 0.5)


def damage(fault: Fault, storage: Path) -> str:
    """Damages a file; where it is not there yet, one that is, of the same kind. Returns which."""
    path = storage / fault.target
    if not path.exists():
        there = sorted(
            p for p in storage.glob(f"{Path(fault.target).parts[0]}/**/*") if p.is_file() and p.name not in _NEVER_DAMAGED
        )
        there = [p for p in there if p.suffix == path.suffix] or there
        if not there:
            return "nothing to damage yet"
        path = there[int(fault.share * len(there))]
    content = bytearray(path.read_bytes())
    if fault.kind.startswith("truncate"):
        content = content[: int(fault.share * len(content))]
    elif content:
        content[int(fault.share * len(content))] ^= 1 << fault.bit
    path.write_bytes(content)
    return str(path.relative_to(storage))


def processes_named(command: Command, name: str) -> list[psutil.Process]:
    """The processes below the driver whose program has that name."""
    found = []
    for process in command.family():
        with suppress(psutil.Error):
            if Path((process.cmdline() or [""])[0]).name == name:
                found.append(process)
    return found


def kill(processes: Sequence[psutil.Process]) -> str:
    """SIGKILL; returns what was hit."""
    hit = []
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
            hit.append(str(process.pid))
    return "" if hit else "nothing to kill"


def stop_and_continue(pid: int, go: Callable[[], None]) -> None:
    """SIGSTOP, and after a while SIGCONT."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        go()
        time.sleep(_STOPPED)
        os.kill(pid, signal.SIGCONT)


def send(command: Command, fault: Fault) -> None:
    """Sends the signal of the fault's kind to the driver or to its group."""
    number = signal.Signals[fault.kind.split()[0]]
    with suppress(ProcessLookupError):
        if fault.group:
            os.killpg(command.process.pid, number)
        else:
            os.kill(command.process.pid, number)


class SmallDisk:
    """A file system in memory at a folder, which can be filled up; where mounting is not permitted, there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        line = ["mount", "-t", "tmpfs", "-o", "size=128m", "chaos", str(folder)]
        try:
            self.mounted = subprocess.run(line, capture_output=True).returncode == 0
        except FileNotFoundError:
            self.mounted = False

    def fill(self) -> None:
        """Leaves no byte."""
        with suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def free(self) -> None:
        """Makes room again."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def unmount(self) -> None:
        """Removes the file system with all that it holds."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
