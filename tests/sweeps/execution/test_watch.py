"""A command that would hang, or whose Ray died, is ended with one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import pytest

from sweeps.execution import machine, watch
from tests.conftest import ROOT


def run(code: str, stderr: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", f"import os, sys, time\nfrom sweeps.execution import watch\n{code}"]
    return subprocess.run(line, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=120, cwd=ROOT)


def test_what_takes_too_long_ends_with_exit_code_2_and_the_message_though_stderr_is_silenced() -> None:
    done = run("with watch.limit(0.2, 'too slow'), watch.silenced():\n os.write(2, b'raw')\n time.sleep(100)")
    assert (done.returncode, done.stderr) == (2, "error: too slow\n")


def test_what_ends_in_time_goes_on() -> None:
    done = run("with watch.limit(60, 'too slow'), watch.silenced():\n os.write(2, b'raw')\nprint('on', file=sys.stderr)")
    assert (done.returncode, done.stderr) == (0, "on\n")


def test_a_death_ends_the_command_with_exit_code_1_and_its_cause() -> None:
    code = "watch.Watch([lambda: 'it is gone'], lambda: {}, lambda: os.write(2, b'raw'), '; see x')\ntime.sleep({})"
    done = run(code.format(True, 100))
    assert (done.returncode, done.stderr) == (1, "\nerror: it is gone; run the same command again to continue; see x\n")
    done = run(code.format(False, 2))
    assert (done.returncode, done.stderr) == (0, ""), "this process had shut it down itself"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_command_ends_also_where_its_stderr_cannot_be_written() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        assert run("with watch.limit(0.2, 'too slow'):\n time.sleep(5)", full).returncode == 2
        gone = "watch.Watch([lambda: 'it is gone'], lambda: True, lambda: None)\ntime.sleep(5)"
        assert run(gone, full).returncode == 1


def test_a_process_that_ended_is_named_with_how_it_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) as process:
        check = watch.process_check("Ray's raylet", process)
        assert check() is None
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # nobody else asks how it ended
        assert check() == "Ray's raylet was killed by SIGKILL, as when memory runs out"
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        process.wait()
        assert watch.process_check("it", process)() == "it ended with exit code 3"


def test_a_socket_tells_when_its_process_is_gone() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as server:
        path = Path(folder) / "s"
        assert watch.socket_check("it", path)() is None, "there is nothing to be watched"
        server.bind(str(path))
        server.listen()
        check = watch.socket_check("it", path)
        connection, _ = server.accept()
        assert check() is None
        connection.close()
        assert check() == "it is gone" == check()


def test_an_address_may_be_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check = watch.address_check("the cluster", f"127.0.0.1:{port}")
        now[0] += 50
        assert check() is None
    now[0] += 40
    assert check() is None, "a GCS that is started again may come back"
    now[0] += 10
    assert check() == "the cluster is gone"
    assert "refused" in str(watch.connect_problem(f"127.0.0.1:{port}")) and watch.connect_problem("nonsense") is not None


@pytest.mark.parametrize(
    ("requested", "environment", "submitted", "address", "name"),
    [
        ("h:1", {"RAY_ADDRESS": "g:2"}, False, "h:1", "--address h:1"),
        (None, {"RAY_ADDRESS": "g:2"}, False, "g:2", "RAY_ADDRESS=g:2 (environment)"),
        (None, {"RAY_ADDRESS": "g:2"}, True, "g:2", "RAY_ADDRESS=g:2, which Ray gave to this job"),
        (None, {"RAY_ADDRESS": "local"}, False, None, None),
        (None, {"RAY_ADDRESS": ""}, False, None, None),
        (None, {}, False, None, None),
    ],
)
def test_an_address_is_named_with_where_it_comes_from(
    requested: str | None,
    environment: dict[str, str],
    submitted: bool,
    address: str | None,
    name: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    if submitted:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert machine.cluster_address(requested) == address
    if address is not None:
        assert machine.name_of_address(address) == name
