"""Tests of a grid file's claims, such as ``probe_accuracy: base > neighbors > no-variance``.

A claim names a metric and compares arms (or an arm with a number) in a chain. Each comparison is a two-sided test of the
differences between seeds that both arms have (paired: one seed means the same initial weights, batches and draws). A grid's
claims are stated before it is run, and are one family: p-values are corrected by Holm's method over all comparisons of all
claims. A chain holds if every comparison does, and fails if a difference is significant in the other direction. With one seed
every claim is undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean
from typing import Literal

from sweeps.analysis.arm_summary import ArmSummary, by_seed, paired_differences
from sweeps.analysis.significance import LEVEL, PAIRED_T_TEST, SeedTest, holm
from sweeps.formatting import p_text
from sweeps.planning.claim import Claim, Term

ClaimOutcome = Literal["holds", "fails", "undecided", "provisional", "not measured"]


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
        p_holm: the p-value, corrected over all comparisons of the grid's claims.
        test: the test's name.
        outcome: holds, fails, undecided, provisional (planned seeds are still to be run), or not measured.
    """

    left: Term
    right: Term
    n: int
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    test: str
    outcome: ClaimOutcome


@dataclass(frozen=True)
class ClaimVerdict:
    """The outcome of testing a claim.

    Attributes:
        claim: the claim.
        outcome: holds, fails, undecided, provisional, or not measured.
        reason: the tests as text, or why there is none.
        comparisons: the comparisons of the chain, in order.
    """

    claim: Claim
    outcome: ClaimOutcome
    reason: str
    comparisons: tuple[Comparison, ...]


def judge(
    claims: Sequence[Claim], summaries: Sequence[ArmSummary], test: SeedTest = PAIRED_T_TEST, *, provisional: bool = False
) -> list[ClaimVerdict]:  # fmt: skip
    """Test a grid's claims on the seeds that are done.

    Args:
        claims: all claims of the grid.
        summaries: the arms.
        test: the test of the differences.
        provisional: whether planned seeds are still to be run: then there are differences and intervals, and no test.
    """
    measured = [_resolve(claim.metric, summaries) for claim in claims]
    chains = [
        [] if metric is None else _comparisons(claim, metric, summaries, test)
        for claim, metric in zip(claims, measured, strict=True)
    ]
    if provisional:
        chains = [[c if c.difference is None else replace(c, p=None, outcome="provisional") for c in chain] for chain in chains]
    corrected = iter(holm([comparison.p for chain in chains for comparison in chain if comparison.p is not None]))
    found = []
    for claim, metric, chain in zip(claims, measured, chains, strict=True):
        decided = [c if c.p is None else _decided(c, next(corrected), claim.greater) for c in chain]
        found.append(_verdict(claim, decided) if metric is not None else _not_measured(claim))
    return found


def _verdict(claim: Claim, comparisons: Sequence[Comparison]) -> ClaimVerdict:
    outcomes = [comparison.outcome for comparison in comparisons]
    order: tuple[ClaimOutcome, ...] = ("fails", "not measured", "provisional", "undecided", "holds")
    outcome = next(outcome for outcome in order if outcome in outcomes)
    return ClaimVerdict(claim, outcome, "; ".join(_describe(comparison) for comparison in comparisons), tuple(comparisons))


def _not_measured(claim: Claim) -> ClaimVerdict:
    which = claim.metric.partition("/")[2]
    reason = f"not measured here: the sweep has no anomaly set {which}" if which else "not measured"
    return ClaimVerdict(claim, "not measured", reason, ())


def _resolve(metric: str, summaries: Sequence[ArmSummary]) -> str | None:
    """Return the metric's name among the results, or None; a folder's anomaly set may be named by the end of its path."""
    measured = {name for summary in summaries for record in summary.records for name in record.metrics}
    if metric in measured:
        return metric
    bare, _, which = metric.partition("/")
    of_sets = [name for name in sorted(measured) if which and name.startswith(f"{bare}/")]
    return next((name for name in of_sets if name.endswith(f"/{which}")), None)


def _comparisons(claim: Claim, metric: str, summaries: Sequence[ArmSummary], test: SeedTest) -> list[Comparison]:
    """Return the comparisons of a claim, tested and not yet decided."""
    by_arm = {summary.arm: summary for summary in summaries}
    values = [term if isinstance(term, float) else by_seed(by_arm.get(term), metric) for term in claim.terms]
    found = []
    for i, (left, right) in enumerate(pairwise(claim.terms)):
        differences = paired_differences(values[i], values[i + 1])
        tested = test(differences)
        interval, p = (None, None) if tested is None else tested
        difference = mean(differences) if differences else None
        outcome: ClaimOutcome = "not measured" if difference is None else "undecided"
        found.append(Comparison(left, right, len(differences), difference, interval, p, None, test.name, outcome))
    return found


def _decided(comparison: Comparison, p_holm: float, greater: bool) -> Comparison:
    as_claimed = comparison.difference is not None and (comparison.difference > 0) == greater
    outcome: ClaimOutcome = "undecided" if p_holm >= LEVEL else "holds" if as_claimed else "fails"
    return replace(comparison, p_holm=p_holm, outcome=outcome)


def _describe(comparison: Comparison) -> str:
    names = f"{_name(comparison.left)} - {_name(comparison.right)}"
    if comparison.difference is None:
        return f"{names}: not run, or without a number"
    if comparison.outcome == "provisional":
        return f"{names}: {comparison.difference:+.4f} in {comparison.n} of the planned seeds"
    if comparison.interval is None or comparison.p is None or comparison.p_holm is None:
        if comparison.n > 1:
            return (
                f"{names}: {comparison.difference:+.4f} in each of {comparison.n} seeds, without the spread that a test needs"
            )
        return f"{names}: {comparison.difference:+.4f} with one seed, where nothing is claimed"
    low, high = comparison.interval
    shown = (
        f"95 % interval [{low:+.4f}, {high:+.4f}], p {p_text(comparison.p)}, corrected {p_text(comparison.p_holm)}, "
        f"n = {comparison.n}, {comparison.test}"
    )
    return f"{names}: {comparison.difference:+.4f}, {shown}"


def _name(term: Term) -> str:
    return term if isinstance(term, str) else f"{term:g}"
