"""Sweeps on a cluster of separate Ray processes: nodes that train, die, come late, or do not see the storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.cluster.nodes import Nodes
from tests.conftest import ROOT, TINY, image_folder
from tests.fault_injection.comparison import TABLES, timeless

pytestmark = pytest.mark.timeout(900)

ARMS: dict[str, Any] = {"n": {"pairing": "neighbors"}, "z": {"mu": 0}, "c": {"nu": 0}, "r": {"pairing": "random"}}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"), train=1000)


def arguments(folder: Path, images: Path, arms: dict[str, Any] = ARMS, **base: Any) -> list[str]:
    """A command over a grid of small trials that last some seconds; its storage is to be added."""
    path = folder / "cluster.yaml"
    fields = {**TINY, "dataset": f"folder:{images}", "anomaly_datasets": [], "batch_size": 32, "epochs": 8} | base
    path.write_text(yaml.safe_dump({"question": "does it scale?", "base": fields, "arms": arms}))
    return ["--grid", str(path), "--profile", "digits-m", "--data", str(folder / "data")]


def here(command: list[str], storage: Path) -> None:
    """Runs a command without a cluster."""
    line = [sys.executable, str(ROOT / "sweeps" / "run.py"), *command, "--storage", str(storage)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def base_of(storage: Path) -> str:
    """The key of base's trial."""
    (path,) = storage.glob("sweeps/*/sweep.json")
    return next(key for key, (arm, *_) in json.loads(path.read_text())["trials"].items() if arm == "base")


def tables(storage: Path) -> list[Any]:
    """What a sweep leaves for comparison, without what a clock measured."""
    (folder,) = (storage / "sweeps").iterdir()
    return [timeless(folder / name) for name in TABLES]


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.2)
    return found


class Audit:
    """What workers begin, and on which node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.environment = {"CHAOS_AUDIT": str(path), "PYTHONPATH": str(ROOT / "tests" / "fault_injection" / "audit")}

    def epochs(self) -> list[dict[str, Any]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [event for line in lines if (event := json.loads(line))["what"] == "epoch"]

    def of(self, node: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
        """Epochs begun on a node, which is alive."""
        raylets = {process.pid for process in psutil.Process(node.pid).children(recursive=True)}
        return [event for event in self.epochs() if event["parent"] in raylets]


@pytest.mark.nightly
def test_what_fits_no_node_is_refused_and_a_job_uses_nodes_that_come_late_and_outlives_one(
    tmp_path: Path, images: Path
) -> None:
    command = arguments(tmp_path, images)
    here(command, tmp_path / "undisturbed")
    audit, storage, gate = Audit(tmp_path / "audit.jsonl"), tmp_path / "results", tmp_path / "gate"
    gate.mkdir()
    # The first node waits in its first trial until the others have work.
    point = {"CHAOS_POINT": f"epoch {base_of(tmp_path / 'undisturbed')} 2", "CHAOS_GATE": str(gate)}
    with Nodes(tmp_path, environment=audit.environment | point) as cluster:
        nodes = [cluster.add()]
        done = cluster.run(*arguments(tmp_path, images, threads=2), "--storage", storage)
        assert done.returncode == 2 and "a trial takes 2 CPU, which no node of the cluster has" in done.stderr, done.stderr
        assert not storage.exists() or not list(storage.iterdir())

        cluster.submit(*arguments(tmp_path, images), "--storage", storage, job="sweep")
        wait_for((gate / "reached").exists)
        nodes += [cluster.add(), cluster.add()]
        victim = wait_for(lambda: next((n for n in nodes[1:] if any(e["epoch"] >= 3 for e in audit.of(n))), None))
        (gate / "go").touch()
        cut = audit.of(victim)[-1]
        cluster.kill(victim)
        state, said = cluster.end_of("sweep"), cluster.logs("sweep")
    assert state == "SUCCEEDED", said
    begun = [(event["trial"], event["epoch"]) for event in audit.epochs()]
    again = [one for one in set(begun) if begun.count(one) > 1]
    assert again in ([], [(cut["trial"], cut["epoch"])]), "at most the epoch that was cut off is trained again"
    assert tables(storage) == tables(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_cluster_that_asks_for_another_token_is_named_with_where_tokens_come_from(tmp_path: Path, images: Path) -> None:
    storage = tmp_path / "results"
    with Nodes(tmp_path) as cluster:
        done = cluster.run(*arguments(tmp_path, images), "--storage", storage, environment={"RAY_AUTH_TOKEN": "f" * 32})
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: --address {cluster.address}: the cluster asks for a token") and "RAY_AUTH_TOKEN" in line
    assert "f" * 32 not in done.stdout + done.stderr and not storage.exists()


@pytest.mark.nightly
def test_a_job_on_nodes_that_unpack_its_code_over_one_another(tmp_path: Path, images: Path) -> None:
    storage = tmp_path / "results"
    with Nodes(tmp_path, apart=False) as cluster:
        cluster.add()
        cluster.add()
        cluster.submit(*arguments(tmp_path, images, {"z": {"mu": 0}}, epochs=2), "--storage", storage, job="sweep")
        assert cluster.end_of("sweep", 300) == "SUCCEEDED", cluster.logs("sweep")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
def test_a_node_that_does_not_see_the_storage_is_named_before_training(tmp_path: Path, images: Path) -> None:
    storage = tmp_path / "results"
    storage.mkdir()
    blind = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {storage} && exec "$@"', "sh"]
    with Nodes(tmp_path) as cluster:
        cluster.add()
        cluster.add("--num-cpus=1", '--resources={"blind": 1}', wrap=blind)
        (node,) = (found["node_id"][:8] for found in cluster.alive() if "blind" in found["resources_total"])
        done = cluster.run(*arguments(tmp_path, images), "--storage", storage)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert f"node {node})" in line and "does not share it" in line and str(storage) in line
    assert list(storage.iterdir()) == [], "nothing was written, and the markers are gone"


@pytest.mark.nightly
def test_an_autoscaler_starts_nodes_for_what_waits_and_stops_them_again(tmp_path: Path, images: Path) -> None:
    audit, storage = Audit(tmp_path / "audit.jsonl"), tmp_path / "results"
    command = [*arguments(tmp_path, images), "--storage", str(storage), "--gpus-per-trial", "0"]
    scaling = Path(__file__).with_name("autoscaler.yaml")
    with Nodes(tmp_path, environment=audit.environment, autoscaler=scaling) as cluster, ThreadPoolExecutor(1) as driver:
        assert len(cluster.alive()) == 1, "the head, on which nothing trains"
        # No job: the provider's nodes share a folder with the head, and the second would unpack the job's code over itself.
        running = driver.submit(cluster.run, *command)
        wait_for(lambda: len(cluster.alive()) == 3)
        done = running.result()
        wait_for(lambda: len(cluster.alive()) == 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waiting for the autoscaler to start one" in done.stdout
    assert len({event["parent"] for event in audit.epochs()}) >= 2, "both nodes trained"
