"""The statistics against scipy, definitions written out, and simulation with a known truth."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, ttest_1samp, ttest_rel

import sweeps.analysis.contrasts as contrasts_module
from evaluation.per_image import detail_ids
from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.contrasts import contrasts
from sweeps.analysis.significance import POWER, bootstrap_error, holm, minimum_detectable_difference
from sweeps.reporting import tables
from sweeps.reporting.report_input import ReportInput
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from tests.sweeps.analysis.test_claim_tests import records
from tests.sweeps.tiny import finish, page_of, record_of, tiny_plan

ARMS = {"z": {"mu": 0}, "n": {"pairing": "neighbors"}, "raw": {"method": "raw-pixels"}, "same": {}}
BASE = [0.50, 0.52, 0.49, 0.55, 0.51]


def found(tmp_path: Path, values: dict[str, list[float]], margin: float = 0.01, **more: Any) -> dict[str, Any]:
    plan = tiny_plan(tmp_path, ARMS, seeds=tuple(range(len(values["base"]))))
    summaries = summarize(records(plan, {arm: {"nmi": numbers} for arm, numbers in values.items()}))
    return {contrast.arm: contrast for contrast in contrasts(summaries, "nmi", margin, **more)}


def test_contrasts_are_scipys_paired_tests_corrected_over_the_arms(tmp_path: Path) -> None:
    low, near = [0.41, 0.40, 0.42, 0.44, 0.40], [0.47, 0.53, 0.47, 0.54, 0.48]
    got = found(tmp_path, {"base": BASE, "z": low, "n": near, "raw": [0.3]})
    assert set(got) == {"z", "n", "raw"}, "an arm that is the same trial as base is no contrast"
    p = {
        "z": ttest_rel(low, BASE).pvalue,
        "n": ttest_rel(near, BASE).pvalue,
        "raw": ttest_1samp(np.subtract(0.3, BASE), 0).pvalue,
    }
    for name, contrast in got.items():
        assert contrast.n == 5 and contrast.p == pytest.approx(p[name], rel=1e-9)
    interval = ttest_rel(low, BASE).confidence_interval(0.95)
    assert got["z"].interval == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert got["z"].correlation == pytest.approx(pearsonr(low, BASE).statistic) and got["raw"].correlation is None
    assert got["z"].p_holm == pytest.approx(2 * p["z"]) and got["n"].p_holm == pytest.approx(max(p["n"], 2 * p["z"]))
    assert got["raw"].p_holm == got["raw"].p and got["raw"].without_seeds, "a family of its own"
    assert (got["z"].verdict, got["n"].verdict, got["raw"].verdict) == ("lower", "undecided", "lower")


def test_a_parent_that_no_arm_asked_for_is_not_tested(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"n": {"pairing": "neighbors", "parent": {"mu": 1}}}, seeds=tuple(range(5)))
    low = [0.41, 0.40, 0.42, 0.44, 0.40]
    given = {"base": {"nmi": BASE}, "n": {"nmi": low}, "parent of n": {"nmi": low}}
    (contrast,) = contrasts(summarize(records(plan, given)), "nmi", 0.01)
    assert contrast.arm == "n" and contrast.p_holm == contrast.p


@pytest.mark.parametrize(("shift", "spread", "margin", "verdict"), [
    (0.1, 0.01, 0.01, "higher"), (-0.1, 0.01, 0.01, "lower"), (0.0, 0.002, 0.01, "equivalent"), (0.0, 0.05, 0.01, "undecided"),
    (0.004, 0.0005, 0.01, "equivalent"), (0.004, 0.0005, 0.001, "higher"),
])  # fmt: skip
def test_verdicts(shift: float, spread: float, margin: float, verdict: str, tmp_path: Path) -> None:
    noise = spread * np.array([-1.0, 0.6, 0.9, -0.7, 0.2])
    got = found(tmp_path, {"base": BASE, "z": list(np.add(BASE, shift + noise - noise.mean()))}, margin)
    assert got["z"].verdict == verdict


def test_with_one_seed_nothing_is_claimed(tmp_path: Path) -> None:
    got = found(tmp_path, {"base": [0.5], "z": [0.1]})
    assert got["z"].verdict == "one seed" and got["z"].p is None and got["z"].difference == pytest.approx(-0.4)
    assert got["n"].verdict == "no result"


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_the_detectable_difference_is_found_as_often_as_stated() -> None:
    draw = np.random.default_rng(0)
    for n in (3, 5, 10):
        shift = minimum_detectable_difference(2.0, n)
        samples = draw.normal(shift, 2.0, size=(20_000, n))
        assert np.mean(ttest_1samp(samples, 0, axis=1).pvalue < 0.05) == pytest.approx(POWER, abs=0.012)


@pytest.mark.slow
def test_intervals_cover_and_verdicts_err_as_often_as_stated(tmp_path: Path) -> None:
    """Three arms equal to base in truth: the 95 % interval covers zero, and any false verdict is as rare as Holm promises."""
    draw = np.random.default_rng(1)
    plan = tiny_plan(tmp_path, {"z": {"mu": 0}, "n": {"pairing": "neighbors"}, "m": {"mu": 1}}, seeds=tuple(range(5)))
    covered, wrong, runs = 0, 0, 1500
    for _ in range(runs):
        base = draw.normal(0.5, 0.02, 5)
        values = {"base": {"nmi": list(base)}} | {arm: {"nmi": list(base + draw.normal(0, 0.02, 5))} for arm in ("z", "n", "m")}
        got = contrasts(summarize(records(plan, values)), "nmi", 0.0)
        covered += sum(c.interval is not None and c.interval[0] <= 0 <= c.interval[1] for c in got)
        wrong += any(c.verdict in ("higher", "lower") for c in got)
    assert covered / (3 * runs) == pytest.approx(0.95, abs=0.012)
    assert wrong / runs < 0.05 + 0.015


def test_the_bootstraps_error_is_that_of_a_mean_and_respects_groups() -> None:
    draw = np.random.default_rng(2)
    alone = draw.normal(size=900)
    assert bootstrap_error(alone) == pytest.approx(alone.std() / 30, rel=0.06)
    groups = np.repeat(np.arange(300), 3)
    together = np.repeat(draw.normal(size=300), 3)
    assert bootstrap_error(together, groups) == pytest.approx(together.std() / np.sqrt(300), rel=0.06)
    assert bootstrap_error(together) < 0.7 * bootstrap_error(together, groups), "as if they were single images"


def test_the_test_sets_error_comes_from_the_images_that_were_named_rightly(tmp_path: Path) -> None:
    plan, store = tiny_plan(tmp_path, {"z": {"mu": 0}, "raw": {"method": "raw-pixels"}}, seeds=(0, 1)), TrialStore(tmp_path)
    draw = np.random.default_rng(5)
    labels, groups = draw.integers(4, size=120), np.repeat(np.arange(40), 3)
    kept: dict[tuple[str, int], Any] = {}
    for trial in plan.trials.values():
        wrong = draw.random(120) < 0.4
        predicted = np.where(wrong, (labels + 1) % 4, labels)
        kept[trial.arm, trial.config.seed if trial.config.has_encoder else 0] = ~wrong
        arrays = {"test": predicted, "test_labels": labels, "test_groups": groups}
        finish(store, trial)
        id_ = detail_ids(trial.anomalies)["predictions"]
        store.save_results(trial.key, {id_: store.make(trial.key, id_, lambda arrays=arrays: arrays)})
    summaries = summarize([record_of(store, trial) for trial in plan.trials.values()])
    found = contrasts_module.test_set_errors(summaries, StoreSnapshot(store))
    for name in ("z", "raw"):
        theirs = [kept.get((name, seed), kept[name, 0]).astype(float) - kept["base", seed] for seed in (0, 1)]
        assert found[name] == pytest.approx(bootstrap_error(np.mean(theirs, axis=0), groups))
    (first, second) = contrasts_module.of_sweep(plan, summaries, StoreSnapshot(store))
    assert first.test_error == found["z"] and second.test_error == found["raw"]


def test_contrasts_are_written_and_shown(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS, seeds=tuple(range(5)))
    low = [0.41, 0.40, 0.42, 0.44, 0.40]
    recs = records(plan, {"base": {"probe_accuracy": BASE}, "z": {"probe_accuracy": low}})
    got = contrasts(summarize(recs), "probe_accuracy", 0.01)
    rows = list(csv.DictReader(tables.write_contrasts(tmp_path / "c.csv", got).open()))
    assert [row["arm"] for row in rows] == ["z", "n", "raw"] and rows[0]["verdict"] == "lower" and rows[1]["p"] == ""
    assert float(rows[0]["difference"]) == pytest.approx(np.mean(low) - np.mean(BASE))
    metrics = contrasts_module.parent_metrics(got, "probe_accuracy")
    assert metrics["z/probe_accuracy/p_holm"] == got[0].p_holm and "n/probe_accuracy/difference" not in metrics
    text = page_of(ReportInput(plan, recs, StoreSnapshot(TrialStore(tmp_path)), "p", "c", None, (), got), None)
    assert "Verdicts on probe accuracy" in text and ">lower<" in text and "verdict: lower" in text and "±0.01" in text
