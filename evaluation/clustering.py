"""Do clusters form, and are they the classes? k-means, silhouettes, and agreement with the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Labels = NDArray[np.int64]
_TILE, _TILE_ON_GPU = 512, 4096  # rows and columns of the part of the distance matrix in memory at once: a core's cache


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


def silhouettes(
    points: NDArray[np.float32], labelings: list[Labels], device: torch.device | str = "cpu"
) -> list[float]:  # fmt: skip
    """The exact mean silhouette (Rousseeuw 1987) of all points, under each labelling, from one pass over the distances.

    Args:
        points: [N, D].
        labelings: each [N] int64.
        device: where to compute, in float64.

    Returns:
        One mean for each labelling; NaN where it has fewer than two labels. A point alone under its label counts 0.
    """
    import torch

    from core.embed import as_tensor

    with torch.inference_mode():
        x = as_tensor(points).to(device).double()
        x = x - x.mean(dim=0)  # distances stay; what is lost to cancellation shrinks
        members = []
        for labels in labelings:
            _, index = np.unique(labels, return_inverse=True)
            members.append(torch.nn.functional.one_hot(torch.from_numpy(index.reshape(-1)).to(device)).double())
        sums = _sums_of_distances(x, torch.cat(members, dim=1))
        parts = torch.split(sums, [one_hot.shape[1] for one_hot in members], dim=1)
        return [_mean_silhouette(part, one_hot) for part, one_hot in zip(parts, members, strict=True)]


def _sums_of_distances(x: Tensor, of_all: Tensor) -> Tensor:
    """[N, K]: each point's distances to the members [N, K] of each label, summed; tile by tile, each distance once."""
    import torch

    square, sums = x.square().sum(dim=1), torch.zeros_like(of_all)
    size = _TILE if x.device.type == "cpu" else _TILE_ON_GPU
    tiles = [slice(start, start + size) for start in range(0, len(x), size)]
    for i, rows in enumerate(tiles):
        for columns in tiles[i:]:
            distances = torch.addmm(square[columns], x[rows], x[columns].T, alpha=-2).add_(square[rows, None])
            distances.clamp_(min=0).sqrt_()
            if rows == columns:
                distances.fill_diagonal_(0)
            else:
                sums[columns] += distances.T @ of_all[rows]
            sums[rows] += distances @ of_all[columns]
    return sums


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
