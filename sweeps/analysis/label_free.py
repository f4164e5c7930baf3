"""Metrics that need no labels, and the order of arms by the probe: does one stand for the other?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from sweeps.analysis.arm_facts import RankCorrelation, is_collapsed, rank_correlations
from sweeps.analysis.arm_summary import ArmSummary

#: The metric that the others are held against.
REFERENCE = "probe_accuracy"
#: The metrics without labels. Larger counts as better, but for alpha_req, where near 1 does.
LABEL_FREE = ("lidar", "alpha_req", "rankme", "rankme_projection", "silhouette", "effective_rank")


@dataclass(frozen=True)
class LabelFreeRanks:
    """The VICReg arms' ranks under REFERENCE and under the metrics of LABEL_FREE.

    Attributes:
        correlations: Spearman's rank correlation of REFERENCE and each metric that was measured, both turned so that larger is
            better.
        ranks: arm -> metric -> rank among the arms that have the metric, 1 the best; equal values share their mean rank. The
            metrics are REFERENCE and those of ``correlations``. Arms that share a trial appear once.
        missing: the metrics of LABEL_FREE that no arm has.
        collapsed: the arms among them that count as collapsed.
        other_methods: arms that are left out, because their method is another one than VICReg.
    """

    correlations: Sequence[RankCorrelation]
    ranks: Mapping[str, Mapping[str, float]]
    missing: Sequence[str]
    collapsed: Sequence[str]
    other_methods: Sequence[str]


def label_free_ranks(summaries: Sequence[ArmSummary]) -> LabelFreeRanks | None:
    """Rank the VICReg arms by REFERENCE and by each metric of LABEL_FREE.

    RankMe, and the metrics like it, compare runs of one method that differ in hyperparameters (Garrido et al., ICML 2023, arXiv
    2210.02885), hence only arms whose method is ``vicreg``. By alpha-ReQ (Agrawal et al., NeurIPS 2022) an arm is the better,
    the smaller |alpha - 1|, mean over the seeds.

    Returns:
        None if fewer than two of these arms have REFERENCE, or if no metric of LABEL_FREE was measured.
    """
    methods = {summary.arm: summary.records[0].trial.config.method for summary in summaries}
    first = {summary.records[0].trial.key: summary.arm for summary in reversed(summaries)}  # of arms that share a trial
    arms = [_scored(s) for s in summaries if methods[s.arm] == "vicreg" and s.arm in first.values()]
    measured = [name for name in LABEL_FREE if any(arm.values(name) for arm in arms)]
    if sum(bool(arm.values(REFERENCE)) for arm in arms) < 2 or not measured:
        return None
    by_metric = {name: _ranks(arms, name) for name in (REFERENCE, *measured)}
    return LabelFreeRanks(
        correlations=[rank_correlations(arms, (REFERENCE, name))[0] for name in measured],
        ranks={a.arm: {name: ranks[a.arm] for name, ranks in by_metric.items() if a.arm in ranks} for a in arms if a.done},
        missing=[name for name in LABEL_FREE if name not in measured],
        collapsed=[arm.arm for arm in arms if is_collapsed(arm)],
        other_methods=[arm for arm, method in methods.items() if method != "vicreg"],
    )


def _scored(summary: ArmSummary) -> ArmSummary:
    """Return the arm with -|alpha - 1| in the place of alpha, so that larger is better."""
    return replace(summary, records=tuple(
        replace(record, metrics={**record.metrics, "alpha_req": -abs(record.metrics["alpha_req"] - 1)})
        if "alpha_req" in record.metrics else record
        for record in summary.records
    ))  # fmt: skip


def _ranks(arms: Sequence[ArmSummary], metric: str) -> dict[str, float]:
    from scipy.stats import rankdata

    values = {arm.arm: mean(found) for arm in arms if (found := arm.values(metric))}
    return dict(zip(values, map(float, rankdata([-value for value in values.values()])), strict=True))
