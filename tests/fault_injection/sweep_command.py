"""A command of the driver that is watched: its processes, what they began, and which of its work must never be done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import ROOT

GRACE = 10.0  # seconds in which the processes of a dead driver are gone
LIMIT = 600.0  # seconds for one command


@dataclass
class Command:
    """One command of the driver, in a session of its own, and where it writes."""

    folder: Path
    grid: Path
    data: Path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    log_name: str | Path = "log"
    process: subprocess.Popen[bytes] = field(init=False)
    started: float = field(init=False)

    @property
    def storage(self) -> Path:
        return self.folder / "results"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / self.log_name

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join((str(ROOT / "tests" / "fault_injection" / "audit"), str(ROOT)))
        environment = os.environ | {"CHAOS_AUDIT": str(self.audit), "PYTHONPATH": path} | self.environment
        arguments = ["--grid", self.grid, "--profile", "digits-m", "--storage", self.storage, "--data", self.data]
        line = [sys.executable, str(ROOT / "sweeps" / "run.py"), *map(str, arguments), *self.arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                line, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        self.started = time.monotonic()

    def wait(self, seconds: float) -> int | None:
        """The exit code; None where the command still runs after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=max(0.0, seconds))
        return None

    def end(self, seconds: float = LIMIT) -> int:
        """Waits for the end; the exit code."""
        code = self.wait(seconds)
        if code is None:
            self.process.kill()
            self.process.wait()
            raise TimeoutError(f"the command did not end within {seconds:.0f} s; {self.log}")
        return code

    def family(self) -> list[psutil.Process]:
        """All processes below the driver, save Ray's agents: they linger for a minute, and touch neither storage nor locks."""
        with suppress(psutil.Error):
            return [p for p in psutil.Process(self.process.pid).children(recursive=True) if not p.name().endswith("Agent")]
        return []

    def events(self) -> list[dict[str, Any]]:
        """What the processes of this folder's commands began, in order."""
        lines = self.audit.read_text().splitlines() if self.audit.exists() else []
        return [json.loads(line) for line in lines]


@dataclass
class Undisturbed:
    """What every torn sweep is held against: its command, its seconds, and those until a worker first took a trial."""

    command: Command
    seconds: float
    startup: float

    @property
    def begun(self) -> list[float]:
        """Seconds after which each thing was begun; a worker to be killed after the last may have nothing left to do."""
        times = [event["time"] for event in self.command.events()]
        return [self.startup + at - times[0] for at in times]

    def progress(self, instant: float) -> tuple[int, float]:
        """What an instant of this sweep is for one of another speed: how much was begun, and the seconds since the last."""
        elapsed = self.begun
        begun = bisect_right(elapsed, instant)
        return begun, instant - elapsed[begun - 1]


def undisturbed(folder: Path, grid: Path, data: Path) -> Undisturbed:
    """Runs a sweep that nobody disturbs; one that is there is taken."""
    command = Command(folder, grid, data)
    measured = folder / "measured.json"
    if not measured.exists():
        began = time.time()
        command.start()
        if command.end() != 0:
            raise RuntimeError(command.log.read_text())
        measured.write_text(json.dumps([time.time() - began, command.events()[0]["time"] - began]))
    return Undisturbed(command, *json.loads(measured.read_text()))


def _results(path: Path) -> dict[str, Any]:
    """The results in a file; none where a fault damaged or removed it."""
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_bytes()))
    return {}


def finished_work(storage: Path) -> dict[str, int]:
    """File -> the instant it was written, of what must never be written again: trainings, results, and the files these name."""
    stamps = {}
    for folder in storage.glob("trials/*"):
        results = {id_ for path in folder.glob("evaluation-*.json") for id_ in _results(path)}
        files = [*folder.glob("trained.json"), *folder.glob("evaluation-*.json")]
        if (folder / "trained.json").exists():
            files += [path for pattern in ("encoder.*", "checkpoint.pt", "fitted.npz") for path in folder.glob(pattern)]
        files += [path for path in folder.glob("details/*.npz") if f"detail:{path.stem}" in results]
        files += [path for path in folder.glob("figures/*.png") if f"figure:{path.stem}" in results]
        stamps |= {str(path.relative_to(storage)): path.stat().st_mtime_ns for path in files}
    return stamps


def busy(command: Command) -> list[tuple[psutil.Process, str]]:
    """The workers that train or evaluate a trial, or draw one's figures, each with what it does."""
    last = {event["pid"]: event for event in command.events() if event["time"] > time.time() - LIMIT}
    found = []
    for process in command.family():
        with suppress(psutil.Error):
            title = (process.cmdline() or [""])[0]
            if title.startswith("ray::") and ("train" in title or "draw" in title) and process.pid in last:
                event = last[process.pid]
                epoch = f" epoch {event['epoch']}" if event["epoch"] else ""
                found.append((process, f"{'draw' if 'draw' in title else 'train'} {event['trial']}{epoch}"))
    return found


def gone(processes: list[psutil.Process]) -> float | None:
    """Seconds until all have ended; None where some live on."""
    began = time.monotonic()
    while time.monotonic() - began < GRACE:
        if not living(processes):
            return time.monotonic() - began
        time.sleep(0.02)
    return None


def living(processes: list[psutil.Process]) -> list[str]:
    """Names of those that have not ended."""
    names = []
    for process in processes:
        with suppress(psutil.Error):  # any question may meet its end
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
    return names
