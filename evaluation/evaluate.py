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

import numpy as np
from numpy.typing import NDArray

from core import digits_m
from core.config import IMAGE_PIXELS
from core.datasets import balanced_subset
from core.pairing import PairStatistics
from evaluation import anomaly, clustering, invariance, retrieval, spectrum
from evaluation.factors import linear_r2
from evaluation.probe import Probe, logistic_probe, study_probe

if TYPE_CHECKING:
    from core.datasets import ImageSet, Splits
    from core.embed import Features


@dataclass(frozen=True)
class Evidence:
    """What metrics may look at. What several metrics need is computed at the first need, and kept.

    Attributes:
        train: features of the train images (without validation).
        validation: features of the held-out tenth.
        test: features of the test images; of none where they are withheld, since trials are still being chosen.
        classes: number of classes.
        anomalies: features of each anomaly set, by name.
        validation_anomalies: features of the first set's images that belong to validation, if it has any.
        has_backbone: whether the backbone's features are other than the representation.
        history: one record for each epoch; empty for rows that train nothing.
        pairs: statistics of the training pairs, if any.
        gamma: the variance term's target.
        untrained_probe_accuracy: ``probe_accuracy`` of the untrained encoder of the same seed, architecture and data.
        images: the images themselves; None where only features are at hand.
        embed: images -> features, as those above were made.
    """

    train: Features
    validation: Features
    test: Features
    classes: int
    anomalies: Mapping[str, Features] = field(default_factory=dict)
    validation_anomalies: Features | None = None
    has_backbone: bool = True
    history: tuple[Mapping[str, float], ...] = ()
    pairs: PairStatistics | None = None
    gamma: float = 1.0
    untrained_probe_accuracy: float | None = None
    images: Splits | None = None
    embed: Callable[[ImageSet], Features] | None = None
    _of_anomalies: dict[str, AnomalyEvidence] = field(default_factory=dict, init=False, repr=False, compare=False)

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

    @property
    def compact(self) -> bool:
        """Whether the representation is smaller than the images, so that it is worth keeping."""
        return int(self.train.representation.shape[1]) < IMAGE_PIXELS

    @cached_property
    def looked_at(self) -> NDArray[np.int64]:
        """Indices of the test images, class-balanced, for what is too much for all of them."""
        return balanced_subset(self.test.labels, min(invariance.IMAGES, len(self.test)))

    def after(self, operation: str) -> NDArray[np.float32] | None:
        """Representations of those test images after an operation of :data:`invariance.OPERATIONS`."""
        if self.images is None or self.embed is None:
            return None
        return self.embed(invariance.operated(self.images.test.take(self.looked_at), operation)).representation

    @cached_property
    def covariance_eigenvalues(self) -> NDArray[np.float64]:
        """Of the train representation, in descending order."""
        return spectrum.covariance_eigenvalues(self.train.representation)

    @cached_property
    def read_off(self) -> dict[str, float]:
        """Factor that the images were made from -> R^2 with which it is read off the representation; {} where none is known."""
        if self.images is None or self.images.test.factors is None:
            return {}
        parts = ((self.train, self.images.train), (self.validation, self.images.validation), (self.test, self.images.test))
        train, validation, test = (images.factors or {} for _, images in parts)
        return linear_r2(
            [features.representation for features, _ in parts],
            {name: (train[name], validation[name], test[name]) for name in test},
        )

    @cached_property
    def validation_scores(self) -> anomaly.Scores:
        """Anomaly scores of the validation images."""
        return anomaly.scores(self.train.representation, self.validation.representation)

    def of_anomalies(self, name: str) -> AnomalyEvidence:
        """The evidence on one anomaly set."""
        if name not in self._of_anomalies:
            representation = self.anomalies[name].representation
            scores = anomaly.scores(self.train.representation, representation)
            self._of_anomalies[name] = AnomalyEvidence(self.test_scores, scores, representation if self.compact else None)
        return self._of_anomalies[name]

    def validation_auc(self) -> float | None:
        """Anomaly AUC of the first anomaly set on its images for validation; None where it has none."""
        if self.validation_anomalies is None:
            return None
        scores = anomaly.scores(self.train.representation, self.validation_anomalies.representation)
        return anomaly.auc(self.validation_scores, scores)


@dataclass(frozen=True)
class AnomalyEvidence:
    """Anomaly scores, [M] float64 each: of the test images and of one anomaly set's, whose representation is [M, D] if kept."""

    test_scores: anomaly.Scores
    anomaly_scores: anomaly.Scores
    representation: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        function: Evidence (AnomalyEvidence where ``per_anomaly_set``) -> the number, or None where it does not apply.
        better: which way is better; None where neither is.
        meaning: one line for help, tables and reports.
        version: raised when the function's meaning changes.
        per_anomaly_set: one number for each anomaly set; the first set's also goes by the bare name.
        selects: looks at no test image, so that trials may be chosen by it.
        of_headline: depends on the first anomaly set.
    """

    function: Callable[[Any], float | None]
    better: Literal["higher", "lower"] | None
    meaning: str
    version: int = 1
    per_anomaly_set: bool = False
    selects: bool = False
    of_headline: bool = False


def _study(e: Evidence) -> float:
    return study_probe((e.train.representation, e.train.labels), (e.test.representation, e.test.labels), e.classes)


def _knn(e: Evidence) -> float:
    return retrieval.knn_accuracy(e.train.representation, e.train.labels, e.test.representation, e.test.labels)


def _last(name: str) -> Callable[[Evidence], float | None]:
    return lambda e: e.history[-1].get(name) if e.history else None


def _moved_by(operation: str) -> Callable[[Evidence], float | None]:
    def moved(e: Evidence) -> float | None:
        after = e.after(operation)
        return None if after is None else invariance.relative_shift(e.test.representation[e.looked_at], after)

    return moved


def _read_off(factor: str) -> Callable[[Evidence], float | None]:
    return lambda e: e.read_off.get(factor)


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
    if gain is None or "projection_std" not in e.history[-1]:
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
        lambda e: e.probe.accuracy, "higher", "logistic regression on the standardised representation, converged", version=2
    ),
    "anomaly_auc": Metric(
        lambda e: anomaly.auc(e.test_scores, e.anomaly_scores), "higher",
        "ROC AUC of the distance to the 2 nearest train images, test against anomalies", version=2, per_anomaly_set=True,
    ),
    "silhouette": Metric(
        lambda e: e.silhouettes[0], None, "of k-means clusters of the train representation; rewards low rank", selects=True
    ),
    "validation_probe_accuracy": Metric(
        lambda e: e.probe.validation_accuracy, "higher", "the probe's on validation, which chose its L2 penalty", version=2,
        selects=True,
    ),
    "validation_anomaly_auc": Metric(
        Evidence.validation_auc, "higher",
        "ROC AUC of validation images against anomalies of their own, of the first set's kind", selects=True, of_headline=True,
    ),
    "probe_accuracy_backbone": Metric(
        lambda e: e.backbone_probe.accuracy if e.has_backbone else None, "higher",
        "the same probe on the backbone's features", version=2,
    ),
    "probe_accuracy_study": Metric(
        _study, "higher", "the studies' probe, not standardised: measures the features' scale as well"
    ),
    "knn_accuracy": Metric(_knn, "higher", "majority of the 20 nearest train images"),
    "anomaly_fpr95": Metric(
        lambda e: anomaly.fpr_at_95_tpr(e.test_scores, e.anomaly_scores), "lower",
        "share of test images flagged where 95 % of the anomalies are", version=2, per_anomaly_set=True,
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
        lambda e: spectrum.effective_rank(e.covariance_eigenvalues), None, "effective rank of its covariance"
    ),
    "projection_std": Metric(
        _last("projection_std"), None, "mean standard deviation of the test projections; near 0: collapsed"
    ),
    "dead_dimensions": Metric(
        _last("dead_dimensions"), "lower", "share of projection dimensions with a deviation below 0.1 gamma"
    ),
    "probe_gain": Metric(_probe_gain, "higher", "probe_accuracy less the untrained encoder's", version=2),
    "collapse_indicators": Metric(
        _collapse_indicators, "lower",
        "how many of 3 speak: projection_std < 0.1 gamma, dead_dimensions > 0.5, no probe_gain", version=2,
    ),
    **{
        f"moved_by_{operation}": Metric(
            _moved_by(operation), None, f"how far {operation} moves a test representation, in mean distances of two images"
        )
        for operation in invariance.OPERATIONS
    },
    "distance_within_class": Metric(
        lambda e: invariance.relative_class_distance(e.test.representation[e.looked_at], e.test.labels[e.looked_at]), None,
        "distance of two test images of one class, in mean distances of two images",
    ),
    **{
        f"reads_{factor}": Metric(_read_off(factor), None, f"R^2 with which {factor.replace('_', ' ')} is read off linearly")
        for factor in digits_m.FACTORS
    },
    "farthest_distinct": Metric(
        lambda e: retrieval.distinct_farthest(e.train.representation, e.test.representation[e.looked_at]), None,
        "different images among the 5 most distant ones of 1,000 test images, of as many as there could be; near 0: hubs",
        version=2,
    ),
    "dimensions": Metric(lambda e: float(e.train.representation.shape[1]), None, "dimensions of the representation"),
    "anomaly_spread": Metric(
        lambda e: anomaly.spread(e.anomaly_scores), None,
        "coefficient of variation of the anomalies' scores; near 0: all ranked alike", per_anomaly_set=True,
    ),
    "pair_label_purity": Metric(
        lambda e: e.pairs.label_purity if e.pairs else None, None, "share of training pairs of one class"
    ),
    "distinct_partners": Metric(
        lambda e: float(e.pairs.distinct_partners) if e.pairs else None, None, "images that were a partner in any epoch"
    ),
}  # fmt: skip


def metric_ids(anomaly_identities: Mapping[str, str], *, choosing: bool = False) -> dict[str, str]:
    """Every value's name -> what identifies its computation: the metric, its version, the anomaly set's content.

    Args:
        anomaly_identities: anomaly set -> identity of its content, the headline first.
        choosing: only the metrics by which trials may be chosen.
    """
    ids = {}
    headline = next(iter(anomaly_identities.values()), "none")
    for name, metric in METRICS.items():
        if choosing and not metric.selects:
            continue
        if metric.of_headline:
            ids[name] = f"{name}@{metric.version}[{headline}]"
        elif metric.per_anomaly_set:
            for which, identity in anomaly_identities.items():
                ids[f"{name}/{which}"] = f"{name}@{metric.version}[{identity}]"
        else:
            ids[name] = f"{name}@{metric.version}"
    return ids


#: What a metric, detail or figure raises where it is not defined; anything else is a defect of its own.
NOT_DEFINED = (ValueError, ArithmeticError)


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one trial.

    Attributes:
        values: name (``anomaly_auc/<set>`` for metrics of an anomaly set) -> number; None where it does not apply.
        problems: name -> why there is no number.
        defects: those of the problems that are the metric's own fault rather than the evidence's.
        seconds: how long it took.
    """

    values: dict[str, float | None]
    problems: dict[str, str]
    defects: frozenset[str]
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
    defects: set[str] = set()
    for name in names:
        bare, _, which = name.partition("/")
        try:
            if METRICS[bare].per_anomaly_set:
                value = METRICS[bare].function(evidence.of_anomalies(which))
            else:
                value = METRICS[bare].function(evidence)
        except MemoryError:
            raise
        except Exception as error:  # whatever a metric does, the others are computed
            problems[name] = f"{type(error).__name__}: {error}"
            if not isinstance(error, NOT_DEFINED):
                defects.add(name)
            continue
        if value is not None and not math.isfinite(value):
            problems[name] = f"the result is {value}"
        else:
            values[name] = value
    return Evaluation(values, problems, frozenset(defects), time.perf_counter() - started)
