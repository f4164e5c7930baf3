"""An arm's differences from base on several metrics of one kind: do they point the same way?

They describe and claim nothing: the intervals are not corrected, neither over arms nor over metrics. What is tested stands in
:mod:`sweeps.analysis.contrasts` and :mod:`sweeps.analysis.claim_tests`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from sweeps.analysis.arm_summary import ArmSummary, by_seed, paired_differences
from sweeps.analysis.significance import PAIRED_T_TEST, SeedTest
from sweeps.planning.grid import BASE

Side = Literal["above", "below", "unclear"]

#: Metric -> its name in a sentence. What is read out, and by what (Bordes et al. 2022, arXiv 2206.13378: the layer matters).
READOUTS: Mapping[str, str] = {
    "probe_accuracy": "the probe of the representation",
    "probe_accuracy_backbone": "the probe of the backbone",
    "probe_accuracy_projection": "the probe of the projection",
    "knn_accuracy": "kNN of the representation",
    "knn_accuracy_cosine": "cosine kNN of the representation",
    "knn_accuracy_cosine_backbone": "cosine kNN of the backbone",
    "knn_accuracy_cosine_projection": "cosine kNN of the projection",
}
#: Metric of an anomaly set -> its score's name in a sentence.
ANOMALY_SCORES: Mapping[str, str] = {
    "anomaly_auc": "the distance to the 2 nearest train images",
    "anomaly_auc_kth": "the distance to the 50th nearest train image",
    "anomaly_auc_mahalanobis": "the Mahalanobis distance",
}


@dataclass(frozen=True)
class MetricDifference:
    """The difference of an arm from base on one metric, paired by seed.

    Attributes:
        metric: the metric.
        n: number of seeds that both have.
        difference: the arm's value minus base's, mean over these seeds.
        side: with several seeds ``above`` if the 95 % interval of the difference, not corrected, lies wholly above 0, ``below``
            if wholly below; with one seed, if the difference exceeds the margin. Else ``unclear``, and also where all seeds
            give the same difference, so that there is no interval.
    """

    metric: str
    n: int
    difference: float
    side: Side


def differences_from_base(
    summaries: Sequence[ArmSummary], metrics: Sequence[str], margin: float, test: SeedTest = PAIRED_T_TEST
) -> dict[str, list[MetricDifference]]:
    """Return every arm's differences from base, by arm, for those of the metrics that both have.

    Base, arms that are the same trial as base, and parents that are no arm of the grid are left out.

    Args:
        summaries: the arms, base among them; without base nothing is returned.
        metrics: the metrics.
        margin: with one seed, the largest difference that counts as none.
        test: gives the intervals.
    """
    base = next((summary for summary in summaries if summary.arm == BASE), None)
    if base is None:
        return {}
    keys = [record.trial.key for record in base.records]
    found: dict[str, list[MetricDifference]] = {}
    for summary in summaries:
        if [record.trial.key for record in summary.records] == keys or summary.records[0].trial.required_by:
            continue
        both = {metric: paired_differences(by_seed(summary, metric), by_seed(base, metric)) for metric in metrics}
        found[summary.arm] = [
            MetricDifference(metric, len(values), mean(values), _side(values, margin, test))
            for metric, values in both.items()
            if values
        ]
    return found


def _side(values: Sequence[float], margin: float, test: SeedTest) -> Side:
    if len(values) == 1:
        low, high = values[0] - margin, values[0] + margin
    else:
        tested = test(values)
        if tested is None:
            return "unclear"
        low, high = tested[0]
    return "above" if low > 0 else "below" if high < 0 else "unclear"


def disagree(differences: Sequence[MetricDifference]) -> bool:
    """Return whether the arm is above base by one of the metrics and below it by another."""
    return {"above", "below"} <= {difference.side for difference in differences}
