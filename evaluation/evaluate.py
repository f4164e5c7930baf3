"""The registry of metrics, and ``evaluate(evidence)``: every number that a trial is given.

A metric is a function of :class:`Evidence` (or, of one anomaly set, :class:`AnomalyEvidence`) and one line in
:data:`METRICS`. With it come its name in MLflow and in tables, its direction, and its version: raise the version when the
function's meaning changes, and old trials are given the new number without being trained again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from core.pairing import PairStatistics
from evaluation import anomaly, clustering, retrieval, spectrum
from evaluation.probe import Probe, logistic_probe, study_probe

if TYPE_CHECKING:
    from core.embed import Features


@dataclass(frozen=True)
class Evidence:
    """What metrics may look at. What several metrics need is computed at the first need, and kept.

    Attributes:
        train: features of the train images (without validation).
        validation: features of the held-out tenth.
        test: features of the test images.
        classes: number of classes.
        anomalies: features of each anomaly set, by name.
        has_backbone: whether the backbone's features are other than the representation.
        history: one record for each epoch; empty for rows that train nothing.
        pairs: statistics of the training pairs, if any.
        gamma: the variance term's target.
        untrained_probe_accuracy: ``probe_accuracy`` of the untrained encoder of the same seed, architecture and data.
    """

    train: Features
    validation: Features
    test: Features
    classes: int
    anomalies: Mapping[str, Features] = field(default_factory=dict)
    has_backbone: bool = True
    history: tuple[Mapping[str, float], ...] = ()
    pairs: PairStatistics | None = None
    gamma: float = 1.0
    untrained_probe_accuracy: float | None = None

    @cached_property
    def probe(self) -> Probe:
        """The converged probe on the representation."""
        return self._probe(lambda features: features.representation)

    @cached_property
    def backbone_probe(self) -> Probe:
        """The converged probe on the backbone's features."""
        return self._probe(lambda features: features.backbone)

    def _probe(self, space: Callable[[Features], Any]) -> Probe:
        train, validation, test = ((space(part), part.labels) for part in (self.train, self.validation, self.test))
        return logistic_probe(train, validation, test)

    @cached_property
    def clusters(self) -> clustering.Clusters:
        """k-means on the train representation, as many clusters as classes."""
        return clustering.kmeans(self.train.representation, self.classes)

    @cached_property
    def silhouettes(self) -> tuple[float, float]:
        """Mean silhouette of the clusters, and of the true classes."""
        clusters, classes = clustering.silhouettes(self.train.representation, [self.clusters.assignment, self.train.labels])
        return clusters, classes

    @cached_property
    def test_scores(self) -> anomaly.Scores:
        """Anomaly scores of the test images."""
        return anomaly.scores(self.train.representation, self.test.representation)

    def of_anomalies(self, name: str) -> AnomalyEvidence:
        """The evidence on one anomaly set."""
        return AnomalyEvidence(self.test_scores, anomaly.scores(self.train.representation, self.anomalies[name].representation))


@dataclass(frozen=True)
class AnomalyEvidence:
    """Anomaly scores, [M] float64 each: of the test images and of the images of one anomaly set."""

    test_scores: anomaly.Scores
    anomaly_scores: anomaly.Scores


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        function: Evidence (AnomalyEvidence where ``per_anomaly_set``) -> the number, or None where it does not apply.
        better: which way is better; None where neither is.
        meaning: one line for help, tables and reports.
        version: raised when the function's meaning changes.
        per_anomaly_set: one number for each anomaly set; the first set's also goes by the bare name.
    """

    function: Callable[[Any], float | None]
    better: Literal["higher", "lower"] | None
    meaning: str
    version: int = 1
    per_anomaly_set: bool = False


def _study(e: Evidence) -> float:
    return study_probe((e.train.representation, e.train.labels), (e.test.representation, e.test.labels), e.classes)


def _knn(e: Evidence) -> float:
    return retrieval.knn_accuracy(e.train.representation, e.train.labels, e.test.representation, e.test.labels)


def _last(name: str) -> Callable[[Evidence], float | None]:
    return lambda e: e.history[-1][name] if e.history else None


def _probe_gain(e: Evidence) -> float | None:
    if e.untrained_probe_accuracy is None or not e.history:
        return None
    return e.probe.accuracy - e.untrained_probe_accuracy


#: Where a collapse indicator speaks: a mean standard deviation below a tenth of gamma, more than half of the dimensions dead,
#: a probe that gains no more over the untrained encoder's than two standard errors of the test set explain.
COLLAPSED_STD = 0.1
COLLAPSED_DEAD = 0.5
COLLAPSED_GAIN_ERRORS = 2.0


def _collapse_indicators(e: Evidence) -> float | None:
    gain = _probe_gain(e)
    if gain is None:
        return None
    last = e.history[-1]
    accuracies = (e.probe.accuracy, e.probe.accuracy - gain)
    error = math.sqrt(sum(accuracy * (1 - accuracy) for accuracy in accuracies) / len(e.test))
    spoken = (
        last["projection_std"] < COLLAPSED_STD * e.gamma,
        last["dead_dimensions"] > COLLAPSED_DEAD,
        gain <= COLLAPSED_GAIN_ERRORS * error,
    )
    return float(sum(spoken))


METRICS: dict[str, Metric] = {
    "probe_accuracy": Metric(
        lambda e: e.probe.accuracy, "higher", "logistic regression on the standardised representation, converged"
    ),
    "anomaly_auc": Metric(
        lambda e: anomaly.auc(e.test_scores, e.anomaly_scores), "higher",
        "ROC AUC of the distance to the 2 nearest train images, test against anomalies", per_anomaly_set=True,
    ),
    "silhouette": Metric(lambda e: e.silhouettes[0], None, "of k-means clusters of the train representation; rewards low rank"),
    "probe_accuracy_backbone": Metric(
        lambda e: e.backbone_probe.accuracy if e.has_backbone else None, "higher", "the same probe on the backbone's features"
    ),
    "probe_accuracy_study": Metric(
        _study, "higher", "the studies' probe, not standardised: measures the features' scale as well"
    ),
    "knn_accuracy": Metric(_knn, "higher", "majority of the 20 nearest train images"),
    "anomaly_fpr95": Metric(
        lambda e: anomaly.fpr_at_95_tpr(e.test_scores, e.anomaly_scores), "lower",
        "share of test images flagged where 95 % of the anomalies are", per_anomaly_set=True,
    ),
    "nmi": Metric(
        lambda e: clustering.normalized_mutual_information(e.train.labels, e.clusters.assignment), "higher",
        "normalised mutual information of k-means clusters and classes",
    ),
    "ari": Metric(
        lambda e: clustering.adjusted_rand_index(e.train.labels, e.clusters.assignment), "higher",
        "adjusted Rand index of k-means clusters and classes",
    ),
    "cluster_accuracy": Metric(
        lambda e: clustering.cluster_accuracy(e.train.labels, e.clusters.assignment), "higher",
        "accuracy of k-means clusters under the best naming",
    ),
    "silhouette_classes": Metric(lambda e: e.silhouettes[1], None, "of the true classes in the train representation"),
    "rankme": Metric(
        lambda e: spectrum.rankme(e.train.representation), None, "RankMe of the train representation (singular values)"
    ),
    "effective_rank": Metric(
        lambda e: spectrum.effective_rank(e.train.representation), None, "effective rank of its covariance"
    ),
    "projection_std": Metric(
        _last("projection_std"), None, "mean standard deviation of the test projections; near 0: collapsed"
    ),
    "dead_dimensions": Metric(
        _last("dead_dimensions"), "lower", "share of projection dimensions with a deviation below 0.1 gamma"
    ),
    "probe_gain": Metric(_probe_gain, "higher", "probe_accuracy less the untrained encoder's"),
    "collapse_indicators": Metric(
        _collapse_indicators, "lower", "how many of 3 speak: projection_std < 0.1 gamma, dead_dimensions > 0.5, no probe_gain"
    ),
    "pair_label_purity": Metric(
        lambda e: e.pairs.label_purity if e.pairs else None, None, "share of training pairs of one class"
    ),
    "distinct_partners": Metric(
        lambda e: float(e.pairs.distinct_partners) if e.pairs else None, None, "images that were a partner in any epoch"
    ),
}  # fmt: skip


def metric_ids(anomaly_identities: Mapping[str, str]) -> dict[str, str]:
    """Every value's name -> what identifies its computation: the metric, its version, the anomaly set's content.

    Args:
        anomaly_identities: anomaly set -> identity of its content, the headline first.
    """
    ids = {}
    for name, metric in METRICS.items():
        if metric.per_anomaly_set:
            for which, identity in anomaly_identities.items():
                ids[f"{name}/{which}"] = f"{name}@{metric.version}[{identity}]"
        else:
            ids[name] = f"{name}@{metric.version}"
    return ids


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one trial.

    Attributes:
        values: name (``anomaly_auc/<set>`` for metrics of an anomaly set) -> number; None where it does not apply.
        problems: name -> why there is no number.
        seconds: how long it took.
    """

    values: dict[str, float | None]
    problems: dict[str, str]
    seconds: float


def evaluate(evidence: Evidence, names: Collection[str]) -> Evaluation:
    """Computes the named metrics; one that is not defined for the evidence says why and does not stop the others.

    Args:
        evidence: what to look at.
        names: as :func:`metric_ids` returns them.
    """
    started = time.perf_counter()
    values: dict[str, float | None] = {}
    problems: dict[str, str] = {}
    anomalies: dict[str, AnomalyEvidence] = {}
    for name in names:
        bare, _, which = name.partition("/")
        try:
            if METRICS[bare].per_anomaly_set:
                if which not in anomalies:
                    anomalies[which] = evidence.of_anomalies(which)
                value = METRICS[bare].function(anomalies[which])
            else:
                value = METRICS[bare].function(evidence)
        except (ValueError, ArithmeticError) as error:
            problems[name] = f"{type(error).__name__}: {error}"
            continue
        if value is not None and not math.isfinite(value):
            problems[name] = f"the result is {value}"
        else:
            values[name] = value
    return Evaluation(values, problems, time.perf_counter() - started)
