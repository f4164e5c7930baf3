"""Rows that train no encoder and are asked the same questions: pixels, their PCA, Laplacian eigenmaps, initial weights.

``fit`` finds what a method needs to know of the train images, as plain arrays to be kept; ``embedder`` makes it a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.config import TrialConfig
from core.datasets import ImageSet, Splits
from core.embed import Features, embed, pixels
from core.train import untrained_encoder
from evaluation.eigenmaps import Eigenmaps, extend, laplacian_eigenmaps

State = Mapping[str, NDArray[Any]]


def fit(config: TrialConfig, splits: Splits, device: torch.device | str = "cpu") -> dict[str, NDArray[Any]]:
    """What a method that trains no encoder takes from the train images; nothing for pixels and initial weights.

    Args:
        config: with such a method.
        splits: the trial's images, of which train alone is looked at.
        device: where neighbours are looked for.
    """
    if config.method == "pca":
        from sklearn.decomposition import PCA

        # In float64: the covariance's small eigenvalues would drown in float32's rounding.
        fitted = PCA(config.representation_dim, svd_solver="covariance_eigh").fit(
            pixels(splits.train).representation.astype(np.float64)
        )
        return {"mean": fitted.mean_, "components": fitted.components_}
    if config.method == "laplacian-eigenmaps":
        points = pixels(splits.train).representation
        embedded = laplacian_eigenmaps(points, config.representation_dim, config.graph_neighbors, device)
        return {
            "embedding": embedded.embedding, "eigenvalues": embedded.eigenvalues, "bridges": np.array(embedded.bridges),
        }  # fmt: skip
    return {}


def embedder(config: TrialConfig, splits: Splits, device: torch.device | str, state: State) -> Callable[[ImageSet], Features]:
    """For a method that trains no encoder: images -> features.

    Laplacian eigenmaps embed the train images in one graph; all other images, validation, test and anomalies alike, by the
    out-of-sample extension, so that no distance tells a test image from an anomaly by how it was embedded.

    Args:
        config: with such a method.
        splits: the trial's images; an untrained encoder normalises with the train images' statistics.
        device: where to compute.
        state: what :func:`fit` returned.
    """
    if config.method == "raw-pixels":
        return pixels
    if config.method == "pca":
        mean, components = (state[name].astype(np.float32) for name in ("mean", "components"))
        return lambda images: _features((pixels(images).representation - mean) @ components.T, images)
    if config.method == "laplacian-eigenmaps":
        points = pixels(splits.train).representation
        embedded = Eigenmaps(state["embedding"], state["eigenvalues"], int(state["bridges"]))

        def eigenmaps(images: ImageSet) -> Features:
            if images is splits.train:
                return _features(embedded.embedding, images)
            return _features(extend(points, embedded, pixels(images).representation, config.graph_neighbors, device), images)

        return eigenmaps
    encoder = untrained_encoder(config, splits, device)
    return lambda images: embed(encoder, images, device)


def _features(representation: NDArray[Any], images: ImageSet) -> Features:
    representation = representation.astype(np.float32, copy=False)
    return Features(representation, representation, images.labels)
