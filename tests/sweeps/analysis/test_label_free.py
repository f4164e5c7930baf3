"""Ranks without labels, against scipy on the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.label_free import label_free_ranks
from tests.sweeps.analysis.test_claim_tests import records
from tests.sweeps.tiny import tiny_plan

ARMS = {**{f"a{i}": {"mu": i} for i in range(7)}, "raw": {"method": "raw-pixels"}, "sup": {"method": "supervised"}, "same": {}}
VICREG = ["base", *(f"a{i}" for i in range(7))]


def values_of(seeds: int) -> dict[str, dict[str, list[float]]]:
    draw = np.random.default_rng(5)
    names = ("probe_accuracy", "lidar", "alpha_req", "silhouette")
    found: dict[str, Any] = {arm: {name: list(draw.random(seeds) * 2) for name in names} for arm in ("base", *ARMS)}
    found["a0"]["collapse_indicators"] = [3.0] * seeds
    return found


def test_correlations_are_over_vicreg_arms_and_alpha_is_ranked_by_its_distance_from_1(tmp_path: Path) -> None:
    plan, values = tiny_plan(tmp_path, ARMS, seeds=(0, 1)), values_of(2)
    found = label_free_ranks(summarize(records(plan, values)))
    assert found is not None
    assert [c.metric_b for c in found.correlations] == ["lidar", "alpha_req", "silhouette"]
    assert {c.metric_a for c in found.correlations} == {"probe_accuracy"}
    assert found.missing == ["rankme", "rankme_projection", "effective_rank"] and found.collapsed == ["a0"]
    assert found.other_methods == ["raw", "sup"] and list(found.ranks) == VICREG, "base and same are one trial"

    def score(arm: str, metric: str) -> float:
        numbers = np.array(values[arm][metric])
        return float((-np.abs(numbers - 1) if metric == "alpha_req" else numbers).mean())

    for correlation in found.correlations:
        for arms, got, n in (
            (VICREG, correlation.all_arms, correlation.n_arms),
            ([arm for arm in VICREG if arm != "a0"], correlation.non_collapsed, correlation.n_non_collapsed),
        ):
            pairs = [(score(arm, "probe_accuracy"), score(arm, correlation.metric_b)) for arm in arms]
            assert n == len(arms) and got is not None
            assert got[0] == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    for metric in ("probe_accuracy", "lidar", "alpha_req"):
        ordered = sorted(VICREG, key=lambda arm: -score(arm, metric))
        assert [found.ranks[arm][metric] for arm in ordered] == list(range(1, 9))


def test_equal_values_share_their_mean_rank_and_gaps_are_gaps(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {f"a{i}": {"mu": i} for i in range(3)})
    values: dict[str, Any] = {arm: {"probe_accuracy": [0.5], "lidar": [3.0]} for arm in ("base", "a0", "a1", "a2")}
    values["a2"] = {"probe_accuracy": [0.6]}
    found = label_free_ranks(summarize(records(plan, values)))
    assert found is not None and found.correlations[0].all_arms is None
    assert found.ranks["a2"] == {"probe_accuracy": 1} and found.ranks["base"] == {"probe_accuracy": 3, "lidar": 2}


@pytest.mark.parametrize("names", [("lidar",), ("probe_accuracy",), ("probe_accuracy", "nmi")], ids=str)
def test_where_nothing_can_be_compared_there_are_no_ranks(names: tuple[str, ...], tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, {"z": {"mu": 0}})
    assert label_free_ranks(summarize(records(plan, {a: {name: [0.5] for name in names} for a in ("base", "z")}))) is None
    assert label_free_ranks(summarize(records(plan, {"base": {"probe_accuracy": [0.5], "lidar": [2.0]}}))) is None
