"""Claims of a grid file, such as ``probe_accuracy: base > neighbors > no-variance``: reading them, and what became of them.

A claim names a metric and compares arms (or an arm with a number) in a chain. Each link is a two-sided test, at 5 %, of the
differences between seeds that both arms have (paired: one seed means the same initial weights, batches and draws). The chain
holds if every link does, so no correction for several links is due; it fails if one link's difference is significant the other
way. With one seed nothing is decided.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Literal

from core.config import suggest
from core.errors import InputError
from evaluation.evaluate import METRICS
from sweeps.inference import FIXED, LEVEL, SeedTest

if TYPE_CHECKING:
    from sweeps.report import ArmSummary

#: An arm's name or a number.
Term = str | float
Outcome = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A chain of comparisons on one metric.

    Attributes:
        text: as written.
        metric: a metric's name, with an anomaly set's behind a slash where one is meant.
        terms: arms or numbers, each greater (``greater``) or less than the next.
        greater: which way.
    """

    text: str
    metric: str
    terms: tuple[Term, ...]
    greater: bool


def parse_claim(text: str, arms: Collection[str]) -> Claim:
    """Reads a claim.

    Args:
        text: ``metric: a > b > ...`` or with ``<``.
        arms: names of the grid's arms.

    Raises:
        InputError: naming what is wrong with it, and the choices.
    """
    metric, colon, chain = text.partition(":")
    metric = metric.strip()
    parts = re.split(r"\s+([<>])\s+", chain.strip())
    terms, signs = parts[::2], set(parts[1::2])
    if not colon or len(signs) != 1 or not all(terms):
        raise InputError(f"{text!r} is no claim of the form 'metric: arm > arm > ...' or with '<'")
    bare = metric.partition("/")[0]
    faults = []
    if bare not in METRICS:
        faults.append(f"{text!r}: {bare!r} is no metric{suggest(bare, list(METRICS))}; there are {', '.join(METRICS)}")
    elif "/" in metric and (not METRICS[bare].per_anomaly_set or metric.endswith("/")):
        which = "an anomaly set without a name" if METRICS[bare].per_anomaly_set else "each anomaly set"
        faults.append(f"{text!r}: {bare} has no number for {which}")
    read = [_term(term, arms) for term in terms]
    for term, value in zip(terms, read, strict=True):
        if value is None:
            faults.append(f"{text!r}: {term!r} is no arm{suggest(term, list(arms))}; there are {', '.join(arms)}")
    if not any(isinstance(value, str) for value in read):
        faults.append(f"{text!r} compares no arm")
    if len(set(terms)) < len(terms):
        faults.append(f"{text!r} compares something with itself")
    if faults:
        raise InputError(faults)
    return Claim(text, metric, tuple(value for value in read if value is not None), ">" in signs)


def _term(text: str, arms: Collection[str]) -> Term | None:
    if text in arms:
        return text
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Link:
    """One comparison of a claim.

    Attributes:
        left: the term that is claimed to be the greater (or the less).
        right: the other.
        n: seeds that both have.
        difference: mean of left - right over the seeds; None where there is none.
        interval: its 95 % interval; None below two seeds.
        p: of the two-sided test; None below two seeds.
        test: the test's name.
        outcome: what became of it.
    """

    left: Term
    right: Term
    n: int
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    test: str
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: the claim.
        outcome: holds, fails or undecided.
        reason: the test in a sentence, or why nothing was decided.
        links: one for each comparison.
    """

    claim: Claim
    outcome: Outcome
    reason: str
    links: tuple[Link, ...]


def judge(claim: Claim, summaries: Sequence[ArmSummary], test: SeedTest = FIXED) -> Verdict:
    """Tests a claim on the seeds that are done."""
    by_arm = {summary.arm: summary for summary in summaries}
    metric = _resolve(claim.metric, summaries)
    if metric is None:
        which = claim.metric.partition("/")[2]
        reason = f"not measured here: the sweep has no anomaly set {which}" if which else "not measured"
        return Verdict(claim, "undecided", reason, ())
    values = [term if isinstance(term, float) else by_seed(by_arm.get(term), metric) for term in claim.terms]
    links = tuple(
        _link(claim.terms[i], claim.terms[i + 1], values[i], values[i + 1], claim.greater, test) for i in range(len(values) - 1)
    )
    outcomes = {link.outcome for link in links}
    outcome: Outcome = "fails" if "fails" in outcomes else "undecided" if "undecided" in outcomes else "holds"
    return Verdict(claim, outcome, "; ".join(_describe(link) for link in links), links)


def _resolve(metric: str, summaries: Sequence[ArmSummary]) -> str | None:
    """The metric's name among the results; a folder's anomaly set also goes by its last part."""
    measured = {name for summary in summaries for record in summary.records for name in record.metrics}
    if metric in measured:
        return metric
    bare, _, which = metric.partition("/")
    of_sets = [name for name in sorted(measured) if which and name.startswith(f"{bare}/")]
    return next((name for name in of_sets if name.endswith(f"/{which}")), None)


#: Seed -> value; an arm that is the same for every seed has one value, under None; a number stands for itself.
Values = float | Mapping[int | None, float]


def by_seed(summary: ArmSummary | None, metric: str) -> dict[int | None, float]:
    """An arm's values of a metric."""
    if summary is None:
        return {}
    done = [record for record in summary.records if record.status == "done" and metric in record.metrics]
    return {r.trial.config.seed if r.trial.config.has_encoder else None: r.metrics[metric] for r in done}


def paired_differences(left: Values, right: Values) -> list[float]:
    """left - right for every seed that both have; one difference where neither depends on a seed."""
    seeds = [set(side) for side in (left, right) if not isinstance(side, float) and None not in side]
    common = set.intersection(*seeds) if seeds else {None}
    ordered = sorted(common, key=lambda seed: -1 if seed is None else seed)
    return [x - y for seed in ordered if (x := _at(left, seed)) is not None and (y := _at(right, seed)) is not None]


def _at(side: Values, seed: int | None) -> float | None:
    return side if isinstance(side, float) else side.get(seed, side.get(None))


def _link(left: Term, right: Term, a: Values, b: Values, greater: bool, test: SeedTest) -> Link:
    differences = paired_differences(a, b)
    n = len(differences)
    difference = mean(differences) if differences else None
    tested = test(differences)
    if tested is None or difference is None:
        return Link(left, right, n, difference, None, None, test.name, "undecided")
    interval, p = tested
    decided: Outcome = "holds" if (difference > 0) == greater else "fails"
    return Link(left, right, n, difference, interval, p, test.name, decided if p < LEVEL else "undecided")


def _describe(link: Link) -> str:
    names = f"{_name(link.left)} - {_name(link.right)}"
    if link.difference is None:
        return f"{names}: not run, or without a number"
    if link.interval is None or link.p is None:
        if link.n > 1:
            return f"{names}: {link.difference:+.4f} in each of {link.n} seeds, without the spread that a test needs"
        return f"{names}: {link.difference:+.4f} with one seed, where nothing is claimed"
    low, high = link.interval
    shown = f"95 % interval [{low:+.4f}, {high:+.4f}], p {p_text(link.p)}, n = {link.n}, {link.test}"
    return f"{names}: {link.difference:+.4f}, {shown}"


def p_text(p: float) -> str:
    """A p-value for people."""
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def _name(term: Term) -> str:
    return term if isinstance(term, str) else f"{term:g}"
