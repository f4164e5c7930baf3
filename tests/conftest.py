"""Fixtures shared by all tests: tiny image sets, configs that train in a second, real images where there are any."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes with a thread a core each would wait for one another; read by the libraries when they load.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.config import TrialConfig, make_config
from core.datasets import ImageSet, Splits
from sweeps.storage.image_sets import Images

ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = {
    "dataset": "digits-m",
    "anomaly_datasets": ["digits-m-patches"],
    "encoder": "small",
    "representation_dim": 8,
    "projector_dims": [16, 16],
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "threads": 1,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("real_data") and not os.environ.get("REAL_DATA"):
            item.add_marker(pytest.mark.skip(reason="REAL_DATA names no folder of real images"))


@pytest.fixture
def real_data() -> Path:
    """The folder with cifar10/ and mnist/."""
    return Path(os.environ["REAL_DATA"])


def tiny_config(**changes: Any) -> TrialConfig:
    return make_config(TINY | changes)


def image_set(n: int, classes: int = 4, seed: int = 0) -> ImageSet:
    """Images whose class shows in their mean colour, with noise."""
    draw = np.random.RandomState(seed)
    labels = np.arange(n) % classes
    colour = np.random.RandomState(99).randint(40, 216, (classes, 3, 1, 1))
    images = (colour[labels] + draw.normal(0, 40, (n, 3, 32, 32))).clip(0, 255).astype(np.uint8)
    return ImageSet(images, labels.astype(np.int64), tuple("abcdefghij"[:classes]))


def image_folder(root: Path, train: int = 400, test: int = 100) -> Path:
    """The images of :func:`image_set` as PNG files in class folders."""
    for split, n in (("train", train), ("test", test)):
        images = image_set(n, seed=n)
        for i, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
            folder = root / split / images.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i}.png")
    return root


@pytest.fixture
def images(splits: Splits) -> Images:
    """The image sets of tiny plans."""
    anomalies = {"digits-m-patches": image_set(20, seed=5), "digits-m-black": image_set(20, seed=6)}
    return Images({("digits-m", None, None): splits}, anomalies)


@pytest.fixture(scope="session")
def splits() -> Splits:
    return Splits(image_set(80), image_set(16, seed=1), image_set(48, seed=2))
