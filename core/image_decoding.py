"""From any image to 3x32x32 bytes: grey is repeated, alpha laid over white, values scaled to 8 bits, other sizes resized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

#: Height and width of the images that encoders take, in pixels.
IMAGE_SIZE = 32
#: The formats that are read, by Pillow's names; others, which may start other programs (EPS), are never opened.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
#: The most pixels that one image may have: decoding takes 4 to 16 bytes for each.
MAX_PIXELS = 100_000_000
_STRIP_VALUES = 1 << 22  # converted at once


@dataclass(frozen=True)
class Scale:
    """How values of more than 8 bits become bytes; one rule for all images of a folder.

    Attributes:
        bits: integers are scaled from 0 .. 2**bits - 1.
        float_top: floating-point values are scaled from 0 .. float_top; what exceeds that is clipped.
    """

    bits: int = 16
    float_top: int = 1


def decode(image: Image.Image, scale: Scale = Scale()) -> NDArray[np.uint8]:
    """One PIL image -> [3, 32, 32] uint8. The image itself is changed where it has an orientation tag.

    Orientation tags are obeyed. Transparency is composited over white. Grey images of more than 8 bits are scaled by
    ``scale``: integers from the full range of 16 bits, floating-point values from [0, 1], unless it says otherwise. Colours of
    16 bits lose their low byte. Other sizes are resized, without keeping the aspect ratio, by PIL's bilinear filter (which
    averages when it shrinks). Of several frames the first is taken.
    """
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(image, in_place=True)  # a copy of a large scan takes hundreds of megabytes
    kind = kind_of_values(image)
    if kind == "integers":
        top = 2**scale.bits - 1
        image = _to_bytes(image, lambda values: values.astype(np.int64).clip(0, top) * 255 // top)
    elif kind == "floats":
        # Written so that [0, 1] gives what it always gave, to the bit.
        image = _to_bytes(
            image, lambda values: (np.nan_to_num(values.astype(np.float64) / scale.float_top).clip(0, 1) * 255).round()
        )
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _over_white(image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def kind_of_values(image: Image.Image) -> str:
    """``bytes``, ``integers`` (grey, more than 8 bits), ``floats``, or ``colours`` of 16 bits, of which PIL keeps a byte."""
    if image.mode == "I" or image.mode.startswith("I;"):
        return "integers"
    if image.mode == "F":
        return "floats"
    # BGR;16 is a pixel of 16 bits, five or six a colour.
    return "colours" if any(";16" in str(raw) and raw != "BGR;16" for raw in _raw_modes(image)) else "bytes"


def declared_bits(image: Image.Image) -> int:
    """The bits that the file says its grey integers use, where that is not just the size of what holds them; else 0."""
    if image.format == "TIFF" and any(str(raw) == "I;12" for raw in _raw_modes(image)):
        return 12
    if image.format == "PPM" and not any(str(raw) in ("I;16B", "65535") for raw in _raw_modes(image)):
        return 16  # PIL has scaled them by the header's largest value
    return 0


def value_range(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest value of an image with values of one channel; not finite where one is not.

    Of ``colours``, the largest of what PIL keeps.
    """
    if image.mode not in ("F", "I") and not image.mode.startswith("I;"):
        extremes: Any = image.getextrema()
        bands = image.getbands()
        tops = [top for (_, top), band in zip(extremes, bands, strict=True) if band not in "Aa"] if len(bands) > 1 else extremes
        return 0.0, float(max(tops))
    low, high = np.inf, -np.inf
    for values in _strips(np.asarray(image)):
        if not np.isfinite(values).all():
            return -np.inf, np.inf
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


@contextmanager
def open_image(file: Path | BinaryIO, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Opens an image of one of the formats.

    Raises:
        ValueError: if it has more than MAX_PIXELS.
        Exception: whatever PIL's plugins raise for a broken one.
    """
    from PIL import Image

    if "HEIF" in formats:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    with Image.open(file, formats=formats) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{width:,} x {height:,} pixels are more than the {MAX_PIXELS // 10**6} million that are read: make it smaller"
            )
        yield image


@contextmanager
def own_limit_of_pixels() -> Iterator[None]:
    """Within the block PIL's limit, which takes a large scan for an attack, is off; :func:`open_image` has its own.

    PIL's is a global variable, so the block is for one thread, which may start others inside.
    """
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def memory_of(image: Image.Image) -> int:
    """About how many bytes :func:`decode` needs at most for an opened image."""
    each = 4 if image.mode == "RGB" else 16 if kind_of_values(image) in ("integers", "floats") else 8
    return image.width * image.height * each


def to_rgb32(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, H, W] grey or [N, H, W, 3] RGB -> [N, 3, 32, 32], by the same rules."""
    from PIL import Image

    if images.ndim == 4 and images.shape[1:3] == (IMAGE_SIZE, IMAGE_SIZE):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return np.stack([decode(Image.fromarray(image)) for image in images])


def _over_white(image: Image.Image) -> Image.Image:
    """A transparent image -> RGB, strip by strip, since all at once would take four times its memory."""
    from PIL import Image

    result = Image.new("RGB", image.size)
    rows = max(1, _STRIP_VALUES // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        result.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return result


def _raw_modes(image: Image.Image) -> list[object]:
    """What an opened image's decoder is told about the values in the file, such as ``RGB;16B``."""
    raw: list[object] = []
    for tile in getattr(image, "tile", ()):
        arguments = tile[3]
        raw += arguments if isinstance(arguments, tuple) else [arguments]
    return raw


def _strips(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = max(1, _STRIP_VALUES // max(1, values.shape[1]))
    for top in range(0, len(values), rows):
        yield values[top : top + rows]


def _to_bytes(image: Image.Image, convert: Callable[[NDArray[Any]], NDArray[Any]]) -> Image.Image:
    from PIL import Image

    values = np.asarray(image)
    result = np.empty(values.shape, dtype=np.uint8)
    for strip, place in zip(_strips(values), _strips(result), strict=True):
        place[:] = convert(strip).astype(np.uint8)
    return Image.fromarray(result)
