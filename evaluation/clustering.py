"""Do clusters form, and are they the classes? k-means, silhouettes, and agreement with the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Labels = NDArray[np.int64]
_BLOCK = 1024  # rows of the distance matrix in memory at once


@dataclass(frozen=True)
class Clusters:
    """k-means clusters.

    Attributes:
        assignment: [N] int64, each point's cluster.
        centers: [K, D].
    """

    assignment: Labels
    centers: NDArray[np.float32]


def kmeans(points: NDArray[np.float32], k: int) -> Clusters:
    """k-means++ with ten starts from a fixed seed, the best by inertia (scikit-learn).

    Args:
        points: [N, D] float32.
        k: number of clusters.
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():  # fewer distinct points than clusters: a collapsed encoder, seen in other metrics
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(k, init="k-means++", n_init=10, random_state=0).fit(points)
    return Clusters(fitted.labels_.astype(np.int64), fitted.cluster_centers_)


def silhouettes(points: NDArray[np.float32], labelings: list[Labels]) -> list[float]:
    """The exact mean silhouette (Rousseeuw 1987) of all points, under each labelling, from one pass over the distances.

    Args:
        points: [N, D].
        labelings: each [N] int64.

    Returns:
        One mean for each labelling; NaN where it has fewer than two labels. A point alone under its label counts 0.
    """
    import torch

    from core.embed import as_tensor

    x = as_tensor(points).double()
    x = x - x.mean(dim=0)  # distances stay; what is lost to cancellation shrinks
    square = x.square().sum(dim=1)
    members = []
    for labels in labelings:
        _, index = np.unique(labels, return_inverse=True)
        members.append(torch.nn.functional.one_hot(torch.from_numpy(index.reshape(-1))).double())
    of_all = torch.cat(members, dim=1)
    sums = torch.zeros_like(of_all)  # of a point's distances to the points of each label
    for start in range(0, len(x), _BLOCK):
        rows, rest = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        # A distance is computed once for both of its points.
        distances = (square[rows, None] + square[start:] - 2 * x[rows] @ x[start:].T).clamp_(min=0)
        distances.fill_diagonal_(0).sqrt_()
        sums[rows] += distances @ of_all[start:]
        sums[rest] += distances[:, _BLOCK:].T @ of_all[rows]
    return [
        _mean_silhouette(part, one_hot)
        for part, one_hot in zip(torch.split(sums, [one_hot.shape[1] for one_hot in members], dim=1), members, strict=True)
    ]


def _mean_silhouette(sums: Tensor, one_hot: Tensor) -> float:
    """Mean silhouette from each point's sum of distances to each label's points [N, K], and the labels [N, K]."""
    import torch

    if one_hot.shape[1] < 2:
        return float("nan")
    own, counts = one_hot.bool(), one_hot.sum(dim=0)
    own_count = counts.expand_as(sums)[own]
    within = sums[own] / (own_count - 1).clamp(min=1)
    nearest = (sums / counts).masked_fill(own, torch.inf).min(dim=1).values
    value = (nearest - within) / torch.maximum(nearest, within)
    return float(torch.where((own_count > 1) & ~value.isnan(), value, 0.0).mean())


def cluster_accuracy(labels: Labels, assignment: Labels) -> float:
    """Accuracy under the best one-to-one naming of clusters by classes (the Hungarian method, scipy)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(labels, assignment)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))


def normalized_mutual_information(labels: Labels, assignment: Labels) -> float:
    """NMI, normalised by the arithmetic mean of the entropies (scikit-learn)."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(labels, assignment))


def adjusted_rand_index(labels: Labels, assignment: Labels) -> float:
    """ARI (Hubert & Arabie 1985; scikit-learn)."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(labels, assignment))
