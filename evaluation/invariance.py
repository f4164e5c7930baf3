"""What does a representation ignore? How far each operation of the augmentation list moves it, and its classes lie apart.

Distances are relative to the mean distance of two test images, so they compare between representations of any scale: 0 is
invariance, 1 as far as an unrelated image. A collapsed representation is not invariant by this measure, it has no scale at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.config import Augmentation

if TYPE_CHECKING:
    from core.datasets import ImageSet

#: So many test images, class-balanced, are looked at.
IMAGES = 1000

_NOTHING = {"crop": None, "flip": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "grey": 0, "blur": None}
_STUDIES = Augmentation()
#: operation -> that operation alone, at the strength of the studies' list for every arm, and applied to every image.
OPERATIONS: dict[str, Augmentation] = {
    name: Augmentation(**_NOTHING | {name: 1.0 if name in ("flip", "grey") else getattr(_STUDIES, name)}) for name in _NOTHING
}


def operated(images: ImageSet, operation: str) -> ImageSet:
    """The images after one operation, its parameters drawn for every image, always the same; rounded to bytes again."""
    import torch

    from core.augment import augment
    from core.datasets import ImageSet
    from core.draws import draw
    from core.embed import as_tensor

    draws = draw(OPERATIONS[operation], len(images), images.images.shape[-1], seed=0, purpose="invariance")
    with torch.inference_mode():
        views = augment(as_tensor(images.images), draws).mul(255).round().to(torch.uint8).numpy()
    return ImageSet(views, images.labels, images.class_names)


def relative_shift(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Mean Euclidean distance of each image's two representations, relative to :func:`mean_distance` of the first.

    Args:
        before: [M, D] float32.
        after: [M, D] float32, the same images after an operation.

    Raises:
        ValueError: if all representations are the same, or there is but one.
    """
    shift = np.linalg.norm(after.astype(np.float64) - before, axis=1).mean()
    return float(shift / mean_distance(before))


def relative_class_distance(points: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean distance of two images of one class, relative to that of any two.

    Args:
        points: [M, D] float32.
        labels: [M] int64.

    Raises:
        ValueError: if no class has two images, or all representations are the same.
    """
    distances, upper = _distances(points), np.triu_indices(len(points), 1)
    same = (labels[:, None] == labels)[upper]
    if not same.any():
        raise ValueError("no class has two of the test images")
    return float(distances[upper][same].mean() / mean_distance(points))


def mean_distance(points: NDArray[np.float32]) -> float:
    """Mean Euclidean distance over all pairs of [M, D] points; raises ValueError where it is not above zero."""
    n = len(points)
    mean = float(_distances(points).sum() / (n * (n - 1))) if n > 1 else 0.0
    if not mean > 0:
        raise ValueError("all representations coincide: distances have no scale" if mean == 0 else "a representation holds NaN")
    return mean


def _distances(points: NDArray[np.float32]) -> NDArray[np.float64]:
    x = points.astype(np.float64)
    x = x - x.mean(axis=0)  # distances stay; what is lost to cancellation shrinks
    square = np.square(x).sum(axis=1)
    distances: NDArray[np.float64] = np.sqrt((square[:, None] + square - 2 * x @ x.T).clip(min=0))
    np.fill_diagonal(distances, 0)
    return distances
