"""Tests of a grid file's claims, such as ``probe_accuracy: base > neighbors > no-variance``.

A claim names a metric and compares arms (or an arm with a number) in a chain. Each comparison is a two-sided test, at 5 %, of
the differences between seeds that both arms have (paired: one seed means the same initial weights, batches and draws). The
chain holds if every comparison does, so no correction for several comparisons is needed; it fails if a difference is
significant in the other direction. With one seed every claim is undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from sweeps.analysis.arm_summary import ArmSummary, Values, by_seed, paired_differences
from sweeps.analysis.significance import LEVEL, PAIRED_T_TEST, SeedTest
from sweeps.formatting import p_text
from sweeps.planning.claim import Claim, Term

ClaimOutcome = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim.

    Attributes:
        left: the term that is claimed to be greater (or less).
        right: the other term.
        n: number of seeds that both have.
        difference: mean of left - right over the seeds; None where there is none.
        interval: its 95 % interval; None below two seeds.
        p: p-value of the two-sided test; None below two seeds.
        test: the test's name.
        outcome: holds, fails or undecided.
    """

    left: Term
    right: Term
    n: int
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    test: str
    outcome: ClaimOutcome


@dataclass(frozen=True)
class ClaimVerdict:
    """The outcome of testing a claim.

    Attributes:
        claim: the claim.
        outcome: holds, fails or undecided.
        reason: the tests as text, or why there is none.
        comparisons: the comparisons of the chain, in order.
    """

    claim: Claim
    outcome: ClaimOutcome
    reason: str
    comparisons: tuple[Comparison, ...]


def judge(claim: Claim, summaries: Sequence[ArmSummary], test: SeedTest = PAIRED_T_TEST) -> ClaimVerdict:
    """Test a claim on the seeds that are done."""
    by_arm = {summary.arm: summary for summary in summaries}
    metric = _resolve(claim.metric, summaries)
    if metric is None:
        which = claim.metric.partition("/")[2]
        reason = f"not measured here: the sweep has no anomaly set {which}" if which else "not measured"
        return ClaimVerdict(claim, "undecided", reason, ())
    values = [term if isinstance(term, float) else by_seed(by_arm.get(term), metric) for term in claim.terms]
    comparisons = tuple(
        _compare(claim.terms[i], claim.terms[i + 1], values[i], values[i + 1], claim.greater, test)
        for i in range(len(values) - 1)
    )
    outcomes = {comparison.outcome for comparison in comparisons}
    outcome: ClaimOutcome = "fails" if "fails" in outcomes else "undecided" if "undecided" in outcomes else "holds"
    return ClaimVerdict(claim, outcome, "; ".join(_describe(comparison) for comparison in comparisons), comparisons)


def _resolve(metric: str, summaries: Sequence[ArmSummary]) -> str | None:
    """Return the metric's name among the results, or None; a folder's anomaly set may be named by the end of its path."""
    measured = {name for summary in summaries for record in summary.records for name in record.metrics}
    if metric in measured:
        return metric
    bare, _, which = metric.partition("/")
    of_sets = [name for name in sorted(measured) if which and name.startswith(f"{bare}/")]
    return next((name for name in of_sets if name.endswith(f"/{which}")), None)


def _compare(left: Term, right: Term, a: Values, b: Values, greater: bool, test: SeedTest) -> Comparison:
    differences = paired_differences(a, b)
    n = len(differences)
    difference = mean(differences) if differences else None
    tested = test(differences)
    if tested is None or difference is None:
        return Comparison(left, right, n, difference, None, None, test.name, "undecided")
    interval, p = tested
    decided: ClaimOutcome = "holds" if (difference > 0) == greater else "fails"
    return Comparison(left, right, n, difference, interval, p, test.name, decided if p < LEVEL else "undecided")


def _describe(comparison: Comparison) -> str:
    names = f"{_name(comparison.left)} - {_name(comparison.right)}"
    if comparison.difference is None:
        return f"{names}: not run, or without a number"
    if comparison.interval is None or comparison.p is None:
        if comparison.n > 1:
            return (
                f"{names}: {comparison.difference:+.4f} in each of {comparison.n} seeds, without the spread that a test needs"
            )
        return f"{names}: {comparison.difference:+.4f} with one seed, where nothing is claimed"
    low, high = comparison.interval
    shown = f"95 % interval [{low:+.4f}, {high:+.4f}], p {p_text(comparison.p)}, n = {comparison.n}, {comparison.test}"
    return f"{names}: {comparison.difference:+.4f}, {shown}"


def _name(term: Term) -> str:
    return term if isinstance(term, str) else f"{term:g}"
