"""Ray during whole commands: what listens, what its files tell, how a command ends when Ray does not answer or dies."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import ROOT, image_folder
from tests.sweeps.tiny import BASE

SECRET = "wJalrXUtnFEMI-not-a-key"
#: A user that no list of users knows, as in a container with ``--user``; allowed to read, since the interpreter may be root's.
NOBODY = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--inh-caps", "+dac_read_search",
          "--ambient-caps", "+dac_read_search")  # fmt: skip
ARMS: dict[str, Any] = {"z": {"mu": 0}}


class Command:
    """``sweeps/run.py`` over a tiny grid, with a short folder of its own for Ray's files."""

    def __init__(self, folder: Path, *flags: str, epochs: int = 2, **environment: str) -> None:
        images, grid = image_folder(folder / "images"), folder / "tiny.yaml"
        base = {**BASE, "dataset": f"folder:{images}", "anomaly_datasets": [], "epochs": epochs}
        grid.write_text(yaml.safe_dump({"question": "does it work?", "base": base, "arms": ARMS}))
        self.storage = folder / "results"
        self._line = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--grid", str(grid), "--profile", "digits-m",
                      "--data", str(folder / "data"), "--storage", str(self.storage), *flags]  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._environment = kept | {"PYTHONPATH": str(ROOT)} | environment
        self._folder = folder

    def run(self, *wrap: str, flags: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        line = [*wrap, *self._line, *flags]
        return subprocess.run(line, env=self._environment, cwd=self._folder, capture_output=True, text=True, timeout=300)

    @contextmanager
    def running(self, begun: Callable[[], Any] | None = None) -> Iterator[subprocess.Popen[str]]:
        """The command, from its first checkpoint on, or from something else."""
        begun = begun or (lambda: list(self.storage.glob("trials/*/checkpoint.pt")))
        with subprocess.Popen(self._line, env=self._environment, cwd=self._folder, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.PIPE) as process:  # fmt: skip
            try:
                wait_for(lambda: begun() or process.poll() is not None)
                yield process
            finally:
                process.kill()


def wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + 250
    while not (found := what()):
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.1)
    return found


def name_of(process: psutil.Process) -> str:
    """Without the interpreter's name and the trial's number."""
    script = next((Path(part).stem for part in process.cmdline() if part.endswith(".py")), "")
    return script if script and not process.name().startswith("ray::") else process.name()


def sockets(pid: int) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """What the processes from ``pid`` down listen on, and what they are connected to: (process, address) each."""
    listening, connected = set(), set()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with suppress(psutil.Error):
            for found in process.net_connections("inet"):
                if found.raddr:
                    connected.add((name_of(process), found.raddr.ip))
                elif found.laddr:
                    listening.add((name_of(process), found.laddr.ip))
    return listening, connected


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_a_local_run_listens_and_connects_on_loopback_only_and_keeps_secrets_from_rays_files(
    tmp_path: Path, temporary: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = Command(
        tmp_path, epochs=40, RAY_TMPDIR=str(temporary), HOME=str(home), RAY_NAMESPACE="odd",
        AWS_ACCESS_KEY_ID="AKIA-not", AWS_SECRET_ACCESS_KEY=SECRET, AWS_SESSION_TOKEN=SECRET,
        http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9", RAY_ADDRESS="local",
    )  # fmt: skip
    with command.running() as process:
        listening, connected = sockets(process.pid)
        (folder,) = temporary.iterdir()
        token = (folder / "token").read_text()
        texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
        process.send_signal(signal.SIGKILL)
    for name, address in sorted(listening):
        print(f"| {name} | {address} |")
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening} and any("train" in name for name, _ in listening)
    assert {address for _, address in listening | connected if not is_loopback(address)} == set()
    assert [path for path, text in texts.items() if SECRET.encode() in text] == [] and len(texts) > 10
    assert [path.name for path, text in texts.items() if token.encode() in text] == ["token"]
    assert folder.stat().st_mode & 0o077 == 0 and not (home / ".ray").exists()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("raylet", "Ray's raylet", marks=pytest.mark.slow),
        pytest.param("gcs_server", "Ray's GCS", marks=pytest.mark.nightly),
    ],
)
def test_a_command_whose_ray_died_ends_with_one_line_and_continues(
    name: str, shown: str, tmp_path: Path, temporary: Path
) -> None:
    command = Command(tmp_path, epochs=40, RAY_TMPDIR=str(temporary))
    with command.running() as process:
        family = psutil.Process(process.pid).children(recursive=True)
        (victim,) = (child for child in family if child.name() == name)
        victim.kill()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (folder,) = temporary.iterdir()
    assert err.strip() == (
        f"error: {shown} was killed by SIGKILL, as when memory runs out; run the same command again to continue; "
        f"Ray's logs until then: {folder}/r/session_latest/logs"
    )
    assert "state-dump" not in out and "Raylet is terminated" not in out
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family))


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param("vr-*/r/session_*", marks=pytest.mark.nightly),
        pytest.param("vr-*/r/session_*/sockets/raylet*", marks=pytest.mark.slow),
    ],
)
def test_sigterm_while_ray_starts_ends_a_command_as_ever(begun: str, tmp_path: Path, temporary: Path) -> None:
    command = Command(tmp_path, RAY_TMPDIR=str(temporary))
    with command.running(lambda: list(temporary.glob(begun))) as process:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, err = process.communicate(timeout=250)
    assert process.returncode == 143 and "interrupted by SIGTERM; continue with: " in err, err
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family))
    assert list(temporary.iterdir()) == []


@pytest.mark.nightly
def test_a_user_without_a_home_runs_a_sweep_and_looks_at_it(temporary: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a user that is not there")
    command = Command(temporary, "--arms", "base", epochs=1, RAY_TMPDIR=str(temporary))
    for path in (temporary, *temporary.rglob("*")):
        os.chown(path, 12345, 12345)
    for flags in ([], ["--report-only"]):
        done = command.run(*NOBODY, "env", "-u", "HOME", flags=flags)
        assert done.returncode == 0 and not done.stderr and "MLflow lacks" not in done.stdout, done.stdout + done.stderr


@pytest.mark.nightly
def test_a_cluster_that_does_not_answer_is_named_with_where_its_address_comes_from(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.2", 0)) as mute:  # takes connections and never answers; Ray replaces 127.0.0.1
        address = f"127.0.0.2:{mute.getsockname()[1]}"
        done = Command(tmp_path, "--address", address).run()
    assert (done.returncode, done.stderr) == (
        2, f"error: --address {address}: no Ray cluster answers there (nothing in 25 s)\n",
    ), done.stdout  # fmt: skip
    done = Command(tmp_path, RAY_ADDRESS=address).run()
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"RAY_ADDRESS={address} (environment): no Ray cluster answers there" in done.stderr
    assert not (tmp_path / "results").exists()
