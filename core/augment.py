"""The augmentations, in batches, on whatever device the batch is on, with parameters drawn for every image.

Each operation equals torchvision's (``torchvision.transforms.v2.functional`` on float images) given the same parameters; the
order of the four colour operations is drawn for every image, as ``ColorJitter`` draws it for every call. torchvision itself
would draw once for a whole batch, or take an image at a time.

On a GPU every operation is computed for all images at once, and each image takes the result whose turn it is. On a CPU images
with the same order of operations are taken together, a few at a time: each computes only what it needs, in place, and what is
worked on stays in the core's cache. The numbers are the same.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from core.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, Draws

_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601 luma, torchvision's coefficients
#: The factors with which jitter changes nothing, by operation; hue is computed all the same, and rounds.
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)
_ORDERS = tuple(permutations(range(4)))
#: Images augmented at once on a CPU, of one order of colour operations: what fits into a core's cache.
_CPU_CHUNK = 96
#: Up to this side all matrices that crop and resize are kept (8 MiB); above, they are computed for each image.
_LARGEST_TABLE = 32


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Applies the drawn operations.

    Args:
        images: [n, 3, S, S], uint8, or float in [0, 1].
        draws: parameters of n views, on the images' device.

    Returns:
        [n, 3, S, S] float32 in [0, 1], not normalised (the encoder does that).
    """
    return _augment_by_order(images, draws) if images.device.type == "cpu" else _augment_at_once(images, draws)


def _augment_at_once(images: Tensor, draws: Draws) -> Tensor:
    """As :func:`augment`; the host never waits for a GPU."""
    x = _crop_and_flip(images, draws)
    if draws.order is not None and draws.factor is not None:
        x = jitter(x, draws.order, draws.factor)
    if draws.grey is not None:
        x = torch.where(draws.grey[:, None, None, None], luma(x), x)
    return x if draws.sigma is None else blur(x, draws.sigma)


def _augment_by_order(images: Tensor, draws: Draws) -> Tensor:
    """As :func:`augment`, for images on a CPU: those with the same order of colour operations one after the other."""
    which = _orders(draws, len(images))
    by_order = which.argsort(stable=True)
    sorted_images, sorted_draws = images.index_select(0, by_order), draws[by_order]
    out = torch.empty(images.shape, dtype=torch.float32 if images.dtype == torch.uint8 else images.dtype)
    start = 0
    for order, n in zip((*_ORDERS, (HUE,), ()), torch.bincount(which, minlength=len(_ORDERS) + 2).tolist(), strict=True):
        chunks = -(-n // _CPU_CHUNK)
        for i in range(chunks):  # of sizes as equal as can be
            part = slice(start + n * i // chunks, start + n * (i + 1) // chunks)
            out[part] = _augment_alike(sorted_images[part], sorted_draws[part], order)
        start += n
    back = torch.empty_like(by_order)
    back[by_order] = torch.arange(len(images))
    return out.index_select(0, back)


def _orders(draws: Draws, n: int) -> Tensor:
    """[n] int64: the place of each image's order of colour operations in (*_ORDERS, (HUE,), ()).

    Images whose factors change nothing have their hue computed alone, unless it is clamped afterwards.
    """
    if draws.order is None or draws.factor is None:
        return torch.full((n,), len(_ORDERS) + 1)
    digits = torch.tensor((64, 16, 4, 1))
    place = torch.zeros(256, dtype=torch.int64)
    place[(torch.tensor(_ORDERS) * digits).sum(dim=1)] = torch.arange(len(_ORDERS))
    alone = (draws.factor == torch.tensor(_NEUTRAL)).all(dim=1) & (draws.order[:, -1] == HUE)
    return torch.where(alone, len(_ORDERS), place[(draws.order * digits).sum(dim=1)])


def _augment_alike(images: Tensor, draws: Draws, order: tuple[int, ...]) -> Tensor:
    """Applies the drawn operations to images of one order of colour operations; the images may be overwritten."""
    x = _crop_and_flip(images, draws)
    if order and order[0] == HUE:
        x.clamp_(0, 1)  # as every other operation does
    for operation in order:
        assert draws.factor is not None
        _OPERATIONS[operation](x, draws.factor[:, operation])
    if draws.grey is not None:
        turn = draws.grey.nonzero()[:, 0]
        x.index_copy_(0, turn, luma(x.index_select(0, turn)).expand(-1, 3, -1, -1))
    return x if draws.sigma is None else blur(x, draws.sigma)


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1]; floats are left as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def luma(x: Tensor) -> Tensor:
    """[n, 3, H, W] -> [n, 1, H, W], torchvision's rgb_to_grayscale."""
    r, g, b = x.unbind(dim=1)
    return (r * _GREY[0]).add_(g, alpha=_GREY[1]).add_(b, alpha=_GREY[2]).unsqueeze(1)


# -- shape ---------------------------------------------------------------------------------------------------------------


def _crop_and_flip(images: Tensor, draws: Draws) -> Tensor:
    x = to_float(images)
    if draws.box is not None:
        return crop_and_resize(x, draws.box, draws.flip)
    return x if draws.flip is None else torch.where(draws.flip[:, None, None, None], x.flip(-1), x)


def crop_and_resize(x: Tensor, box: Tensor, flip: Tensor | None = None) -> Tensor:
    """Crops each image to its box and resizes it to the original size (bilinear, antialiased), flipping it where asked.

    Equals torchvision's ``resized_crop(..., antialias=True)`` and ``horizontal_flip``. Both directions are linear maps of the
    pixels, so they are two batched matrix products, and the flip is a reversed order of one matrix's rows.

    Args:
        x: [n, 3, S, S] float.
        box: [n, 4] float, top, left, height, width: whole numbers.
        flip: [n] bool, or None.
    """
    top, left, height, width = box.unbind(dim=1)
    size = x.shape[-1]
    return _linear_map(_resize_matrices(top, height, size), x, _resize_matrices(left, width, size, flip))


def _linear_map(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """``rows @ x @ columns^T`` for each channel of images [n, 3, S, S]; matrices [n, S, S]."""
    x = rows[:, None] @ x
    if x.device.type == "cpu":  # one product for all channels of an image
        return torch.bmm(x.flatten(1, 2), columns.mT).view_as(x)
    return x @ columns.mT[:, None]


def _resize_matrices(start: Tensor, length: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """[n, size, size]: row o holds the weights with which the pixels of [start, start + length) make output pixel o."""
    if size > _LARGEST_TABLE:
        matrices = _compute_resize_matrices(start, length, size)
        return matrices if flip is None else torch.where(flip[:, None, None], matrices.flip(1), matrices)
    place = ((length - 1) * size + start).long()
    if flip is not None:
        place = place + flip * size * size
    return _resize_table(size, start.device).index_select(0, place)


@cache
def _resize_table(size: int, device: torch.device) -> Tensor:
    """[2 size size, size, size]: the matrices of each length (from 1) and start (from 0), then the same ones flipped."""
    length, start = torch.meshgrid(torch.arange(1.0, size + 1), torch.arange(float(size)), indexing="ij")
    matrices = _compute_resize_matrices(start.flatten(), length.flatten(), size)
    return torch.cat([matrices, matrices.flip(1)]).to(device)


def _compute_resize_matrices(start: Tensor, length: Tensor, size: int) -> Tensor:
    """[n, size, size]: the triangle filter of PIL and of torch's antialiased bilinear resize.

    It is cut off at the crop's border and normalised.
    """
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    scale = (length / size)[:, None, None]
    start, length = start[:, None, None], length[:, None, None]
    inside = pixel - start  # pixel's position within the crop
    center = (pixel[:, None] + 0.5) * scale
    weight = (1 - ((inside + 0.5 - center) / scale.clamp(min=1)).abs()).clamp_(min=0)
    weight = weight * ((inside >= 0) & (inside < length))
    return weight / weight.sum(dim=-1, keepdim=True)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """A 3x3 Gaussian with each image's sigma, borders reflected. Equals torchvision's ``gaussian_blur(kernel_size=3)``.

    Args:
        x: [n, 3, S, S] float.
        sigma: [n] float, in pixels.
    """
    side = torch.exp(-0.5 / sigma.square())
    side = (side / (1 + 2 * side))[:, None, None]
    identity, spread = _blur_matrices(x.shape[-1], x.device)
    kernel = torch.addcmul(identity, side, spread)
    return _linear_map(kernel, x, kernel)


@cache
def _blur_matrices(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The identity, and what is added to it for each unit of a neighbour's weight: a banded matrix, reflected at its ends."""
    identity = torch.eye(size)
    beside = identity.roll(1, 0) + identity.roll(-1, 0)
    beside[0], beside[-1] = 2 * identity[1], 2 * identity[-2]
    return identity.to(device), (beside - 2 * identity).to(device)


# -- colour --------------------------------------------------------------------------------------------------------------


def jitter(x: Tensor, order: Tensor, factor: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order; the host never waits for a GPU.

    The first three blend an image with black, its mean luma or its luma, so at each of the four places one fused blend serves
    whichever of them an image has there.

    Args:
        x: [n, 3, H, W] float in [0, 1].
        order: [n, 4] int64, a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE for each image.
        factor: [n, 4] float, by operation.
    """
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
        x = torch.where(is_hue[:, None, None, None], shift_hue(x, value), x)
    return x


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue (of HSV) of each image by its shift; value and saturation stay. Equals torchvision's adjust_hue.

    Args:
        x: [n, 3, H, W] float in [0, 1].
        shift: [n] float, in turns.
    """
    shifted = x.clone()
    _shift_hue(shifted, shift)
    return shifted


def _shift_hue(x: Tensor, shift: Tensor) -> None:
    """As :func:`shift_hue`, in place.

    Uses the closed form of HSV -> RGB: with the hue in turns and u the distance to the channel's own hue (0, 1/3, 2/3), at
    most half a turn, a channel is ``min + chroma * clamp(2 - 6 u, 0, 1)`` (Wikipedia, "HSL and HSV", HSV to RGB alternative).
    """
    r, g, b = x.unbind(dim=1)
    value = torch.maximum(torch.maximum(r, g), b)
    least = torch.minimum(torch.minimum(r, g), b)
    chroma = value - least
    # Turns from the hue of the greatest channel; where all are equal, chroma makes any finite number do.
    per_chroma = (6 * chroma).clamp_(min=1e-30).reciprocal_()
    hue = (r - g).mul_(per_chroma).add_(2 / 3)
    # A comparison into floats and lerp: torch selects by a bool mask ten times more slowly.
    mask = torch.eq(value, g, out=torch.empty_like(value))
    hue.lerp_((b - r).mul_(per_chroma).add_(1 / 3), mask)
    hue.lerp_((g - b).mul_(per_chroma), torch.eq(value, r, out=mask))
    hue += shift[:, None, None]
    for channel in range(3):
        away = hue - channel / 3
        away -= away.round()
        share = away.abs_().mul_(-6).add_(2).clamp_(0, 1)
        torch.addcmul(least, chroma, share, out=x[:, channel])


def _brighten(x: Tensor, factor: Tensor) -> None:
    x.mul_(factor[:, None, None, None]).clamp_(0, 1)


def _change_contrast(x: Tensor, factor: Tensor) -> None:
    factor = factor[:, None, None, None]
    mean = luma(x).mean(dim=(-2, -1), keepdim=True)
    x.mul_(factor).add_((1 - factor) * mean).clamp_(0, 1)


def _saturate(x: Tensor, factor: Tensor) -> None:
    factor = factor[:, None, None, None]
    grey = luma(x)
    x.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 1)


#: In place, on images [n, 3, H, W] in [0, 1], each with its factor [n].
_OPERATIONS = {BRIGHTNESS: _brighten, CONTRAST: _change_contrast, SATURATION: _saturate, HUE: _shift_hue}
