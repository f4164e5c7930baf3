"""Ctrl-C where Python would answer with a traceback: while modules are imported, and while the interpreter ends."""

from __future__ import annotations

import os
import signal
import sys

from sweeps.origin import command


def end_at_once() -> None:
    """From now on a Ctrl-C ends the process with exit code 130 and the command to continue; one that is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def interrupt() -> None:
    """From now on a Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    """From now on a Ctrl-C does nothing: all is said and done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(*_: object) -> None:
    print(f"\ninterrupted; continue with: {command()}", file=sys.stderr, flush=True)
    os._exit(130)
