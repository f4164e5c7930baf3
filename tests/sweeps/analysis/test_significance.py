"""The anytime-valid test: its formula against an integral, and its error rate by simulation with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import nct, norm, t, ttest_1samp

from sweeps.analysis.significance import (
    ANYTIME_VALID_T_TEST,
    LEVEL,
    PAIRED_T_TEST,
    POWER,
    PRIOR_SCALE,
    minimum_detectable_difference,
    seeds_to_decide,
)


@pytest.mark.parametrize(("n", "statistic"), [(3, 4.0), (5, -6.5), (12, 2.2), (40, 0.3)])
def test_p_is_the_inverse_bayes_factor_of_the_t_statistic(n: int, statistic: float) -> None:
    """Against the integral it comes from: noncentral t under a normal prior on the standardised mean, by central t."""

    def weighted(effect: float) -> float:
        return float(nct.pdf(statistic, n - 1, math.sqrt(n) * effect) * norm.pdf(effect, scale=PRIOR_SCALE))

    mixed = quad(weighted, -6 * PRIOR_SCALE, 6 * PRIOR_SCALE, limit=400, points=[statistic / math.sqrt(n)])[0]
    expected = min(1.0, t.pdf(statistic, n - 1) / mixed)
    assert ANYTIME_VALID_T_TEST.p(statistic, n) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("level", [0.05, 0.05 / 13])
def test_the_critical_value_is_where_p_is_the_level(level: float) -> None:
    for n in range(2, 60):
        critical = ANYTIME_VALID_T_TEST.critical(n, level)
        if math.isfinite(critical):
            assert ANYTIME_VALID_T_TEST.p(critical, n) == pytest.approx(level, rel=1e-9)
            assert critical > PAIRED_T_TEST.critical(n, level), "looking again costs something"
        else:
            assert ANYTIME_VALID_T_TEST.p(1e9, n) > level, "so few seeds decide nothing"
    assert math.isfinite(ANYTIME_VALID_T_TEST.critical(4, 0.05)) and not math.isfinite(ANYTIME_VALID_T_TEST.critical(2, 0.05))


def test_the_interval_holds_the_differences_that_are_not_rejected() -> None:
    differences = list(np.random.default_rng(3).normal(0.3, 0.2, 9))
    found = ANYTIME_VALID_T_TEST(differences)
    assert found is not None
    (low, high), p = found
    error = np.std(differences, ddof=1) / 3
    assert ANYTIME_VALID_T_TEST.p((np.mean(differences) - low) / error, 9) == pytest.approx(LEVEL)
    assert (p < LEVEL) == (low > 0 or high < 0)
    fixed = PAIRED_T_TEST(differences)
    assert fixed is not None and low < fixed[0][0] < fixed[0][1] < high
    assert fixed[1] == pytest.approx(ttest_1samp(differences, 0).pvalue)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_looking_after_every_seed_errs_as_rarely_as_stated(scale: float) -> None:
    """No difference in truth, up to 100 seeds, a look after each: whoever stops at the first p < 5 % errs in under 5 %."""
    draws = np.random.default_rng(7).normal(0.0, scale, size=(4000, 100))
    n = np.arange(1, 101)
    mean = draws.cumsum(axis=1) / n
    variance = ((draws**2).cumsum(axis=1) - n * mean**2) / np.maximum(n - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = np.abs(mean) * np.sqrt(n) / np.sqrt(variance)
    ever = {}
    for test in (ANYTIME_VALID_T_TEST, PAIRED_T_TEST):
        critical = np.array([math.inf] + [test.critical(int(k), LEVEL) for k in n[1:]])
        ever[test.name] = float(np.mean((statistics > critical).any(axis=1)))
    error = 3 * math.sqrt(LEVEL * (1 - LEVEL) / 4000)
    assert ever[ANYTIME_VALID_T_TEST.name] < LEVEL + error, "the intervals all hold the truth at once as often as stated"
    assert ever[PAIRED_T_TEST.name] > 0.2, "which is what looking again does to the fixed test"


def test_a_difference_is_found_in_the_end() -> None:
    draws = np.random.default_rng(8).normal(1.0, 1.0, size=(300, 40))
    found = [
        any((r := ANYTIME_VALID_T_TEST(list(row[:n]))) is not None and r[1] < LEVEL for n in range(3, 41)) for row in draws
    ]
    assert np.mean(found) > 0.95


def test_what_it_would_take_is_what_it_takes() -> None:
    """Differences of just that mean and deviation are decided after so many seeds, and not one sooner."""
    total = seeds_to_decide(0.02, 0.03, 5, level=0.01, margin=0.001)
    assert total is not None and total > 5
    reach = [ANYTIME_VALID_T_TEST.half_width(0.03, n, 0.01) for n in (total - 1, total)]
    assert reach[0] >= 0.02 > reach[1]
    none = seeds_to_decide(0.001, 0.03, 5, level=0.01, margin=0.02)
    assert none is not None and 0.001 + ANYTIME_VALID_T_TEST.half_width(0.03, none) <= 0.02, (
        "within the margin is decided as well"
    )
    assert seeds_to_decide(0.0001, 1.0, 5, level=0.01, margin=0.0001) is None


def test_the_detectable_difference_of_the_anytime_test() -> None:
    assert minimum_detectable_difference(1.0, 2, ANYTIME_VALID_T_TEST) is None, "two seeds decide nothing"
    shift = minimum_detectable_difference(1.0, 8, ANYTIME_VALID_T_TEST)
    assert shift is not None
    samples = np.random.default_rng(9).normal(shift, 1.0, size=(4000, 8))
    found = np.mean(np.abs(ttest_1samp(samples, 0, axis=1).statistic) > ANYTIME_VALID_T_TEST.critical(8, LEVEL))
    assert found == pytest.approx(POWER, abs=0.03)
