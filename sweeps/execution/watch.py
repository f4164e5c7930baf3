"""Threads that end a command which would hang: a start of Ray that does not end, and a Ray that died during the sweep."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from sweeps import process
from sweeps.process import ExitCode

#: Returns what died, for a message; None while all is well.
Check = Callable[[], str | None]
_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 5.0
_SIGNAL_SECONDS = 1.0  # between Ray's end by a signal and the main thread's handling of the same one
_STOP_SECONDS = 10.0  # for the main thread to stop the command after a signal
#: Ray itself ends the driver after 60 s without a GCS, with lines of its own; a GCS that is restarted may come back earlier.
_GCS_AWAY_SECONDS = 45.0


@contextmanager
def limit(seconds: float, message: str) -> Iterator[None]:
    """End the process with exit code 2 and the message if the block takes longer.

    Ray waits in C++, where neither a signal nor an exception reaches it, hence a thread that ends the whole process.
    """
    stderr = os.dup(2)  # heard within :func:`silenced`, too
    timer = threading.Timer(seconds, process.exit_at_once, (stderr, f"error: {message}", ExitCode.WRONG_INPUT))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        os.close(stderr)


@contextmanager
def silenced() -> Iterator[None]:
    """Discard what is written to stderr in the block, also what C++ writes there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Watch:
    """Ends the command with exit code 1 and one line when the Ray that it runs on has died, until it is stopped.

    Without it the driver would wait for 40 to 80 s, print lines of Ray's that do not name the cause, and be ended by Ray. What
    is finished is in the storage, so nothing is lost by an end at once.
    """

    def __init__(
        self, checks: list[Check], is_connected: Callable[[], bool], end_rest: Callable[[], None], hint: str = ""
    ) -> None:
        """Start watching.

        Args:
            checks: called twice a second.
            is_connected: whether Ray should live; not so once this process has shut it down itself.
            end_rest: ends what this command started of Ray.
            hint: ends the message.
        """
        self._checks, self._is_connected, self._end_rest, self._hint = checks, is_connected, end_rest, hint
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-ray", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_POLL_SECONDS):
            cause = next((found for check in self._checks if (found := check()) is not None), None)
            if cause is not None and self._is_connected():
                self._give_up(cause)

    def _give_up(self, cause: str) -> None:
        # A signal to the whole group of processes ends Ray, too; then the main thread stops the command, or is ended here.
        if self._stopped.wait(_SIGNAL_SECONDS) or (process.received_signal() and self._stopped.wait(_STOP_SECONDS)):
            return
        code, text = ExitCode.FAILED, f"error: {cause}; run the same command again to continue{self._hint}"
        if process.received_signal():
            code, text = process.interruption()
        stderr = os.dup(2)
        with silenced():  # the main thread may still call Ray, which prints
            self._end_rest()
            process.exit_at_once(stderr, f"\n{text}", code)


def process_check(name: str, started: Popen[bytes]) -> Check:
    """Check a process that this one started."""

    def check() -> str | None:
        code = started.poll()  # also frees the process's entry, without which workers would not notice that it is dead
        if code is None:
            return None
        if code >= 0:
            return f"{name} ended with exit code {code}"
        hint = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return f"{name} was killed by {signal.Signals(-code).name}{hint}"

    return check


def socket_check(name: str, path: Path) -> Check:
    """Check another command's process by a connection to its socket, which ends with the process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return lambda: None  # not to be watched; Ray notices later

    def check() -> str | None:
        try:
            ended = connection.recv(1) == b""
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        return f"{name} is gone" if ended else None

    return check


def address_check(name: str, address: str) -> Check:
    """Check that something listens at an address; it may be away for a while."""
    seen, tried = time.monotonic(), 0.0

    def check() -> str | None:
        nonlocal seen, tried
        if time.monotonic() - tried < _CONNECT_SECONDS:
            return None
        tried = time.monotonic()
        if connect_problem(address) is None:
            seen = time.monotonic()
        return f"{name} is gone" if time.monotonic() - seen > _GCS_AWAY_SECONDS else None

    return check


def connect_problem(address: str) -> str | None:
    """Return why nothing can be connected to at ``HOST:PORT``, or None."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        return str(error)
    return None
