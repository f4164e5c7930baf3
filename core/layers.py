"""The one layer that torch does not bring as a module with its constants in the state dict."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Subtracts a mean and divides by a standard deviation for each channel, in float32.

    The first layer of every encoder, so that an encoder takes images in [0, 1] wherever it goes, and carries the statistics
    of the images it was trained on.

    Args:
        mean: [C] floats.
        std: [C] floats, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float().reshape(-1, 1, 1))
        self.register_buffer("std", std.float().reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] float in [0, 1] -> [B, C, H, W] float32."""
        with torch.autocast(images.device.type, enabled=False):
            normalized: Tensor = (images - self.mean).div_(self.std)
            return normalized
