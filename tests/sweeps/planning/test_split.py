"""``split: seed``: train subset and validation are drawn with the seed, so that every method depends on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.contrasts import compared_arms, contrasts
from sweeps.planning.trial import Plan
from sweeps.storage.image_sets import load_images
from sweeps.storage.records import TrialRecord, TrialStatus
from tests.sweeps.tiny import tiny_plan

ARMS = {"raw": {"method": "raw-pixels"}, "n": {"pairing": "neighbors"}}
SEED = {name: fields | {"split": "seed"} for name, fields in ({"base": {}} | ARMS).items()}


def drawn(tmp_path: Path, seeds: int = 3) -> Plan:
    return tiny_plan(tmp_path, SEED, seeds=tuple(range(seeds)))


def test_every_method_has_a_trial_for_each_seed(tmp_path: Path) -> None:
    fixed, plan = tiny_plan(tmp_path, ARMS, seeds=(0, 1, 2)), drawn(tmp_path)
    assert sum("raw" in trial.arms for trial in fixed.trials.values()) == 1
    raw = [trial for trial in plan.trials.values() if "raw" in trial.arms]
    assert [trial.title for trial in raw] == [f"raw · seed {seed}" for seed in range(3)]
    assert not set(fixed.trials) & set(plan.trials), "other images make other trials"
    assert compared_arms(plan) == ["raw", "n"] and compared_arms(fixed) == ["n"]


def test_a_parent_has_the_images_of_its_child(tmp_path: Path) -> None:
    plan = drawn(tmp_path)
    for trial in plan.trials.values():
        if trial.parent_key is not None:
            assert plan.trials[trial.parent_key].config.images_key == trial.config.images_key


def test_the_images_are_drawn_with_the_seed_and_the_test_images_are_not(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, SEED | {"fixed": {}}, seeds=(0, 1))
    images = load_images(plan.trials.values(), tmp_path)
    subset = plan.base.train_subset
    assert set(images.splits) == {("digits-m", subset, 0), ("digits-m", subset, 1), ("digits-m", subset, None)}
    one, other, fixed = (images.splits["digits-m", subset, seed] for seed in (0, 1, None))
    assert one.test is other.test is fixed.test
    for different in (other, fixed):
        assert len(one.train) != len(different.train) or not np.array_equal(one.train.images, different.train.images)
    for trial in plan.trials.values():
        seed = trial.config.seed if trial.config.split == "seed" else None
        assert images.of(trial.config) is images.splits["digits-m", subset, seed]


def test_a_baseline_is_compared_with_base_seed_by_seed(tmp_path: Path) -> None:
    plan = drawn(tmp_path, 4)
    values = {"base": [0.5, 0.52, 0.49, 0.51], "raw": [0.4, 0.43, 0.38, 0.42], "n": [0.5, 0.5, 0.5, 0.5]}
    records = [
        TrialRecord(trial, TrialStatus.DONE, None, {"silhouette": values[trial.arm][trial.config.seed]})
        for trial in plan.trials.values()
    ]
    found = {contrast.arm: contrast for contrast in contrasts(summarize(records), "silhouette", 0.01)}
    assert found["raw"].n == 4 and not found["raw"].without_seeds, "paired, and in the family of the other arms"
    assert found["raw"].difference == np.mean(np.subtract(values["raw"], values["base"]))
