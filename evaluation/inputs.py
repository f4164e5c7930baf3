"""What metrics and per-image arrays may look at: features of a trained encoder, computed once and shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.config import IMAGE_PIXELS, Augmentation
from core.datasets import balanced_subset
from core.neighbors import most_similar
from core.pairing import PairStatistics
from evaluation import anomaly, clustering, invariance, lidar, retrieval, spectrum
from evaluation.linear_readout import linear_r2
from evaluation.moments import Moments, moments_of
from evaluation.probe import Probe, logistic_probe

if TYPE_CHECKING:
    import torch

    from core.datasets import ImageSet, Splits
    from core.embed import Features


@dataclass(frozen=True)
class EvaluationInputs:
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
        augmentation: the trial's list of augmentations; None where only features are at hand.
        device: where linear algebra is computed.
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
    augmentation: Augmentation | None = None
    device: torch.device | str = "cpu"
    _of_anomalies: dict[str, AnomalyInputs] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def probe(self) -> Probe:
        """The converged probe on the representation."""
        return self._probe(lambda features: features.representation, self.moments)

    @cached_property
    def backbone_probe(self) -> Probe:
        """The converged probe on the backbone's features."""
        return self._probe(lambda features: features.backbone, moments_of(self.train.backbone, self.device))

    @cached_property
    def projection_probe(self) -> Probe | None:
        """The converged probe on the projections; None where there are none."""
        if self.train.projection is None:
            return None
        if self.train.projection is self.train.representation:  # without a projector
            return self.probe
        return self._probe(lambda features: features.projection, self.projection_moments)

    def _probe(self, space: Callable[[Features], Any], moments: Moments) -> Probe:
        train, validation, test = ((space(part), part.labels) for part in (self.train, self.validation, self.test))
        return logistic_probe(train, validation, test, moments)

    @property
    def projection_moments(self) -> Moments:
        """Of the train projections, which there must be."""
        assert self.train.projection is not None
        return moments_of(self.train.projection, self.device)

    def weighted_knn_accuracy(self, train: Any, test: Any) -> float:
        """The kNN accuracy by cosine, :func:`retrieval.weighted_knn_accuracy`, of features [N, D] and [M, D] float32."""
        k = min(retrieval.NEIGHBORS, len(train))
        found = most_similar(retrieval.unit_length(train), retrieval.unit_length(test), k, self.device)
        return retrieval.weighted_knn_accuracy(found[0], self.train.labels[found[1]], self.test.labels)

    @cached_property
    def lidar(self) -> float | None:
        """LiDAR of augmented train images' projections; None where there is no projection."""
        if self.images is None or self.embed is None or self.augmentation is None or self.train.projection is None:
            return None
        n = min(lidar.IMAGES, len(self.train))
        chosen = self.images.train.take(balanced_subset(self.train.labels, n))
        projections = self.embed(lidar.augmented(chosen, self.augmentation)).projection
        assert projections is not None
        return lidar.lidar(projections.reshape(n, lidar.VIEWS, -1))

    @cached_property
    def moments(self) -> Moments:
        """Of the train representation."""
        return moments_of(self.train.representation, self.device)

    @cached_property
    def clusters(self) -> clustering.Clusters:
        """k-means on the train representation, as many clusters as classes."""
        return clustering.kmeans(self.train.representation, self.classes)

    @cached_property
    def silhouettes(self) -> tuple[float, float]:
        """Mean silhouette of the clusters, and of the true classes."""
        clusters, classes = clustering.silhouettes(
            self.train.representation, [self.clusters.assignment, self.train.labels], self.device
        )
        return clusters, classes

    @cached_property
    def test_scores(self) -> anomaly.Scores:
        """Anomaly scores of the test images."""
        return anomaly.scores(self.train.representation, self.test.representation, self.device)

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
        return spectrum.covariance_eigenvalues(self.train.representation, self.moments)

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
            self.moments,
        )

    @cached_property
    def validation_scores(self) -> anomaly.Scores:
        """Anomaly scores of the validation images."""
        return anomaly.scores(self.train.representation, self.validation.representation, self.device)

    @cached_property
    def test_kth_scores(self) -> anomaly.Scores:
        """Anomaly scores of the test images by their k-th neighbours."""
        return self.kth_scores(self.test)

    def kth_scores(self, features: Features) -> anomaly.Scores:
        """Anomaly scores of images by their k-th neighbours, :func:`anomaly.kth_neighbor_scores`."""
        queries, k = retrieval.unit_length(features.representation), min(anomaly.KTH, len(self.train))
        return anomaly.kth_neighbor_scores(most_similar(self._unit_train, queries, k, self.device)[0])

    @cached_property
    def _unit_train(self) -> NDArray[np.float64]:
        return retrieval.unit_length(self.train.representation)

    @cached_property
    def test_mahalanobis_scores(self) -> anomaly.Scores:
        """Anomaly scores of the test images by their Mahalanobis distances."""
        return self.mahalanobis_scores(self.test)

    def mahalanobis_scores(self, features: Features) -> anomaly.Scores:
        """Mahalanobis distances of images, :func:`anomaly.mahalanobis_scores`."""
        return anomaly.mahalanobis_scores(self.moments.mean, self._whitening, features.representation)

    @cached_property
    def _whitening(self) -> NDArray[np.float64]:
        return anomaly.whitening(self.moments)

    def of_anomalies(self, name: str) -> AnomalyInputs:
        """Return the inputs of one anomaly set."""
        if name not in self._of_anomalies:
            self._of_anomalies[name] = AnomalyInputs(self, self.anomalies[name])
        return self._of_anomalies[name]

    def validation_auc(self) -> float | None:
        """Anomaly AUC of the first anomaly set on its images for validation; None where it has none."""
        if self.validation_anomalies is None:
            return None
        scores = anomaly.scores(self.train.representation, self.validation_anomalies.representation, self.device)
        return anomaly.auc(self.validation_scores, scores)


@dataclass(frozen=True)
class AnomalyInputs:
    """What metrics of one anomaly set may look at. What several of them need is computed at the first need, and kept.

    Attributes:
        of: the trial's inputs.
        features: of the anomaly set's images.
    """

    of: EvaluationInputs
    features: Features

    @property
    def test_scores(self) -> anomaly.Scores:
        """Anomaly scores of the test images."""
        return self.of.test_scores

    @cached_property
    def anomaly_scores(self) -> anomaly.Scores:
        """Anomaly scores of the anomalies."""
        return anomaly.scores(self.of.train.representation, self.features.representation, self.of.device)

    @property
    def representation(self) -> NDArray[np.float32] | None:
        """[M, D] float32, of the anomalies; None where it is not worth keeping."""
        return self.features.representation if self.of.compact else None

    def auc_by_kth_neighbor(self) -> float:
        """ROC AUC of the scores by the k-th neighbour."""
        return anomaly.auc(self.of.test_kth_scores, self.of.kth_scores(self.features))

    def auc_by_mahalanobis(self) -> float:
        """ROC AUC of the Mahalanobis distances."""
        return anomaly.auc(self.of.test_mahalanobis_scores, self.of.mahalanobis_scores(self.features))
