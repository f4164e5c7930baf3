"""What a plan costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.execution import cost
from sweeps.storage.checked_folder import CHECKSUMS
from sweeps.storage.records import TrainingRecord
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.tiny import CHAIN, arm, finish, snapshot, tiny_plan


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
    before = cost.estimate(plan, StoreSnapshot(store), (), gpu=False)
    assert before.measured == 0 and "rule" in before.basis
    finish(store, arm(plan, "base"))
    store.save_config(arm(plan, "base"))
    after = cost.estimate(plan, StoreSnapshot(store), [arm(plan, "base").key], gpu=False)
    assert after.seconds[arm(plan, "z").key] == pytest.approx(2 * 7782 / 50.0, abs=10)
    assert after.seconds[arm(plan, "n").key] == before.seconds[arm(plan, "n").key], "not augmented: another kind"
    assert "1 of 2" in after.basis
    assert cost.estimate(plan, StoreSnapshot(store), (), gpu=True).measured == 0, "a CPU's speed says nothing of a GPU's"


@pytest.mark.parametrize("record", [{}, {"images_per_second": 0.0}])
def test_a_trial_without_a_speed_is_none_to_estimate_from(tmp_path: Path, record: dict[str, float]) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    base = arm(plan, "base")
    finish(store, base)
    store.save_config(base)
    store.save_training(base.key, TrainingRecord((record,), None, 1.0, 1, "CPU, x", 1, {}, 0.0))
    assert cost.estimate(plan, StoreSnapshot(store), [base.key], gpu=False).measured == 0
    (store.folder(base.key) / "config.json").write_text('{"x": 1}')
    (store.folder(base.key) / CHECKSUMS).unlink()
    assert cost.estimate(plan, StoreSnapshot(store), [base.key], gpu=False).measured == 0


def test_a_child_of_another_encoder_than_the_present_one_is_trained_in_full(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, CHAIN), TrialStore(tmp_path)
    child = arm(plan, "n")
    for trial in plan.trials.values():
        finish(store, trial)
    training = store.read(child.key).training
    assert training is not None and snapshot(tmp_path).is_trained(child.key, child.parent_key)
    store.save_training(child.key, replace(training, parent_encoder="of another encoder"))
    assert not snapshot(tmp_path).is_trained(child.key, child.parent_key)
    others = set(plan.trials) - {child.key}
    unknown = cost.estimate(plan, StoreSnapshot(TrialStore(tmp_path / "empty")), others, gpu=False).seconds
    assert cost.estimate(plan, snapshot(tmp_path), others, gpu=False).seconds == unknown


def test_foreign_entries_of_the_storage_do_no_harm(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}}), TrialStore(tmp_path)
    finish(store, arm(plan, "base"))
    (tmp_path / "trials" / ".DS_Store").touch()
    (store.folder(arm(plan, "base").key) / "config.json").write_text('{"config": {"pairing": "of another version"}}')
    assert cost.estimate(plan, StoreSnapshot(store), (), gpu=False).measured == 0


def test_the_epochs_axis_is_costed_once(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"e": {"epochs": [2, 4, 8]}})
    single = tiny_plan(tmp_path, {"e": {"epochs": [8]}})
    axis = sum(cost.estimate(plan, snapshot(tmp_path), (), gpu=False).seconds.values())
    alone = sum(cost.estimate(single, snapshot(tmp_path), (), gpu=False).seconds.values())
    assert axis - alone < 10, "one more evaluation, no more epochs"
