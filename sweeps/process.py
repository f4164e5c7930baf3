"""Settings of the command's own process: Ctrl-C, where Python's default handling fails, and garbage collection."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from sweeps.provenance import command_line


class ExitCode(IntEnum):
    """Exit code of a command."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    INTERRUPTED = 130


def exit_on_sigint() -> None:
    """Make Ctrl-C print the command to continue with and exit with code 130; an ignored SIGINT stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def restore_sigint() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Delay a Ctrl-C until the block ends; for calls that fork and run Python code in the child, such as starting Ray.

    During such a call Python discards a KeyboardInterrupt that is raised in a callback after the fork. Logging's lock then
    stays held by the main thread, and the first other thread that logs waits for ever.
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


def ignore_sigint() -> None:
    """Ignore SIGINT while the interpreter exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _exit(*_: object) -> None:
    print(f"\ninterrupted; continue with: {command_line()}", file=sys.stderr, flush=True)
    os._exit(ExitCode.INTERRUPTED)


def freeze_gc() -> None:
    """Collect garbage once, and exempt all remaining objects from later collections.

    While anything waits for a slot, Ray makes every process collect garbage every few seconds. With the modules that torch,
    MLflow and others load, each collection takes 0.3 s: a twentieth of a sweep's time, as measured.
    """
    gc.collect()
    gc.freeze()
