"""Each arm against base on the grid's primary metric, paired by seed, honest about what n can show.

The differences of one seed share initial weights, batches and draws, so they are paired; their t-test is two-sided, and
p-values are corrected over the arms by Holm's method. Other metrics than the primary one are described, never tested.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.files import whole_file
from sweeps.claims import LEVEL, by_seed, paired_differences, paired_t
from sweeps.grid import BASE
from sweeps.plan import Plan
from sweeps.report import ArmSummary
from sweeps.store import Store

Verdict = Literal["higher", "lower", "equivalent", "undecided", "one seed", "no result"]

#: The probability with which a difference of ``Contrast.detectable`` would have been found.
POWER = 0.8
_RESAMPLES = 2000


@dataclass(frozen=True)
class Contrast:
    """One arm against base.

    Attributes:
        arm: its name.
        n: seeds that both have.
        difference: mean over the seeds of the arm's value less base's; None where there is none.
        interval: its 95 % interval (t); None where it is not defined.
        p: of the paired t-test, two-sided.
        p_holm: the same, corrected over the arms that are tested.
        detectable: the difference that n seeds with this spread would have shown with a probability of POWER, uncorrected.
        correlation: Pearson's, of the two arms' values over the seeds: what pairing achieved; None below three seeds.
        test_error: standard error of the difference that the finite test set leaves (bootstrap over its images); None where
            single images' outcomes are not kept.
        verdict: what the numbers say.
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
    verdict: Verdict = "no result"


def contrasts(
    summaries: Sequence[ArmSummary], metric: str, margin: float, test_errors: Mapping[str, float] | None = None
) -> list[Contrast]:
    """Every arm against base.

    Args:
        summaries: the arms, base among them.
        metric: the primary metric.
        margin: differences whose interval lies within -margin to margin count as equivalent.
        test_errors: arm -> standard error that the test set leaves, where it is known.
    """
    base = next((summary for summary in summaries if summary.arm == BASE), None)
    if base is None:
        return []
    found = []
    for summary in summaries:
        same = [r.trial.key for r in summary.records] == [r.trial.key for r in base.records]
        added = bool(summary.records[0].trial.added_for)  # a parent that no arm asked for is no question of the grid's
        if summary.arm != BASE and not same and not added:
            found.append(_contrast(summary, base, metric, (test_errors or {}).get(summary.arm)))
    corrected = iter(holm([contrast.p for contrast in found if contrast.p is not None]))
    found = [contrast if contrast.p is None else replace(contrast, p_holm=next(corrected)) for contrast in found]
    return [replace(contrast, verdict=_verdict(contrast, margin)) for contrast in found]


def _contrast(summary: ArmSummary, base: ArmSummary, metric: str, test_error: float | None) -> Contrast:
    mine, theirs = by_seed(summary, metric), by_seed(base, metric)
    differences = paired_differences(mine, theirs)
    contrast = Contrast(summary.arm, len(differences), mean(differences) if differences else None, test_error=test_error)
    test = paired_t(differences)
    if test is None:
        return contrast
    both = [seed for seed in mine if seed is not None and seed in theirs]
    pairs = [(mine[seed], theirs[seed]) for seed in both]
    return replace(
        contrast, interval=test[0], p=test[1], detectable=detectable(stdev(differences), len(differences)),
        correlation=_correlation(pairs),
    )  # fmt: skip


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) == 1 for i in (0, 1)):
        return None
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def _verdict(contrast: Contrast, margin: float) -> Verdict:
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


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def detectable(deviation: float, n: int) -> float:
    """The smallest true difference that a paired t-test at 5 % finds with probability POWER, for n differences of this spread.

    Args:
        deviation: the differences' standard deviation.
        n: at least 2.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    critical = t.ppf(1 - LEVEL / 2, n - 1)

    def lacking(shift: float) -> float:
        """POWER less the power where the noncentrality is ``shift``."""
        return POWER - float(nct.sf(critical, n - 1, shift) + nct.cdf(-critical, n - 1, shift))

    enough = 1.0
    while lacking(enough) > 0:  # scipy's distribution is not defined far out, so no further than needed
        enough *= 1.5
    return float(brentq(lacking, 1e-9, enough)) * deviation / float(np.sqrt(n))


def bootstrap_error(differences: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> float:
    """Standard error of the mean of single images' differences, by a bootstrap over images (or over groups of them).

    Args:
        differences: [M], e.g. how much more often an arm than base named each test image rightly, mean over the seeds.
        groups: [M]; images of one group (renderings of one digit) are drawn together.
    """
    _, index = np.unique(np.arange(len(differences)) if groups is None else groups, return_inverse=True)
    sums, counts = np.bincount(index, differences), np.bincount(index)
    draws = np.random.Generator(np.random.Philox(key=0)).integers(len(sums), size=(_RESAMPLES, len(sums)))
    return float((sums[draws].sum(axis=1) / counts[draws].sum(axis=1)).std(ddof=1))


def test_set_errors(summaries: Sequence[ArmSummary], store: Store) -> dict[str, float]:
    """Arm -> standard error that the finite test set leaves in its difference to base in probe accuracy.

    By :func:`bootstrap_error`. An image's difference is how much more often the arm than base named it rightly, mean over the
    seeds that both have; images rendered from one source are drawn together.
    """
    base = next((summary for summary in summaries if summary.arm == BASE), None)
    theirs = {} if base is None else _right(base, store)
    errors = {}
    for summary in summaries:
        mine = _right(summary, store)
        seeds = sorted({seed for side in (mine, theirs) for seed in side if seed is not None})
        pairs = [(mine.get(seed, mine.get(None)), theirs.get(seed, theirs.get(None))) for seed in seeds]
        differences = [one[0] - other[0] for one, other in pairs if one is not None and other is not None]
        if summary.arm != BASE and differences:
            groups = next(one[1] for one, other in pairs if one is not None and other is not None)
            errors[summary.arm] = bootstrap_error(np.mean(differences, axis=0), groups)
    return errors


def _right(summary: ArmSummary, store: Store) -> dict[int | None, tuple[NDArray[np.float64], NDArray[np.int64] | None]]:
    """Seed -> whether each test image was named rightly, and the images' sources; under None for an arm without seeds."""
    found = {}
    for record in summary.records:
        kept = store.detail(record.trial, "predictions") if record.status == "done" else None
        if kept is not None:
            right = (kept["test"] == kept["test_labels"]).astype(np.float64)
            found[record.trial.config.seed if record.trial.config.has_encoder else None] = right, kept.get("test_groups")
    return found


def of_sweep(plan: Plan, summaries: Sequence[ArmSummary], store: Store) -> list[Contrast]:
    """The contrasts of a sweep on its grid's primary metric, with its margin."""
    errors = test_set_errors(summaries, store) if plan.grid.primary == "probe_accuracy" else {}
    return contrasts(summaries, plan.grid.primary, plan.grid.margin, errors)


def write(path: Path, found: Sequence[Contrast]) -> Path:
    """Writes the contrasts as CSV, one arm a row; returns the path."""
    names = [field.name for field in fields(Contrast)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for contrast in found:
        values = [getattr(contrast, name) for name in names]
        writer.writerow(["" if v is None else " to ".join(map(repr, v)) if isinstance(v, tuple) else v for v in values])
    with whole_file(path) as temporary:
        temporary.write_text(text.getvalue())
    return path


def parent_metrics(found: Sequence[Contrast], metric: str) -> dict[str, float]:
    """The contrasts as metrics of the sweep's parent run."""
    numbers = {"difference": "difference", "p_holm": "p_holm", "detectable": "detectable_difference"}
    return {
        f"{contrast.arm}/{metric}/{name}": value
        for contrast in found
        for attribute, name in numbers.items()
        if (value := getattr(contrast, attribute)) is not None
    }
