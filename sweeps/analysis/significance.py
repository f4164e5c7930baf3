"""Statistics of differences between seeds: tests, intervals, correction over arms. All functions take and return numbers.

Two tests of the same null hypothesis (the mean difference is zero; differences are normal, their variance unknown):

``PAIRED_T_TEST``         for a number of seeds that was fixed beforehand.
``ANYTIME_VALID_T_TEST``  for seeds that are added until something is decided. Its p is 1 / B, B the Bayes factor of the
                          t-statistic under a normal prior on the standardised difference and the right Haar prior on the
                          scale. B is a martingale under the null hypothesis, so B ever reaches 1 / level with a probability of
                          at most ``level`` (Ville), however often and for whatever reason one looks and stops. Inverting it at
                          every number of seeds gives intervals that hold simultaneously.
                          Wang & Ramdas, Anytime-valid t-tests and confidence sequences for Gaussian means with unknown
                          variance, Sequential Analysis 2025 (arXiv 2310.03722). Of the same family: Pérez-Ortiz, Lardy, de
                          Heide & Grünwald, E-statistics, group invariance and anytime-valid testing, Ann. Statist. 2024.

Both give a second p-value, for the hypothesis that the mean difference is at least a margin away from zero: if it is small, the
difference is equivalent to zero (Schuirmann, J. Pharmacokinet. Biopharm. 1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
#: The probability with which the test finds a true difference of :func:`minimum_detectable_difference`.
POWER = 0.8
#: Standard deviation of the prior of ANYTIME_VALID_T_TEST on the standardised difference (mean of the differences divided by
#: their standard deviation). The test is valid for any scale; the scale sets for which differences its power is highest.
#: Between arms of one sweep, standardised differences of 1 to 9 were seen.
PRIOR_SCALE = 3.0
_RESAMPLES = 2000
_FLIPPED, _ALL_FLIPS = 6, 16  # differences from which on signs are flipped, and up to which in all ways
_OUTLIER_LEVEL = 0.01


@dataclass(frozen=True)
class SeedTest:
    """A two-sided test of differences between seeds.

    Attributes:
        name: for tables.
        note: for reports: what the test is and when it is valid.
        critical: (n, level) -> the |t| from which on n differences are significant; infinite where no |t| is.
        p: (t, n) -> p-value.
        p_above: (t, n) -> p-value of the hypothesis that the mean is at most zero.
    """

    name: str
    note: str
    critical: Callable[[int, float], float]
    p: Callable[[float, int], float]
    p_above: Callable[[float, int], float]

    def __call__(self, differences: Sequence[float]) -> tuple[tuple[float, float], float] | None:
        """Return the 95 % interval of the mean difference, and the p-value of the hypothesis that it is zero.

        Return None if the test is not defined: for fewer than two differences, or if all are equal up to rounding.
        """
        n = len(differences)
        if n < 2 or stdev(differences) <= 1e-12 * max(map(abs, differences)):
            return None
        center, error = mean(differences), stdev(differences) / math.sqrt(n)
        reach = self.critical(n, LEVEL) * error
        return (center - reach, center + reach), self.p(center / error, n)

    def equivalence_p(self, differences: Sequence[float], margin: float) -> float | None:
        """Return the p-value of the hypothesis that the mean difference is at least ``margin`` away from zero.

        It is the larger of two: that the mean is at most -margin, and that it is at least margin. None as in :meth:`__call__`.
        """
        if self(differences) is None:
            return None
        n, center, error = len(differences), mean(differences), stdev(differences) / math.sqrt(len(differences))
        return max(self.p_above((center + margin) / error, n), self.p_above((margin - center) / error, n))

    def half_width(self, deviation: float, n: int, level: float = LEVEL) -> float:
        """Return half the width of the ``1 - level`` interval for n differences with this standard deviation."""
        return self.critical(n, level) * deviation / math.sqrt(n)


def _fixed_critical(n: int, level: float) -> float:
    from scipy.stats import t

    return float(t.isf(level / 2, n - 1))


def _fixed_p(statistic: float, n: int) -> float:
    from scipy.stats import t

    return float(2 * t.sf(abs(statistic), n - 1))


def _fixed_p_above(statistic: float, n: int) -> float:
    from scipy.stats import t

    return float(t.sf(statistic, n - 1))


def _anytime_p_above(statistic: float, n: int) -> float:
    """Return the two-sided p-value if the statistic is positive, else 1: valid, because the two-sided intervals are."""
    return _anytime_p(statistic, n) if statistic > 0 else 1.0


def _anytime_p(statistic: float, n: int) -> float:
    """Return 1 / B, at most 1.

    B = g^(-1/2) ((1 + t^2 / nu) / (1 + t^2 / (nu g)))^(n / 2), g = 1 + n PRIOR_SCALE^2, nu = n - 1.
    """
    g, u = 1 + n * PRIOR_SCALE**2, statistic**2 / (n - 1)
    return min(1.0, math.exp(0.5 * math.log(g) - n / 2 * (math.log1p(u) - math.log1p(u / g))))


def _anytime_critical(n: int, level: float) -> float:
    """Return the t with B(t) = 1 / level; infinite if B stays below that for every t, as with few seeds."""
    g = 1 + n * PRIOR_SCALE**2
    k = (math.sqrt(g) / level) ** (2 / n)
    return math.sqrt((n - 1) * (k - 1) / (1 - k / g)) if k < g else math.inf


PAIRED_T_TEST = SeedTest(
    "paired t-test",
    "two-sided paired t-test, valid for a number of seeds that was chosen before looking",
    _fixed_critical,
    _fixed_p,
    _fixed_p_above,
)
ANYTIME_VALID_T_TEST = SeedTest(
    "anytime-valid t-test",
    "two-sided paired t-test that stays valid however often one looks and adds seeds (Wang & Ramdas, arXiv 2310.03722), "
    f"normal prior of scale {PRIOR_SCALE:g} on the standardised difference; its intervals are wider for that",
    _anytime_critical,
    _anytime_p,
    _anytime_p_above,
)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple testing, in the given order (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return the p-value of the two-sided sign-flip test that the differences lie symmetrically about zero.

    It is the share of all 2^n ways to give the differences signs whose sum is at least as far from zero; no normal distribution
    is assumed. Above 16 differences 2^16 ways are drawn. The smallest possible value is 2 / 2^n.

    Returns:
        None below six differences, where no value is below 3 %.
    """
    n = len(differences)
    if n < _FLIPPED:
        return None
    if n <= _ALL_FLIPS:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        draw = np.random.Generator(np.random.Philox(key=0))
        signs = np.concatenate([np.ones((1, n)), 1 - 2 * draw.integers(2, size=(2**_ALL_FLIPS - 1, n))])
    values = np.asarray(differences, dtype=np.float64)
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) * (1 - 1e-12)))


def share_above(differences: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the share of seeds in which a difference is above zero, ties counting half, with a 95 % interval.

    An estimate of P(A > B), how often the arm would be above base in a further seed (Bouthillier et al., MLSys 2021,
    arXiv 2103.03098, sec. 5, who take such a share of .75 for meaningful). The interval is the bootstrap's over the seeds
    (percentiles of 2,000 resamples); where all seeds agree it is a point, however few they are.

    Args:
        differences: at least one.
    """
    above = (np.sign(np.asarray(differences, dtype=np.float64)) + 1) / 2
    draw = np.random.Generator(np.random.Philox(key=0))
    means = draw.choice(above, size=(_RESAMPLES, len(above))).mean(axis=1)
    low, high = np.percentile(means, [50 * LEVEL, 100 - 50 * LEVEL])
    return float(above.mean()), (float(low), float(high))


def has_outlier(differences: Sequence[float]) -> bool:
    """Return whether one of the differences is an outlier among them by Grubbs' test at 1 % (Technometrics 1969).

    With fewer than three differences none is.
    """
    from scipy.stats import t

    n = len(differences)
    if n < 3 or (spread := stdev(differences)) == 0:
        return False
    limit = float(t.isf(_OUTLIER_LEVEL / (2 * n), n - 2)) ** 2
    largest = (n - 1) / math.sqrt(n) * math.sqrt(limit / (n - 2 + limit))
    return max(abs(value - mean(differences)) for value in differences) / spread > largest


def minimum_detectable_difference(
    deviation: float, n: int, test: SeedTest = PAIRED_T_TEST, level: float = LEVEL
) -> float | None:  # fmt: skip
    """Return the smallest true difference that the test finds with probability POWER in n differences of this spread.

    Args:
        deviation: the differences' standard deviation.
        n: at least 2.
        test: the test; for ANYTIME_VALID_T_TEST, if the results are looked at only once, at n.
        level: the test's level.

    Returns:
        None where n is too small for any difference.
    """
    unit = _detectable(n, test, level)
    return None if unit is None else unit * deviation


@cache
def _detectable(n: int, test: SeedTest, level: float) -> float | None:
    """:func:`minimum_detectable_difference` in units of the standard deviation."""
    from scipy.optimize import brentq
    from scipy.special import ndtr
    from scipy.stats import chi2

    critical = test.critical(n, level)
    if not math.isfinite(critical):
        return None
    # The noncentral t's tail probabilities, averaged over quantiles of the variance; scipy's own are NaN for some arguments.
    scale = critical * np.sqrt(chi2.ppf((np.arange(4000) + 0.5) / 4000, n - 1) / (n - 1))

    def lacking(shift: float) -> float:
        """Return POWER minus the power for the noncentrality ``shift``."""
        return POWER - float(np.mean(ndtr(shift - scale) + ndtr(-shift - scale)))

    return float(brentq(lacking, 1e-9, 10 * critical)) / math.sqrt(n)


def seeds_to_decide(difference: float, deviation: float, n: int, *, level: float, margin: float, most: int = 500) -> int | None:
    """Return the number of seeds that ANYTIME_VALID_T_TEST needs if mean and deviation of the differences stay as they are.

    Args:
        difference: the mean difference.
        deviation: the differences' standard deviation.
        n: number of seeds so far.
        level: the level after correction over the arms.
        margin: a difference whose interval at that level is within -margin to margin counts as decided, too.
        most: the largest number of seeds to consider.

    Returns:
        The total number of seeds, more than n; None if more than ``most`` are needed.
    """
    for total in range(n + 1, most + 1):
        if ANYTIME_VALID_T_TEST.half_width(deviation, total, level) < abs(difference):
            return total
        if abs(difference) + ANYTIME_VALID_T_TEST.half_width(deviation, total, level) <= margin:
            return total
    return None


def first_seeds(comparisons: int) -> int:
    """Return the smallest number of seeds at which ANYTIME_VALID_T_TEST can reject one of so many hypotheses at all."""
    return next(n for n in range(2, 1000) if math.isfinite(ANYTIME_VALID_T_TEST.critical(n, LEVEL / max(1, comparisons))))


def bootstrap_error(differences: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> float:
    """Return the standard error of the mean of single images' differences, by a bootstrap over images (or over groups of them).

    Args:
        differences: [M], e.g. an arm's share of seeds that classified each test image correctly, minus base's.
        groups: [M]; images of one group (renderings of one digit) are drawn together.
    """
    _, index = np.unique(np.arange(len(differences)) if groups is None else groups, return_inverse=True)
    sums, counts = np.bincount(index, differences), np.bincount(index)
    draws = np.random.Generator(np.random.Philox(key=0)).integers(len(sums), size=(_RESAMPLES, len(sums)))
    return float((sums[draws].sum(axis=1) / counts[draws].sum(axis=1)).std(ddof=1))
