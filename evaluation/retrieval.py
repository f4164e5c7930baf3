"""Are near images of the same class? Retrieval of train images for test images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.neighbors import exact_distances, farthest

if TYPE_CHECKING:
    import torch

NEIGHBORS = 20
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
