"""The report's section "Quality without labels"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.analysis.arm_summary import ArmSummary
from sweeps.analysis.label_free import REFERENCE, label_free_ranks
from sweeps.formatting import correlation_text


@dataclass(frozen=True)
class MetricCorrelation:
    """A metric's rank correlation with the probe, as texts, over all VICReg arms and over those that did not collapse."""

    metric: str
    all_arms: str
    n_arms: int
    non_collapsed: str
    n_non_collapsed: int


@dataclass(frozen=True)
class RankRow:
    """An arm's ranks, one cell for each metric; "-" where it lacks the metric."""

    arm: str
    collapsed: bool
    cells: Sequence[str]


@dataclass(frozen=True)
class LabelFreeSection:
    """How metrics without labels rank the VICReg arms, beside the probe.

    Attributes:
        correlations: a row for each metric that was measured.
        metrics: columns of the table of ranks: the probe, and these metrics.
        rows: the ranks of each arm, the best by the probe first.
        missing: the metrics that were not measured, as a text; "" if all were.
        other_methods: the arms of other methods, which are left out, as a text; "" if there are none.
    """

    correlations: Sequence[MetricCorrelation]
    metrics: Sequence[str]
    rows: Sequence[RankRow]
    missing: str
    other_methods: str


def label_free_section(summaries: Sequence[ArmSummary]) -> LabelFreeSection | None:
    """Return the section's content; None if there is nothing to compare."""
    found = label_free_ranks(summaries)
    if found is None:
        return None
    metrics = [REFERENCE, *(correlation.metric_b for correlation in found.correlations)]
    by_reference = sorted(found.ranks, key=lambda arm: found.ranks[arm].get(REFERENCE, len(found.ranks) + 1))
    return LabelFreeSection(
        correlations=[
            MetricCorrelation(
                r.metric_b, correlation_text(r.all_arms), r.n_arms, correlation_text(r.non_collapsed), r.n_non_collapsed
            )
            for r in found.correlations
        ],
        metrics=metrics,
        rows=[
            RankRow(arm, arm in found.collapsed, [_rank_text(found.ranks[arm].get(metric)) for metric in metrics])
            for arm in by_reference
        ],
        missing=", ".join(found.missing),
        other_methods=", ".join(found.other_methods),
    )


def _rank_text(rank: float | None) -> str:
    return "-" if rank is None else f"{rank:g}"
