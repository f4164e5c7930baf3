"""digits-m: the embedded data set, made in seconds from what scikit-learn ships, without a network.

Handwritten digits (8x8, the UCI optical digits) are enlarged, placed at random and difference-blended into patches of two
photographs: the construction of MNIST-M (Ganin & Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015,
sec. 4.1). Train and test share neither a digit nor a region of a photograph. All draws come from numpy's RandomState, whose
stream is guaranteed never to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.data_cache import Arrays, kept_arrays
from core.image_decoding import IMAGE_SIZE

#: Raised with every change of the images; tests pin their checksum.
VERSION = "1"
CLASS_NAMES = tuple(str(digit) for digit in range(10))

_SEED = 1
_TEST_DIGITS = 500
_RENDERINGS = {"train": 6, "test": 4}
_PATCHES = {"train": 10_000, "test": 2000}
_SIDES = (20, 29)  # an enlarged digit's side: from 20 to 28 pixels
_STRIP = 64  # the photographs are cut into strips this wide; a patch lies within one strip
_TEST_STRIPS = (1, 4, 7)

Factors = dict[str, NDArray[np.float64]]
Loaded = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...], NDArray[np.int64] | None, Factors | None]
#: What an image was made from, beside its class: mean colour of the background [3] in [0, 1], the digit's centre [2] (down,
#: right) and its side [1] in pixels.
FACTORS = ("background_colour", "position", "size")


@dataclass(frozen=True)
class _Made:
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    factors: Factors


def load(data_dir: Path, split: str) -> Loaded:
    """The ``train`` images (1,297 digits, six renderings each) or the ``test`` images (500 digits, four each).

    Returns:
        images [N, 3, 32, 32] uint8, labels [N] int64, class names, groups [N] int64 (the source digit), and FACTORS.
    """

    def make() -> Arrays:
        made = _render(split, on_black=False)
        return {"images": made.images, "labels": made.labels, "groups": made.groups, **made.factors}

    arrays = kept_arrays(data_dir / f"digits-m-{VERSION}-{split}.npz", ("images", "labels", "groups", *FACTORS), make)
    return arrays["images"], arrays["labels"], CLASS_NAMES, arrays["groups"], {name: arrays[name] for name in FACTORS}


def load_patches(data_dir: Path, split: str) -> Loaded:
    """Patches of the photographs' regions without a digit: 2,000 of the test regions, 10,000 of the train regions."""

    def make() -> Arrays:
        rng = np.random.RandomState(_SEED + {"train": 11, "test": 10}[split])
        images = np.stack([_patch(split, rng) for _ in range(_PATCHES[split])]).transpose(0, 3, 1, 2)
        return {"images": np.ascontiguousarray(images)}

    images = kept_arrays(data_dir / f"digits-m-patches-{VERSION}-{split}.npz", ("images",), make)["images"]
    return images, np.zeros(len(images), dtype=np.int64), ("patch",), None, None


def load_black(data_dir: Path, split: str) -> Loaded:
    """The split's digits on black: what the images mean, without what they look like."""

    def make() -> Arrays:
        made = _render(split, on_black=True)
        return {"images": made.images, "labels": made.labels, "groups": made.groups}

    arrays = kept_arrays(data_dir / f"digits-m-black-{VERSION}-{split}.npz", ("images", "labels", "groups"), make)
    return arrays["images"], arrays["labels"], CLASS_NAMES, arrays["groups"], None


def _render(split: str, *, on_black: bool) -> _Made:
    digits, labels, sources = _digits(split)
    rng = np.random.RandomState(_SEED + {"train": 2, "test": 3}[split])
    renderings = _RENDERINGS[split]
    images = np.empty((len(digits) * renderings, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    factors = {name: np.empty((len(images), width)) for name, width in zip(FACTORS, (3, 2, 1), strict=True)}
    for i in range(len(images)):
        digit = _enlarge(digits[i // renderings], rng.randint(*_SIDES))
        top, left = (rng.randint(IMAGE_SIZE - side + 1) for side in digit.shape)
        canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 1))
        canvas[top : top + digit.shape[0], left : left + digit.shape[1], 0] = digit
        patch = _patch(split, rng).astype(np.float64)
        images[i] = np.abs((0.0 if on_black else patch) - canvas).round()
        side = len(digit)
        factors["background_colour"][i] = patch.mean(axis=(0, 1)) / 255
        factors["position"][i] = top + side / 2, left + side / 2
        factors["size"][i] = side
    labels, sources = (np.repeat(values, renderings) for values in (labels, sources))
    return _Made(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, sources, factors)


def _digits(split: str) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(_SEED).permutation(len(bunch.target))
    chosen = order[:_TEST_DIGITS] if split == "test" else order[_TEST_DIGITS:]
    return bunch.images[chosen] / 16 * 255, bunch.target[chosen].astype(np.int64), chosen.astype(np.int64)


@lru_cache(maxsize=1)
def _photographs() -> tuple[NDArray[np.uint8], ...]:
    from sklearn.datasets import load_sample_images

    return tuple(np.asarray(image) for image in load_sample_images().images)


def _patch(split: str, rng: np.random.RandomState) -> NDArray[np.uint8]:
    photograph = _photographs()[rng.randint(2)]
    strips = [s for s in range(photograph.shape[1] // _STRIP) if (s in _TEST_STRIPS) == (split == "test")]
    left = strips[rng.randint(len(strips))] * _STRIP + rng.randint(_STRIP - IMAGE_SIZE + 1)
    top = rng.randint(photograph.shape[0] - IMAGE_SIZE + 1)
    return photograph[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def _enlarge(digit: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Bilinear resize of [8, 8] to [side, side], pixel centres aligned, borders repeated."""
    at = (np.arange(side) + 0.5) * len(digit) / side - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(at.clip(0, len(digit) - 1)[:, None] - np.arange(len(digit))))
    enlarged: NDArray[np.float64] = weights @ digit @ weights.T
    return enlarged
