"""Keeping MLflow up to date while a sweep runs: a thread works through a queue of tasks, and retries if the server is away.

Only the driver writes to MLflow. Every metric value carries the time at which it was stored, and values that a run already has
are not written again, so repeating a task changes nothing. While a server is away, tasks wait in the queue.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping

from core.errors import InputError
from core.paths import ensure_dir
from sweeps import process
from sweeps.execution.callbacks import SweepCallback
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.records import TrialRecord
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking import uri as tracking_uri
from sweeps.tracking import view
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.runs import RunWriter

#: How many seconds to wait, at the end of a sweep, for a server that is away. While trials run there is no limit.
PATIENCE = 120.0
_PAUSE = 2.0  # seconds between two checks of the server's health
_ATTEMPTS = 5  # tries of one task, each once the server passes its health check


class Tracker(SweepCallback):
    """Passes events on to MLflow, in order, without making the caller wait. It connects at the first event."""

    def __init__(
        self, uri: str, plan: Plan, store: TrialStore, command: str, say: Callable[[str], None] = lambda _: None
    ) -> None:  # fmt: skip
        """Prepare; nothing is written yet.

        Args:
            uri: MLflow's database or server.
            plan: the sweep.
            store: where trials are.
            command: the command line.
            say: called with a message when a server goes away, and when it is back.
        """
        self._uri, self._plan, self._store, self._say = uri, plan, store, say
        self._runs = RunWriter(uri, plan, store, command)
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._closing, self._patience = 0.0, PATIENCE
        self._frozen = False
        #: Why MLflow lacks part of the results; None as long as it lacks nothing.
        self.problem: str | None = None

    # -- events ----------------------------------------------------------------------------------------------------------

    def on_sweep_start(self) -> None:
        """Connect to MLflow while Ray starts."""
        if not self._thread.is_alive() and not self._closing:
            ensure_dir(self._store.storage)
            self._queue.put(self._runs.open)
            self._thread.start()

    def on_trial_start(self, trial: Trial) -> None:
        """Mark the trial's run as running."""
        self._tell(lambda: self._runs.start_trial(trial))

    def on_epoch_end(self, trial: Trial, record: dict[str, float]) -> None:
        """Log the epoch's metrics."""
        self._tell(lambda: self._runs.log_epochs(trial, [record]))

    def on_trial_end(self, record: TrialRecord) -> None:
        """Log everything that is known of the trial, and end its run; also called for trials that were already in the store."""
        self._tell(lambda: self._end_trial(record))

    def on_figures_end(self, trial: Trial) -> None:
        """Log the trial's figures."""
        self._tell(lambda: self._runs.log_figures(trial))

    def tag_trial(self, trial: Trial, tags: Mapping[str, str]) -> None:
        """Set final tags on the trial's run."""
        self._tell(lambda: self._runs.tag_trial(trial, tags))

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
        self._queue.put(lambda: self._runs.close(summary))
        self._queue.put(None)
        self._thread.join()

    @property
    def view_address(self) -> str:
        """Address of the sweep's prepared view in MLflow's UI; "" if it could not be written."""
        if self.problem is not None or not self._runs.experiment:
            return ""
        server = self._uri.rstrip("/") if self._uri.startswith("http") else "http://127.0.0.1:5000"
        return server + view.view_path(self._runs.experiment, self._plan.sweep_id)

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _tell(self, task: Callable[[], None]) -> None:
        self.on_sweep_start()
        self._queue.put(task)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            if self.problem is None:  # else skip it: the store has everything, and the same command, run again, logs it
                self._do(task)

    def _do(self, task: Callable[[], None]) -> None:
        """Do a task; repeat it if the server went away meanwhile. If it had been done already, that changes nothing."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                task()
            except Exception as error:  # a tracking server may fail in any way, and must not end the sweep
                problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            else:
                return
            if not self._uri.startswith("http") or attempt == _ATTEMPTS or not self._wait_for_server():
                self.problem = problem
                return
            time.sleep(_PAUSE)  # a server that has just come back may still refuse some requests

    def _wait_for_server(self) -> bool:
        """Wait until the server answers; return False if, at the end of the sweep, it is away for longer than the patience."""
        began = time.monotonic()
        said = waits = False
        while True:
            try:
                tracking_uri.check_uri(self._uri)
            except InputError as error:
                if not said:
                    self._say(f"MLflow is away, its runs are written when it is back: {error}")
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

    def _end_trial(self, record: TrialRecord) -> None:
        if self._runs.end_trial(record) and not self._frozen:  # by now MLflow has imported everything that it needs
            process.freeze_gc()
            self._frozen = True
