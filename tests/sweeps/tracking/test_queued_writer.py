"""MLflow: one parent, one level of children, said once however often it is said."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from core.errors import InputError
from sweeps.execution.worker import run_trial
from sweeps.storage.image_sets import Images
from sweeps.storage.records import TrainingRecord
from sweeps.storage.trial_state import product_name
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.queued_writer import QueuedWriter
from sweeps.tracking.runs import _quiet_mlflow
from sweeps.tracking.uri import check_uri
from tests.servers import server_of_health
from tests.sweeps.tiny import arm, finish, record_of, runs, tell, tiny_plan

ARMS = {"z": {"mu": 0}, "n": {"pairing": "neighbors"}}


def points(uri: str, run: Any) -> list[tuple[str, int, float]]:
    client = MlflowClient(uri)
    return sorted((n, p.step, p.value) for n in run.data.metrics for p in client.get_metric_history(run.info.run_id, n))


def test_children_hold_params_metrics_tags_and_artifacts(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, ARMS), f"sqlite:///{tmp_path / 'mlflow.db'}"
    for name in ("base", "z", "n"):
        run_trial(arm(plan, name), images, tmp_path)
    tell(plan, tmp_path, uri, live=True)
    parent, children = runs(uri)
    assert parent.info.status == "FINISHED" and set(children) == {"base", "z", "n"}
    assert all(run.info.status == "FINISHED" for run in children.values())
    params, tags = children["n"].data.params, children["n"].data.tags
    assert (
        params["pairing"] == "neighbors" and params["neighbors_k"] == "3" and params["mu"] == "25.0" and params["seed"] == "0"
    )
    assert "augmentation.hue" not in params and children["base"].data.params["augmentation.hue"] == "0.1"
    assert (
        tags["parent_trial_key"] == arm(plan, "base").key and tags["sweep"] == plan.sweep_id and tags["profile"] == "digits-m"
    )
    assert tags["trial_key"] == arm(plan, "n").key and "git_commit" in tags and "v(Z) + v(Z')" in tags["loss_convention"]
    said = points(uri, children["z"])
    steps = {(name, step) for name, step, _ in said}
    assert len(steps) == len(said), "each (metric, step) once"
    for name in ("train/loss", "test/covariance", "projection_std", "images_per_second"):
        assert {(name, 1), (name, 2)} <= steps
    for name in ("probe_accuracy", "anomaly_auc", "anomaly_auc/digits-m-patches", "silhouette", "collapse_indicators"):
        assert (name, 2) in steps and (name, 1) not in steps
    client = MlflowClient(uri)
    assert {item.path for item in client.list_artifacts(children["z"].info.run_id)} == {"config.json", "encoder.safetensors"}


def test_saying_it_again_changes_nothing(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, ARMS), f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_trial(arm(plan, "base"), images, tmp_path)
    tell(plan, tmp_path, uri, live=True)
    _, before = runs(uri)
    tell(plan, tmp_path, uri)
    run_trial(arm(plan, "z"), images, tmp_path)
    tell(plan, tmp_path, uri, live=True)
    _, after = runs(uri)
    assert before["base"].info.run_id == after["base"].info.run_id and set(after) == {"base", "z"}
    assert points(uri, before["base"]) == points(uri, after["base"])


def test_a_number_that_changed_is_said_and_becomes_the_latest(tmp_path: Path, images: Images) -> None:
    plan, uri, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), f"sqlite:///{tmp_path / 'mlflow.db'}", TrialStore(tmp_path)
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    tell(plan, tmp_path, uri)
    monkey = {
        id_: replace(r, value=0.125, time=r.time + 60) for id_, r in store.read(trial.key).results.items() if "rankme" in id_
    }
    store.save_results(trial.key, monkey)
    tell(plan, tmp_path, uri)
    tell(plan, tmp_path, uri)
    child = runs(uri)[1]["base"]
    assert child.data.metrics["rankme"] == 0.125
    assert [value for name, _, value in points(uri, child) if name == "rankme"].count(0.125) == 1


def test_a_child_is_renamed_when_an_arm_comes_to_it(tmp_path: Path, images: Images) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    arms = {"n": {"pairing": "neighbors", "parent": {"mu": 1}}}
    before, after = tiny_plan(tmp_path, arms), tiny_plan(tmp_path, {**arms, "one": {"mu": 1}})
    run_trial(arm(after, "one"), images, tmp_path)
    tell(before, tmp_path, uri)
    assert runs(uri)[1]["parent of n"].data.tags["added_for"] == "n"
    tell(after, tmp_path, uri)
    tags = runs(uri)[1]["one"].data.tags
    assert "added_for" not in tags and tags["mlflow.runName"] == "one · seed 0"


def test_a_child_left_running_by_a_killed_driver_is_taken_over(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, {"z": {"mu": 0}}), f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_trial(arm(plan, "base"), images, tmp_path)
    record = record_of(TrialStore(tmp_path), arm(plan, "base"))
    assert record.training is not None
    killed = QueuedWriter(uri, plan, TrialStore(tmp_path), "x")
    killed.on_trial_start(arm(plan, "base"))
    killed.on_epoch_end(arm(plan, "base"), record.training.history[0])
    killed._queue.put(None)
    killed._thread.join()
    assert runs(uri)[1]["base"].info.status == "RUNNING"
    tell(plan, tmp_path, uri)
    _, children = runs(uri)
    assert children["base"].info.status == "FINISHED"
    said = points(uri, children["base"])
    assert len({(name, step) for name, step, _ in said}) == len(said)


def test_failed_and_skipped_trials_are_marked_and_recover(tmp_path: Path, images: Images) -> None:
    plan, uri, store = tiny_plan(tmp_path, ARMS), f"sqlite:///{tmp_path / 'mlflow.db'}", TrialStore(tmp_path)
    store.save_failure(arm(plan, "base").key, "it broke")
    tell(plan, tmp_path, uri, skipped={arm(plan, "n").key: "its parent failed"})
    parent, children = runs(uri)
    assert parent.info.status == "FAILED"
    assert (children["base"].info.status, children["base"].data.tags["reason"]) == ("FAILED", "it broke")
    assert (children["n"].info.status, children["n"].data.tags["status"]) == ("KILLED", "skipped")
    for name in ("base", "z", "n"):
        run_trial(arm(plan, name), images, tmp_path)
    tell(plan, tmp_path, uri)
    parent, after = runs(uri)
    assert parent.info.status == "FINISHED" and after["n"].info.run_id == children["n"].info.run_id
    assert {run.info.status for run in after.values()} == {"FINISHED"} and "reason" not in after["base"].data.tags


def test_a_database_that_breaks_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, and longer than a header would be " * 10)
    plan = tiny_plan(tmp_path, ARMS)
    watcher = QueuedWriter(f"sqlite:///{tmp_path / 'mlflow.db'}", plan, TrialStore(tmp_path), "x")
    watcher.on_trial_start(arm(plan, "base"))
    watcher.close(SweepSummary("FINISHED", {}, 0.0, ()))
    assert watcher.problem is not None and "database" in watcher.problem


def test_a_damaged_file_is_not_logged_and_is_no_refusal_of_mlflow(tmp_path: Path, empty_database: Path) -> None:
    plan, store, said = tiny_plan(tmp_path, ARMS), TrialStore(tmp_path), list[str]()
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    trial, files = arm(plan, "base"), TrialStore(tmp_path).files(arm(plan, "base").key)
    finish(store, trial)
    history = ({"epoch": 1.0, "time": 1.0, "train/loss": 2.0},)
    store.save_training(trial.key, TrainingRecord(history, None, 1.0, 1, "CPU, x", 1, {}, 0.0))
    figure = next(iter(trial.figure_ids.values()))
    store.save_results(trial.key, {figure: store.make(trial.key, figure, lambda: b"a figure")})
    (files.path / "encoder.safetensors").write_bytes(b"changed")
    (files.path / product_name(figure)).write_bytes(b"changed")
    tracker = QueuedWriter(f"sqlite:///{tmp_path / 'mlflow.db'}", plan, store, "x", said.append)
    tracker.on_trial_end(record_of(store, trial))
    tracker.on_figures_end(trial)
    tracker.close(SweepSummary("FINISHED", {}, 0.0, ()))
    for name in ("encoder.safetensors", product_name(figure)):
        assert f"{files.path / name}: its content is not what was written" in str(tracker.problem)
    assert "makes the damaged files again" in tracker.advice and not any("refuses" in line for line in said)
    _, children = runs(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert children["base"].info.status == "FINISHED" and "figures" not in children["base"].data.tags
    assert MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").list_artifacts(children["base"].info.run_id) == []


def test_mlflow_sends_no_reports_of_its_use_unless_the_user_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for users in ({}, {"MLFLOW_DISABLE_TELEMETRY": "false"}):
        monkeypatch.setattr(os, "environ", dict(users))
        _quiet_mlflow()
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == users.get("MLFLOW_DISABLE_TELEMETRY", "true")


def test_a_server_is_asked_for_its_health() -> None:
    with server_of_health() as server:
        uri = f"http://127.0.0.1:{server.server_port}"
        check_uri(uri)
        server.healthy = False  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=r"--tracking-uri http://127.0.0.1:\d+"):
            check_uri(uri)
    with pytest.raises(InputError, match="no MLflow server answers"):
        check_uri(uri)


def test_a_file_that_is_no_database_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database, and longer than a header would be " * 10)
    for path in (tmp_path, tmp_path / "x.db"):
        with pytest.raises(InputError, match="is no SQLite database"):
            check_uri(f"sqlite:///{path}")


def test_a_database_that_a_killed_process_left_amid_a_transaction_or_that_another_writes_is_taken(tmp_path: Path) -> None:
    busy, killed = tmp_path / "busy.db", tmp_path / "killed.db"
    with closing(sqlite3.connect(busy, isolation_level=None)) as database:
        database.execute("CREATE TABLE t (x TEXT)")
        database.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the end
        database.execute("BEGIN EXCLUSIVE")
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 100)
        for suffix in ("", "-journal"):
            shutil.copy(f"{busy}{suffix}", f"{killed}{suffix}")
        check_uri(f"sqlite:///{busy}")
        check_uri(f"sqlite:///{killed}")
    with closing(sqlite3.connect(killed)) as database:
        assert database.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://x", "http://localhost:abc"])
def test_what_cannot_be_tracked_to_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="--tracking-uri"):
        check_uri(uri)


def test_a_fresh_process_without_this_package_loads_the_encoder_that_was_evaluated(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, {"z": {"mu": 0}}), f"sqlite:///{tmp_path / 'mlflow.db'}"
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    tell(plan, tmp_path, uri)
    client = MlflowClient(uri)
    run = runs(uri)[1]["base"]
    client.set_tag(run.info.run_id, "said", "something else")
    (before,) = client.search_logged_models([run.info.experiment_id])
    tell(plan, tmp_path, uri)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.name == "encoder" and model.source_run_id == run.info.run_id, "said twice, logged once"
    assert model.model_id == before.model_id
    assert runs(uri)[1]["base"].info.status == "FINISHED"
    kept_there = {path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    assert "model.pt2" in kept_there and not {"model.pth", "pickle_module_info.txt"} & kept_there, "no pickle"
    np.save(tmp_path / "images.npy", images.of(trial.config).test.images)
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("core", "evaluation", "sweeps"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import mlflow, numpy, torch
mlflow.set_tracking_uri({uri!r})
model = mlflow.pytorch.load_model("runs:/{run.info.run_id}/encoder")
with torch.no_grad():
    numpy.save("found.npy", model(torch.from_numpy(numpy.load("images.npy")).float() / 255).numpy())
print(mlflow.models.get_model_info("models:/{model.model_id}").signature)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "(-1, 3, 32, 32)" in done.stdout and "(-1, 8)" in done.stdout
    kept = TrialStore(tmp_path).detail(trial, "representations")
    assert kept is not None
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), kept["test"], atol=1e-5)


def test_a_model_left_half_way_is_made_anew(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, {"z": {"mu": 0}}), f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_trial(arm(plan, "base"), images, tmp_path)
    tell(plan, tmp_path, uri, live=True)
    client, run = MlflowClient(uri), runs(uri)[1]["base"]
    (model,) = client.search_logged_models([run.info.experiment_id])
    client.delete_logged_model(model.model_id)
    client.create_logged_model(run.info.experiment_id, "encoder", run.info.run_id)
    client.set_tag(run.info.run_id, "said", "something else")
    tell(plan, tmp_path, uri)
    (again,) = client.search_logged_models([run.info.experiment_id])
    assert str(again.status) == "READY" or again.status.name == "READY"


def test_the_data_sets_are_inputs_of_the_run(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, {"z": {"mu": 0}}), f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_trial(arm(plan, "base"), images, tmp_path)
    tell(plan, tmp_path, uri)
    inputs = runs(uri)[1]["base"].inputs.dataset_inputs
    found = {(i.tags[0].value, i.dataset.name) for i in inputs}
    expected = {("training", "digits-m train"), ("evaluation", "digits-m test"), ("anomalies", "digits-m-patches anomalies")}
    assert found == expected and all("digits-m" in i.dataset.source for i in inputs)


def test_every_child_has_the_weights_and_the_sweep_a_view_of_them(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, {"pca": {"method": "pca"}}), f"sqlite:///{tmp_path / 'mlflow.db'}"
    for name in ("base", "pca"):
        run_trial(arm(plan, name), images, tmp_path)
    tell(plan, tmp_path, uri)
    parent, children = runs(uri)
    assert [children["pca"].data.params[name] for name in ("mu", "lambda", "nu")] == ["0.0"] * 3
    assert "epochs" not in children["pca"].data.params
    client = MlflowClient(uri)
    tags = client.get_experiment(parent.info.experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{plan.sweep_id}"])
    state = json.loads(view["state"])
    assert plan.sweep_id in state["searchFilter"]
    assert state["compareRunCharts"][0]["selectedParams"] == ["method", "mu", "lambda", "nu"]
    again = client.search_runs([parent.info.experiment_id], state["searchFilter"])
    assert {run.info.run_id for run in again} == {run.info.run_id for run in children.values()}
