"""Keeping MLflow up to date while a sweep runs, by a process of its own: its computing does not hold up Tune's loop.

Messages to the process are calls of :class:`sweeps.tracking.queued_writer.QueuedWriter`: a method's name and its arguments. It
sends back lines to say and, in answer to ``close``, an :class:`Outcome`. If the process dies, the sweep goes on; what was not
written is in the storage, and the next command writes it. If the command dies, so does the process.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from subprocess import Popen
from typing import Any

from core.causes import explain
from core.paths import ensure_dir
from sweeps import process
from sweeps.execution.callbacks import SweepCallback
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.records import TrialRecord
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.queued_writer import PATIENCE
from sweeps.tracking.writer_process import Outcome

#: The process: takes this one's path for imports before it imports this package. Its arguments are the ends of two pipes.
_PROGRAM = """
import sys
from multiprocessing.connection import Connection
inbox = Connection(int(sys.argv[1]), writable=False)
try:
    sys.path[:] = inbox.recv()
    from sweeps.tracking.writer_process import write
    settings = inbox.recv()
except EOFError:  # the command died
    sys.exit()
write(inbox, Connection(int(sys.argv[2]), readable=False), *settings)
"""
_ADVICE = "they are in the storage, and the same command adds them"


class Tracker(SweepCallback):
    """Passes events on to the process that writes them to MLflow. The process starts at the first event."""

    def __init__(
        self, uri: str, plan: Plan, store: TrialStore, command: str, say: Callable[[str], None] = lambda _: None
    ) -> None:  # fmt: skip
        """Prepare; nothing is started yet.

        Args:
            uri: MLflow's database or server.
            plan: the sweep.
            store: where trials are.
            command: the command line.
            say: called, from another thread, with a message when a server goes away, when it is back, and with what else the
                user must know.
        """
        self._store, self._say = store, say
        self._settings = (uri, plan, store, command)
        self._messages: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_process, name="mlflow", daemon=True)
        self._outcome = Outcome()
        self._stderr: int | None = None
        self._started = self._closed = False

    @property
    def problem(self) -> str | None:
        """Why MLflow lacks part of the results; None as long as nothing is known to lack. Complete after :meth:`close`."""
        return self._outcome.problem

    @property
    def advice(self) -> str:
        """What can be done about the problem."""
        return self._outcome.advice

    @property
    def view_address(self) -> str:
        """After :meth:`close`: address of the sweep's prepared view in MLflow's UI; "" if it could not be written."""
        return self._outcome.view_address

    # -- events ----------------------------------------------------------------------------------------------------------

    def on_sweep_start(self) -> None:
        """Start the process, which connects to MLflow while Ray starts."""
        if not self._started:
            ensure_dir(self._store.storage)
            with suppress(OSError):  # there is none
                self._stderr = os.dup(2)  # before Ray's start, during which nothing is shown
            self._messages.put(("on_sweep_start", ()))
            self._thread.start()
            self._started = True

    def on_trial_start(self, trial: Trial) -> None:
        """Have the trial's run marked as running."""
        self._tell("on_trial_start", trial)

    def on_epoch_end(self, trial: Trial, record: dict[str, float]) -> None:
        """Have the epoch's metrics logged."""
        self._tell("on_epoch_end", trial, record)

    def on_trial_end(self, record: TrialRecord) -> None:
        """Have all that is known of the trial logged; also called for trials that were already in the store."""
        self._tell("on_trial_end", record)

    def on_figures_end(self, trial: Trial) -> None:
        """Have the trial's figures logged."""
        self._tell("on_figures_end", trial)

    def tag_trial(self, trial: Trial, tags: Mapping[str, str]) -> None:
        """Have final tags set on the trial's run."""
        self._tell("tag_trial", trial, dict(tags))

    def correct_members(self, plan: Plan) -> None:
        """Have the runs tagged that do not belong to the sweep, now that all of its trials are known."""
        self._tell("correct_members", plan)

    def close(self, summary: SweepSummary, patience: float = PATIENCE) -> None:
        """Wait until all is written and the parent run is ended with the summary; later calls do nothing.

        Args:
            summary: what to write to the parent run.
            patience: how many seconds to wait for a server that is away.
        """
        if self._closed:
            return
        self._tell("close", summary, patience)
        self._closed = True
        self._thread.join()

    def abandon(self) -> None:
        """End the parent run as failed, if it was opened, because the command ends without tables."""
        if self._thread.is_alive():
            self.close(SweepSummary("FAILED", {}, 0.0, ()), patience=0.0)

    def _tell(self, method: str, *arguments: Any) -> None:
        self.on_sweep_start()
        self._messages.put((method, arguments))

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _run_process(self) -> None:
        """Start the process, and pass on what it says until it ends."""
        try:
            self._outcome = self._outcome_of_process()
        except Exception as error:  # the sweep goes on without MLflow, and the command says so
            reason = explain(error) if isinstance(error, OSError | MemoryError) else f"{type(error).__name__}: {error}"
            self._fail(f"the process that writes to it failed: {reason}")

    def _outcome_of_process(self) -> Outcome:
        inbox, to_process = Pipe(duplex=False)
        from_process, outbox = Pipe(duplex=False)
        with to_process, from_process:
            ends = inbox.fileno(), outbox.fileno()
            with inbox, outbox, process.signals_blocked():  # in the process too, as long as it runs
                # Not by multiprocessing, whose processes import the user's script once more, and need one for their start.
                writer = Popen([sys.executable, "-P", "-c", _PROGRAM, *map(str, ends)], pass_fds=ends, stderr=self._stderr)
            if self._stderr is not None:
                os.close(self._stderr)
            threading.Thread(target=self._send, args=(to_process,), daemon=True).start()
            while not isinstance(message := _receive(from_process), Outcome):
                if message is None:
                    raise ChildProcessError(f"it ended {_end_of(writer.wait())}")
                self._say(message)
        writer.wait()  # it ends now that its inbox is closed
        return message

    def _send(self, to_process: Connection) -> None:
        try:
            to_process.send(sys.path)
            to_process.send(self._settings)
            while True:
                message = self._messages.get()
                to_process.send(message)
                if message[0] == "close":
                    return
        except BaseException as error:
            # The process died, or has done all, which the other thread sees; closed by it within a call, that raises TypeError.
            if isinstance(error, OSError) or to_process.closed:
                return
            to_process.close()  # the process ends, which the other thread sees
            raise

    def _fail(self, reason: str) -> None:
        self._outcome = Outcome(reason, _ADVICE)
        self._say(f"MLflow lacks part of the results from now on: {reason}")


def _receive(connection: Connection) -> str | Outcome | None:
    """Return the next message; None if the process is gone."""
    try:
        message: str | Outcome = connection.recv()
    except (EOFError, OSError):
        return None
    return message


def _end_of(exit_code: int) -> str:
    return f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
