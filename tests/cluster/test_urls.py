"""Results behind a URL, and runs behind MLflow's server: as in a folder and a file."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from upath import UPath

from core.atomic_files import atomic_write, load_arrays, read_file, save_arrays
from core.errors import InputError
from core.locks import file_lock, scratch_folder
from core.paths import is_remote
from sweeps.storage.location import StorageProbe, check_folder, reply_to_probe, storage_path
from sweeps.strategies.optuna_study import Study
from sweeps.tracking import uri
from tests.cluster.test_nodes import arguments, here, tables, wait_for
from tests.conftest import ROOT, image_folder
from tests.servers import free_port, mlflow_server, s3_server
from tests.sweeps.strategies.test_search import SEARCH


@pytest.fixture
def url() -> Path:
    storage = UPath(f"memory://results-{free_port()}", use_listings_cache=False)
    assert is_remote(storage)
    return storage


def test_files_behind_a_url_are_whole_or_absent(url: Path) -> None:
    assert read_file(url / "a" / "x.json") is None and load_arrays(url / "a" / "x.npz") is None
    with atomic_write(url / "a" / "x.json") as temporary:
        temporary.write_text("{}")
    save_arrays(url / "a" / "x.npz", {"n": np.arange(3)})
    with atomic_write(url / "a" / "x.pt") as temporary:
        torch.save({"w": torch.ones(2)}, temporary)
    with pytest.raises(KeyError), atomic_write(url / "a" / "y.json") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert sorted(path.name for path in (url / "a").iterdir()) == ["x.json", "x.npz", "x.pt"]
    assert read_file(url / "a" / "x.json") == b"{}"
    assert (load_arrays(url / "a" / "x.npz") or {})["n"].tolist() == [0, 1, 2]
    stored = io.BytesIO(read_file(url / "a" / "x.pt") or b"")
    assert torch.equal(torch.load(stored, weights_only=True)["w"], torch.ones(2))
    with file_lock(url / "a" / "lock"), scratch_folder(url, "t-") as scratch:
        assert scratch.is_dir()
    assert not scratch.exists()


def test_a_damaged_file_is_made_anew_and_a_store_that_is_away_is_not_an_empty_one(
    url: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (url / "x.npz").write_bytes(b"PK")
    assert load_arrays(url / "x.npz") is None

    def away(*_: object, **__: object) -> bytes:
        raise PermissionError("403")

    monkeypatch.setattr(type(url), "read_bytes", away)
    with pytest.raises(PermissionError):
        load_arrays(url / "x.npz")


def test_a_node_answers_a_marker(url: Path, tmp_path: Path) -> None:
    for storage in (url, tmp_path):
        check_folder("--storage", storage)
        with StorageProbe(storage) as probe:
            assert not probe.answered("b") and reply_to_probe(storage, probe.name, "a") is None
            assert probe.answered("a") and not probe.answered("b")
            assert "FileNotFoundError" in str(reply_to_probe(tmp_path / "elsewhere", probe.name, "b"))
        assert not list(storage.glob(".marker*"))


def test_what_cannot_be_a_storage_is_said(url: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="nonsense://x"):
        storage_path("nonsense://x")
    with pytest.raises(InputError, match="--tracking-uri: it is missing"):
        uri.default_uri(url)
    assert storage_path("file:///tmp/x") == Path("/tmp/x") and storage_path("results") == Path("results")


def test_a_searchs_study_goes_on_behind_a_url(url: Path) -> None:
    path = url / "sweeps" / "s" / "study.journal"
    first = Study(path, SEARCH, 0)
    drawn = [first.ask() for _ in range(2)]
    again = Study(path, SEARCH, 0)
    assert [point.params for point in again.points] == [point.params for point in first.points]
    assert len(again.points) == len(drawn) == 2


def test_a_job_that_would_leave_its_results_in_a_copy_of_the_code_is_refused(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_ADDRESS": "127.0.0.1:1"}
    line = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--grid", "ablations", "--data", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    profile, storage = done.stderr.splitlines()
    assert (
        "--profile: on a cluster (RAY_ADDRESS=127.0.0.1:1, which Ray gave to this job) it must be named" in profile
        and "--storage results: a job runs in" in storage
    )


#: One arm of each kind: a parent's child, the labels, no training, a fit, pixels.
KINDS: dict[str, Any] = {
    "n": {"pairing": "neighbors"},
    **{method: {"method": method} for method in ("supervised", "untrained", "pca", "laplacian-eigenmaps", "raw-pixels")},
}


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (find_spec("moto") and find_spec("s3fs")), reason="moto or s3fs is missing; see CONTRIBUTING.md")
def test_arms_of_every_kind_behind_s3_with_a_tracking_server_that_is_killed_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, odd = image_folder(tmp_path / "images"), image_folder(tmp_path / "odd", train=40, test=60)
    command = arguments(tmp_path, images, KINDS, epochs=4, anomaly_datasets=[f"folder:{odd}"])
    here(command, tmp_path / "undisturbed")
    port, log = free_port(), tmp_path / "log"
    with s3_server(tmp_path, "bucket") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        line = [sys.executable, str(ROOT / "sweeps" / "run.py"), *command, "--storage", "s3://bucket/results",
                "--tracking-uri", f"http://127.0.0.1:{port}"]  # fmt: skip
        with mlflow_server(tmp_path, port):
            driver = subprocess.Popen(line, stdout=log.open("w"), stderr=subprocess.STDOUT, env=os.environ, cwd=tmp_path)
            wait_for(lambda: "    done  " in log.read_text() or driver.poll() is not None)
        time.sleep(10)
        with mlflow_server(tmp_path, port) as uri:
            assert driver.wait(timeout=600) == 0, log.read_text()
            assert "MLflow is away" in log.read_text() and "MLflow is back" in log.read_text()
            assert tables(UPath("s3://bucket/results")) == tables(tmp_path / "undisturbed")
            _assert_told_once(MlflowClient(uri))
            done = subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=tmp_path)
            assert done.returncode == 0 and "nothing is trained" in done.stdout, done.stdout + done.stderr
            _assert_told_once(MlflowClient(uri))
    assert not (tmp_path / "results").exists() and not list(tmp_path.glob("s3:*"))


def _assert_told_once(client: MlflowClient) -> None:
    """The sweep and its seven trials, each with each (metric, step) once, its history, its files, its model."""
    found = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    children = [run for run in found if run.data.tags["role"] == "trial"]
    assert len(children) == len({run.data.tags["trial_key"] for run in children}) == 7 and len(found) == 8
    for run in found:
        assert run.info.status == "FINISHED"
        for name in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            assert len(steps) == len(set(steps)), "each (metric, step) once"
    for run in children:
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"config.json", "figures"} <= names
        if run.data.params["method"] == "vicreg":
            history = client.get_metric_history(run.info.run_id, "train/loss")
            assert sorted(point.step for point in history) == [1, 2, 3, 4], "nothing lost"
            mine = f"source_run_id = '{run.info.run_id}'"
            models = client.search_logged_models([run.info.experiment_id], filter_string=mine)
            assert "encoder.safetensors" in names and [model.status for model in models] == ["READY"]
