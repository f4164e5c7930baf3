"""Rows that train nothing and are asked the same questions: raw pixels and an untrained encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch

from core.config import TrialConfig
from core.datasets import ImageSet, Splits
from core.embed import Features, embed, pixels
from core.train import untrained_encoder


def embedder(config: TrialConfig, splits: Splits, device: torch.device | str) -> Callable[[ImageSet], Features]:
    """For a method that trains nothing: images -> features.

    Args:
        config: with method ``raw-pixels`` or ``untrained``.
        splits: the trial's images; an untrained encoder normalises with the train images' statistics.
        device: where to compute.
    """
    if config.method == "raw-pixels":
        return pixels
    encoder = untrained_encoder(config, splits, device)
    return lambda images: embed(encoder, images, device)
