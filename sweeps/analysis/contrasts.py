"""Contrasts: each arm against base on the grid's primary metric, paired by seed, with the difference that n seeds can detect.

Trials of one seed share initial weights, batches and draws, so an arm's values are paired with base's. Each contrast has two
p-values: for a difference (two-sided) and for equivalence within the grid's margin. Each kind is corrected by Holm's method
over the arms, and apart from them over the baselines that do not depend on the seed, whose one value is compared with base's
values (a one-sample test). Metrics other than the primary one are tested by claims alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sweeps.analysis.arm_summary import ArmSummary, by_seed, paired_differences
from sweeps.analysis.significance import (
    LEVEL,
    PAIRED_T_TEST,
    SeedTest,
    bootstrap_error,
    first_seeds,
    has_outlier,
    holm,
    minimum_detectable_difference,
    share_above,
    sign_flip_p,
)
from sweeps.planning.grid import BASE
from sweeps.planning.trial import Plan
from sweeps.storage.records import LOST, TrialStatus
from sweeps.storage.snapshot import StoreSnapshot

ContrastVerdict = Literal["higher", "lower", "equivalent", "undecided", "provisional", "one seed", "no result"]


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
        p_holm: the p-value, corrected over the family.
        p_equivalence: p-value of the hypothesis that the difference is at least the margin, in either direction.
        p_equivalence_holm: that p-value, corrected over the family.
        p_sign_flip: p-value of the sign-flip test, uncorrected: a check that assumes no normal distribution; from six seeds on.
        above: the share of seeds in which the arm is above base, ties counting half.
        above_interval: its 95 % bootstrap interval.
        outlier: whether one of the differences is an outlier among them.
        without_seeds: whether the arm does not depend on the seed; these arms are a family of their own.
        failed: the seeds that are missing because a trial, the arm's or base's, failed or was skipped.
        detectable: the true difference that the test would have found with a probability of 80 % in n seeds with this spread,
            at the level for the smallest p-value of the family; None where so few seeds cannot show any difference.
        correlation: Pearson correlation of the two arms' values over the seeds: the higher, the more pairing helped; None below
            three seeds.
        test_error: standard error of the difference that is due to the finite test set (bootstrap over its images); None where
            predictions of single images are not kept.
        deviation: standard deviation of the differences (n - 1).
        verdict: the conclusion. Equivalence outranks a difference where both are shown.
    """

    arm: str
    n: int
    difference: float | None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    p_equivalence: float | None = None
    p_equivalence_holm: float | None = None
    p_sign_flip: float | None = None
    above: float | None = None
    above_interval: tuple[float, float] | None = None
    outlier: bool = False
    without_seeds: bool = False
    failed: tuple[int, ...] = ()
    detectable: float | None = None
    correlation: float | None = None
    test_error: float | None = None
    deviation: float | None = None
    verdict: ContrastVerdict = "no result"

    @property
    def label(self) -> str:
        """The verdict for tables; where seeds failed it says that it rests on the others."""
        if not self.failed or self.n == 0:
            return self.verdict
        return f"{self.verdict} ({len(self.failed)} of {self.n + len(self.failed)} seeds failed)"


def contrasts(
    summaries: Sequence[ArmSummary], metric: str, margin: float, test_errors: Mapping[str, float] | None = None,
    test: SeedTest = PAIRED_T_TEST, *, provisional: bool = False,
) -> list[Contrast]:  # fmt: skip
    """Compare every arm with base.

    Args:
        summaries: the arms, base among them.
        metric: the primary metric.
        margin: the largest difference that counts as equivalent.
        test_errors: arm -> standard error due to the finite test set, where it is known. No arm whose error is as large as the
            margin is equivalent: seeds cannot show what the test images do not resolve.
        test: the test of the differences.
        provisional: whether planned seeds are still to be run: then there are differences and intervals, and no test.
    """
    base = next((summary for summary in summaries if summary.arm == BASE), None)
    if base is None:
        return []
    found = []
    for summary in summaries:
        same = [r.trial.key for r in summary.records] == [r.trial.key for r in base.records]
        added = bool(summary.records[0].trial.required_by)  # a parent that is no arm of the grid is not compared
        if summary.arm != BASE and not same and not added:
            found.append(_contrast(summary, base, metric, margin, (test_errors or {}).get(summary.arm), test))
    families = [[c for c in found if c.without_seeds == without_seeds] for without_seeds in (False, True)]
    corrected = {c.arm: c for family in families for c in _corrected(family, test)}
    if provisional:
        return [_provisional(contrast) for contrast in found]
    return [replace(contrast, verdict=_verdict(contrast, margin)) for contrast in (corrected[c.arm] for c in found)]


def _provisional(contrast: Contrast) -> Contrast:
    verdict: ContrastVerdict = "provisional" if contrast.n > 1 else "one seed" if contrast.n else "no result"
    return replace(contrast, p=None, p_equivalence=None, p_sign_flip=None, verdict=verdict)


def _corrected(family: Sequence[Contrast], test: SeedTest) -> list[Contrast]:
    """Return the contrasts of a family with corrected p-values, and with what can be detected at the corrected level."""
    tested = [c for c in family if c.p is not None and c.p_equivalence is not None and c.deviation is not None]
    p_holm = holm([c.p for c in tested if c.p is not None])
    p_equivalence_holm = holm([c.p_equivalence for c in tested if c.p_equivalence is not None])
    corrected = {
        c.arm: replace(
            c, p_holm=p_holm[i], p_equivalence_holm=p_equivalence_holm[i],
            detectable=minimum_detectable_difference(c.deviation or 0.0, c.n, test, LEVEL / len(tested)),
        )
        for i, c in enumerate(tested)
    }  # fmt: skip
    return [corrected.get(c.arm, c) for c in family]


def _contrast(
    summary: ArmSummary, base: ArmSummary, metric: str, margin: float, test_error: float | None, test: SeedTest
) -> Contrast:  # fmt: skip
    mine, theirs = by_seed(summary, metric), by_seed(base, metric)
    differences = paired_differences(mine, theirs)
    contrast = Contrast(
        summary.arm, len(differences), mean(differences) if differences else None, test_error=test_error,
        without_seeds=not summary.records[0].trial.config.has_seed, failed=_failed(summary, base),
        deviation=stdev(differences) if len(differences) > 1 else None,
    )  # fmt: skip
    tested = test(differences)
    if tested is None:
        return contrast
    above, above_interval = share_above(differences)
    both = [seed for seed in mine if seed is not None and seed in theirs]
    pairs = [(mine[seed], theirs[seed]) for seed in both]
    return replace(
        contrast, interval=tested[0], p=tested[1], p_equivalence=test.equivalence_p(differences, margin),
        p_sign_flip=sign_flip_p(differences), above=above, above_interval=above_interval,
        outlier=has_outlier(differences), correlation=_correlation(pairs),
    )  # fmt: skip


def _failed(summary: ArmSummary, base: ArmSummary) -> tuple[int, ...]:
    """Return the seeds for which there is no difference, because the arm's trial or base's failed or was skipped."""
    with_seeds = [side for side in (summary, base) if side.records[0].trial.config.has_seed]
    planned = [{record.trial.config.seed for record in side.records} for side in with_seeds]
    lost = {record.trial.config.seed for side in with_seeds for record in side.records if record.status in LOST}
    return tuple(sorted(lost.intersection(*planned)))


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) == 1 for i in (0, 1)):
        return None
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def _verdict(contrast: Contrast, margin: float) -> ContrastVerdict:
    if contrast.difference is None:
        return "no result"
    if contrast.n == 1:
        return "one seed"
    resolved = contrast.test_error is None or contrast.test_error < margin
    if contrast.p_holm is None or contrast.p_equivalence_holm is None:  # without any spread there is no test
        return "equivalent" if contrast.difference == 0 and resolved else "undecided"
    if contrast.p_equivalence_holm < LEVEL and resolved:
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
            found[record.trial.config.seed if record.trial.config.has_seed else None] = right, kept.get("test_groups")
    return found


def of_sweep(
    plan: Plan, summaries: Sequence[ArmSummary], snapshot: StoreSnapshot, test: SeedTest = PAIRED_T_TEST, *,
    provisional: bool = False,
) -> list[Contrast]:  # fmt: skip
    """Return the contrasts of a sweep on its grid's primary metric, with its margin; see :func:`contrasts`."""
    errors = test_set_errors(summaries, snapshot) if plan.grid.primary == "probe_accuracy" else {}
    return contrasts(summaries, plan.grid.primary, plan.grid.margin, errors, test, provisional=provisional)


def compared_arms(plan: Plan) -> list[str]:
    """Return the arms that depend on the seed and are compared with base: one family of contrasts."""
    base = {trial.key for trial in plan.trials.values() if BASE in trial.arms}
    arms = [a for t in plan.trials.values() if t.config.has_seed and not t.required_by and t.key not in base for a in t.arms]
    return list(dict.fromkeys(arms))


def start_text(plan: Plan) -> str:
    """Return with how many seeds ``--until-decided`` starts, and why not with fewer."""
    compared, seeds = len(compared_arms(plan)), len({trial.config.seed for trial in plan.requested_trials})
    least = first_seeds(compared)
    return f"starts with {seeds} seeds: of {compared} arms compared with base, none can be decided by fewer than {least}"


def parent_metrics(found: Sequence[Contrast], metric: str) -> dict[str, float]:
    """Return the contrasts as metrics of the sweep's parent run."""
    numbers = {"difference": "difference", "p_holm": "p_holm", "detectable": "detectable_difference"}
    return {
        f"{contrast.arm}/{metric}/{name}": value
        for contrast in found
        for attribute, name in numbers.items()
        if (value := getattr(contrast, attribute)) is not None
    }
