"""Ctrl-C where Python would answer badly: while modules are imported, while Ray starts, and while the interpreter ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sweeps.origin import command


def end_at_once() -> None:
    """From now on a Ctrl-C ends the process with exit code 130 and the command to continue; one that is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def interrupt() -> None:
    """From now on a Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block a Ctrl-C waits for the block's end; for what forks with Python code to run in the child, as Ray's start.

    There Python swallows the KeyboardInterrupt in a callback after the fork, logging's lock stays held by the main thread, and
    the first other thread that logs waits for ever.
    """
    before, came = signal.getsignal(signal.SIGINT), []
    if before is signal.SIG_IGN or not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def ignore() -> None:
    """From now on a Ctrl-C does nothing: all is said and done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(*_: object) -> None:
    print(f"\ninterrupted; continue with: {command()}", file=sys.stderr, flush=True)
    os._exit(130)
