"""Progress for terminals and log files: one line for each trial as it ends, and how far the sweep is.

In a terminal the last lines are redrawn: a bar for the sweep, and one for each running trial. In a log file a status line with
the same content is printed every 20 seconds. A trial that reports nothing for too long gets one warning that it stalled, with
its last epoch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evaluation.evaluate import METRICS
from sweeps.execution.callbacks import SweepCallback
from sweeps.execution.cost import wall_time
from sweeps.formatting import duration
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.records import LOST, TrialRecord, TrialStatus

_LOG_EVERY = 20.0  # seconds between status lines in a log file
#: A trial counts as stalled if it reported nothing for this many times its slowest epoch so far (before its first epoch ends:
#: its whole estimate), and for at least this many seconds.
_STALLED = 10.0
_STALLED_SECONDS = 60.0
_STYLES = {
    TrialStatus.DONE: "green", TrialStatus.FAILED: "bold red", TrialStatus.SKIPPED: "yellow", TrialStatus.PRUNED: "yellow",
    TrialStatus.PENDING: "",
}  # fmt: skip


@dataclass
class _Running:
    began: float
    heard: float  # when it last reported an epoch
    epochs: int = 0
    slowest: float = 0.0  # of its epochs
    warned: bool = False


class Progress(SweepCallback):
    """Shows the progress of a sweep. A separate thread redraws, so the display is updated while Tune's loop sleeps."""

    def __init__(self, plan: Plan, seconds: Mapping[str, float], slots: int, console: Console, *, points: int = 0) -> None:
        """Prepare; the display starts when the ``with`` block is entered.

        Args:
            plan: the plan.
            seconds: key of each open trial -> its estimated seconds.
            slots: how many trials run at once.
            console: where to print.
            points: how many trials a search will add.
        """
        self._plan, self._slots, self._console = plan, slots, console
        self._estimate = dict(seconds)
        self._left = dict(seconds)  # key of each trial that has not ended -> its estimated seconds
        self._points = points
        self._speed: list[float] = []  # actual / estimated seconds of the trials that ended
        self._running: dict[str, _Running] = {}
        self._total = len(plan.requested)
        self._counts = dict.fromkeys(TrialStatus, 0) | {TrialStatus.DONE: len(plan.requested) - len(seconds)}
        self._best: tuple[float, str] | None = None  # value, and a text with the metric and the trial
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

    def on_trial_added(self, trial: Trial) -> None:
        """Count one more trial; its estimate is the mean of those before it."""
        with self._lock:
            known = list(self._estimate.values())
            self._estimate[trial.key] = self._left[trial.key] = sum(known) / len(known) if known else 60.0
            self._plan = self._plan.merged_with(_single(self._plan, trial))
            self._total += 1
            self._points = max(0, self._points - 1)

    def on_trial_start(self, trial: Trial) -> None:
        """Start the trial's clock."""
        now = time.monotonic()
        with self._lock:
            self._running[trial.key] = _Running(now, now)

    def on_epoch_end(self, trial: Trial, record: dict[str, float]) -> None:
        """Move the trial's bar."""
        now = time.monotonic()
        with self._lock:
            running = self._running.setdefault(trial.key, _Running(now, now))
            running.epochs, running.heard, running.warned = int(record["epoch"]), now, False
            running.slowest = max(running.slowest, record.get("seconds", 0.0))

    def on_trial_wait(self, trial: Trial, reason: str) -> None:
        """Print why the trial waits."""
        self._say("waits", "yellow", f"{trial.title}  {reason}")

    def on_damage(self, trial: Trial, found: str) -> None:
        """Print what was damaged."""
        self._say("damaged", "bold yellow", f"{trial.title}  {found}")

    def on_trial_end(self, record: TrialRecord) -> None:
        """Print how the trial ended."""
        key, search, done = record.trial.key, self._plan.grid.search, record.status == TrialStatus.DONE
        primary = self._plan.grid.primary if search is None else search.objectives[0]
        with self._lock:
            self._counts[record.status] += 1
            running = self._running.pop(key, None)
            estimated = self._left.pop(key, None)
            if running is not None and estimated and done:
                self._speed.append((time.monotonic() - running.began) / self._estimate[key])
            value = record.metrics.get(primary) if done else None
            sign = -1 if METRICS[primary].better == "lower" else 1
            if value is not None and (self._best is None or sign * value > sign * self._best[0]):
                self._best = value, f"{primary} so far {value:.4f} ({record.trial.title})"
        what = f"  {primary} {value:.4f}" if value is not None else ""
        if not done and record.reason:
            what = f"  {record.reason}"
        self._say(record.status, _STYLES[record.status], f"{record.trial.title}{what}")

    def on_figures_end(self, trial: Trial) -> None:
        """Count one more trial whose figures are drawn."""
        with self._lock:
            self._drawn += 1

    def _say(self, what: str, style: str, text: str) -> None:
        self._console.print(Text.assemble((f"{what:>8}", style), f"  {text}"), soft_wrap=True, highlight=False)

    # -- how far it is ---------------------------------------------------------------------------------------------------

    def _remaining(self, now: float) -> float:
        factor = sum(self._speed) / len(self._speed) if self._speed else 1.0
        left = {}
        for key, seconds in self._left.items():
            spent = now - self._running[key].began if key in self._running else 0.0
            left[key] = max(seconds * factor - spent, 1.0)
        further = self._points * factor * (sum(self._estimate.values()) / len(self._estimate) if self._estimate else 0.0)
        return wall_time(self._plan, left, self._slots) + further / self._slots

    def _summary(self) -> str:
        """Counts, times and the best result so far, as one line; the caller holds the lock."""
        now = time.monotonic()
        waiting = self._total - sum(self._counts.values()) - len(self._running)
        text = f"{self._counts[TrialStatus.DONE]} of {self._total + self._points} done, {len(self._running)} running, "
        text += f"{waiting + self._points} waiting"
        text += "".join(f", {self._counts[status]} {status}" for status in (*LOST, TrialStatus.PRUNED) if self._counts[status])
        remaining = self._remaining(now)
        text += f"; {duration(now - self._began)} elapsed, "
        text += f"about {duration(remaining)} left" if self._left or self._points else "drawing figures"
        text += f", figures of {self._drawn} drawn" if self._drawn else ""
        if self._best is not None:
            text += f"; best {self._best[1]}"
        return text

    def _running_titles(self) -> list[tuple[str, int, int]]:
        """For each running trial: title, epochs done, and number of epochs (0 if it trains nothing)."""
        trials = [(self._plan.trials[key], running) for key, running in self._running.items()]
        return [(t.title, running.epochs, t.config.epochs if t.config.trained else 0) for t, running in trials]

    def _status(self) -> str:
        with self._lock:
            running = [f"{title} {done}/{epochs}" if epochs else title for title, done, epochs in self._running_titles()]
            return self._summary() + (f"; running: {', '.join(running)}" if running else "")

    def _picture(self) -> Group:
        with self._lock:
            over = sum(self._counts.values())
            rows = Table.grid(padding=(0, 2))
            for title, done, epochs in self._running_titles():
                bar = ProgressBar(total=epochs, completed=done, width=30) if epochs else Text("no epochs to train")
                what = f"epoch {done} of {epochs}" if done < epochs else "evaluating"
                rows.add_row(Text(title), bar, Text(what))
            return Group(ProgressBar(total=max(1, self._total + self._points), completed=over), Text(self._summary()), rows)

    def _stalled(self) -> list[str]:
        """Warnings for running trials that reported nothing for too long; each warned of once, until it reports again."""
        now, found = time.monotonic(), []
        with self._lock:
            for key, running in self._running.items():
                usual = running.slowest or self._estimate.get(key, 0.0)
                silent = now - running.heard
                if not running.warned and silent > max(_STALLED * usual, _STALLED_SECONDS):
                    running.warned = True
                    trial = self._plan.trials[key]
                    did = f"its slowest epoch took {duration(running.slowest)}" if running.slowest else "no epoch has ended yet"
                    found.append(f"{trial.title}  no report for {duration(silent)} after epoch {running.epochs}; {did}")
        return found

    def _show(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=4, transient=True) as live:
                while not self._stop.wait(0.5):
                    live.update(self._picture())
                    self._warn()
        else:
            while not self._stop.wait(_LOG_EVERY):
                self._console.print(self._status(), soft_wrap=True, highlight=False)
                self._warn()

    def _warn(self) -> None:
        for text in self._stalled():
            self._say("stalled", "bold yellow", text)


def _single(plan: Plan, trial: Trial) -> Plan:
    return Plan(plan.grid, plan.profile, plan.base, plan.sweep_id, {trial.key: trial}, frozenset([trial.key]))
