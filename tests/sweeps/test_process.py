"""The signals that end a command: Ctrl-C at instants at which Python would lose it, SIGTERM and SIGHUP."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from sweeps import process
from tests.conftest import ROOT


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


#: A command that waits in the place that is named, and says what it waits in and how it was stopped.
WAITS = """
import signal, sys, time
from sweeps import process
process.exit_on_signals()
def wait():
    print("waits", flush=True)
    for _ in range(6000): time.sleep(0.01)
where = sys.argv[1]
try:
    if where == "import": wait()
    process.interrupt_on_signals()
    if where == "run": wait()
    with process.stop_on_signals(lambda: print("stop", flush=True)): wait()
except KeyboardInterrupt:
    code, text = process.interruption()
    print(text, file=sys.stderr)
    sys.exit(code)
"""


def _stopped(
    where: str, *signals: signal.Signals, ignored: bool = False, stderr: int | IO[str] = subprocess.PIPE
) -> tuple[int, str, str]:
    """What such a command says and how it ends when signals come one after the other."""
    line = [*(["nohup"] if ignored else []), sys.executable, "-c", WAITS, where, "x y"]
    command = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8", cwd=ROOT)
    assert command.stdout is not None and command.stdout.readline() == "waits\n"
    for i, number in enumerate(signals):
        if i and where == "tune":
            assert command.stdout.readline() == "stop\n"
        command.send_signal(number)
    said = command.communicate(timeout=60)
    return command.returncode, *said


@pytest.mark.parametrize("where", ["import", "run"])
def test_sigterm_and_sighup_end_a_command_as_ctrl_c_does(where: str) -> None:
    for number, code, by in (
        (signal.SIGINT, 130, ""), (signal.SIGTERM, 143, " by SIGTERM"), (signal.SIGHUP, 129, " by SIGHUP"),
    ):  # fmt: skip
        ended = _stopped(where, number)
        said = f"interrupted{by}; continue with: python sweeps/run.py {where} 'x y'"
        assert ended[0] == code and ended[2].strip() == said, ended


def test_a_second_signal_ends_a_command_at_once() -> None:
    code, _, said = _stopped("tune", signal.SIGTERM, signal.SIGINT)
    assert code == 130 and "continue with" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_signals_end_a_command_whose_stderr_cannot_be_written() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        assert _stopped("import", signal.SIGHUP, stderr=full)[0] == 129
        assert _stopped("tune", signal.SIGTERM, signal.SIGINT, stderr=full)[0] == 130


def test_a_command_under_nohup_does_not_end_with_its_terminal() -> None:
    assert _stopped("run", signal.SIGHUP, signal.SIGTERM, ignored=True)[0] == 143
