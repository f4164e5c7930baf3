"""Contrasts: each arm against base on the grid's primary metric, paired by seed, with the difference that n seeds can detect.

Trials of one seed share initial weights, batches and draws, so an arm's values are paired with base's. The test is two-sided,
and p-values are corrected over the arms by Holm's method. Metrics other than the primary one are described, never tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sweeps.analysis.arm_summary import ArmSummary, by_seed, paired_differences
from sweeps.analysis.significance import LEVEL, PAIRED_T_TEST, SeedTest, bootstrap_error, holm, minimum_detectable_difference
from sweeps.planning.grid import BASE
from sweeps.planning.trial import Plan
from sweeps.storage.records import TrialStatus
from sweeps.storage.snapshot import StoreSnapshot

ContrastVerdict = Literal["higher", "lower", "equivalent", "undecided", "one seed", "no result"]


@dataclass(frozen=True)
class Contrast:
    """One arm against base.

    Attributes:
        arm: its name.
        n: number of seeds that both have.
        difference: the arm's value minus base's, mean over the seeds; None where there is none.
        interval: 95 % interval of the difference; None where it is not defined, infinite where so few seeds cannot show any
            difference.
        p: p-value of the two-sided test.
        p_holm: the p-value, corrected over the arms that are tested.
        detectable: the true difference that the test would have found with a probability of 80 % in n seeds with this spread,
            uncorrected; None where so few seeds cannot show any difference.
        correlation: Pearson correlation of the two arms' values over the seeds: the higher, the more pairing helped; None below
            three seeds.
        test_error: standard error of the difference that is due to the finite test set (bootstrap over its images); None where
            predictions of single images are not kept.
        deviation: standard deviation of the differences (n - 1).
        verdict: the conclusion from the interval, p_holm and the grid's margin.
    """

    arm: str
    n: int
    difference: float | None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    correlation: float | None = None
    test_error: float | None = None
    deviation: float | None = None
    verdict: ContrastVerdict = "no result"


def contrasts(
    summaries: Sequence[ArmSummary], metric: str, margin: float, test_errors: Mapping[str, float] | None = None,
    test: SeedTest = PAIRED_T_TEST,
) -> list[Contrast]:  # fmt: skip
    """Compare every arm with base.

    Args:
        summaries: the arms, base among them.
        metric: the primary metric.
        margin: a difference whose interval is within -margin to margin counts as equivalent.
        test_errors: arm -> standard error due to the finite test set, where it is known.
        test: the test of the differences.
    """
    base = next((summary for summary in summaries if summary.arm == BASE), None)
    if base is None:
        return []
    found = []
    for summary in summaries:
        same = [r.trial.key for r in summary.records] == [r.trial.key for r in base.records]
        added = bool(summary.records[0].trial.required_by)  # a parent that is no arm of the grid is not compared
        if summary.arm != BASE and not same and not added:
            found.append(_contrast(summary, base, metric, (test_errors or {}).get(summary.arm), test))
    corrected = iter(holm([contrast.p for contrast in found if contrast.p is not None]))
    found = [contrast if contrast.p is None else replace(contrast, p_holm=next(corrected)) for contrast in found]
    return [replace(contrast, verdict=_verdict(contrast, margin)) for contrast in found]


def _contrast(
    summary: ArmSummary, base: ArmSummary, metric: str, test_error: float | None, test: SeedTest
) -> Contrast:  # fmt: skip
    mine, theirs = by_seed(summary, metric), by_seed(base, metric)
    differences = paired_differences(mine, theirs)
    contrast = Contrast(summary.arm, len(differences), mean(differences) if differences else None, test_error=test_error)
    tested = test(differences)
    if tested is None:
        return contrast
    both = [seed for seed in mine if seed is not None and seed in theirs]
    pairs = [(mine[seed], theirs[seed]) for seed in both]
    return replace(
        contrast, interval=tested[0], p=tested[1],
        detectable=minimum_detectable_difference(stdev(differences), len(differences), test),
        correlation=_correlation(pairs), deviation=stdev(differences),
    )  # fmt: skip


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) == 1 for i in (0, 1)):
        return None
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def _verdict(contrast: Contrast, margin: float) -> ContrastVerdict:
    if contrast.difference is None:
        return "no result"
    if contrast.n == 1:
        return "one seed"
    if contrast.interval is None or contrast.p_holm is None:
        return "undecided"
    if -margin <= contrast.interval[0] and contrast.interval[1] <= margin:
        return "equivalent"
    if contrast.p_holm < LEVEL:
        return "higher" if contrast.difference > 0 else "lower"
    return "undecided"


def test_set_errors(summaries: Sequence[ArmSummary], snapshot: StoreSnapshot) -> dict[str, float]:
    """Return, by arm, the standard error that is due to the finite test set in its difference from base in probe accuracy.

    Computed by :func:`bootstrap_error`. An image's difference is 1 if only the arm classified it correctly, -1 if only base
    did, else 0, averaged over the seeds that both have. Images rendered from one source are drawn together.
    """
    base = next((summary for summary in summaries if summary.arm == BASE), None)
    if base is None:
        return {}
    theirs = _right(base, snapshot)
    errors = {}
    for summary in summaries:
        if summary.arm == BASE:
            continue
        mine = _right(summary, snapshot)
        seeds = sorted({seed for side in (mine, theirs) for seed in side if seed is not None})
        pairs = [(mine.get(seed, mine.get(None)), theirs.get(seed, theirs.get(None))) for seed in seeds]
        both = [(one, other) for one, other in pairs if one is not None and other is not None]
        if both:
            differences = [one[0] - other[0] for one, other in both]
            errors[summary.arm] = bootstrap_error(np.mean(differences, axis=0), both[0][0][1])
    return errors


def _right(
    summary: ArmSummary, snapshot: StoreSnapshot
) -> dict[int | None, tuple[NDArray[np.float64], NDArray[np.int64] | None]]:  # fmt: skip
    """Return seed (None without seeds) -> (1 for each test image classified correctly, else 0; the images' sources)."""
    found = {}
    for record in summary.records:
        done = record.status == TrialStatus.DONE
        kept = snapshot.state(record.trial.key).detail(record.trial, "predictions") if done else None
        if kept is not None:
            right = (kept["test"] == kept["test_labels"]).astype(np.float64)
            found[record.trial.config.seed if record.trial.config.has_encoder else None] = right, kept.get("test_groups")
    return found


def of_sweep(
    plan: Plan, summaries: Sequence[ArmSummary], snapshot: StoreSnapshot, test: SeedTest = PAIRED_T_TEST
) -> list[Contrast]:  # fmt: skip
    """Return the contrasts of a sweep on its grid's primary metric, with its margin."""
    errors = test_set_errors(summaries, snapshot) if plan.grid.primary == "probe_accuracy" else {}
    return contrasts(summaries, plan.grid.primary, plan.grid.margin, errors, test)


def parent_metrics(found: Sequence[Contrast], metric: str) -> dict[str, float]:
    """Return the contrasts as metrics of the sweep's parent run."""
    numbers = {"difference": "difference", "p_holm": "p_holm", "detectable": "detectable_difference"}
    return {
        f"{contrast.arm}/{metric}/{name}": value
        for contrast in found
        for attribute, name in numbers.items()
        if (value := getattr(contrast, attribute)) is not None
    }
