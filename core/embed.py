"""From a trained encoder and images to features, in eval mode and float32."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.augment import to_float
from core.datasets import ImageSet

_BATCH = 500


@dataclass(frozen=True)
class Features:
    """What an encoder makes of images.

    Attributes:
        representation: [N, D] float32, the encoder's output.
        backbone: [N, E] float32, the features before the head; for rows without a head the representation itself.
        labels: [N] int64.
        projection: [N, P] float32, what the projector makes of the representation (the same array where it has no layers);
            None where there is no projector.
    """

    representation: NDArray[np.float32]
    backbone: NDArray[np.float32]
    labels: NDArray[np.int64]
    projection: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: slice) -> Features:
        """Return the features of a part of the images."""
        projection = None if self.projection is None else self.projection[which]
        return Features(self.representation[which], self.backbone[which], self.labels[which], projection)


def embed(
    encoder: nn.Sequential,
    images: ImageSet,
    device: torch.device | str = "cpu",
    projector: nn.Sequential | None = None,
) -> Features:  # fmt: skip
    """Features of all images, not augmented.

    Args:
        encoder: ``Sequential(normalize, backbone, head)``; left as it was found, weights, statistics and mode.
        images: the images.
        device: where the encoder is.
        projector: of the representations, on that device and in eval mode; None: there are no projections.
    """
    was_training = encoder.training
    encoder.eval()
    representations: list[Tensor] = []
    backbones: list[Tensor] = []
    projections: list[Tensor] = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                batch = as_tensor(images.images[start : start + _BATCH]).to(device)
                backbone = encoder[:2](to_float(batch))
                representation = encoder[2](backbone)
                representations.append(representation.float().cpu())
                backbones.append(backbone.float().cpu())
                if projector is not None and len(projector):
                    projections.append(projector(representation).float().cpu())
    finally:
        encoder.train(was_training)
    in_representation, in_backbone = _joined(representations), _joined(backbones)
    in_projection = _joined(projections) if projections else None if projector is None else in_representation
    return Features(in_representation, in_backbone, images.labels, in_projection)


def _joined(parts: list[Tensor]) -> NDArray[np.float32]:
    return np.asarray(torch.cat(parts), dtype=np.float32)


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor on the array's own memory, or on a copy where its numbers do not lie in order.

    Arrays from Ray's object store are read-only; nobody writes to these tensors.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))


def pixels(images: ImageSet) -> Features:
    """Raw pixels in [0, 1] as features."""
    flat = images.images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return Features(flat, flat, images.labels)
