"""What metrics and per-image arrays may look at: features of a trained encoder, computed once and shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.config import IMAGE_PIXELS
from core.datasets import balanced_subset
from core.pairing import PairStatistics
from evaluation import anomaly, clustering, invariance, spectrum
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

    def _probe(self, space: Callable[[Features], Any], moments: Moments) -> Probe:
        train, validation, test = ((space(part), part.labels) for part in (self.train, self.validation, self.test))
        return logistic_probe(train, validation, test, moments)

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

    def of_anomalies(self, name: str) -> AnomalyInputs:
        """Return the inputs of one anomaly set."""
        if name not in self._of_anomalies:
            representation = self.anomalies[name].representation
            scores = anomaly.scores(self.train.representation, representation, self.device)
            self._of_anomalies[name] = AnomalyInputs(self.test_scores, scores, representation if self.compact else None)
        return self._of_anomalies[name]

    def validation_auc(self) -> float | None:
        """Anomaly AUC of the first anomaly set on its images for validation; None where it has none."""
        if self.validation_anomalies is None:
            return None
        scores = anomaly.scores(self.train.representation, self.validation_anomalies.representation, self.device)
        return anomaly.auc(self.validation_scores, scores)


@dataclass(frozen=True)
class AnomalyInputs:
    """Anomaly scores, [M] float64 each: of the test images and of one anomaly set's, whose representation is [M, D] if kept."""

    test_scores: anomaly.Scores
    anomaly_scores: anomaly.Scores
    representation: NDArray[np.float32] | None = None
