"""An MLflow server that goes away for a while in the middle of a sweep: nothing lost, nothing said twice."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from sweeps import tracking
from tests.conftest import TINY
from tests.sweeps.test_engine import tiny_plan
from tests.sweeps.test_run import ROOT


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server with a SQLite database and proxied artifacts, as docs/cluster.md starts it, once it is healthy."""
    program = str(Path(sys.executable).with_name("mlflow"))
    command = [program, "server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination",
               str(folder / "served"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                tracking.tracking_uri.check(f"http://127.0.0.1:{port}")
                break
            except tracking.InputError:
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.3)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.server.healthy else 503)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server_of_health() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Health)
    server.healthy = True  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_what_a_server_that_is_away_did_not_hear_is_told_in_order_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_PAUSE", 0.05)
    monkeypatch.setattr(tracking.Tracker, "_open", lambda _: None)
    monkeypatch.setattr(tracking.Tracker, "_close", lambda *_: None)
    said: list[str] = []
    heard: list[int] = []
    with server_of_health() as server:
        tracker = tracking.Tracker(
            f"http://127.0.0.1:{server.server_port}", tmp_path, tiny_plan(tmp_path, {}), None, "", said.append  # type: ignore[arg-type]
        )  # fmt: skip

        def hear(number: int) -> None:
            if number == 2 and server.healthy and not said:  # type: ignore[attr-defined]
                server.healthy = False  # type: ignore[attr-defined]
                threading.Timer(0.5, lambda: setattr(server, "healthy", True)).start()
            if not server.healthy:  # type: ignore[attr-defined]
                raise ConnectionError("gone")
            heard.append(number)

        for number in range(5):
            tracker._queue.put(lambda number=number: hear(number))  # type: ignore[misc]
        tracker.close(status="FINISHED", metrics={}, moment=0, artifacts=[])
    assert heard == [0, 1, 2, 3, 4] and tracker.problem is None
    assert len(said) == 2 and "is away" in said[0] and "back after" in said[1]


@pytest.mark.parametrize("healthy", [True, False])
def test_a_server_that_stays_away_or_refuses_is_given_up_in_the_end(
    healthy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_PAUSE", 0.05)
    monkeypatch.setattr(tracking, "PATIENCE", 0.3)
    monkeypatch.setattr(tracking.Tracker, "_open", lambda _: None)
    tries: list[int] = []
    with server_of_health() as server:
        server.healthy = healthy  # type: ignore[attr-defined]
        tracker = tracking.Tracker(f"http://127.0.0.1:{server.server_port}", tmp_path, tiny_plan(tmp_path, {}), None, "")  # type: ignore[arg-type]

        def refuse() -> None:
            tries.append(1)
            raise ValueError("no such thing")

        tracker._queue.put(refuse)
        time.sleep(1)
        assert healthy or tracker.problem is None, "while trials run it is waited for"
        tracker.close(status="FINISHED", metrics={}, moment=0, artifacts=[])
    assert tracker.problem == "ValueError: no such thing" and len(tries) == (tracking._ATTEMPTS if healthy else 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_killed_in_the_middle_of_a_sweep_and_started_again(tmp_path: Path) -> None:
    grid, storage, port = tmp_path / "tiny.yaml", tmp_path / "results", free_port()
    base = {**TINY, "train_subset": 400, "batch_size": 32, "epochs": 20}
    arms = {"z": {"mu": 0}, "n": {"pairing": "neighbors"}, "pca": {"method": "pca"}}
    grid.write_text(yaml.safe_dump({"question": "is anything lost?", "base": base, "arms": arms}))
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--profile", "digits-m", "--grid", str(grid), "--storage",
               str(storage), "--data", str(tmp_path / "data"), "--tracking-uri", uri]  # fmt: skip
    with mlflow_server(tmp_path, port):
        driver = subprocess.Popen(command, stdout=(tmp_path / "log").open("w"), stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 300
        while not list(storage.glob("trials/*/checkpoint.pt")):
            assert time.monotonic() < deadline and driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
    time.sleep(30)
    with mlflow_server(tmp_path, port):
        assert driver.wait(timeout=500) == 0, (tmp_path / "log").read_text()
        log = (tmp_path / "log").read_text()
        assert "MLflow is away" in log and "MLflow is back" in log
        client = MlflowClient(uri)
        found = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
        children = {run.data.tags["arm"]: run for run in found if run.data.tags["role"] == "trial"}
        assert set(children) == {"base", "z", "n", "pca"} and len(found) == 5
        for run in found:
            assert run.info.status == "FINISHED"
            for name in run.data.metrics:
                steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
                assert len(steps) == len(set(steps)), "each (metric, step) once"
        for arm in ("base", "z", "n"):
            history = client.get_metric_history(children[arm].info.run_id, "train/loss")
            assert sorted(point.step for point in history) == list(range(1, 21)), "nothing lost"
            names = {file.path for file in client.list_artifacts(children[arm].info.run_id)}
            assert {"config.json", "encoder.pt", "figures"} <= names
            models = client.search_logged_models(
                [children[arm].info.experiment_id], filter_string=f"source_run_id = '{children[arm].info.run_id}'"
            )
            assert [model.status for model in models] == ["READY"]
