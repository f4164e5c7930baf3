"""Metrics that are computed after the slot: the same numbers as in it, once, and said where they cannot be had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from core.compute_settings import compute_settings
from evaluation.evaluate import METRICS, evaluate
from evaluation.per_image import DETAILS
from sweeps.execution import after_slot
from sweeps.execution.figure_tasks import draw_figures
from sweeps.execution.worker import _inputs, run_trial
from sweeps.storage.image_sets import Images
from sweeps.storage.records import MetricResult
from sweeps.storage.trial_state import READOUTS
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.tiny import arm, is_done, is_drawn, record_of, runs, tell, tiny_plan

ARMS = {"pca": {"method": "pca"}, "without": {"projector_dims": []}}
#: Metrics of representations, some of each kind.
SOME = {"knn_accuracy", "knn_accuracy_cosine", "alpha_req", "anomaly_auc_kth/digits-m-patches", "probe_accuracy_study"}
#: Metrics of backbone and projection.
READ_OUT = {"probe_accuracy_backbone", "probe_accuracy_projection", "knn_accuracy_cosine_backbone", "rankme_projection"}


def test_they_are_the_slots_numbers_computed_once_the_trial_is_done(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, ARMS), TrialStore(tmp_path)
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
        assert is_done(store, trial) and not is_drawn(store, trial)
        before = record_of(store, trial)
        assert before.status == "done" and "probe_accuracy" in before.metrics and not SOME & set(before.metrics)
        draw_figures(trial, images, tmp_path)
        after = record_of(store, trial)
        assert set(after.metrics) >= SOME and is_drawn(store, trial)
        assert set(after.metrics) >= READ_OUT or trial.config.method != "vicreg"
        state = store.read(trial.key)
        assert state.verify() == {} and state.missing() == [] and not state.has_readouts, "what was left is used up"
        assert state.training is not None
        late = [name for name in trial.metric_ids if trial.is_after_slot(name)]
        with compute_settings(1, deterministic=False):
            in_slot = evaluate(_inputs(trial, state.training, images, store, torch.device("cpu")), late)
        found = {name: after.metrics.get(name) for name in late if name not in after.problems}
        assert found == {
            name: pytest.approx(value, rel=1e-9) if value is not None else None for name, value in in_slot.values.items()
        }
        assert {name: after.problems[name] for name in late if name in after.problems} == in_slot.problems


def test_what_the_slot_left_is_left_again_where_it_is_gone_or_damaged(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    trial = arm(plan, "z")
    run_trial(trial, images, tmp_path)
    file = store.folder(trial.key) / READOUTS
    whole = file.read_bytes()
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    for harm in ("gone", "damaged"):
        assert file.exists() and is_done(store, trial)
        if harm == "gone":
            file.unlink()
        else:
            file.write_bytes(whole[:-9])
        draw_figures(trial, images, tmp_path)
        assert not READ_OUT & set(record_of(store, trial).metrics) and not is_done(store, trial), "the slot is needed again"
        run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    assert set(record_of(store, trial).metrics) >= READ_OUT and is_drawn(store, trial) and not file.exists()


def test_what_is_left_by_a_process_that_died_is_removed(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    trial = arm(plan, "z")
    run_trial(trial, images, tmp_path)
    content = store.files(trial.key).load_arrays(READOUTS)
    assert content is not None
    draw_figures(trial, images, tmp_path)
    store.files(trial.key).write_arrays(READOUTS, content)  # as if it had died before removing it
    assert not is_drawn(store, trial)
    draw_figures(trial, images, tmp_path)
    assert is_drawn(store, trial) and not store.read(trial.key).has_readouts


def test_pixels_are_not_kept_and_read_again(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"pixels": {"method": "raw-pixels"}}), TrialStore(tmp_path)
    trial = arm(plan, "pixels")
    run_trial(trial, images, tmp_path)
    state = store.read(trial.key)
    assert state.training is not None and state.detail(trial, "representations") is None
    after = after_slot._inputs(trial, images, state)
    in_slot = _inputs(trial, state.training, images, store, torch.device("cpu"))
    assert after is not None
    for one, other in ((after.train, in_slot.train), (after.test, in_slot.test), (after.validation, in_slot.validation),
                       (after.anomalies["digits-m-patches"], in_slot.anomalies["digits-m-patches"])):  # fmt: skip
        np.testing.assert_array_equal(one.representation, other.representation)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_a_large_representation_is_not_kept_and_measured_in_the_slot(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"large": {"representation_dim": 3072}}), TrialStore(tmp_path)
    for name, in_slot in (("base", False), ("large", True)):
        trial = arm(plan, name)
        state = store.read(trial.key)
        assert set(state.missing_metrics(trial)) >= SOME if in_slot else not SOME & set(state.missing_metrics(trial))
        assert set(state.missing_metrics(trial, after_slot=True)) >= READ_OUT, "these have their own source"


def test_a_new_version_is_computed_for_trials_that_are_done_and_nothing_else(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    trial = arm(plan, "z")
    run_trial(trial, images, tmp_path)
    draw_figures(trial, images, tmp_path)
    monkeypatch.setitem(METRICS, "knn_accuracy", replace(METRICS["knn_accuracy"], version=99, function=lambda _: 0.25))
    assert is_done(store, trial) and not is_drawn(store, trial), "no slot is needed"
    monkeypatch.setattr("sweeps.execution.figure_tasks._draw", None)
    draw_figures(trial, images, tmp_path)
    assert record_of(store, trial).metrics["knn_accuracy"] == 0.25 and is_drawn(store, trial)


def test_without_representations_each_says_why(tmp_path: Path, images: Images) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    for name, lacking in (("base", "representations"), ("z", "anomalies/digits-m-patches")):
        trial = arm(plan, name)
        run_trial(trial, images, tmp_path)
        results = {trial.detail_ids[lacking]: MetricResult(None, "ValueError: oh", 9e9)}
        store.save_results(trial.key, results)
        (store.folder(trial.key) / "details" / f"{trial.detail_ids[lacking].split(':')[1]}.npz").unlink()
        store.files(trial.key).forget(f"details/{trial.detail_ids[lacking].split(':')[1]}.npz")
        draw_figures(trial, images, tmp_path)
        record = record_of(store, trial)
        assert record.problems["anomaly_auc_kth/digits-m-patches"] == "ValueError: oh"
        assert ("knn_accuracy" in record.problems) == (name == "base")
        assert not store.read(trial.key).missing_metrics(trial, after_slot=True), "it is not tried again and again"


def test_a_defect_in_one_is_tried_again(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    trial = arm(plan, "z")
    run_trial(trial, images, tmp_path)
    with monkeypatch.context() as broken:
        broken.setitem(METRICS, "alpha_req", replace(METRICS["alpha_req"], function=lambda _: {}["oh"]))
        draw_figures(trial, images, tmp_path)
    assert record_of(store, trial).problems == {"alpha_req": "KeyError: 'oh'"} and not is_drawn(store, trial)
    draw_figures(trial, images, tmp_path)
    assert record_of(store, trial).problems == {} and is_drawn(store, trial)


def test_mlflow_has_them_with_the_figures(tmp_path: Path, images: Images) -> None:
    plan, uri = tiny_plan(tmp_path, {"z": {"mu": 0}}), f"sqlite:///{tmp_path / 'mlflow.db'}"
    for trial in plan.trials.values():
        run_trial(trial, images, tmp_path)
    tell(plan, tmp_path, uri)
    assert all("knn_accuracy" not in child.data.metrics for child in runs(uri)[1].values())
    for trial in plan.trials.values():
        draw_figures(trial, images, tmp_path)
    tell(plan, tmp_path, uri, live=True)
    for child in runs(uri)[1].values():
        assert {"knn_accuracy", "probe_l2", "lidar", "anomaly_auc_kth/digits-m-patches"} <= set(child.data.metrics)
        history = MlflowClient(uri).get_metric_history(child.info.run_id, "probe_accuracy")
        assert len(history) == 1, "what was there is not written again"


def test_every_late_metric_needs_only_what_is_kept() -> None:
    assert DETAILS["representations"].version == 1, "the kept arrays changed: look at after_slot.py"
    late = {name for name, metric in METRICS.items() if metric.after_slot is not None}
    assert not late & {"probe_accuracy", "anomaly_auc", "silhouette"}, "headline metrics are there when the trial ends"
    assert not any(METRICS[name].usable_for_selection for name in late), "a search needs its objective when a trial ends"
