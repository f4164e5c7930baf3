"""From any image to 3x32x32 bytes: grey is repeated, alpha laid over white, 16 bits scaled to 8, other sizes resized."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

#: Height and width of the images that encoders take, in pixels.
IMAGE_SIZE = 32


def decode(image: Image.Image) -> NDArray[np.uint8]:
    """One PIL image -> [3, 32, 32] uint8.

    Orientation tags are obeyed. Transparency is composited over white. Grey images of more than 8 bits are scaled from
    their full range, floating-point ones from [0, 1]. Other sizes are resized, without keeping the aspect ratio, by PIL's
    bilinear filter (which averages when it shrinks).
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) // 257).astype(np.uint8))
    elif image.mode == "I":
        # PIL's 32-bit integers come from 16-bit PNGs and TIFFs; what exceeds 16 bits is scaled from its maximum.
        values = np.asarray(image, dtype=np.int64).clip(0)
        image = Image.fromarray((values * 255 // max(65535, int(values.max()))).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray((np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 1) * 255).round().astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    image = image.convert("RGB")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def to_rgb32(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, H, W] grey or [N, H, W, 3] RGB -> [N, 3, 32, 32], by the same rules."""
    from PIL import Image

    if images.ndim == 4 and images.shape[1:3] == (IMAGE_SIZE, IMAGE_SIZE):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return np.stack([decode(Image.fromarray(image)) for image in images])
