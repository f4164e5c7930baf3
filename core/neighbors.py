"""Exact nearest neighbours by Euclidean distance: faiss, on the GPU where there is one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096  # queries a call, so that progress and memory stay bounded
_SPARE = 6  # neighbours looked at beyond those asked for
_FAR_BLOCK = 256  # rows of the distance matrix in memory at once


def nearest(base: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest base points of every query.

    Args:
        base: [N, D] float32.
        queries: [M, D] float32.
        k: at most N.

    Returns:
        distances [M, k] float32, Euclidean, ascending; indices [M, k] int64 into base.

    Raises:
        ValueError: if there are fewer than k base points, or a value is not finite.
    """
    import faiss

    if k > len(base):
        raise ValueError(f"{k} neighbours asked for among {len(base)} points")
    if not (np.isfinite(base).all() and np.isfinite(queries).all()):
        raise ValueError("a representation holds NaN or infinity: neighbours are not defined")
    base, queries = (np.ascontiguousarray(points, dtype=np.float32) for points in (base, queries))
    # Squared distances come as |q|^2 + |b|^2 - 2 q.b; about the base's mean less is lost to cancellation.
    center = base.mean(axis=0, dtype=np.float64).astype(np.float32)
    index: faiss.Index = faiss.IndexFlatL2(base.shape[1])
    if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(base - center)
    distances = np.empty((len(queries), k), dtype=np.float32)
    indices = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        distances[block], indices[block] = index.search(queries[block] - center, k)
    return np.sqrt(np.maximum(distances, 0)), indices


def exact_distances(
    base: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """:func:`nearest` with distances in float64, so that near ties are ordered rightly: for what ranks by distance.

    Some more neighbours than asked for are found in float32, and their distances computed anew. A distance below what float32
    resolves at the points' size is 0: an encoder's outputs for one image differ by as much between batches of two sizes.
    """
    _, candidates = nearest(base, queries, min(k + _SPARE, len(base)))
    resolution = 4 * np.finfo(np.float32).eps * np.sqrt(np.square(base, dtype=np.float64).sum(axis=1).mean())
    distances = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _FAR_BLOCK):
        block = slice(start, start + _FAR_BLOCK)
        apart = base[candidates[block]].astype(np.float64) - queries[block, None]
        found = np.sqrt(np.square(apart).sum(axis=-1))
        found[found < resolution] = 0
        order = np.argsort(found, axis=1, kind="stable")[:, :k]
        distances[block] = np.take_along_axis(found, order, axis=1)
        indices[block] = np.take_along_axis(candidates[block], order, axis=1)
    return distances, indices


def farthest(base: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k most distant base points of every query, as :func:`nearest` gives the nearest: the most distant first."""
    if k > len(base):
        raise ValueError(f"{k} most distant points asked for among {len(base)}")
    if not (np.isfinite(base).all() and np.isfinite(queries).all()):
        raise ValueError("a representation holds NaN or infinity: distances are not defined")
    center = base.mean(axis=0, dtype=np.float64)
    points, others = base - center, queries - center
    square = np.square(points).sum(axis=1)
    distances = np.empty((len(queries), k), dtype=np.float32)
    indices = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _FAR_BLOCK):
        block = slice(start, start + _FAR_BLOCK)
        q = others[block]
        squared = np.square(q).sum(axis=1)[:, None] + square - 2 * q @ points.T
        top = np.argpartition(squared, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(squared, top, axis=1), axis=1, kind="stable")
        indices[block] = np.take_along_axis(top, order, axis=1)
        distances[block] = np.sqrt(np.maximum(np.take_along_axis(squared, indices[block], axis=1), 0))
    return distances, indices


def neighbor_table_within(points: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k nearest other points of the same label; where there are fewer, those repeated; a point alone is its own neighbour.

    Args:
        points: [N, D] float32.
        labels: [N] int64.
        k: at least 1.

    Returns:
        [N, k] int64.
    """
    table = np.empty((len(points), k), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        own = min(k, len(members) - 1)
        found = members[neighbor_table(points[members], own)] if own else members[:, None]
        table[members] = found[:, np.arange(k) % max(own, 1)]
    return table


def neighbor_table(points: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k nearest other points of every point, itself excluded by its index (not by a distance of zero).

    Args:
        points: [N, D] float32.
        k: at most N - 1.

    Returns:
        [N, k] int64.
    """
    n = len(points)
    _, found = nearest(points, points, k + 1)
    # Where duplicates crowd a point out of its own list, the last entry is dropped instead.
    is_self = found == np.arange(n)[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    table: NDArray[np.int64] = found[~is_self].reshape(n, k)
    return table
