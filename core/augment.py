"""The augmentations, in batches, on whatever device the batch is on, with parameters drawn for every image.

Each operation equals torchvision's (``torchvision.transforms.v2.functional`` on float images) given the same parameters; the
order of the four colour operations is drawn for every image, as ``ColorJitter`` draws it for every call. torchvision itself
would draw once for a whole batch, or take an image at a time.

Drawing (numpy, on the CPU, an epoch at once) is apart from applying (torch, on the device, a batch at a time).
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

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601 luma, torchvision's coefficients
_CROP_ATTEMPTS = 10
#: Images augmented at once on a CPU: what fits into a core's cache. The result does not depend on it.
_CPU_CHUNK = 128


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


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Applies the drawn operations.

    Args:
        images: [n, 3, S, S], uint8, or float in [0, 1].
        draws: parameters of n views, on the images' device.

    Returns:
        [n, 3, S, S] float32 in [0, 1], not normalised (the encoder does that).
    """
    if images.device.type == "cpu" and len(images) > _CPU_CHUNK:
        chunks = [slice(start, start + _CPU_CHUNK) for start in range(0, len(images), _CPU_CHUNK)]
        return torch.cat([augment(images[chunk], draws[chunk]) for chunk in chunks])
    x = to_float(images)
    if draws.box is not None:
        x = crop_and_resize(x, draws.box, draws.flip)
    elif draws.flip is not None:
        x = torch.where(draws.flip[:, None, None, None], x.flip(-1), x)
    if draws.order is not None and draws.factor is not None:
        x = jitter(x, draws.order, draws.factor)
    if draws.grey is not None:
        x = torch.where(draws.grey[:, None, None, None], luma(x), x)
    if draws.sigma is not None:
        x = blur(x, draws.sigma)
    return x


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1]; floats are left as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def luma(x: Tensor) -> Tensor:
    """[n, 3, H, W] -> [n, 1, H, W], torchvision's rgb_to_grayscale."""
    r, g, b = x.unbind(dim=1)
    return (r * _GREY[0]).add_(g, alpha=_GREY[1]).add_(b, alpha=_GREY[2]).unsqueeze(1)


def crop_and_resize(x: Tensor, box: Tensor, flip: Tensor | None = None) -> Tensor:
    """Crops each image to its box and resizes it to the original size (bilinear, antialiased), flipping it where asked.

    Equals torchvision's ``resized_crop(..., antialias=True)`` and ``horizontal_flip``. Both directions are linear maps of the
    pixels, so they are two batched matrix products, and the flip is a reversed order of one matrix's rows.

    Args:
        x: [n, 3, S, S] float.
        box: [n, 4] float, top, left, height, width.
        flip: [n] bool, or None.
    """
    top, left, height, width = box.unbind(dim=1)
    size = x.shape[-1]
    rows = _resize_matrix(top, height, size)
    columns = _resize_matrix(left, width, size)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return rows[:, None] @ x @ columns.mT[:, None]


def _resize_matrix(start: Tensor, length: Tensor, size: int) -> Tensor:
    """[n, size, size]: row o holds the weights with which the pixels of [start, start + length) make output pixel o.

    The triangle filter of PIL and of torch's antialiased bilinear resize, cut off at the crop's border and normalised.
    """
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    scale = (length / size)[:, None, None]
    start, length = start[:, None, None], length[:, None, None]
    inside = pixel - start  # pixel's position within the crop
    center = (pixel[:, None] + 0.5) * scale
    weight = (1 - ((inside + 0.5 - center) / scale.clamp(min=1)).abs()).clamp_(min=0)
    weight = weight * ((inside >= 0) & (inside < length))
    return weight / weight.sum(dim=-1, keepdim=True)


def jitter(x: Tensor, order: Tensor, factor: Tensor, *, gather: bool | None = None) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.

    The first three blend an image with black, its mean luma or its luma, so at each of the four places one fused blend serves
    whichever of them an image has there. Hue, which costs most, is computed for those images alone whose turn it is.

    Args:
        x: [n, 3, H, W] float in [0, 1].
        order: [n, 4] int64, a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE for each image.
        factor: [n, 4] float, by operation.
        gather: whether to pick out the images whose hue turns, or to compute all and select. None: picked out on a CPU;
            on a GPU the host would have to wait for their number.
    """
    gather = x.device.type == "cpu" if gather is None else gather
    for place in range(4):
        operation = order[:, place]
        value = factor.gather(1, operation[:, None])[:, 0]
        is_hue = operation == HUE
        ratio = torch.where(is_hue, 1.0, value)[:, None, None, None]
        grey = luma(x)
        to_mean = (operation == CONTRAST).to(x.dtype)[:, None, None, None]
        to_luma = (operation == SATURATION).to(x.dtype)[:, None, None, None]
        base = grey.mean(dim=(-2, -1), keepdim=True) * to_mean + grey * to_luma
        x = (x * ratio).add_((1 - ratio) * base).clamp_(0, 1)
        if gather:
            turn = is_hue.nonzero()[:, 0]
            x.index_copy_(0, turn, shift_hue(x[turn], value[turn]))
        else:
            x = torch.where(is_hue[:, None, None, None], shift_hue(x, value), x)
    return x


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue (of HSV) of each image by its shift; value and saturation stay. Equals torchvision's adjust_hue.

    Uses the closed form of HSV -> RGB: with the hue in turns and u the distance to the channel's own hue (0, 1/3, 2/3), at
    most half a turn, a channel is ``min + chroma * clamp(2 - 6 u, 0, 1)`` (Wikipedia, "HSL and HSV", HSV to RGB alternative).

    Args:
        x: [n, 3, H, W] float in [0, 1].
        shift: [n] float, in turns.
    """
    r, g, b = x.unbind(dim=1)
    value = torch.maximum(torch.maximum(r, g), b)
    least = torch.minimum(torch.minimum(r, g), b)
    chroma = value - least
    # Turns from the hue of the greatest channel; where all are equal, chroma makes any finite number do.
    per_chroma = (6 * chroma).clamp_(min=1e-30).reciprocal_()
    hue = torch.where(
        value == r, (g - b) * per_chroma, torch.where(value == g, (b - r) * per_chroma + 1 / 3, (r - g) * per_chroma + 2 / 3)
    )
    hue += shift[:, None, None]
    shifted = torch.empty_like(x)
    for channel in range(3):
        away = hue - channel / 3
        away -= away.round()
        share = away.abs_().mul_(-6).add_(2).clamp_(0, 1)
        torch.addcmul(least, chroma, share, out=shifted[:, channel])
    return shifted


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """A 3x3 Gaussian with each image's sigma, borders reflected. Equals torchvision's ``gaussian_blur(kernel_size=3)``.

    Args:
        x: [n, 3, H, W] float.
        sigma: [n] float, in pixels.
    """
    side = torch.exp(-0.5 / sigma.square())
    side = (side / (1 + 2 * side))[:, None, None]
    size = x.shape[-1]
    # As a banded matrix: 1 - 2 side on the diagonal, side beside it, and the border's neighbour twice (reflection).
    eye = torch.eye(size, device=x.device, dtype=x.dtype)
    beside = eye.roll(1, 0) + eye.roll(-1, 0)
    beside[0], beside[-1] = 2 * eye[1], 2 * eye[-2]
    kernel = ((1 - 2 * side) * eye + side * beside)[:, None]
    return kernel @ x @ kernel.mT
