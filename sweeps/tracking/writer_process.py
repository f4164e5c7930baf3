"""The process of :class:`sweeps.tracking.tracker.Tracker`: receives calls of a :class:`QueuedWriter`, and makes them."""

from __future__ import annotations

import os
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from sweeps.planning.trial import Plan
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.queued_writer import QueuedWriter


@dataclass(frozen=True)
class Outcome:
    """How the writing went.

    Attributes:
        problem: why MLflow lacks part of the results; None if it lacks nothing.
        advice: what can be done about that.
        view_address: address of the sweep's prepared view in MLflow's UI; "" if it could not be written.
    """

    problem: str | None = None
    advice: str = ""
    view_address: str = ""


def write(inbox: Connection, outbox: Connection, uri: str, plan: Plan, store: TrialStore, command: str) -> None:
    """Make the calls that arrive, until the other end of the inbox is closed; then end this process.

    Args:
        inbox: receives (name of a method, arguments).
        outbox: gets lines to say, and in answer to ``close`` an :class:`Outcome`.
        uri: MLflow's database or server.
        plan: the sweep.
        store: where its trials are.
        command: the command line.
    """
    sending = threading.Lock()

    def send(message: str | Outcome) -> None:
        with sending, suppress(OSError):  # the command died, and the loop below ends
            outbox.send(message)

    writer = QueuedWriter(uri, plan, store, command, send)

    def close(summary: SweepSummary, patience: float) -> None:
        try:
            writer.close(summary, patience)
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # which the command sees
        send(Outcome(writer.problem, writer.advice if writer.problem else "", writer.view_address))

    while True:
        try:
            method, arguments = inbox.recv()
        except (EOFError, OSError):  # the command has what it waited for, or died: what is not written is in the storage
            os._exit(0)
        if method == "close":  # in a thread, so that this one sees when the command dies meanwhile
            threading.Thread(target=close, args=arguments, daemon=True).start()
        else:
            getattr(writer, method)(*arguments)
