"""Ctrl-C at instants at which Python alone would lose it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading

import pytest

from sweeps import process


def test_a_ctrl_c_waits_for_the_end_of_the_block_and_leaves_loggings_lock_free() -> None:
    ended = False
    with pytest.raises(KeyboardInterrupt), process.defer_signals():
        for _ in range(20):
            subprocess.run(["true"], preexec_fn=lambda: os.kill(os.getppid(), signal.SIGINT), check=True)
        ended = True
    assert ended and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    other = threading.Thread(target=logging.getLogger("another").setLevel, args=(logging.INFO,), daemon=True)
    other.start()
    other.join(timeout=10)
    assert not other.is_alive()


def test_a_ctrl_c_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with process.defer_signals():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
