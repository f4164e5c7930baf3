"""Live progress: a bar and the running trials in a terminal, plain lines in a log file; both with the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeps.cost import wall_time
from sweeps.plan import Plan, Trial
from sweeps.store import TrialRecord

_LOG_EVERY = 20.0  # seconds between status lines in a log file


class Progress:
    """Shows what happens. A thread of its own redraws, so the display lives while Tune's loop sleeps."""

    def __init__(self, plan: Plan, seconds: Mapping[str, float], slots: int, console: Console) -> None:
        self._plan, self._slots, self._console = plan, slots, console
        self._estimate = dict(seconds)
        self._left = dict(seconds)  # key -> estimated seconds still to go
        self._speed: list[float] = []  # actual / estimated seconds of the trials that ended
        self._running: dict[str, tuple[float, int]] = {}  # key -> start, epochs done
        self._counts = {"done": len(plan.wanted) - len(seconds), "failed": 0, "skipped": 0}
        self._drawn = 0
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def started(self, trial: Trial) -> None:
        """A worker took the trial."""
        with self._lock:
            self._running[trial.key] = (time.monotonic(), 0)

    def epoch(self, trial: Trial, record: dict[str, float]) -> None:
        """An epoch ended."""
        with self._lock:
            start, _ = self._running.get(trial.key, (time.monotonic(), 0))
            self._running[trial.key] = (start, int(record["epoch"]))

    def ended(self, record: TrialRecord) -> None:
        """A trial is over."""
        key = record.trial.key
        with self._lock:
            self._counts[record.status] = self._counts.get(record.status, 0) + 1
            start, _ = self._running.pop(key, (None, 0))
            estimated = self._left.pop(key, None)
            if start is not None and estimated:
                self._speed.append((time.monotonic() - start) / self._estimate[key])
        what = ""
        if record.status == "done":
            primary = record.metrics.get(self._plan.grid.primary)
            what = f"  {self._plan.grid.primary} {primary:.4f}" if primary is not None else ""
        elif record.reason:
            what = f"  {record.reason}"
        style = {"done": "green", "failed": "bold red", "skipped": "yellow"}.get(record.status, "")
        line = Text.assemble((f"{record.status:>8}", style), f"  {record.trial.title}{what}")
        self._console.print(line, soft_wrap=True, highlight=False)

    def drawn(self, trial: Trial) -> None:
        """A trial's figures are drawn."""
        with self._lock:
            self._drawn += 1

    def _status(self) -> str:
        with self._lock:
            now = time.monotonic()
            factor = sum(self._speed) / len(self._speed) if self._speed else 1.0
            left = {}
            for key, seconds in self._left.items():
                spent = now - self._running[key][0] if key in self._running else 0.0
                left[key] = max(seconds * factor - spent, 1.0)
            remaining = wall_time(self._plan, left, self._slots)
            over = sum(self._counts.values())
            waiting = len(self._plan.wanted) - over - len(self._running)
            lost = self._counts["failed"] + self._counts["skipped"]
            running = ", ".join(
                f"{self._plan.trials[key].title}"
                + (f" {epochs}/{self._plan.trials[key].config.epochs}" if self._plan.trials[key].config.trained else "")
                for key, (_, epochs) in self._running.items()
            )
        text = f"{self._counts['done']} of {len(self._plan.wanted)} done, {waiting} waiting"
        text += f", {lost} failed or skipped" if lost else ""
        text += f"; {duration(now - self._began)} gone, " + (f"about {duration(remaining)} left" if left else "drawing figures")
        text += f", figures of {self._drawn} drawn" if self._drawn else ""
        return text + (f"; running: {running}" if running else "")

    def _show(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=4, transient=True) as live:
                while not self._stop.wait(0.5):
                    live.update(Text(self._status()))
        else:
            while not self._stop.wait(_LOG_EVERY):
                self._console.print(self._status(), soft_wrap=True, highlight=False)


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
