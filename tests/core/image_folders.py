"""Small folders of images, and what a command says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core import datasets
from core.errors import InputError

DRAW = np.random.default_rng(0)


def picture() -> Image.Image:
    return Image.fromarray(DRAW.integers(0, 256, (32, 32, 3), dtype=np.uint8))


def folder(root: Path, n: int = 2) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                picture().save(root / split / name / f"{i}.png")
    return root


def lines(root: Path, data: Path, *, anomalies: bool = False) -> str:
    return "\n".join(datasets.describe(f"folder:{root}", data, anomalies=anomalies))


def refusal(root: Path, data: Path, split: str = "train") -> str:
    with pytest.raises(InputError) as error:
        datasets.load(f"folder:{root}", data, split)
    return str(error.value)


def n_train(root: Path, data: Path) -> int:
    return len(datasets.load(f"folder:{root}", data, "train"))


def ramp(top: float, kind: type, bottom: float = 0) -> NDArray[np.float64]:
    return np.linspace(bottom, top, 1024).reshape(32, 32).astype(kind)
