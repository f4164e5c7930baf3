"""Are near images of the same class? Retrieval of train images for test images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.neighbors import exact_distances, farthest

if TYPE_CHECKING:
    import torch

NEIGHBORS = 20
#: Of the similarities by which neighbours vote.
TEMPERATURE = 0.07
FARTHEST = 5


def knn_accuracy(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    k: int = NEIGHBORS,
    device: torch.device | str = "cpu",
) -> float:
    """Accuracy of the majority among the k nearest train images (Euclidean, one vote each; a tie goes to the lower label).

    Distances are in float64, since a collapsed representation's differ by less than float32 resolves.

    Args:
        train: [N, D] float32, with labels [N] int64. Likewise test.
        k: number of voters; all train images where there are fewer.
        device: where to compute.
    """
    _, found = exact_distances(train, test, min(k, len(train)), device)
    votes = train_labels[found]
    classes = int(np.max(train_labels)) + 1
    counts = np.stack([(votes == label).sum(axis=1) for label in range(classes)], axis=1)
    return float(np.mean(counts.argmax(axis=1) == test_labels))


def unit_length(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Divide each of [N, D] points by its Euclidean length; a point at the origin stays there. In float64."""
    x = points.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1.0)


def weighted_knn_accuracy(
    similarities: NDArray[np.float64],
    neighbor_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    temperature: float = TEMPERATURE,
) -> float:
    """Accuracy of a vote of the k most similar train images, each with the weight exp(cosine / temperature).

    With k = 20 and a temperature of .07 this is the kNN evaluation of DINO (Caron et al., ICCV 2021, arXiv 2104.14294), after
    Wu et al. (CVPR 2018, arXiv 1805.01978, sec. 3.4). A tie goes to the lower label.

    Args:
        similarities: [M, k] cosines of each test image's neighbours.
        neighbor_labels: [M, k] int64, their labels.
        test_labels: [M] int64.
        temperature: divides the cosines.
    """
    # The weights of one image count by their ratios alone; so divided by the largest, none overflows.
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / temperature)
    classes = np.unique(neighbor_labels)
    votes = np.stack([np.where(neighbor_labels == label, weights, 0.0).sum(axis=1) for label in classes], axis=1)
    return float(np.mean(classes[votes.argmax(axis=1)] == test_labels))


def distinct_farthest(
    train: NDArray[np.float32], queries: NDArray[np.float32], k: int = FARTHEST, device: torch.device | str = "cpu"
) -> float:
    """Return the number of distinct images among the k most distant train images of all queries, divided by the most possible.

    The most possible is M * k, or N if that is less. Near 0, the same few images (hubs) are the most distant ones of all
    queries; 1 if no image is shared between queries, or if every train image is used.

    Args:
        train: [N, D] float32.
        queries: [M, D] float32.
        k: at most N.
        device: where to compute.
    """
    _, found = farthest(train, queries, min(k, len(train)), device)
    return len(np.unique(found)) / min(found.size, len(train))
