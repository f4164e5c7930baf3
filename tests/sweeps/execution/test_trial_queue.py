"""The order of trials: what is handed out when, what is skipped, who is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.execution.callbacks import SweepCallback
from sweeps.execution.trial_queue import TrialQueue
from sweeps.storage.records import TrialRecord
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.tiny import CHAIN, arm, finish, record_of, tiny_plan


class Listener(SweepCallback):
    """Remembers how trials ended."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def on_trial_end(self, record: TrialRecord) -> None:
        self.heard.append((record.status, record.trial.arm))


def test_trials_are_handed_out_when_what_they_need_is_done(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, CHAIN), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [ears := Listener()])
    first, second = queue.next_ready(), queue.next_ready()
    assert first is not None and second is not None
    assert {first.arm, second.arm} == {"base", "z"}
    assert queue.next_ready() is None and not queue.finished, "all that is left waits"
    finish(store, second)
    queue.trial_ended(second.key, None)
    assert queue.next_ready() is None
    finish(store, first)
    queue.trial_ended(first.key, None)
    order = []
    while not queue.finished:
        trial = queue.next_ready()
        assert trial is not None
        order.append(trial.arm)
        finish(store, trial)
        queue.trial_ended(trial.key, None)
    assert order == ["n", "m"]
    assert {status for status, _ in ears.heard} == {"done"}


def test_a_failed_parent_skips_its_descendants_and_nobody_else(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, CHAIN), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [ears := Listener()])
    base = queue.next_ready()
    assert base is not None and base.arm == "base"
    queue.trial_ended(base.key, "the worker died")
    assert ears.heard == [("failed", "base"), ("skipped", "n"), ("skipped", "m")]
    assert "its parent (base · seed 0) failed: the worker died" in queue.skipped[arm(plan, "n").key]
    assert store.read(base.key).failure == "the worker died", "a worker that died left no reason of its own"
    other = queue.next_ready()
    assert other is not None and other.arm == "z" and queue.finished


def test_a_full_disk_does_not_end_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = tiny_plan(tmp_path, {"n": {"pairing": "neighbors"}}), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [ears := Listener()])
    trial = queue.next_ready()
    assert trial is not None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sweeps.storage.checked_folder.atomic_write", full)
    queue.trial_ended(trial.key, "OSError: [Errno 28] No space left on device")
    assert ears.heard == [("failed", "base"), ("skipped", "n")]


def test_a_failed_shorter_trial_does_not_stop_the_longer_one(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"e": {"epochs": [1, 2]}}), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [])
    short = queue.next_ready()
    assert short is not None and short.config.epochs == 1 and queue.next_ready() is None
    queue.trial_ended(short.key, "died")
    longer = queue.next_ready()
    assert longer is not None and longer.config.epochs == 2


def test_a_reason_written_by_the_worker_is_kept(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {}}), TrialStore(tmp_path)
    queue = TrialQueue(plan, list(plan.trials), store, [])
    trial = queue.next_ready()
    assert trial is not None
    store.save_failure(trial.key, "NonFiniteLossError: at epoch 1")
    queue.trial_ended(trial.key, "ray::Trainable ...")
    assert record_of(store, trial).reason == "NonFiniteLossError: at epoch 1"
