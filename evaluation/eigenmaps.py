"""Laplacian eigenmaps (Belkin & Niyogi, Neural Computation 2003) of any points, and their extension to new points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, diags_array
from scipy.sparse.csgraph import connected_components

from core.neighbors import exact_distances, nearest, neighbor_table
from core.rng import generator

if TYPE_CHECKING:
    import torch

#: A dimension whose eigenvalue is smaller varies from each point to the next; its extension would magnify noise tenfold.
LEAST_EIGENVALUE = 0.1


@dataclass(frozen=True)
class Eigenmaps:
    """An embedding of points.

    Attributes:
        embedding: [N, D] float32; a dimension's mean is 0 and its mean square 1, each point weighted by its degree.
        eigenvalues: [D] float64 of the random walk on the graph (1 minus those of its Laplacian), descending, below 1, and not
            below LEAST_EIGENVALUE.
        bridges: edges added to join the graph's components.
    """

    embedding: NDArray[np.float32]
    eigenvalues: NDArray[np.float64]
    bridges: int


def laplacian_eigenmaps(
    points: NDArray[np.float32], dims: int, k: int, device: torch.device | str = "cpu"
) -> Eigenmaps:  # fmt: skip
    """Solves ``L f = lambda D f`` for the smallest eigenvalues but the trivial one (their eq. 1), on the graph of neighbours.

    Two points are joined, with weight 1, where either is among the k nearest of the other (their "simple-minded" weights,
    which have no further parameter). Where the graph falls into components, each is joined to the largest by the shortest
    edge, so that there is one trivial eigenvector. Of an eigenvector's two signs the one is taken that makes its largest entry
    positive.

    Args:
        points: [N, P] float32.
        dims: dimensions of the embedding, at most N - 2; those whose eigenvalue is below LEAST_EIGENVALUE are left out.
        k: neighbours of a point, at most N - 1.
        device: where neighbours are looked for.

    Raises:
        ValueError: if no dimension is left.
    """
    from scipy.sparse.linalg import eigsh

    n = len(points)
    table = neighbor_table(points, k, device)
    graph = coo_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), table.reshape(-1))), shape=(n, n)).tocsr()
    graph = graph.maximum(graph.T)
    graph, bridges = _connected(graph, points, device)
    degrees = np.asarray(graph.sum(axis=1)).reshape(-1)
    scale = diags_array(1 / np.sqrt(degrees))
    start = generator(0, "eigenmaps").normal(size=n)
    values, vectors = eigsh((scale @ graph @ scale).tocsr(), k=dims + 1, which="LA", v0=start)
    order = np.argsort(values)[::-1][1:]  # the first is the trivial one: constant, with eigenvalue 1
    order = order[values[order] >= LEAST_EIGENVALUE]
    if len(order) == 0:
        raise ValueError(f"no eigenvalue of the neighbourhood graph of {n} points is above {LEAST_EIGENVALUE}")
    embedding = vectors[:, order] / np.sqrt(degrees)[:, None] * np.sqrt(degrees.sum())
    largest = np.abs(embedding).argmax(axis=0)
    embedding = embedding * np.sign(embedding[largest, np.arange(len(order))])
    return Eigenmaps(embedding.astype(np.float32), values[order], bridges)


def extend(
    points: NDArray[np.float32],
    embedded: Eigenmaps,
    queries: NDArray[np.float32],
    k: int,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """The embedding of new points (Bengio et al., "Out-of-sample extensions ...", NIPS 2003, sec. 2 for eigenmaps).

    An eigenvector of the random walk fulfils ``lambda f(i) = sum_j p(i, j) f(j)``; the same equation gives f at a new point,
    which walks to each of its k nearest of the embedded points with probability 1 / k.

    Args:
        points: [N, P] float32, the points that were embedded.
        embedded: their embedding.
        queries: [M, P] float32.
        k: neighbours of a point.
        device: where they are looked for.

    Returns:
        [M, D] float32.
    """
    _, found = nearest(points, queries, k, device)
    walked = embedded.embedding[found].mean(axis=1, dtype=np.float64)
    extended: NDArray[np.float32] = (walked / embedded.eigenvalues).astype(np.float32)
    return extended


def _connected(
    graph: csr_matrix, points: NDArray[np.float32], device: torch.device | str
) -> tuple[csr_matrix, int]:  # fmt: skip
    """The graph with each component joined to the largest by the shortest edge between the two, and how many were joined."""
    count, component = connected_components(graph, directed=False)
    if count == 1:
        return graph, 0
    largest = np.flatnonzero(component == np.argmax(np.bincount(component)))
    outside = np.flatnonzero(component != component[largest[0]])
    distances, found = exact_distances(points[largest], points[outside], 1, device)
    rows, columns = [], []
    for label in np.unique(component[outside]):
        members = np.flatnonzero(component[outside] == label)
        closest = members[distances[members, 0].argmin()]
        rows.append(outside[closest])
        columns.append(largest[found[closest, 0]])
    bridges = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=graph.shape).tocsr()
    return graph + bridges + bridges.T, len(rows)
