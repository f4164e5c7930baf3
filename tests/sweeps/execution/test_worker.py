"""One trial on a worker: what it leaves, and that nothing is done twice."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluation.evaluate import METRICS, Metric
from sweeps.execution.weights import load_encoder_weights
from sweeps.execution.worker import run_trial
from sweeps.planning.trial import Trial
from sweeps.storage.image_sets import Images
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.tiny import arm, is_done, record_of, tiny_plan


def test_a_trial_leaves_everything_and_is_not_done_twice(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {}}), TrialStore(tmp_path)
    trial = arm(plan, "base")
    seen: list[float] = []
    run_trial(trial, images, tmp_path, on_epoch=lambda record: seen.append(record["epoch"]))
    assert seen == [1, 2]
    record = record_of(store, trial)
    assert record.status == "done" and record.problems == {}
    assert record.metrics["anomaly_auc"] == record.metrics["anomaly_auc/digits-m-patches"]
    assert {"probe_accuracy", "silhouette", "probe_gain", "collapse_indicators"} <= set(record.metrics)
    assert record.training is not None and record.training.epochs_trained == 2
    assert record.metrics["projection_std"] == record.training.history[-1]["projection_std"]
    files = {path.name for path in store.folder(trial.key).iterdir()}
    assert {"config.json", "checkpoint.pt", "encoder.safetensors", "projector.safetensors", "trained.json"} <= files
    assert {"details", "lock", "checksums.json"} <= files and not any(name.endswith(".tmp") for name in files)
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    monkeypatch.setattr("sweeps.execution.worker.evaluate", None)
    run_trial(trial, images, tmp_path)


def test_a_new_metric_is_computed_without_training(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {}}), TrialStore(tmp_path)
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    monkeypatch.setitem(METRICS, "mean_norm", Metric(lambda e: float(abs(e.test.representation).mean()), None, "a new one"))
    assert not is_done(store, trial)
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    run_trial(trial, images, tmp_path)
    assert is_done(store, trial) and record_of(store, trial).metrics["mean_norm"] > 0


def test_a_new_anomaly_set_is_evaluated_without_training(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {}}), TrialStore(tmp_path)
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    more = replace(trial, anomalies={"digits-m-black": "black-1", **trial.anomalies})
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    run_trial(more, images, tmp_path)
    record = record_of(store, more)
    assert record.metrics["anomaly_auc"] == record.metrics["anomaly_auc/digits-m-black"], "the first is the headline"
    assert record_of(store, trial).metrics["anomaly_auc"] == record.metrics["anomaly_auc/digits-m-patches"]


def test_a_trial_that_died_goes_on_from_its_last_epoch(tmp_path: Path, images: Images) -> None:
    plan = tiny_plan(tmp_path / "a", {"n": {"pairing": "neighbors", "epochs": 4}})
    for trial in (arm(plan, "base"), arm(plan, "n")):
        run_trial(trial, images, tmp_path / "whole")

    def die(record: dict[str, float]) -> None:
        if record["epoch"] == 2 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            raise KeyboardInterrupt

    run_trial(arm(plan, "base"), images, tmp_path / "torn")
    with pytest.raises(KeyboardInterrupt):
        run_trial(arm(plan, "n"), images, tmp_path / "torn", on_epoch=die)
    seen: list[float] = []
    run_trial(arm(plan, "n"), images, tmp_path / "torn", on_epoch=lambda record: seen.append(record["epoch"]))
    assert seen == [3, 4]
    assert_same_encoder(arm(plan, "n"), tmp_path / "whole", tmp_path / "torn")
    metrics = [record_of(TrialStore(tmp_path / name), arm(plan, "n")).metrics for name in ("whole", "torn")]
    assert metrics[0] == metrics[1]
    probes = [TrialStore(tmp_path / name).folder(arm(plan, "n").untrained_key or "") for name in ("whole", "torn")]
    one, other = ({path.name: path.read_bytes() for path in folder.glob("*.json")} for folder in probes)
    assert len(one) == 2 and one == other, "what several nodes may write at once has the same bytes"


def assert_same_encoder(trial: Trial, one: Path, other: Path) -> None:
    a, b = (load_encoder_weights(TrialStore(path).files(trial.key))[0] for path in (one, other))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_epochs_axis_costs_its_longest_member(tmp_path: Path, images: Images) -> None:
    plan = tiny_plan(tmp_path, {"e": {"epochs": [2, 3, 5]}})
    trials = sorted(plan.trials.values(), key=lambda trial: trial.config.epochs)
    seen: list[float] = []
    for trial in trials:
        run_trial(trial, images, tmp_path / "together", on_epoch=lambda record: seen.append(record["epoch"]))
    assert seen == [1, 2, 3, 4, 5], "five epochs in all"
    trained = [TrialStore(tmp_path / "together").read(trial.key).training for trial in trials]
    assert [t.epochs_trained for t in trained if t] == [2, 1, 2] and [len(t.history) for t in trained if t] == [2, 3, 5]
    run_trial(trials[1], images, tmp_path / "alone")
    assert_same_encoder(trials[1], tmp_path / "together", tmp_path / "alone")
    records = [record_of(TrialStore(tmp_path / name), trials[1]).metrics for name in ("together", "alone")]
    assert records[0] == records[1]


def test_the_untrained_encoder_is_probed_once_for_all(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {"mu": 0}, "u": {"method": "untrained"}}), TrialStore(tmp_path)
    run_trial(arm(plan, "base"), images, tmp_path)
    monkeypatch.setattr("sweeps.execution.worker.embedder", None)
    run_trial(arm(plan, "x"), images, tmp_path)
    monkeypatch.undo()
    run_trial(arm(plan, "u"), images, tmp_path)
    untrained = record_of(store, arm(plan, "u")).metrics["probe_accuracy"]
    for name in ("base", "x"):
        metrics = record_of(store, arm(plan, name)).metrics
        assert metrics["probe_gain"] == pytest.approx(metrics["probe_accuracy"] - untrained, abs=1e-12)


def test_two_processes_do_not_train_the_same_trial(tmp_path: Path, images: Images) -> None:
    plan = tiny_plan(tmp_path, {"x": {}})
    (tmp_path / "given").write_bytes(pickle.dumps((arm(plan, "base"), images)))
    code = (
        "import pickle, sys; from pathlib import Path; from sweeps.execution.worker import run_trial\n"
        "trial, images = pickle.loads(Path('given').read_bytes())\n"
        "run_trial(trial, images, Path('results'), on_epoch=lambda record: print('epoch', flush=True))"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(text.count("epoch") for text in said) == [0, 2]
