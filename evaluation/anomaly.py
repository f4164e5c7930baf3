"""Anomaly detection by density: an image far from all train images is an anomaly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.neighbors import exact_distances
from evaluation.moments import Moments, above_rounding

if TYPE_CHECKING:
    import torch

NEIGHBORS = 2
Scores = NDArray[np.float64]


def scores(
    train: NDArray[np.float32], queries: NDArray[np.float32], device: torch.device | str = "cpu"
) -> Scores:  # fmt: skip
    """The studies' score: the mean Euclidean distance to the two nearest train representations.

    Args:
        train: [N, D] float32.
        queries: [M, D] float32.
        device: where to compute.

    Returns:
        [M] float64, higher for what is more anomalous.
    """
    distances, _ = exact_distances(train, queries, NEIGHBORS, device)
    mean: Scores = distances.mean(axis=1)
    return mean


#: Sun et al. choose k = 50 for CIFAR-10, of 50,000 train images.
KTH = 50


def kth_neighbor_scores(similarities: NDArray[np.float64]) -> Scores:
    """Distance to the k-th nearest train image, all representations scaled to unit length (Sun et al., ICML 2022).

    arXiv 2204.06507, sec. 3, with k = 50; of fewer train images the last.

    Args:
        similarities: [M, K] cosines of each image's most similar train images, descending.

    Returns:
        [M] float64, higher for what is more anomalous.
    """
    kth: Scores = np.sqrt((2 - 2 * similarities[:, min(KTH, similarities.shape[1]) - 1]).clip(min=0))
    return kth


def whitening(moments: Moments) -> NDArray[np.float64]:
    """The directions [D, K] in which train representations less their mean have the covariance 1 (divisor N - 1).

    Directions in which their deviation is below what float32 resolves beside the largest one are left out, so that a collapsed
    representation is judged by what it has left.

    Args:
        moments: of the train representations.

    Raises:
        ValueError: if all train representations coincide.
    """
    import torch

    covariance = torch.from_numpy(moments.scatter / (moments.n - 1)).to(moments.device)
    values, vectors = (found.cpu().numpy() for found in torch.linalg.eigh(covariance))
    kept = above_rounding(values)
    if not kept.any():
        raise ValueError("all train representations coincide")
    directions: NDArray[np.float64] = vectors[:, kept] / np.sqrt(values[kept])
    return directions


def mahalanobis_scores(
    mean: NDArray[np.float64], directions: NDArray[np.float64], queries: NDArray[np.float32]
) -> Scores:  # fmt: skip
    """Mahalanobis distance to the train images, of all classes together, since labels are not used.

    Args:
        mean: [D], of the train representations.
        directions: [D, K], as :func:`whitening` returns them.
        queries: [M, D] float32.

    Returns:
        [M] float64, higher for what is more anomalous.

    Raises:
        ValueError: if a value is not finite.
    """
    if not np.isfinite(queries).all():
        raise ValueError("a representation holds NaN or infinity")
    distances: Scores = np.linalg.norm((queries - mean) @ directions, axis=1)
    return distances


def auc(normal: Scores, anomalous: Scores) -> float:
    """Area under the ROC curve: the probability that an anomaly scores higher than a normal image, ties counting half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(normal, anomalous)))


def fpr_at_95_tpr(normal: Scores, anomalous: Scores) -> float:
    """Share of normal images flagged at the highest threshold that flags at least 95 % of the anomalies."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(*_labelled(normal, anomalous), drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= 0.95)])


def passed_at_95(normal: Scores, anomalous: Scores) -> float:
    """Share of anomalies passed at the lowest threshold that passes at least 95 % of the normal images.

    This is what papers on out-of-distribution detection call FPR at 95 % TPR, with the normal images as the positives;
    :func:`fpr_at_95_tpr` takes the anomalies as the positives.
    """
    return fpr_at_95_tpr(-anomalous, -normal)


def spread(anomalous: Scores) -> float:
    """Coefficient of variation of the anomalies' scores: near 0, all anomalies are ranked alike."""
    mean = float(anomalous.mean())
    if mean == 0:
        raise ValueError("all scores are zero")
    return float(anomalous.std() / mean)


def _labelled(normal: Scores, anomalous: Scores) -> tuple[NDArray[np.int64], Scores]:
    truth = np.repeat([0, 1], [len(normal), len(anomalous)])
    return truth, np.concatenate([normal, anomalous])
