"""Writing a sweep to MLflow: a thread works through a queue of tasks, and waits for a server that is away.

One process of a command writes to MLflow, that of :mod:`sweeps.tracking.tracker`. Every metric value carries the time at which
it was stored, and values that a run already has are not written again, so repeating a task changes nothing. While a server is
away or a database is locked, tasks wait in the queue. A task that MLflow refuses is not repeated; it is named, and the other
tasks go on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping

from core.paths import ensure_dir
from sweeps.execution.callbacks import SweepCallback
from sweeps.masking import mask
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.records import TrialRecord
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking import failures, server_check, view
from sweeps.tracking import uri as tracking_uri
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.runs import RunWriter

#: How many seconds to wait, at the end of a sweep, for a server that is away. While trials run there is no limit.
PATIENCE = 120.0
_PAUSE = 2.0  # seconds between two checks of the server's health
_ATTEMPTS = 5  # tries of one task, each once the server passes its health check
_SHOWN = 3  # problems that are named


class QueuedWriter(SweepCallback):
    """Writes events to MLflow, in order, without making the caller wait. It connects at the first event."""

    def __init__(
        self, uri: str, plan: Plan, store: TrialStore, command: str, say: Callable[[str], None] = lambda _: None
    ) -> None:  # fmt: skip
        """Prepare; nothing is written yet.

        Args:
            uri: MLflow's database or server.
            plan: the sweep.
            store: where trials are.
            command: the command line.
            say: called with a message when a server goes away, when it is back, and with what else the user must know.
        """
        self._uri, self._plan, self._store = uri, plan, store
        self._say: Callable[[str], None] = lambda line: say(mask(line, uri))
        self._runs = RunWriter(uri, plan, store, command, self._say)
        self._queue: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._closing, self._patience = 0.0, PATIENCE
        self._opened = self._given_up = self._refused = False
        self._locked_since = 0.0
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """Why MLflow lacks part of the results; None as long as it lacks nothing."""
        shown = [f"{what}: {why}" if what else why for why, what in self._problems.items()]
        more = f"; and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        return "; ".join(shown[:_SHOWN]) + more if shown else None

    @property
    def advice(self) -> str:
        """What can be done about the problem."""
        if self._given_up:
            return "they are in the storage, and the same command adds them when MLflow can be written to"
        if self._refused:
            return "they are in the storage; MLflow refuses them, and will again, until the cause is mended"
        return "the same command without --report-only makes the damaged files again, and adds them"

    # -- events ----------------------------------------------------------------------------------------------------------

    def on_sweep_start(self) -> None:
        """Connect to MLflow while Ray starts."""
        if not self._thread.is_alive() and not self._closing:
            ensure_dir(self._store.storage)
            self._queue.put(("", self._open))
            self._thread.start()

    def on_trial_start(self, trial: Trial) -> None:
        """Mark the trial's run as running."""
        self._tell(trial.title, lambda: self._runs.start_trial(trial))

    def on_epoch_end(self, trial: Trial, record: dict[str, float]) -> None:
        """Log the epoch's metrics."""
        self._tell(trial.title, lambda: self._runs.log_epochs(trial, [record]))

    def on_trial_end(self, record: TrialRecord) -> None:
        """Log everything that is known of the trial, and end its run; also called for trials that were already in the store."""
        self._tell(record.trial.title, lambda: self._runs.end_trial(record))

    def on_figures_end(self, trial: Trial) -> None:
        """Log the metrics computed after the trial's slot, and its figures."""
        self._tell(trial.title, lambda: self._runs.log_late_metrics(trial))
        self._tell(f"figures of {trial.title}", lambda: self._runs.log_figures(trial))

    def tag_trial(self, trial: Trial, tags: Mapping[str, str]) -> None:
        """Set final tags on the trial's run."""
        self._tell(trial.title, lambda: self._runs.tag_trial(trial, tags))

    def correct_members(self, plan: Plan) -> None:
        """Tag the runs that do not belong to the sweep, now that all of its trials are known."""
        self._tell("", lambda: self._runs.correct_members(plan))

    def close(self, summary: SweepSummary, patience: float = PATIENCE) -> None:
        """Work off the queue, end the parent run with the summary, and wait until that is done; later calls do nothing.

        Args:
            summary: what to write to the parent run.
            patience: how many seconds to wait for a server that is away.
        """
        if self._closing:
            return
        self.on_sweep_start()
        self._closing, self._patience = time.monotonic(), patience
        self._queue.put(("", lambda: self._runs.close(summary)))
        self._queue.put(None)
        self._thread.join()

    @property
    def view_address(self) -> str:
        """Address of the sweep's prepared view in MLflow's UI; "" if it could not be written."""
        if self._given_up or not self._runs.experiment:
            return ""
        server = tracking_uri.address(self._uri) if tracking_uri.is_server(self._uri) else "http://127.0.0.1:5000"
        return server + view.view_path(self._runs.experiment, self._plan.sweep_id)

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _tell(self, what: str, task: Callable[[], None]) -> None:
        self.on_sweep_start()
        self._queue.put((what, task))

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            if not self._given_up:  # else skip it: the store has everything, and the same command, run again, logs it
                self._do(*entry)

    def _open(self) -> None:
        self._runs.open()
        self._opened = True

    def _do(self, what: str, task: Callable[[], None]) -> None:
        """Do a task; repeat it if the server went away meanwhile. If it had been done already, that changes nothing."""
        attempts = 0
        while True:
            try:
                task()
            except Exception as error:  # a tracking server may fail in any way, and must not end the sweep
                problem, kind, attempts = _text(error), failures.kind_of(error), attempts + 1
            else:
                return
            if kind == failures.Kind.GONE and self._opened and attempts == 1:
                self._opened = False
                task = self._after_opening(task)  # the user deleted a run or the experiment while the sweep ran
            elif kind == failures.Kind.LOCKED:
                if not self._wait_for_lock():
                    self._note(what, problem, given_up=True)
                    return
            elif kind == failures.Kind.DAMAGED:
                self._note(what, problem, given_up=False, refused=False)
                return
            elif kind != failures.Kind.PASSING:
                self._note(what, problem, given_up=not self._opened)
                return
            elif attempts >= _ATTEMPTS or (tracking_uri.is_server(self._uri) and not self._wait_for_server()):
                self._note(what, problem, given_up=True)
                return
            else:
                time.sleep(_PAUSE)  # a server that has just come back may still refuse some requests

    def _after_opening(self, task: Callable[[], None]) -> Callable[[], None]:
        def open_and_do() -> None:
            if not self._opened:
                self._open()
            task()

        return open_and_do

    def _note(self, what: str, problem: str, *, given_up: bool, refused: bool = True) -> None:
        """Remember why MLflow lacks something, and say it at once, the first time."""
        problem = mask(problem, self._uri)
        if not self._problems:
            place = f"{what}: " if what else ""
            self._say(f"MLflow lacks part of the results from now on: {problem}" if given_up else
                      f"MLflow refuses a part of the results: {place}{problem}" if refused else
                      f"MLflow lacks a part of the results, because a file is damaged: {place}{problem}")  # fmt: skip
        self._problems.setdefault(problem, what)
        self._given_up = self._given_up or given_up
        self._refused = self._refused or (refused and not given_up)

    def _wait_for_lock(self) -> bool:
        """Wait a moment for another process that has the database locked; return False if it takes too long at the end."""
        now = time.monotonic()
        if not self._locked_since:
            self._locked_since = now
            self._say(f"MLflow's database is locked by another process, which is waited for: {self._uri}")
        if self._closing and now - max(self._locked_since, self._closing) > self._patience:
            return False
        time.sleep(_PAUSE)
        return True

    def _wait_for_server(self) -> bool:
        """Wait until the server answers; return False if, at the end of the sweep, it is away for longer than the patience."""
        began = time.monotonic()
        said = waits = False
        while True:
            if (reason := server_check.away(self._uri)) is not None:
                if not said:
                    self._say(f"MLflow is away, its runs are written when it is back: {self._uri}: {reason}")
                    said = True
                if self._closing and not waits:
                    self._say(f"everything else is done; waiting for MLflow, {self._patience:.0f} s at most")
                    waits = True
            else:
                if said:
                    self._say(f"MLflow is back after {time.monotonic() - began:.0f} s")
                return True
            if self._closing and time.monotonic() - max(began, self._closing) > self._patience:
                return False
            time.sleep(_PAUSE)


def _text(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
