"""The registry of metrics, and ``evaluate(inputs)``: every number that a trial is given.

A metric is a function of :class:`EvaluationInputs` (or, of one anomaly set, :class:`AnomalyInputs`) and one line in
:data:`METRICS`. With it come its name in MLflow and in tables, its direction, and its version: raise the version when the
function's meaning changes, and old trials are given the new number without being trained again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core import digits_m
from core.causes import as_memory_error
from evaluation import anomaly, clustering, invariance, retrieval, spectrum
from evaluation.inputs import AnomalyInputs, EvaluationInputs
from evaluation.probe import study_probe


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        function: EvaluationInputs (AnomalyInputs where ``per_anomaly_set``) -> the number, or None where it does not apply.
        better: which way is better; None where neither is.
        meaning: one line for help, tables and reports.
        version: raised when the function's meaning changes.
        per_anomaly_set: one number for each anomaly set; the first set's also goes by the bare name.
        usable_for_selection: looks at no test image, so that trials may be chosen by it.
        per_headline_set: depends on the first anomaly set.
        after_slot: computed after the trial's slot, from the representations that are kept ("representations"), or from the
            features of backbone and projection that the slot leaves for it ("readouts"); None: in the slot.
    """

    function: Callable[[Any], float | None]
    better: Literal["higher", "lower"] | None
    meaning: str
    version: int = 1
    per_anomaly_set: bool = False
    usable_for_selection: bool = False
    per_headline_set: bool = False
    after_slot: Literal["representations", "readouts"] | None = None


def _study(e: EvaluationInputs) -> float:
    return study_probe((e.train.representation, e.train.labels), (e.test.representation, e.test.labels), e.classes)


def _knn(e: EvaluationInputs) -> float:
    return retrieval.knn_accuracy(e.train.representation, e.train.labels, e.test.representation, e.test.labels, device=e.device)


def _knn_cosine(space: Literal["backbone", "representation", "projection"]) -> Callable[[EvaluationInputs], float | None]:
    def accuracy(e: EvaluationInputs) -> float | None:
        train, test = getattr(e.train, space), getattr(e.test, space)
        if train is None or (space == "backbone" and not e.has_backbone):
            return None
        return e.weighted_knn_accuracy(train, test)

    return accuracy


def _rankme_of_projections(e: EvaluationInputs) -> float | None:
    return None if e.train.projection is None else spectrum.rankme(e.train.projection, e.projection_moments)


def _last(name: str) -> Callable[[EvaluationInputs], float | None]:
    return lambda e: e.history[-1].get(name) if e.history else None


def _moved_by(operation: str) -> Callable[[EvaluationInputs], float | None]:
    def moved(e: EvaluationInputs) -> float | None:
        after = e.after(operation)
        return None if after is None else invariance.relative_shift(e.test.representation[e.looked_at], after)

    return moved


def _read_off(factor: str) -> Callable[[EvaluationInputs], float | None]:
    return lambda e: e.read_off.get(factor)


def _probe_gain(e: EvaluationInputs) -> float | None:
    if e.untrained_probe_accuracy is None or not e.history:
        return None
    return e.probe.accuracy - e.untrained_probe_accuracy


#: Where a collapse indicator speaks: a mean standard deviation below a tenth of gamma, more than half of the dimensions dead,
#: a probe that gains no more over the untrained encoder's than two standard errors of the test set explain.
COLLAPSED_STD = 0.1
COLLAPSED_DEAD = 0.5
COLLAPSED_GAIN_ERRORS = 2.0


def _collapse_indicators(e: EvaluationInputs) -> float | None:
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
        lambda e: e.probe.accuracy, "higher", "logistic regression on the standardised representation, converged", version=3
    ),
    "anomaly_auc": Metric(
        lambda e: anomaly.auc(e.test_scores, e.anomaly_scores), "higher",
        "ROC AUC of the distance to the 2 nearest train images, test against anomalies", version=2, per_anomaly_set=True,
    ),
    "silhouette": Metric(
        lambda e: e.silhouettes[0], None, "of k-means clusters of the train representation; rewards low rank",
        usable_for_selection=True,
    ),
    "validation_probe_accuracy": Metric(
        lambda e: e.probe.validation_accuracy, "higher", "the probe's on validation, which chose its L2 penalty", version=3,
        usable_for_selection=True,
    ),
    "validation_anomaly_auc": Metric(
        EvaluationInputs.validation_auc, "higher",
        "ROC AUC of validation images against anomalies of their own, of the first set's kind",
        usable_for_selection=True, per_headline_set=True,
    ),
    "probe_accuracy_backbone": Metric(
        lambda e: e.backbone_probe.accuracy if e.has_backbone else None, "higher",
        "the same probe on the backbone's features", version=3,
        after_slot="readouts",
    ),
    "probe_accuracy_projection": Metric(
        lambda e: e.projection_probe.accuracy if e.projection_probe else None, "higher", "the same probe on the projections",
        after_slot="readouts",
    ),
    "probe_l2": Metric(
        lambda e: e.probe.l2, None, "L2 penalty that the probe on the representation chose, of 1 to 1e-10"
    ),
    "probe_at_edge": Metric(
        lambda e: float(e.probe.at_edge), "lower", "1 if that is the weakest penalty tried, so that a weaker might be better"
    ),
    "probe_converged": Metric(
        lambda e: float(e.probe.converged), "higher", "1 if that probe's gradient is below 1e-6"
    ),
    "probe_accuracy_study": Metric(
        _study, "higher", "the studies' probe, not standardised: measures the features' scale as well",
        after_slot="representations",
    ),
    "knn_accuracy": Metric(_knn, "higher", "majority of the 20 nearest train images", version=2, after_slot="representations"),
    "knn_accuracy_cosine": Metric(
        _knn_cosine("representation"), "higher", "vote of the 20 most similar train images, weights exp(cosine / 0.07)",
        after_slot="representations",
    ),
    "knn_accuracy_cosine_backbone": Metric(
        _knn_cosine("backbone"), "higher", "the same on the backbone's features", after_slot="readouts"
    ),
    "knn_accuracy_cosine_projection": Metric(
        _knn_cosine("projection"), "higher", "the same on the projections", after_slot="readouts"
    ),
    "anomaly_fpr95": Metric(
        lambda e: anomaly.fpr_at_95_tpr(e.test_scores, e.anomaly_scores), "lower",
        "share of test images flagged where 95 % of the anomalies are", version=2, per_anomaly_set=True,
    ),
    "anomaly_passed95": Metric(
        lambda e: anomaly.passed_at_95(e.test_scores, e.anomaly_scores), "lower",
        "share of anomalies passed where 95 % of the test images are; papers on outliers call this FPR at 95 % TPR",
        per_anomaly_set=True,
    ),
    "anomaly_auc_kth": Metric(
        AnomalyInputs.auc_by_kth_neighbor, "higher",
        "ROC AUC of the distance to the 50th nearest train image, representations scaled to unit length",
        per_anomaly_set=True, after_slot="representations",
    ),
    "anomaly_auc_mahalanobis": Metric(
        AnomalyInputs.auc_by_mahalanobis, "higher",
        "ROC AUC of the Mahalanobis distance to the train images' mean, of all classes together",
        per_anomaly_set=True, after_slot="representations",
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
        lambda e: spectrum.rankme(e.train.representation, e.moments), None,
        "RankMe of the train representation (singular values)",
    ),
    "rankme_projection": Metric(
        _rankme_of_projections, None, "RankMe of the train projections, as the paper defines it", after_slot="readouts"
    ),
    "lidar": Metric(
        lambda e: e.lidar, None, "LiDAR of the train projections: directions that tell images apart in spite of augmentation"
    ),
    "alpha_req": Metric(
        lambda e: spectrum.alpha_req(e.covariance_eigenvalues), None,
        "alpha-ReQ: exponent with which the representation's eigenvalues decay; near 1 is best", after_slot="representations",
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
    "probe_gain": Metric(_probe_gain, "higher", "probe_accuracy less the untrained encoder's", version=3),
    "collapse_indicators": Metric(
        _collapse_indicators, "lower",
        "how many of 3 speak: projection_std < 0.1 gamma, dead_dimensions > 0.5, no probe_gain", version=3,
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
        f"reads_{factor}": Metric(
            _read_off(factor), None, f"R^2 with which {factor.replace('_', ' ')} is read off linearly",
            after_slot="representations",
        )
        for factor in digits_m.FACTORS
    },
    "farthest_distinct": Metric(
        lambda e: retrieval.distinct_farthest(
            e.train.representation, e.test.representation[e.looked_at], device=e.device
        ), None,
        "different images among the 5 most distant ones of 1,000 test images, of as many as there could be; near 0: hubs",
        version=2, after_slot="representations",
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


def metric_ids(anomaly_identities: Mapping[str, str], *, validation_only: bool = False) -> dict[str, str]:
    """Every value's name -> what identifies its computation: the metric, its version, the anomaly set's content.

    Args:
        anomaly_identities: anomaly set -> identity of its content, the headline first.
        validation_only: only the metrics by which trials may be chosen.
    """
    ids = {}
    headline = next(iter(anomaly_identities.values()), "none")
    for name, metric in METRICS.items():
        if validation_only and not metric.usable_for_selection:
            continue
        if metric.per_headline_set:
            ids[name] = f"{name}@{metric.version}[{headline}]"
        elif metric.per_anomaly_set:
            for which, identity in anomaly_identities.items():
                ids[f"{name}/{which}"] = f"{name}@{metric.version}[{identity}]"
        else:
            ids[name] = f"{name}@{metric.version}"
    return ids


def is_defect(error: Exception) -> bool:
    """Return whether an error is one of the code of a metric, array or figure, rather than that it is not defined here."""
    no_solution = type(error).__name__.endswith("LinAlgError")  # torch's is a RuntimeError, numpy's a ValueError
    return not (isinstance(error, ValueError | ArithmeticError) or no_solution)


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one trial.

    Attributes:
        values: name (``anomaly_auc/<set>`` for metrics of an anomaly set) -> number; None where it does not apply.
        problems: name -> why there is no number.
        defects: names of those problems that are errors in the metric's code rather than a property of the inputs.
        seconds: how long it took.
    """

    values: dict[str, float | None]
    problems: dict[str, str]
    defects: frozenset[str]
    seconds: float


def evaluate(inputs: EvaluationInputs, names: Collection[str]) -> Evaluation:
    """Computes the named metrics; one that is not defined for the inputs says why and does not stop the others.

    Args:
        inputs: what to look at.
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
                value = METRICS[bare].function(inputs.of_anomalies(which))
            else:
                value = METRICS[bare].function(inputs)
        except Exception as error:  # whatever a metric does, the others are computed
            if (memory := as_memory_error(error)) is not None:
                raise memory from error
            problems[name] = f"{type(error).__name__}: {error}"
            if is_defect(error):
                defects.add(name)
            continue
        if value is not None and not math.isfinite(value):
            problems[name] = f"the result is {value}"
        else:
            values[name] = value
    return Evaluation(values, problems, frozenset(defects), time.perf_counter() - started)
