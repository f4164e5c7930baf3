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
    """

    representation: NDArray[np.float32]
    backbone: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def embed(encoder: nn.Sequential, images: ImageSet, device: torch.device | str = "cpu") -> Features:
    """Features of all images, not augmented.

    Args:
        encoder: ``Sequential(normalize, backbone, head)``; left as it was found, weights, statistics and mode.
        images: the images.
        device: where the encoder is.
    """
    was_training = encoder.training
    encoder.eval()
    representations: list[Tensor] = []
    backbones: list[Tensor] = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                batch = as_tensor(images.images[start : start + _BATCH]).to(device)
                backbone = encoder[:2](to_float(batch))
                representations.append(encoder[2](backbone).float().cpu())
                backbones.append(backbone.float().cpu())
    finally:
        encoder.train(was_training)
    representation, backbone_features = (np.asarray(torch.cat(p), dtype=np.float32) for p in (representations, backbones))
    return Features(representation, backbone_features, images.labels)


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
