"""Exact nearest neighbours by Euclidean distance: a product in tiles on the CPU, faiss on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_QUERIES, _BASES = 1024, 4096  # a tile of the matrix of products
_TILE_ON_GPU = 8  # as many times wider there: of float64 a tile has 2 GB
_SPARE = 6  # neighbours looked at beyond those asked for
_FAISS_MOST = 2048  # neighbours that faiss finds on a GPU
_NUMBERS = 2**18  # of the differences to neighbours that are in memory at once: what fits into a core's cache


def nearest(
    base: NDArray[np.float32], queries: NDArray[np.float32], k: int, device: torch.device | str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest base points of every query.

    Of equally near ones the first, as long as no more than k + 6 are as near as that: among more, whichever the product of all
    pairs puts first.

    Args:
        base: [N, D] float32.
        queries: [M, D] float32.
        k: at most N.
        device: where to compute.

    Returns:
        distances [M, k] float32, Euclidean, ascending; indices [M, k] int64 into base.

    Raises:
        ValueError: if there are fewer than k base points, or a value is not finite.
    """
    return _nearest(base, queries, k, device, np.float32)


def exact_distances(
    base: NDArray[np.float32], queries: NDArray[np.float32], k: int, device: torch.device | str = "cpu"
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """:func:`nearest` with distances in float64, so that near ties are ordered rightly: for what ranks by distance.

    A distance below what float32 resolves at the points' size is 0: an encoder's outputs for one image differ by as much
    between batches of two sizes.
    """
    distances, indices = _nearest(base, queries, k, device, np.float64)
    resolution = 4 * np.finfo(np.float32).eps * np.sqrt(np.square(base, dtype=np.float64).sum(axis=1).mean())
    distances[distances < resolution] = 0
    return distances, indices


def _nearest(
    base: NDArray[np.float32], queries: NDArray[np.float32], k: int, device: torch.device | str, precision: type[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """:func:`nearest` with distances of a precision, float32 or float64.

    Some more neighbours than asked for are found as the product of all pairs gives them, with the rounding of squares that
    nearly cancel; their distances are then computed from differences.
    """
    _check(base, queries, k, "neighbours")
    base, queries = base.astype(np.float32, copy=False), queries.astype(np.float32, copy=False)
    distances = np.empty((len(queries), k), dtype=precision)
    indices = np.empty((len(queries), k), dtype=np.int64)
    center = base.mean(axis=0, dtype=np.float64).astype(np.float32)  # about the mean less is lost to cancellation
    candidates = _candidates(base - center, queries - center, min(k + _SPARE, len(base)), device)
    doubtful = _rank(base, queries, candidates, distances, indices, np.arange(len(queries)), center)
    if len(doubtful) and candidates.shape[1] < len(base):  # points in tight groups far from their mean: again in float64
        exact = base.mean(axis=0, dtype=np.float64)
        candidates = _candidates(base - exact, queries[doubtful] - exact, min(k + _SPARE, len(base)), device)
        _rank(base, queries, candidates, distances, indices, doubtful, center)
    return distances, indices


def _rank(
    base: NDArray[np.float32], queries: NDArray[np.float32], candidates: Tensor, distances: NDArray[Any],
    indices: NDArray[np.int64], which: NDArray[np.int64], center: NDArray[np.float32],
) -> NDArray[np.int64]:  # fmt: skip
    """Fill in the nearest of the candidates [M, C] of some queries [M]; return those for which others might be nearer.

    A point that is no candidate is no nearer than the farthest candidate, less twice the rounding of a squared distance.
    """
    import torch

    from core.embed import as_tensor

    device, k = candidates.device, distances.shape[1]
    dtype = torch.float64 if distances.dtype == np.float64 else torch.float32
    reach = np.linalg.norm(queries[which] - center, axis=1) + np.linalg.norm(base - center, axis=1).max(initial=0)
    rounding = (2 * base.shape[1] ** 0.5 + 8) * float(np.finfo(np.float32).eps) * np.square(reach)
    doubtful = np.zeros(len(which), dtype=bool)
    points, others = as_tensor(base).to(device), as_tensor(queries[which]).to(device)
    with torch.inference_mode():
        size = max(1, _NUMBERS * (1 if str(device) == "cpu" else _TILE_ON_GPU) // (candidates.shape[1] * points.shape[1]))
        for start in range(0, len(which), size):
            rows = slice(start, start + size)
            near = candidates[rows].sort(dim=1).values
            apart = points[near].to(dtype) - others[rows, None]
            found, order = apart.square_().sum(dim=2).sqrt_().sort(dim=1, stable=True)
            distances[which[rows]] = found[:, :k].cpu()
            indices[which[rows]] = near.gather(1, order[:, :k]).cpu()
            gap = (found[:, -1].double().square() - found[:, k - 1].double().square()).cpu().numpy()
            doubtful[rows] = gap <= 2 * rounding[rows]
    return which[doubtful]


def _candidates(
    base: NDArray[np.float32], queries: NDArray[np.float32], k: int, device: torch.device | str
) -> Tensor:  # fmt: skip
    """[M, k] int64 on the device: the nearest base points, in the precision of the arrays."""
    import torch

    with_faiss = torch.device(device).type == "cuda" and k <= _FAISS_MOST and base.dtype == np.float32  # all that it takes
    if with_faiss and (found := _by_faiss(base, queries, k)) is not None:
        return torch.from_numpy(found).to(device)
    points, others = torch.from_numpy(base).to(device), torch.from_numpy(queries).to(device)
    with torch.inference_mode():
        offsets = points.square().sum(dim=1) / -2  # the nearest has the largest q.b - |b|^2 / 2
        parts = [_largest(offsets, others[rows], points, k, device)[1] for rows in _slices(len(others), _QUERIES, device)]
        return torch.cat(parts) if parts else torch.empty(0, k, dtype=torch.int64, device=device)


def _check(base: NDArray[Any], queries: NDArray[Any], k: int, what: str) -> None:
    if k > len(base):
        raise ValueError(f"{k} {what} asked for among {len(base)} points")
    if not (np.isfinite(base).all() and np.isfinite(queries).all()):
        raise ValueError(f"a representation holds NaN or infinity: {what} are not defined")


def _slices(n: int, size: int, device: torch.device | str) -> list[slice]:
    size *= 1 if str(device) == "cpu" else _TILE_ON_GPU
    return [slice(start, start + size) for start in range(0, n, size)]


def _largest(
    offsets: Tensor, queries: Tensor, points: Tensor, k: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """For each query the k largest of ``offset + q.b`` over the points b, in descending order, and which points they are."""
    import torch

    values = torch.empty(len(queries), 0, dtype=points.dtype, device=device)
    indices = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for columns in _slices(len(points), _BASES, device):
        tile = product(queries, points[columns].T).add_(offsets[columns])
        own, places = tile.topk(min(k, tile.shape[1]), dim=1)
        values, indices = torch.cat([values, own], dim=1), torch.cat([indices, places + columns.start], dim=1)
        values, which = values.topk(min(k, values.shape[1]), dim=1)
        indices = indices.gather(1, which)
    return values, indices


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``; on a CPU by numpy's library, which is faster than torch's on some processors, and halves X^T X."""
    import torch

    return a @ b if a.is_cuda else torch.from_numpy(a.numpy() @ b.numpy())


def _by_faiss(
    base: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> NDArray[np.int64] | None:  # fmt: skip
    """[M, k]: the nearest base points, by faiss on the GPU; None where it is not installed, or not with its kernels."""
    try:
        import faiss
    except ImportError:
        return None
    if not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() == 0:
        return None
    index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(base.shape[1]))
    index.add(base)
    indices: NDArray[np.int64] = index.search(queries, k)[1]
    return indices


def farthest(
    base: NDArray[np.float32], queries: NDArray[np.float32], k: int, device: torch.device | str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k most distant base points of every query, the most distant first; among equally distant ones any.

    Computed in float64. Arguments, results and errors as those of :func:`nearest`.
    """
    import torch

    _check(base, queries, k, "most distant points")
    center = base.mean(axis=0, dtype=np.float64)
    points, others = (torch.from_numpy(given - center).to(device) for given in (base, queries))
    with torch.inference_mode():
        half_squares, squares = points.square().sum(dim=1) / 2, others.square().sum(dim=1, keepdim=True)
        distances = torch.empty(len(others), k, device=device)
        indices = torch.empty(len(others), k, dtype=torch.int64, device=device)
        for rows in _slices(len(others), _QUERIES, device):
            # The most distant has the largest |b|^2 / 2 - q.b.
            likeness, indices[rows] = _largest(half_squares, -others[rows], points, k, device)
            distances[rows] = (squares[rows] + 2 * likeness).clamp_(min=0).sqrt_()
        return distances.cpu().numpy(), indices.cpu().numpy()


def most_similar(
    base: NDArray[np.float64], queries: NDArray[np.float64], k: int, device: torch.device | str = "cpu"
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k base points with the largest inner product with every query; among equal ones any.

    Computed in float64.

    Args:
        base: [N, D] float64.
        queries: [M, D] float64.
        k: at most N.
        device: where to compute.

    Returns:
        products [M, k] float64, descending; indices [M, k] int64 into base.

    Raises:
        ValueError: if there are fewer than k base points, or a value is not finite.
    """
    import torch

    _check(base, queries, k, "most similar points")
    points, others = (torch.from_numpy(given).to(device) for given in (base, queries))
    with torch.inference_mode():
        products = torch.empty(len(others), k, dtype=points.dtype, device=device)
        indices = torch.empty(len(others), k, dtype=torch.int64, device=device)
        offsets = points.new_zeros(len(points))
        for rows in _slices(len(others), _QUERIES, device):
            products[rows], indices[rows] = _largest(offsets, others[rows], points, k, device)
        return products.cpu().numpy(), indices.cpu().numpy()


def neighbor_table_within(
    points: NDArray[np.float32], labels: NDArray[np.int64], k: int, device: torch.device | str = "cpu"
) -> NDArray[np.int64]:
    """The k nearest other points of the same label; where there are fewer, those repeated; a point alone is its own neighbour.

    Args:
        points: [N, D] float32.
        labels: [N] int64.
        k: at least 1.
        device: where to compute.

    Returns:
        [N, k] int64.
    """
    table = np.empty((len(points), k), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        own = min(k, len(members) - 1)
        found = members[neighbor_table(points[members], own, device)] if own else members[:, None]
        table[members] = found[:, np.arange(k) % max(own, 1)]
    return table


def neighbor_table(points: NDArray[np.float32], k: int, device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """The k nearest other points of every point, itself excluded by its index (not by a distance of zero).

    Args:
        points: [N, D] float32.
        k: at most N - 1.
        device: where to compute.

    Returns:
        [N, k] int64.
    """
    n = len(points)
    _, found = nearest(points, points, k + 1, device)
    # Where duplicates crowd a point out of its own list, the last entry is dropped instead.
    is_self = found == np.arange(n)[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    table: NDArray[np.int64] = found[~is_self].reshape(n, k)
    return table
