"""Named image sets: uint8 arrays of 32x32 RGB images with labels, whatever they came from.

``DATASETS`` holds the built-in ones; ``folder:PATH`` is any folder of images. Loading one downloads or decodes what is missing
and keeps the arrays below ``data_dir``. Naming and validating one costs nothing and loads no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core import digits_m, folder_report, folders, torchvision_datasets
from core.causes import UNWRITABLE, explain
from core.errors import InputError, UnwritableError
from core.paths import expand_home

FOLDER = "folder:"
#: The share of the train images that is held out as validation.
VALIDATION_SHARE = 0.1
_CHOICE_SEED = 20260101


@dataclass(frozen=True)
class ImageSet:
    """Images in memory.

    Attributes:
        images: [N, 3, 32, 32] uint8.
        labels: [N] int64, indices into class_names.
        class_names: the classes' names.
        groups: [N] int64; images with one number are renderings of one source and stay on one side of every split.
            None: every image is its own source.
        factors: name -> [N, F] float64, what the images were made from beside their class, where that is known.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    groups: NDArray[np.int64] | None = None
    factors: Mapping[str, NDArray[np.float64]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def channels(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel's values in [0, 1], [3] each."""
        # float64 sums of bytes are exact, so they depend on the images alone.
        mean = self.images.mean(axis=(0, 2, 3), dtype=np.float64) / 255
        return mean, self.images.std(axis=(0, 2, 3), dtype=np.float64) / 255

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """The images at the indices, in their order."""
        groups = None if self.groups is None else self.groups[indices]
        factors = None if self.factors is None else {name: values[indices] for name, values in self.factors.items()}
        return ImageSet(self.images[indices], self.labels[indices], self.class_names, groups, factors)


@dataclass(frozen=True)
class Splits:
    """What a trial works on: train and validation share no source image; test is never used to choose anything."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Source:
    """One built-in image set.

    Attributes:
        load: (data_dir, "train" or "test") -> ImageSet.
        version: what identifies its content, beside its name.
        train_images: how many train images it has, 0 for a set of anomalies.
        meaning: one line for help and reports.
    """

    load: Callable[[Path, str], ImageSet]
    version: str
    train_images: int
    meaning: str

    @property
    def anomaly_only(self) -> bool:
        """Whether it is a set of anomalies, whose train images serve to choose trials alone."""
        return self.train_images == 0


def _arrays(load: Callable[..., tuple[Any, ...]]) -> Callable[[Path, str], ImageSet]:
    return lambda data_dir, split: ImageSet(*load(data_dir, split))


DATASETS: dict[str, Source] = {
    "digits-m": Source(
        _arrays(digits_m.load), digits_m.VERSION, 7782, "handwritten digits blended into photographs; no network"
    ),
    "digits-m-patches": Source(_arrays(digits_m.load_patches), digits_m.VERSION, 0, "digits-m's backgrounds, no digit"),
    "digits-m-black": Source(_arrays(digits_m.load_black), digits_m.VERSION, 0, "digits-m's digits on black"),
    **{
        name: Source(_arrays(torchvision_datasets.loader(name)), "torchvision", train_images, f"{name} by torchvision")
        for name, train_images in torchvision_datasets.TRAIN_IMAGES.items()
    },
}


#: For anomaly sets that are known to be near the data set or far from it: whether they share the look of its images and lack
#: its classes (near), or look otherwise (far). CIFAR's are those of OpenOOD (Yang et al., NeurIPS 2022, arXiv 2210.07242).
NEARNESS: dict[tuple[str, str], Literal["near", "far"]] = {
    ("digits-m", "digits-m-patches"): "near",
    ("digits-m", "digits-m-black"): "far",
    ("cifar10", "cifar100"): "near",
    ("cifar100", "cifar10"): "near",
    **{(cifar, other): "far" for cifar in ("cifar10", "cifar100") for other in ("mnist", "svhn", "fashion-mnist")},
}


def with_nearness(dataset: str, anomalies: str) -> str:
    """The name of an anomaly set for titles: followed by near or far, where that is known."""
    kind = NEARNESS.get((dataset, anomalies))
    return anomalies if kind is None else f"{anomalies} ({kind})"


def is_dataset(name: str, *, anomalies: bool) -> bool:
    """Whether the name can be a data set (or, with ``anomalies``, an anomaly set)."""
    if name.startswith(FOLDER):
        return len(name) > len(FOLDER)
    return name in DATASETS and (anomalies or not DATASETS[name].anomaly_only)


def normal_name(name: str) -> str:
    """One name for one folder: ``folder:a//b/`` is ``folder:a/b``, and ``folder:~/a`` is the folder in the home folder.

    Raises:
        InputError: if there is no such home folder.
    """
    if not name.startswith(FOLDER) or name == FOLDER:
        return name
    return FOLDER + os.path.normpath(expand_home(name.removeprefix(FOLDER)))


def describe_datasets(*, anomalies: bool) -> str:
    """The choices, for messages."""
    return ", ".join([name for name in DATASETS if is_dataset(name, anomalies=anomalies)] + ["folder:PATH"])


def identify(name: str, data_dir: Path, *, anomalies: bool = False) -> str:
    """What identifies a data set's content: a built-in one's name and version, a folder's hash over names and bytes.

    Raises:
        InputError: for a folder that is missing or not laid out as a data set.
    """
    return identify_and_count(name, data_dir, anomalies=anomalies)[0]


def identify_and_count(name: str, data_dir: Path, *, anomalies: bool = False) -> tuple[str, int]:
    """What identifies a data set's content, and how many train images it has (of a set of anomalies: 0).

    Raises:
        InputError: for a folder that is missing or not laid out as a data set.
    """
    if name.startswith(FOLDER):
        with _kept(name, data_dir):
            identity, count = folders.identify(Path(name.removeprefix(FOLDER)), data_dir, anomalies=anomalies)
        return f"folder-{identity}", count
    return f"{name}-{DATASETS[name].version}", DATASETS[name].train_images


def describe(name: str, data_dir: Path, *, anomalies: bool = False) -> list[str]:
    """Lines that say what a folder holds, what is passed over and what looks wrong; none for a built-in data set.

    Raises:
        InputError: for a folder that is missing or not laid out as a data set.
    """
    if not name.startswith(FOLDER):
        return []
    return folder_report.describe(Path(name.removeprefix(FOLDER)), data_dir, anomalies=anomalies)


def scaled_from(name: str, data_dir: Path) -> dict[str, str]:
    """Kind of values of more than 8 bits in a folder -> the range that they are scaled from; a built-in set has none."""
    return folder_report.scaled_from(Path(name.removeprefix(FOLDER)), data_dir) if name.startswith(FOLDER) else {}


def load(name: str, data_dir: Path, split: str) -> ImageSet:
    """The ``train`` or ``test`` images of a data set.

    Raises:
        InputError: if it cannot be had, or an image is broken.
    """
    with _kept(name, data_dir):
        if name.startswith(FOLDER):
            return ImageSet(*folders.load(Path(name.removeprefix(FOLDER)), data_dir, split))
        return DATASETS[name].load(data_dir, split)


@contextmanager
def _kept(name: str, data_dir: Path) -> Iterator[None]:
    """Within the block, in which something may have to be kept below ``data_dir``, raises UnwritableError if it cannot be."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UnwritableError(
            f"--data {data_dir}: {name} is not kept there yet, and cannot be ({explain(error)}); name another folder"
        ) from None


def load_anomalies(name: str, data_dir: Path) -> ImageSet:
    """The images of an anomaly set: its test split, of a folder without ``test/`` every image."""
    return load(name, data_dir, "test" if not name.startswith(FOLDER) else "anomalies")


def load_validation_anomalies(name: str, data_dir: Path) -> ImageSet | None:
    """Images of an anomaly set's kind for choosing trials: the validation part of its train split; None where it has none.

    A folder needs class folders below ``train/`` and ``test/`` for that.

    Raises:
        InputError: if an image of such a folder is broken.
    """
    if name.startswith(FOLDER):
        if not folders.has_validation_split(Path(name.removeprefix(FOLDER)), data_dir):
            return None
        train = load(name, data_dir, "train")
    else:
        try:
            train = load(name, data_dir, "train")
        except UnwritableError:
            raise
        except InputError:  # its test files may be all that is there
            return None
    return train.take(split_validation(train)[1])


def load_splits(name: str, data_dir: Path, train_subset: int | None) -> Splits:
    """Train (or a fixed, class-balanced subset of it), less a fixed tenth for validation; and test.

    Raises:
        InputError: if the data set cannot be had, or has fewer images than the subset.
    """
    train, test = load_all(name, data_dir, ("train", "test"))
    return split_images(name, train, test, train_subset, None)


def split_images(name: str, train: ImageSet, test: ImageSet, train_subset: int | None, split_seed: int | None) -> Splits:
    """A class-balanced subset of train (or all of it), less a tenth for validation; and test.

    Args:
        name: of the data set, for errors.
        train: all train images.
        test: the test images, which are never drawn anew.
        train_subset: so many of the train images; None: all.
        split_seed: with which subset and validation are drawn; None: the fixed ones.

    Raises:
        InputError: if there are fewer images than the subset.
    """
    if train_subset is not None:
        if train_subset > len(train):
            raise InputError(f"train_subset: {train_subset} is more than the {len(train)} train images of {name}")
        train = train.take(balanced_subset(train.labels, train_subset, split_seed))
    kept, held_out = split_validation(train, split_seed)
    return Splits(train.take(kept), train.take(held_out), test)


def load_all(name: str, data_dir: Path, splits: Sequence[str]) -> list[ImageSet]:
    """Several splits of a data set; raises InputError with the errors of all of them."""
    found: list[ImageSet] = []
    errors: list[str] = []
    for split in splits:
        try:
            found.append(load(name, data_dir, split))
        except UnwritableError:
            raise
        except InputError as error:
            errors += error.errors
    if errors:
        raise InputError(list(dict.fromkeys(errors)))
    return found


def _choice(purpose: int, split_seed: int | None) -> np.random.RandomState:
    return np.random.RandomState(_CHOICE_SEED + purpose if split_seed is None else [_CHOICE_SEED + purpose, split_seed])


def balanced_subset(labels: NDArray[np.int64], n: int, split_seed: int | None = None) -> NDArray[np.int64]:
    """Indices of n images, as many of each class as can be; a larger subset of the same seed contains a smaller one.

    Args:
        labels: [N] int64.
        n: at most N.
        split_seed: with which they are drawn; None: always the same ones.

    Returns:
        [n] int64, ascending.
    """
    order = _choice(0, split_seed).permutation(len(labels))
    # An image's rank within its class decides: first every class's first image, then every class's second, and so on.
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    return np.sort(order[np.argsort(rank[order], kind="stable")[:n]])


def split_validation(
    images: ImageSet, split_seed: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Indices of the images kept for training and of those held out: a tenth of each class, by source.

    They are drawn with the seed, or always the same (None). Of every class with two sources or more at least one is held out
    and one kept; the only source of a class is kept.
    """
    groups = np.arange(len(images)) if images.groups is None else images.groups
    sources, first = np.unique(groups, return_index=True)
    labels = images.labels[first]
    order = _choice(1, split_seed).permutation(len(sources))
    held_out: list[int] = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held_out += [int(sources[i]) for i in members[: min(max(1, round(len(members) * VALIDATION_SHARE)), len(members) - 1)]]
    is_held_out = np.isin(groups, held_out)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
