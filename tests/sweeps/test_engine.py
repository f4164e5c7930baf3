"""The parts of the engine, each alone: store, worker, progression, cost, report."""

from __future__ import annotations

import csv
import math
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from core.atomic_files import file_lock
from core.datasets import ImageSet, Splits
from evaluation.evaluate import METRICS, Metric, metric_ids
from evaluation.per_image import detail_ids
from sweeps.execution import cost
from sweeps.execution.progress import Progress
from sweeps.execution.trial_queue import TrialQueue
from sweeps.execution.worker import run_trial
from sweeps.formatting import duration
from sweeps.planning.grid import Grid
from sweeps.planning.planner import make_plan
from sweeps.planning.trial import Plan, Trial
from sweeps.reporting import tables
from sweeps.storage.image_sets import Images
from sweeps.storage.records import MetricResult, TrainingRecord, TrialRecord
from sweeps.storage.trial_store import TrialStore
from tests.conftest import TINY, image_set


def tiny_plan(tmp_path: Path, arms: dict[str, Any], seeds: tuple[int, ...] = (0,)) -> Plan:
    grid = Grid(name="tiny", question="does it work?", arms=arms, base={**TINY, "augmentation": {"flip": 0.5}})
    return make_plan(
        grid, "digits-m", settings={}, seeds=seeds, arms=None, data_dir=tmp_path, gpu=False, cpu_flags=frozenset()
    )  # fmt: skip


def arm(plan: Plan, name: str) -> Trial:
    return next(trial for trial in plan.trials.values() if name in (trial.arm, *trial.aliases))


@pytest.fixture
def images(splits: Splits) -> Images:
    anomalies: dict[str, ImageSet] = {"digits-m-patches": image_set(20, seed=5), "digits-m-black": image_set(20, seed=6)}
    return Images({("digits-m", None): splits}, anomalies)


# -- worker and store ----------------------------------------------------------------------------------------------------


def test_a_trial_leaves_everything_and_is_not_done_twice(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {}}), TrialStore(tmp_path)
    trial = arm(plan, "base")
    seen: list[float] = []
    run_trial(trial, images, tmp_path, on_epoch=lambda record: seen.append(record["epoch"]))
    assert seen == [1, 2]
    record = store.record(trial)
    assert record.status == "done" and record.problems == {}
    assert record.metrics["anomaly_auc"] == record.metrics["anomaly_auc/digits-m-patches"]
    assert {"probe_accuracy", "silhouette", "probe_gain", "collapse_indicators"} <= set(record.metrics)
    assert record.training is not None and record.training.epochs_trained == 2
    assert record.metrics["projection_std"] == record.training.history[-1]["projection_std"]
    files = {path.name for path in store.folder(trial.key).iterdir()}
    assert {"config.json", "checkpoint.pt", "encoder.pt", "trained.json", "details", "lock"} <= files and len(files) == 7
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    monkeypatch.setattr("sweeps.execution.worker.evaluate", None)
    run_trial(trial, images, tmp_path)


def test_a_new_metric_is_computed_without_training(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {}}), TrialStore(tmp_path)
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    monkeypatch.setitem(METRICS, "mean_norm", Metric(lambda e: float(abs(e.test.representation).mean()), None, "a new one"))
    assert not store.is_done(trial)
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    run_trial(trial, images, tmp_path)
    assert store.is_done(trial) and store.record(trial).metrics["mean_norm"] > 0


def test_a_new_anomaly_set_is_evaluated_without_training(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {}}), TrialStore(tmp_path)
    trial = arm(plan, "base")
    run_trial(trial, images, tmp_path)
    more = replace(trial, anomalies={"digits-m-black": "black-1", **trial.anomalies})
    monkeypatch.setattr("sweeps.execution.worker.train", None)
    run_trial(more, images, tmp_path)
    record = store.record(more)
    assert record.metrics["anomaly_auc"] == record.metrics["anomaly_auc/digits-m-black"], "the first is the headline"
    assert store.record(trial).metrics["anomaly_auc"] == record.metrics["anomaly_auc/digits-m-patches"]


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
    metrics = [TrialStore(tmp_path / name).record(arm(plan, "n")).metrics for name in ("whole", "torn")]
    assert metrics[0] == metrics[1]


def assert_same_encoder(trial: Trial, one: Path, other: Path) -> None:
    a, b = (torch.load(TrialStore(path).folder(trial.key) / "encoder.pt", weights_only=True) for path in (one, other))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_epochs_axis_costs_its_longest_member(tmp_path: Path, images: Images) -> None:
    plan = tiny_plan(tmp_path, {"e": {"epochs": [2, 3, 5]}})
    trials = sorted(plan.trials.values(), key=lambda trial: trial.config.epochs)
    seen: list[float] = []
    for trial in trials:
        run_trial(trial, images, tmp_path / "together", on_epoch=lambda record: seen.append(record["epoch"]))
    assert seen == [1, 2, 3, 4, 5], "five epochs in all"
    trained = [TrialStore(tmp_path / "together").training(trial.key) for trial in trials]
    assert [t.epochs_trained for t in trained if t] == [2, 1, 2] and [len(t.history) for t in trained if t] == [2, 3, 5]
    run_trial(trials[1], images, tmp_path / "alone")
    assert_same_encoder(trials[1], tmp_path / "together", tmp_path / "alone")
    records = [TrialStore(tmp_path / name).record(trials[1]).metrics for name in ("together", "alone")]
    assert records[0] == records[1]


def test_the_untrained_encoder_is_probed_once_for_all(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = tiny_plan(tmp_path, {"x": {"mu": 0}, "u": {"method": "untrained"}}), TrialStore(tmp_path)
    run_trial(arm(plan, "base"), images, tmp_path)
    monkeypatch.setattr("sweeps.execution.worker.embedder", None)
    run_trial(arm(plan, "x"), images, tmp_path)
    monkeypatch.undo()
    run_trial(arm(plan, "u"), images, tmp_path)
    untrained = store.record(arm(plan, "u")).metrics["probe_accuracy"]
    for name in ("base", "x"):
        metrics = store.record(arm(plan, name)).metrics
        assert metrics["probe_gain"] == pytest.approx(metrics["probe_accuracy"] - untrained, abs=1e-12)


# -- progression ---------------------------------------------------------------------------------------------------------


class Ears:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def started(self, trial: Trial) -> None:
        self.heard.append(("started", trial.arm))

    def epoch(self, trial: Trial, record: dict[str, float]) -> None:
        self.heard.append(("epoch", trial.arm))

    def ended(self, record: TrialRecord) -> None:
        self.heard.append((record.status, record.trial.arm))

    def drawn(self, trial: Trial) -> None:
        self.heard.append(("drawn", trial.arm))


CHAIN = {
    "n": {"pairing": "neighbors"},
    "m": {"pairing": "neighbors", "parent": {"pairing": "neighbors", "parent": {}}},
    "z": {"mu": 0},
}


def finish(store: TrialStore, trial: Trial) -> None:
    """Puts a finished trial into the store without training one."""
    store.save_training(trial.key, TrainingRecord(({"images_per_second": 50.0},), None, 1.0, 1, "CPU, x", 1, {}, 0.0))
    results = {id_: MetricResult(0.5, None, 0.0) for id_ in metric_ids(trial.anomalies).values()}
    results |= {id_: MetricResult(None, None, 0.0) for id_ in detail_ids(trial.anomalies).values()}
    store.save_results(trial.key, results)


def test_trials_are_handed_out_when_what_they_need_is_done(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, CHAIN), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [ears := Ears()])
    first, second = queue.next_ready(), queue.next_ready()
    assert first is not None and second is not None
    assert {first.arm, second.arm} == {"base", "z"}
    assert queue.next_ready() is None and not queue.finished, "all that is left waits"
    finish(store, second)
    queue.ended(second.key, None)
    assert queue.next_ready() is None
    finish(store, first)
    queue.ended(first.key, None)
    order = []
    while not queue.finished:
        trial = queue.next_ready()
        assert trial is not None
        order.append(trial.arm)
        finish(store, trial)
        queue.ended(trial.key, None)
    assert order == ["n", "m"]
    assert {status for status, _ in ears.heard} == {"done"}


def test_a_failed_parent_skips_its_descendants_and_nobody_else(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, CHAIN), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [ears := Ears()])
    base = queue.next_ready()
    assert base is not None and base.arm == "base"
    queue.ended(base.key, "the worker died")
    assert ears.heard == [("failed", "base"), ("skipped", "n"), ("skipped", "m")]
    assert "its parent (base · seed 0) failed: the worker died" in queue.skipped[arm(plan, "n").key]
    assert store.failure(base.key) == "the worker died", "a worker that died left no reason of its own"
    other = queue.next_ready()
    assert other is not None and other.arm == "z" and queue.finished


def test_a_full_disk_does_not_end_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = tiny_plan(tmp_path, {"n": {"pairing": "neighbors"}}), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [ears := Ears()])
    trial = queue.next_ready()
    assert trial is not None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sweeps.storage.trial_store.save_json", full)
    queue.ended(trial.key, "OSError: [Errno 28] No space left on device")
    assert ears.heard == [("failed", "base"), ("skipped", "n")]


def test_a_failed_shorter_trial_does_not_stop_the_longer_one(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"e": {"epochs": [1, 2]}}), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [])
    short = queue.next_ready()
    assert short is not None and short.config.epochs == 1 and queue.next_ready() is None
    queue.ended(short.key, "died")
    longer = queue.next_ready()
    assert longer is not None and longer.config.epochs == 2


def test_a_reason_written_by_the_worker_is_kept(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {}}), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [])
    trial = queue.next_ready()
    assert trial is not None
    store.save_failure(trial.key, "NonFiniteLossError: at epoch 1")
    queue.ended(trial.key, "ray::Trainable ...")
    assert store.record(trial).reason == "NonFiniteLossError: at epoch 1"


# -- cost and progress ---------------------------------------------------------------------------------------------------


def test_wall_time_respects_slots_and_needs(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, CHAIN)
    seconds = dict.fromkeys(plan.trials, 10.0)
    assert cost.wall_time(plan, seconds, 1) == 40
    assert cost.wall_time(plan, seconds, 4) == 30, "base, n, m one after another"
    assert cost.critical_path_order(plan, seconds)[0] == arm(plan, "base").key
    del seconds[arm(plan, "base").key]
    assert cost.wall_time(plan, seconds, 4) == 20


def test_estimates_rest_on_finished_trials_of_the_same_kind(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}, "n": {"pairing": "pixel-neighbors"}}), TrialStore(tmp_path)
    before = cost.estimate(plan, store, (), gpu=False)
    assert before.measured == 0 and "rule" in before.basis
    from sweeps.storage.trial_store import save_config

    finish(store, arm(plan, "base"))
    save_config(store, arm(plan, "base"), {})
    after = cost.estimate(plan, store, [arm(plan, "base").key], gpu=False)
    assert after.seconds[arm(plan, "z").key] == pytest.approx(2 * 7782 / 50.0, abs=10)
    assert after.seconds[arm(plan, "n").key] == before.seconds[arm(plan, "n").key], "not augmented: another kind"
    assert "1 of 2" in after.basis
    assert cost.estimate(plan, store, (), gpu=True).measured == 0, "a CPU's speed says nothing of a GPU's"


def test_foreign_entries_of_the_storage_do_no_harm(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    finish(store, arm(plan, "base"))
    (tmp_path / "trials" / ".DS_Store").touch()
    (store.folder(arm(plan, "base").key) / "config.json").write_text('{"config": {"pairing": "of another version"}}')
    assert cost.estimate(plan, store, (), gpu=False).measured == 0


def test_the_epochs_axis_is_costed_once(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"e": {"epochs": [2, 4, 8]}})
    single = tiny_plan(tmp_path, {"e": {"epochs": [8]}})
    axis = sum(cost.estimate(plan, TrialStore(tmp_path), (), gpu=False).seconds.values())
    alone = sum(cost.estimate(single, TrialStore(tmp_path), (), gpu=False).seconds.values())
    assert axis - alone < 10, "one more evaluation, no more epochs"


def test_progress_tells_what_ended_and_the_time_left(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    console = Console(record=True, width=120, force_terminal=False, file=(tmp_path / "log").open("w"))
    seconds = dict.fromkeys(plan.trials, 100.0)
    progress = Progress(plan, seconds, 1, console)
    progress.started(arm(plan, "base"))
    progress.epoch(arm(plan, "base"), {"epoch": 1})
    assert "0 of 2 done, 1 running, 1 waiting" in progress._status() and "base · seed 0 1/2" in progress._status()
    assert "3 min 20 s left" in progress._status()
    finish(store, arm(plan, "base"))
    progress.ended(store.record(arm(plan, "base")))
    store.save_failure(arm(plan, "z").key, "it broke")
    progress.ended(store.record(arm(plan, "z")))
    assert "1 of 2 done, 0 running, 0 waiting, 1 failed" in progress._status()
    text = console.export_text()
    assert "done  base · seed 0  probe_accuracy 0.5000" in text and "failed  z · seed 0  it broke" in text


def test_durations() -> None:
    assert [duration(s) for s in (4.4, 75, 3900)] == ["4 s", "1 min 15 s", "1 h 5 min"]


# -- report --------------------------------------------------------------------------------------------------------------


def test_the_table_has_mean_deviation_and_n(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"z": {"mu": 0}}, seeds=(0, 1, 2))
    values = {"base": [0.1, 0.2, 0.6], "z": [0.5, 0.5, None]}
    records = []
    for trial in plan.trials.values():
        value = values[trial.arm][trial.config.seed]
        metrics = {"probe_accuracy": value} if value is not None else {}
        records.append(TrialRecord(trial, "done" if value else "failed", None, metrics, reason=None if value else "it broke"))
    paths = tables.write_tables(tmp_path, plan, records)
    rows = {row["arm"]: row for row in csv.DictReader(paths[0].open())}
    assert float(rows["base"]["probe_accuracy mean"]) == pytest.approx(0.3)
    assert float(rows["base"]["probe_accuracy sd"]) == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert rows["base"]["probe_accuracy n"] == "3" and rows["z"]["probe_accuracy n"] == "2"
    assert rows["z"]["state"] == "2 done, 1 failed" and rows["z"]["silhouette mean"] == ""
    trials = list(csv.DictReader(paths[1].open()))
    assert [row["status"] for row in trials].count("failed") == 1 and len(trials) == 6
    console = Console(record=True, width=160, file=(tmp_path / "log").open("w"))
    console.print(tables.table(plan, tables.summarize(records), {"z": "undecided"}))
    assert "0.3000 ± 0.2646" in console.export_text()


# -- two processes at once -----------------------------------------------------------------------------------------------


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


def test_a_lock_of_a_process_that_died_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from core.atomic_files import locked\n"
        "with locked(Path('lock')):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    taken = threading.Event()

    def take() -> None:
        with file_lock(tmp_path / "lock"):
            taken.set()

    waiting = threading.Thread(target=take, daemon=True)
    waiting.start()
    assert not taken.wait(0.5), "held by another process"
    holder.kill()
    assert taken.wait(5), "free as soon as it is dead"
    holder.wait()
