"""The random parameters of augmentations, drawn for every view: numpy, on the CPU, an epoch at once.

Applying them (torch, on the device, a batch at a time) is :mod:`core.augment`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.config import Augmentation
from core.rng import generator

#: The colour operations, in the columns of :attr:`Draws.factor`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Draws:
    """The parameters of n views, as tensors on one device; None where an operation is not in the list.

    Attributes:
        box: [n, 4] float32, the crop's top, left, height and width in pixels (whole numbers).
        flip: [n] bool.
        order: [n, 4] int64, the colour operations in the order in which they apply.
        factor: [n, 4] float32, for BRIGHTNESS, CONTRAST, SATURATION the factor, for HUE the shift in turns.
        grey: [n] bool.
        sigma: [n] float32, the blur's standard deviation in pixels.
    """

    box: Tensor | None = None
    flip: Tensor | None = None
    order: Tensor | None = None
    factor: Tensor | None = None
    grey: Tensor | None = None
    sigma: Tensor | None = None

    def __getitem__(self, index: slice | Tensor) -> Self:
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Self:
        """The same draws on another device."""
        return self._map(lambda value: value.to(device))

    def clone(self) -> Self:
        """A copy with memory of its own."""
        return self._map(Tensor.clone)

    def alternate(self, other: Self, batch: int) -> Self:
        """``batch`` of these, ``batch`` of the other, and so on; both have a multiple of ``batch`` views."""
        values = {}
        for field in fields(self):
            a, b = getattr(self, field.name), getattr(other, field.name)
            if a is not None:
                parts = [value.reshape(-1, batch, *value.shape[1:]) for value in (a, b)]
                values[field.name] = torch.cat(parts, dim=1).flatten(0, 1)
        return type(self)(**values)

    def tensors(self) -> list[Tensor]:
        """Those that are there."""
        return [value for field in fields(self) if (value := getattr(self, field.name)) is not None]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: None if value is None else function(value) for name, value in values.items()})


@dataclass(frozen=True)
class Batch:
    """The images of one step or of an epoch's steps, one after the other, and how each is augmented.

    Attributes:
        indices: [n] int64 into the image set, on the device.
        draws: for n views; None where they are not augmented.
    """

    indices: Tensor
    draws: Draws | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> Batch:
        return Batch(self.indices[part], None if self.draws is None else self.draws[part])

    def clone(self) -> Batch:
        """A copy with memory of its own."""
        return Batch(self.indices.clone(), None if self.draws is None else self.draws.clone())

    def copy_(self, other: Batch) -> None:
        """Takes over the values of another batch of the same size."""
        for own, new in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(new)

    def _tensors(self) -> list[Tensor]:
        return [self.indices, *(() if self.draws is None else self.draws.tensors())]


def draw(augmentation: Augmentation, n: int, size: int, *, seed: int, purpose: str, epoch: int = 0) -> Draws:
    """Parameters for n views of ``size`` x ``size`` images.

    Every operation has its own stream, so leaving one out or changing its range does not shift the others' draws.

    Args:
        augmentation: the list.
        n: number of views.
        size: side of the images in pixels.
        seed: the trial's seed.
        purpose: e.g. "view-1"; with the seed and the epoch it determines the draws.
        epoch: the epoch, from 1.
    """

    def stream(operation: str) -> np.random.Generator:
        return generator(seed, f"{purpose}/{operation}", epoch)

    a = augmentation
    box = flip = order = factor = grey = sigma = None
    if a.crop is not None:
        box = torch.from_numpy(_draw_boxes(stream("crop"), n, size, a.crop, a.crop_ratio))
    if a.flip > 0:
        flip = torch.from_numpy(stream("flip").random(n) < a.flip)
    strengths = (a.brightness, a.contrast, a.saturation, a.hue)
    if a.jitter > 0 and any(strengths):
        order = torch.from_numpy(stream("order").permuted(np.tile(np.arange(4), (n, 1)), axis=1))
        jittered = stream("jitter").random(n) < a.jitter
        columns = []
        for name, strength in zip(("brightness", "contrast", "saturation", "hue"), strengths, strict=True):
            low, neutral = (-strength, 0.0) if name == "hue" else (max(0.0, 1 - strength), 1.0)
            value = stream(name).uniform(low, strength if name == "hue" else 1 + strength, n)
            columns.append(np.where(jittered, value, neutral).astype(np.float32))
        factor = torch.from_numpy(np.stack(columns, axis=1))
    if a.grey > 0:
        grey = torch.from_numpy(stream("grey").random(n) < a.grey)
    if a.blur is not None:
        sigma = torch.from_numpy(stream("blur").uniform(*a.blur, n).astype(np.float32))
    return Draws(box, flip, order, factor, grey, sigma)


def _draw_boxes(
    stream: np.random.Generator, n: int, size: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> NDArray[np.float32]:
    """RandomResizedCrop.get_params for n images: ten attempts each, then the whole (square) image."""
    area = stream.uniform(*scale, (n, _CROP_ATTEMPTS)) * size * size
    aspect = np.exp(stream.uniform(np.log(ratio[0]), np.log(ratio[1]), (n, _CROP_ATTEMPTS)))
    width = np.sqrt(area * aspect).round()
    height = np.sqrt(area / aspect).round()
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    first = np.argmax(fits, axis=1)
    at = np.arange(n), first
    found = fits[at]
    w = np.where(found, width[at], size)
    h = np.where(found, height[at], np.clip(np.round(size / ratio[0]) if ratio[0] > 1 else size, 1, size))
    if ratio[1] < 1:
        w = np.where(found, w, round(size * ratio[1]))
    top = np.floor(stream.random(n) * (size - h + 1))
    left = np.floor(stream.random(n) * (size - w + 1))
    if not found.all():  # torchvision centres its fallback
        top = np.where(found, top, (size - h) // 2)
        left = np.where(found, left, (size - w) // 2)
    boxes: NDArray[np.float32] = np.stack([top, left, h, w], axis=1).astype(np.float32)
    return boxes
