"""How the two views of an image are made: which image is its partner, and whether both are augmented.

A strategy is one function that returns the partner of every image for one epoch, and one line in :data:`PAIRINGS`.
Neighbours are looked up in a table found once before training, never searched for in the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class PairingContext:
    """What a strategy may look at.

    Attributes:
        labels: [n] int64, the class of every image.
        neighbors: [n, k] int64, the nearest neighbours of every image, or None where the strategy needs no table.
        purity: share of ``class`` partners that are of the image's class.
    """

    labels: Indices
    neighbors: Indices | None = None
    purity: float = 1.0


@dataclass(frozen=True)
class Pairing:
    """One strategy.

    Attributes:
        partners: (context, generator) -> [n] int64, the partner of every image for one epoch.
        augmented: whether views are augmented, or both left as they are.
        table: where the neighbour table comes from, if one is needed.
        fields: config fields that matter to this strategy only.
        meaning: one line for help and reports.
        anchor_augmented: whether, where views are augmented, the anchor's is too, or its partner's alone.
        within_class: whether neighbours are looked for among the images of the same class.
    """

    partners: Callable[[PairingContext, np.random.Generator], Indices]
    augmented: bool
    table: Literal["parent", "pixels"] | None
    fields: tuple[str, ...]
    meaning: str
    anchor_augmented: bool = True
    within_class: bool = False


def itself(context: PairingContext, draw: np.random.Generator) -> Indices:
    """Every image is its own partner."""
    return np.arange(len(context.labels), dtype=np.int64)


def one_of_the_neighbors(context: PairingContext, draw: np.random.Generator) -> Indices:
    """One of the k nearest neighbours, drawn anew each epoch."""
    if context.neighbors is None:
        raise ValueError("this pairing needs a table of neighbours")
    n, k = context.neighbors.shape
    partners: Indices = context.neighbors[np.arange(n), draw.integers(k, size=n)]
    return partners


def one_of_a_neighbors_class(context: PairingContext, draw: np.random.Generator) -> Indices:
    """Any image of the class of one of the k nearest neighbours: pairs of the neighbours' classes without their looks.

    An image is its own partner only where that class has no other.
    """
    labels, n = context.labels, len(context.labels)
    neighbor_labels = labels[one_of_the_neighbors(context, draw)]
    order = np.argsort(labels, kind="stable")
    classes, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    which = np.searchsorted(classes, neighbor_labels)
    start, count = starts[which], counts[which]
    offset = (draw.random(n) * count).astype(np.int64)
    found = order[start + offset]
    another = order[start + (offset + 1) % count]
    return np.where(found == np.arange(n), another, found)


def any_other(context: PairingContext, draw: np.random.Generator) -> Indices:
    """Any other image, each as likely as the next."""
    n = len(context.labels)
    return (np.arange(n) + draw.integers(1, n, size=n)) % n


def one_of_the_class(context: PairingContext, draw: np.random.Generator) -> Indices:
    """Another image of the same class; with purity p, a share 1 - p of the partners is of another class instead.

    An image that is alone in its class is its own partner.
    """
    labels, n = context.labels, len(context.labels)
    order = np.argsort(labels, kind="stable")
    rank = np.empty(n, dtype=np.int64)  # position of every image in `order`
    rank[order] = np.arange(n)
    classes, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    which = np.searchsorted(classes, labels)
    start, count = starts[which], counts[which]
    shift = 1 + (draw.random(n) * (count - 1)).astype(np.int64)
    same = order[start + (rank - start + shift) % count]
    # The images outside the class are the rest of `order`, read on from its end round to its start.
    others = n - count
    offset = (draw.random(n) * others).astype(np.int64)
    different = order[(start + count + offset) % n]
    pure = (draw.random(n) < context.purity) | (others == 0)
    return np.where(pure, same, different)


def one_of_the_class_as_often_as_neighbors(context: PairingContext, draw: np.random.Generator) -> Indices:
    """Another image of the same class as often as a neighbour is of it, else one of any other class: no neighbour at all."""
    if context.neighbors is None:
        raise ValueError("this pairing needs a table of neighbours")
    purity = float(np.mean(context.labels[context.neighbors] == context.labels[:, None]))
    return one_of_the_class(replace(context, purity=purity), draw)


PAIRINGS: dict[str, Pairing] = {
    "augment": Pairing(itself, True, None, (), "two augmentations of one image"),
    "neighbors": Pairing(
        one_of_the_neighbors,
        False,
        "parent",
        ("neighbors_k",),
        "an image and a neighbour under the parent's encoder, as they are",
    ),
    "neighbors+augment": Pairing(
        one_of_the_neighbors, True, "parent", ("neighbors_k",), "an image and a neighbour under the parent's encoder, augmented"
    ),
    "pixel-neighbors": Pairing(
        one_of_the_neighbors, False, "pixels", ("neighbors_k",), "an image and a neighbour in pixel space, as they are"
    ),
    "augment-one": Pairing(itself, True, None, (), "an image as it is and an augmentation of it", anchor_augmented=False),
    "class-neighbors": Pairing(
        one_of_the_neighbors,
        False,
        "parent",
        ("neighbors_k",),
        "an image and a neighbour of its own class under the parent's encoder, as they are",
        within_class=True,
    ),
    "neighbor-classes": Pairing(
        one_of_a_neighbors_class, True, "parent", ("neighbors_k",), "an image and any of a neighbour's class, augmented"
    ),
    "class-as-pure": Pairing(
        one_of_the_class_as_often_as_neighbors,
        True,
        "parent",
        ("neighbors_k",),
        "two images of one class as often as neighbours under the parent's encoder are, else of two classes, augmented",
    ),
    "class": Pairing(one_of_the_class, True, None, ("pair_purity",), "two images of one class, augmented"),
    "random": Pairing(any_other, True, None, (), "two unrelated images, augmented"),
}


@dataclass(frozen=True)
class PairStatistics:
    """What a pairing's pairs are like, over all epochs.

    Attributes:
        label_purity: share of pairs whose two images are of one class.
        distinct_partners: number of images that were anybody's partner.
    """

    label_purity: float
    distinct_partners: int


def pair_statistics(context: PairingContext, epochs: list[Indices]) -> PairStatistics:
    """Statistics of the partners drawn in each epoch.

    Args:
        context: the context they were drawn in.
        epochs: for each epoch, [n] int64.
    """
    purity = float(np.mean([np.mean(context.labels == context.labels[partners]) for partners in epochs]))
    return PairStatistics(purity, len(np.unique(np.concatenate(epochs))))
