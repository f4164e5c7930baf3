"""What single images came to: features, predictions, scores, clusters, projections. Figures are drawn from these.

A detail is a function of :class:`~evaluation.evaluate.EvaluationInputs` (or of one anomaly set's) that returns named arrays,
and one line in :data:`DETAILS`. Each is kept as an ``.npz`` under its name and version. A detail that takes long and needs no
encoder is ``derived`` from the others, outside the trial's slot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.datasets import balanced_subset
from core.neighbors import farthest, nearest, product
from evaluation.inputs import AnomalyInputs, EvaluationInputs

Arrays = dict[str, NDArray[Any]]

#: Principal axes kept of the test representations; t-SNE starts from these.
AXES = 50
#: At most so many test images, class-balanced, are placed by t-SNE.
TSNE_IMAGES = 5000
#: Images shown of the nearest and of the most distant ones.
RETRIEVED = 5


@dataclass(frozen=True)
class PerImageArrays:
    """Arrays of one kind.

    Attributes:
        function: EvaluationInputs (AnomalyInputs where ``per_anomaly_set``; all other details by name where ``derived``)
            -> arrays by name, or None where it does not apply.
        meaning: one line: what the arrays are.
        version: raised when the function's meaning changes.
        per_anomaly_set: once for each anomaly set.
        derived: names of the details that it is made from, outside the trial's slot.
    """

    function: Callable[[Any], Arrays | None]
    meaning: str
    version: int = 1
    per_anomaly_set: bool = False
    derived: tuple[str, ...] = ()


def _representations(e: EvaluationInputs) -> Arrays | None:
    if not e.compact:
        return None
    parts = {"train": e.train, "validation": e.validation, "test": e.test}
    return {name: part.representation for name, part in parts.items()} | {
        f"{name}_labels": part.labels for name, part in parts.items()
    }


def _predictions(e: EvaluationInputs) -> Arrays:
    groups = None if e.images is None else e.images.test.groups
    return {"test": e.probe.predictions, "test_labels": e.test.labels} | ({} if groups is None else {"test_groups": groups})


def _anomalies(e: AnomalyInputs) -> Arrays:
    return {"test": e.test_scores, "anomalies": e.anomaly_scores} | (
        {} if e.representation is None else {"representation": e.representation}
    )


def _finite(points: NDArray[np.float32]) -> NDArray[np.float64]:
    if not np.isfinite(points).all():
        raise ValueError("a representation holds NaN or infinity")
    return points.astype(np.float64)


def _axes(e: EvaluationInputs) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D], descending variances [D] and axes [D, A] of the test representations; an axis without variance is 0."""
    import torch

    points = _finite(e.test.representation)
    (n, d), mean = points.shape, points.mean(axis=0)
    centered = torch.from_numpy(points - mean).to(e.device)
    # From the smaller of the two products, which have the same eigenvalues.
    values, vectors = torch.linalg.eigh(product(centered.T, centered) if d <= n else product(centered, centered.T))
    variances = np.zeros(d)
    variances[: len(values)] = values.flip(0).cpu().numpy().clip(min=0) / max(n - 1, 1)
    axes = vectors.flip(1)[:, :AXES]
    if d > n:
        squares = values.flip(0)[:AXES]
        there = squares > squares[:1] * n * torch.finfo(squares.dtype).eps  # the rounding of the product's eigenvalues
        axes = product(centered.T, axes.contiguous()) / torch.where(there, squares, torch.inf).sqrt()
    return mean, variances, axes.cpu().numpy()


def _projection(e: EvaluationInputs) -> Arrays:
    mean, variances, axes = _axes(e)
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])  # of an axis's two directions, always the same
    total = variances.sum()
    share = variances / total if total > 0 else np.zeros_like(variances)
    centers = (e.clusters.centers.astype(np.float64) - mean) @ axes
    return {
        "test": ((e.test.representation - mean) @ axes).astype(np.float32),
        "variance_share": share,
        "test_labels": e.test.labels,
        "centers": centers.astype(np.float32),
    }


def _clusters(e: EvaluationInputs) -> Arrays:
    _, found = nearest(e.clusters.centers, e.test.representation, 1, e.device)
    table = np.zeros((e.classes, len(e.clusters.centers)), dtype=np.int64)
    np.add.at(table, (e.train.labels, e.clusters.assignment), 1)
    return {"train": e.clusters.assignment, "test": found[:, 0], "centers": e.clusters.centers, "contingency": table}


def _retrieval(e: EvaluationInputs) -> Arrays:
    """For the first test image of each class: the nearest and the most distant train images."""
    _, queries = np.unique(e.test.labels, return_index=True)
    points = e.test.representation[queries]
    k = min(RETRIEVED, len(e.train))
    near_distances, near = nearest(e.train.representation, points, k, e.device)
    far_distances, far = farthest(e.train.representation, points, k, e.device)
    return {
        "queries": queries, "labels": e.test.labels[queries],
        "nearest": near, "nearest_labels": e.train.labels[near], "nearest_distances": near_distances,
        "farthest": far, "farthest_labels": e.train.labels[far], "farthest_distances": far_distances,
    }  # fmt: skip


def _spectrum(e: EvaluationInputs) -> Arrays:
    return {"eigenvalues": e.covariance_eigenvalues}


def _tsne(others: Mapping[str, Arrays]) -> Arrays:
    """t-SNE (van der Maaten & Hinton 2008; openTSNE) of the first principal components, the clusters' centres placed along.

    Barnes and Hut's angle is 0.8, and 100 and 300 steps stand for openTSNE's 250 and 500: half the time for the same divergence
    and trustworthiness (digits-m, base: 2.33 for 2.32, .909 for .906; class: 1.62 for 1.63, .964 for .964).
    """
    import openTSNE

    projection = others["projection"]
    chosen = balanced_subset(projection["test_labels"], min(TSNE_IMAGES, len(projection["test_labels"])))
    points = np.concatenate([projection["test"][chosen], projection["centers"]]).astype(np.float64)
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))  # a single dimension is placed in the plane too
    scale = points[:, 0].std()
    if len(points) < 5 or not scale > 0:
        raise ValueError("all representations coincide, or there are fewer than five")
    placed = openTSNE.TSNE(
        perplexity=min(30.0, (len(points) - 1) / 3), initialization="pca", theta=0.8, early_exaggeration_iter=100, n_iter=300,
        n_jobs=1, random_state=0,
    ).fit(points / scale)  # fmt: skip
    both = np.asarray(placed, dtype=np.float32)
    return {"images": chosen, "test": both[: len(chosen)], "centers": both[len(chosen) :]}


DETAILS: dict[str, PerImageArrays] = {
    "representations": PerImageArrays(_representations, "representations of train, validation and test images, with labels"),
    "predictions": PerImageArrays(
        _predictions, "the class that the probe predicts for each test image, and the source that images share", version=4
    ),
    "projection": PerImageArrays(_projection, "test representations on their principal axes, and the axes' shares of variance"),
    "clusters": PerImageArrays(_clusters, "each image's k-means cluster, and how many train images of each class are in it"),
    "retrieval": PerImageArrays(_retrieval, "the nearest and most distant train images of one test image of each class"),
    "spectrum": PerImageArrays(_spectrum, "eigenvalues of the covariance of the train representation"),
    "anomalies": PerImageArrays(_anomalies, "anomaly scores of the test images and of each anomaly", per_anomaly_set=True),
    "tsne": PerImageArrays(
        _tsne, "t-SNE of the test representations and the clusters' centres", version=3, derived=("projection",)
    ),
}


def detail_ids(anomaly_identities: Mapping[str, str]) -> dict[str, str]:
    """Every detail's name (``anomalies/<set>``) -> what identifies its computation; behind the colon fit for a file's name.

    Args:
        anomaly_identities: anomaly set -> identity of its content, the headline first.
    """
    ids: dict[str, str] = {}
    for name, detail in DETAILS.items():
        own = f"detail:{name}@{detail.version}"
        if detail.per_anomaly_set:
            for which, identity in anomaly_identities.items():
                ids[f"{name}/{which}"] = f"{own}-{re.sub(r'[^-.A-Za-z0-9]', '_', identity)}"
        else:
            ids[name] = own + "".join(f"+{source}@{DETAILS[source].version}" for source in detail.derived)
    return ids


def compute(name: str, inputs: EvaluationInputs) -> Arrays | None:
    """The arrays of a detail that is not derived, or None where it does not apply.

    Raises:
        ValueError: if it is not defined for the inputs.
    """
    bare, _, which = name.partition("/")
    detail = DETAILS[bare]
    return detail.function(inputs.of_anomalies(which) if detail.per_anomaly_set else inputs)


def derive(name: str, others: Mapping[str, Arrays]) -> Arrays | None:
    """The arrays of a derived detail from the arrays of those that it is made from."""
    return DETAILS[name].function(others)
