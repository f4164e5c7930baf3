"""Settings of the command's own process: the signals that end it, and garbage collection."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from types import FrameType
from typing import NoReturn

from sweeps.provenance import continuing_command

#: Signals that end a command, all in the same way: a Ctrl-C; what Slurm, Docker and ``kill`` send; a terminal that closes.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ExitCode(IntEnum):
    """Exit code of a command; one that a signal ended has 128 and the signal's number."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    HUNG_UP = 128 + signal.SIGHUP
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


class _Interrupter:
    """Handles the signals that end a command: the first one stops it in good order, a second one ends it at once."""

    def __init__(self) -> None:
        self.signals: tuple[signal.Signals, ...] = ()  # those that it handles
        self.received: int | None = None
        self.stop: Callable[[], None] | None = None  # how to stop what runs now; None: KeyboardInterrupt is raised

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            _exit(number, frame)
        self.received = number
        if self.stop is None:
            raise KeyboardInterrupt
        self.stop()


_INTERRUPTER = _Interrupter()  # one for the process, as its signal handlers are


def exit_on_signals() -> None:
    """Make each of the signals print the command to continue with and end the process; ignored ones stay ignored (nohup)."""
    _INTERRUPTER.signals = tuple(
        number for number in _SIGNALS if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    )
    for number in _INTERRUPTER.signals:
        signal.signal(number, _exit)


def interrupt_on_signals() -> None:
    """Make the first of the signals raise KeyboardInterrupt, and a second one end the process.

    Only those that :func:`exit_on_signals` took over.
    """
    for number in _INTERRUPTER.signals:
        signal.signal(number, _INTERRUPTER)


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block the first signal calls ``stop`` instead of raising KeyboardInterrupt."""
    _INTERRUPTER.stop = stop
    try:
        yield
    finally:
        _INTERRUPTER.stop = None


def received_signal() -> int | None:
    """Return the number of the signal that stops this command; None as long as none came."""
    return _INTERRUPTER.received


def interruption() -> tuple[ExitCode, str]:
    """Return exit code and message of a command that was interrupted."""
    return _interruption(_INTERRUPTER.received or signal.SIGINT)


def _interruption(number: int) -> tuple[ExitCode, str]:
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    return ExitCode(128 + number), f"interrupted{name}; continue with: {continuing_command()}"


@contextmanager
def defer_signals() -> Iterator[Callable[[], None]]:
    """Delay the signals until the block ends; for calls that fork and run Python code in the child, such as starting Ray.

    During such a call Python discards a KeyboardInterrupt that is raised in a callback after the fork. Logging's lock then
    stays held by the main thread, and the first other thread that logs waits for ever.

    Yields:
        A function to call in the block after something else has taken the signals over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    deferred = [number for number, handler in before.items() if callable(handler)]

    def defer() -> None:
        for number in deferred:
            signal.signal(number, lambda given, _: came.append(given))

    defer()
    try:
        yield defer
    finally:
        for number in deferred:
            signal.signal(number, before[number])
        if came:
            signal.raise_signal(came[0])


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block in this thread the signals that end a command. A process that is started in the block has them blocked as well."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Ignore the signals while the interpreter exits."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _exit(number: int, _: object) -> None:
    code, message = _interruption(number)
    # Not print: the signal may have come in the middle of one, and then print raises RuntimeError.
    exit_at_once(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{message}", code)


def exit_at_once(stderr: int, text: str, code: ExitCode) -> NoReturn:
    """Write a last line and end the process, whatever else it does.

    It ends also where the line cannot be written, because the terminal is closed, say, or the log is on a full disk.
    """
    with suppress(OSError):
        os.write(stderr, f"{text}\n".encode(errors="replace"))
    os._exit(code)


def freeze_gc() -> None:
    """Collect garbage once, and exempt all remaining objects from later collections.

    While anything waits for a slot, Ray makes every process collect garbage every few seconds. With the modules that torch,
    MLflow and others load, each collection takes 0.3 s: a twentieth of a sweep's time, as measured.
    """
    gc.collect()
    gc.freeze()
