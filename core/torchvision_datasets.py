"""Data sets by torchvision: its own download, or files that are already there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data_cache import Arrays, checksum_of, keep_json, load_kept_json
from core.errors import InputError
from core.image_decoding import to_rgb32

TRAIN_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257, "mnist": 60_000, "fashion-mnist": 60_000}
Loaded = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...], None]


def _cifar10(root: Path, split: str) -> Any:
    from torchvision.datasets import CIFAR10

    return CIFAR10(root, train=split == "train", download=True)


def _cifar100(root: Path, split: str) -> Any:
    from torchvision.datasets import CIFAR100

    return CIFAR100(root, train=split == "train", download=True)


def _svhn(root: Path, split: str) -> Any:
    from torchvision.datasets import SVHN

    return SVHN(root, split=split, download=True)


def _mnist(root: Path, split: str) -> Any:
    from torchvision.datasets import MNIST

    return MNIST(root, train=split == "train", download=True)


def _fashion_mnist(root: Path, split: str) -> Any:
    from torchvision.datasets import FashionMNIST

    return FashionMNIST(root, train=split == "train", download=True)


_CLASSES: dict[str, Callable[[Path, str], Any]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
}


def loader(name: str) -> Callable[[Path, str], Loaded]:
    """A function that loads one split of the named data set from below ``data_dir``, downloading what is missing."""

    def load(data_dir: Path, split: str) -> Loaded:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            data = _CLASSES[name](data_dir, split)
        except (OSError, RuntimeError) as error:  # torchvision: URLError is an OSError, a bad checksum a RuntimeError
            raise InputError(
                f"dataset {name}: neither found below {data_dir} nor downloaded ({error}); "
                f"put torchvision's files there (--data DIR), or name a folder of images as folder:PATH"
            ) from None
        except Exception as error:  # its readers raise anything for a damaged file, AssertionError among it
            raise InputError(
                f"dataset {name}: its files below {data_dir} are damaged ({type(error).__name__}: {error}); delete them, "
                "so that they are downloaded again"
            ) from None
        images = np.asarray(data.data)
        labels = np.asarray(data.targets if hasattr(data, "targets") else data.labels, dtype=np.int64)
        if name == "svhn":  # torchvision keeps SVHN as [N, C, H, W], the others as [N, H, W(, C)]
            images = images.transpose(0, 2, 3, 1)
        names = tuple(data.classes) if hasattr(data, "classes") else tuple(str(i) for i in range(10))
        _check_unchanged(name, split, data_dir, {"images": images, "labels": labels})
        return to_rgb32(images), labels, names, None

    return load


def _check_unchanged(name: str, split: str, data_dir: Path, arrays: Arrays) -> None:
    """Compares images and labels with what was read first: trials of both would be taken for trials of one data set.

    torchvision itself checks the files of some data sets only when it downloads them.
    """
    path = data_dir / f"{name}-{split}-checksum.json"
    checksum, first = checksum_of(name, arrays), load_kept_json(path)
    if first is None:
        keep_json(path, checksum)
    elif first != checksum:
        raise InputError(
            f"dataset {name}: its {split} images or labels below {data_dir} are not those that were first read there: put "
            f"those files back, or delete the wrong ones, to download them again; if the first were wrong, delete {path} too"
        )
