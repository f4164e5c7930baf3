"""LiDAR: how many directions tell images apart in spite of augmentation? Needs no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from core.config import Augmentation
    from core.datasets import ImageSet

#: Train images, and augmented views of each; the paper's experiments have 1,000 images and 50 views, which takes five times
#: as long.
IMAGES, VIEWS = 1000, 10
#: Added to the within-image covariance, and to the shares of the eigenvalues (the paper's delta and epsilon).
_DELTA, _EPSILON = 1e-4, 1e-7


def augmented(images: ImageSet, augmentation: Augmentation) -> ImageSet:
    """Return VIEWS views of each image, an image's one after the other, always the same ones: [n * VIEWS, 3, S, S] uint8."""
    import torch

    from core.augment import augment
    from core.datasets import ImageSet
    from core.draws import draw
    from core.embed import as_tensor

    repeated = np.repeat(images.images, VIEWS, axis=0)
    draws = draw(augmentation, len(repeated), images.images.shape[-1], seed=0, purpose="lidar")
    with torch.inference_mode():
        views = augment(as_tensor(repeated), draws).mul(255).round().to(torch.uint8).numpy()
    return ImageSet(views, np.repeat(images.labels, VIEWS), images.class_names)


def lidar(embeddings: NDArray[np.float32]) -> float:
    """LiDAR (Thilak et al., ICLR 2024, arXiv 2312.04000, eq. 1 to 4).

    exp of the entropy of the normalised eigenvalues of Sw^(-1/2) Sb Sw^(-1/2), where Sb is the covariance of the images' means
    and Sw the mean covariance of one image's views, plus delta.

    Args:
        embeddings: [n, q, D]: of q views of each of n images.

    Returns:
        At least 1; at most the smaller of n - 1 and D, up to epsilon.

    Raises:
        ValueError: if a value is not finite, or all images have the same mean.
    """
    x = embeddings.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("an embedding holds NaN or infinity")
    n, q, d = x.shape
    means = x.mean(axis=1)
    between, within = means - means.mean(axis=0), (x - means[:, None]).reshape(n * q, d)
    values, vectors = np.linalg.eigh(within.T @ within / (n * q) + _DELTA * np.eye(d))
    whitened = between @ (vectors / np.sqrt(values))
    eigenvalues = np.linalg.eigvalsh(whitened.T @ whitened / n).clip(min=0)
    if not eigenvalues.sum() > 0:
        raise ValueError("the views of all images have the same mean")
    shares = eigenvalues / eigenvalues.sum() + _EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))
