"""What tells for each kind of file in a storage whether the bytes are such a file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable

from core.atomic_files import parse_arrays


def _parse_png(content: bytes) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.verify()


def _parse_tensors(content: bytes) -> None:
    from safetensors.numpy import load

    load(content)


def _parse_torch(content: bytes) -> None:
    import torch

    torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _parse_export(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} is damaged")


#: Suffix -> what raises an error if the bytes are no such file; for files whose checksum is unknown.
PARSERS: dict[str, Callable[[bytes], object]] = {
    ".json": json.loads, ".npz": parse_arrays, ".png": _parse_png, ".safetensors": _parse_tensors, ".pt": _parse_torch,
    ".pt2": _parse_export,
}  # fmt: skip
