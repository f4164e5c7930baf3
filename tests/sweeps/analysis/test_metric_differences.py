"""Differences on several metrics, against scipy's intervals on the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.metric_differences import MetricDifference, differences_from_base, disagree
from sweeps.analysis.significance import ANYTIME_VALID_T_TEST
from tests.sweeps.analysis.test_claim_tests import records
from tests.sweeps.tiny import tiny_plan

ARMS = {"z": {"mu": 0}, "raw": {"method": "raw-pixels"}, "same": {}}
BASE = [0.50, 0.52, 0.49, 0.55, 0.51]
METRICS = ("probe_accuracy", "knn_accuracy", "nmi", "ari", "lidar")


def test_the_sides_are_those_of_scipys_uncorrected_intervals(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ARMS, seeds=tuple(range(5)))
    draw = np.random.default_rng(0)
    shifts = {"probe_accuracy": 0.1, "knn_accuracy": -0.03, "nmi": 0.0}
    z = {name: list(np.add(BASE, shift + draw.normal(0, 0.02, 5))) for name, shift in shifts.items()}
    z["ari"] = list(np.add(BASE, 0.25))  # no interval: the same in every seed, up to rounding
    values = {"base": dict.fromkeys(METRICS[:4], BASE), "z": z, "raw": {"nmi": [0.3], "lidar": [2.0]}}
    found = differences_from_base(summarize(records(plan, values)), METRICS, 0.01)
    assert list(found) == ["z", "raw"] and [d.metric for d in found["raw"]] == ["nmi"]
    for difference in found["z"][:3]:
        mine = z[difference.metric]
        interval = ttest_rel(mine, BASE).confidence_interval(0.95)
        side = "above" if interval.low > 0 else "below" if interval.high < 0 else "unclear"
        assert difference.n == 5 and difference.side == side
        assert difference.difference == pytest.approx(np.mean(mine) - np.mean(BASE))
    assert [d.side for d in found["z"]] == ["above", "below", "unclear", "unclear"]
    assert disagree(found["z"]) and not disagree(found["z"][1:])
    assert ttest_1samp(np.subtract(0.3, BASE), 0).confidence_interval(0.95).high < 0 and found["raw"][0].side == "below"
    assert found["raw"][0].n == 5


def test_intervals_follow_the_test(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"z": {"mu": 0}}, seeds=(0, 1, 2))
    values = {"base": {"nmi": [0.5, 0.52, 0.49]}, "z": {"nmi": [0.46, 0.49, 0.44]}}
    summaries = summarize(records(plan, values))
    assert differences_from_base(summaries, ["nmi"], 0.01)["z"][0].side == "below"
    assert differences_from_base(summaries, ["nmi"], 0.01, ANYTIME_VALID_T_TEST)["z"][0].side == "unclear"


@pytest.mark.parametrize(("difference", "side"), [(0.02, "above"), (-0.02, "below"), (0.009, "unclear"), (-0.009, "unclear")])
def test_with_one_seed_the_margin_decides(difference: float, side: str, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"z": {"mu": 0}})
    values = {"base": {"nmi": [0.5]}, "z": {"nmi": [0.5 + difference]}}
    (found,) = differences_from_base(summarize(records(plan, values)), ["nmi"], 0.01)["z"]
    assert found == MetricDifference("nmi", 1, pytest.approx(difference), side)  # type: ignore[arg-type]


def test_parents_that_no_arm_asked_for_are_left_out_and_without_base_there_is_nothing(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"n": {"pairing": "neighbors", "parent": {"mu": 1}}})
    summaries = summarize(records(plan, {name: {"nmi": [0.5]} for name in ("base", "n", "parent of n")}))
    assert list(differences_from_base(summaries, ["nmi"], 0.01)) == ["n"]
    assert differences_from_base([s for s in summaries if s.arm != "base"], ["nmi"], 0.01) == {}
