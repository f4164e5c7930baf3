"""A cluster of separate Ray processes on this machine: a head and nodes with raylets, ports and object stores of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from tests.conftest import ROOT
from tests.servers import free_port

_BIN = Path(sys.executable).parent
_READY = 120.0  # seconds for a node to start
_STORE = 150_000_000  # bytes of each object store


class Nodes:
    """The cluster, for the length of a ``with`` block."""

    def __init__(
        self, folder: Path, *, environment: Mapping[str, str] = {}, autoscaler: Path | None = None, apart: bool = True
    ) -> None:
        """Args:
        folder: for logs.
        environment: of all its processes.
        autoscaler: the YAML file by which the head starts and stops further nodes by itself; without it, nobody does.
        apart: whether each node has a temporary folder of its own, as on a machine of its own.
        """
        self._folder = folder
        self._autoscaler, self._apart = autoscaler, apart
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment = {
            **inherited, **environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex,
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1",
        }  # fmt: skip
        # Where nodes unpack a job's code; short, for sockets lie there.
        self._temp = f"/tmp/r{uuid.uuid4().hex[:6]}"
        self._port, self.dashboard = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        """The GCS's."""
        return f"127.0.0.1:{self._port}"

    @property
    def api(self) -> str:
        """Where jobs are submitted to."""
        return f"http://127.0.0.1:{self.dashboard}"

    def __enter__(self) -> Self:
        self._start(["--head", f"--port={self._port}", f"--dashboard-port={self.dashboard}", "--dashboard-host=127.0.0.1",
                     "--num-cpus=0", *self._scaling()])  # fmt: skip
        self._wait(1)
        return self

    def _scaling(self) -> list[str]:
        if self._autoscaler is None:
            return []
        config = yaml.safe_load(self._autoscaler.read_text())
        config["provider"]["gcs_address"] = self.address
        path = self._folder / "autoscaler.yaml"
        path.write_text(yaml.safe_dump(config))
        self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        return [f"--autoscaling-config={path}"]

    def add(self, *arguments: str, wrap: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Starts another node, by default of one CPU, and waits until it is there.

        Args:
            arguments: of its ``ray start``.
            wrap: a command to run it under.
        """
        before = len(self.alive())
        started = self._start([f"--address={self.address}", *(arguments or ("--num-cpus=1",))], wrap)
        self._wait(before + 1)
        return started

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """The machine is gone: SIGKILL to all of the node's processes at once."""
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in family:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        node.wait()

    def alive(self) -> list[dict[str, Any]]:
        """The nodes that are there, as Ray's state API tells of them; none before the head answers."""
        try:
            told = self._get("/api/v0/nodes")["data"]["result"]["result"]
        except OSError:
            return []
        return [node for node in told if node["state"] == "ALIVE"]

    def _get(self, path: str) -> Any:
        asked = urllib.request.Request(
            self.api + path, headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)

    def run(self, *arguments: object, environment: Mapping[str, str] = {}, timeout: float = 900) -> Any:
        """``sweeps/run.py --address`` of this cluster, from outside of it; its completed process."""
        line = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--address", self.address, *map(str, arguments)]
        return subprocess.run(
            line, env=self.environment | dict(environment), capture_output=True, text=True, timeout=timeout, cwd=self._folder
        )

    def submit(self, *arguments: object, job: str) -> None:
        """Submits ``sweeps/run.py`` as a job of that name and returns at once."""
        line = [str(_BIN / "ray"), "job", "submit", "--address", self.api, "--submission-id", job, "--no-wait",
                "--working-dir", str(ROOT), "--", sys.executable, "sweeps/run.py", *map(str, arguments)]  # fmt: skip
        subprocess.run(line, env=self.environment, check=True, capture_output=True, text=True, timeout=120, cwd=self._folder)

    def logs(self, job: str) -> str:
        """What a job said."""
        return str(self._get(f"/api/jobs/{job}/logs")["logs"])

    def state(self, job: str) -> str:
        """SUCCEEDED, FAILED or STOPPED; "" while the job runs."""
        status = str(self._get(f"/api/jobs/{job}")["status"])
        return status if status in ("SUCCEEDED", "FAILED", "STOPPED") else ""

    def end_of(self, job: str, timeout: float = 900) -> str:
        """Waits for a job; SUCCEEDED, FAILED or STOPPED."""
        until = time.monotonic() + timeout
        while not (state := self.state(job)):
            if time.monotonic() > until:
                raise TimeoutError(self.logs(job)[-3000:])
            time.sleep(1)
        return state

    def __exit__(self, *_: Any) -> None:
        for process in self._processes:
            if process.poll() is None:
                self.kill(process)
        for folder in Path("/tmp").glob(f"{Path(self._temp).name}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, arguments: Sequence[str], wrap: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        number = len(self._processes)
        own = [f"--temp-dir={self._temp}-{number}"] if self._apart or number == 0 else []  # else the head's
        line = [*wrap, str(_BIN / "ray"), "start", "--block", *own,
                "--node-ip-address=127.0.0.1", f"--object-store-memory={_STORE}", "--include-log-monitor=false",
                f"--dashboard-agent-listen-port={free_port()}", *arguments]  # fmt: skip
        with (self._folder / f"node-{number}.log").open("wb") as log:
            process = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment,
                                       start_new_session=True)  # fmt: skip
        self._processes.append(process)
        return process

    def _wait(self, n: int) -> None:
        until = time.monotonic() + _READY
        while len(self.alive()) < n:
            if time.monotonic() > until:
                logs = [path.read_text()[-1000:] for path in sorted(self._folder.glob("node-*.log"))]
                raise TimeoutError(f"{n} nodes are not there: {logs}")
            time.sleep(0.5)
