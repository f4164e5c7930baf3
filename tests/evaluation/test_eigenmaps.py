"""Laplacian eigenmaps against the dense generalised eigenproblem, their graph against scikit-learn's, and their extension."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.neighbors import kneighbors_graph

from core.datasets import Splits
from evaluation.baselines import embedder, fit
from evaluation.eigenmaps import LEAST_EIGENVALUE, Eigenmaps, extend, laplacian_eigenmaps
from tests.conftest import image_set, tiny_config
from tests.evaluation.test_numbers import blobs

Points = NDArray[np.float32]


def graph_of(points: Points, k: int) -> NDArray[np.float64]:
    directed = kneighbors_graph(points, k, mode="connectivity", include_self=False).toarray()
    joined: NDArray[np.float64] = np.maximum(directed, directed.T)
    return joined


def assert_solves(points: Points, found: Eigenmaps, graph: NDArray[np.float64]) -> None:
    degrees = graph.sum(axis=1)
    values, vectors = eigh(np.diag(degrees) - graph, np.diag(degrees))
    dims = found.embedding.shape[1]
    np.testing.assert_allclose(1 - found.eigenvalues, values[1 : dims + 1], atol=1e-9)
    vectors = vectors[:, 1 : dims + 1] * np.sqrt(degrees.sum())
    signs = np.sign((vectors * found.embedding).sum(axis=0))
    np.testing.assert_allclose(found.embedding, vectors * signs, atol=2e-3)
    np.testing.assert_allclose(degrees @ found.embedding / degrees.sum(), 0, atol=1e-5)
    np.testing.assert_allclose(degrees @ np.square(found.embedding) / degrees.sum(), 1, atol=1e-5)


def test_equals_the_dense_solution() -> None:
    points, _ = blobs(150, seed=3, spread=4)
    found = laplacian_eigenmaps(points, 6, 8)
    assert found.bridges == 0
    assert_solves(points, found, graph_of(points, 8))
    assert (found.embedding[np.abs(found.embedding).argmax(axis=0), np.arange(6)] > 0).all()


def test_is_the_same_each_time() -> None:
    points, _ = blobs(150, seed=3, spread=4)
    one, two = laplacian_eigenmaps(points, 6, 8), laplacian_eigenmaps(points, 6, 8)
    np.testing.assert_array_equal(one.embedding, two.embedding)


def test_components_are_joined_by_their_shortest_edges() -> None:
    draw = np.random.default_rng(0)
    groups = [draw.normal(size=(n, 3)) + offset for n, offset in ((60, 0), (20, 100), (10, -200))]
    points = np.concatenate(groups).astype(np.float32)
    found = laplacian_eigenmaps(points, 3, 4)
    assert found.bridges == 2
    graph = graph_of(points, 4)
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=-1)
    for members in (slice(60, 80), slice(80, 90)):
        apart = distances[members, :60]
        i, j = np.unravel_index(apart.argmin(), apart.shape)
        graph[members.start + i, j] = graph[j, members.start + i] = 1
    assert_solves(points, found, graph)


def test_new_points_get_their_neighbours_mean_over_the_eigenvalue() -> None:
    points, _ = blobs(150, seed=3, spread=4)
    queries, _ = blobs(20, seed=4, spread=4)
    found = laplacian_eigenmaps(points, 5, 8)
    extended = extend(points, found, queries, 8)
    for query, place in zip(queries, extended, strict=True):
        nearest = np.argsort(np.linalg.norm(points.astype(np.float64) - query, axis=1))[:8]
        np.testing.assert_allclose(place, found.embedding[nearest].mean(axis=0) / found.eigenvalues, rtol=1e-4, atol=1e-5)


def test_dimensions_that_vary_from_point_to_point_are_left_out() -> None:
    points, _ = blobs(40, seed=3)
    found = laplacian_eigenmaps(points, 30, 5)
    kept = found.embedding.shape[1]
    assert 1 <= kept < 30 and len(found.eigenvalues) == kept and (found.eigenvalues >= LEAST_EIGENVALUE).all()
    graph = graph_of(points, 5)
    assert_solves(points, found, graph)
    degrees = graph.sum(axis=1)
    assert kept == ((1 - eigh(np.diag(degrees) - graph, np.diag(degrees), eigvals_only=True))[1:31] >= LEAST_EIGENVALUE).sum()
    with pytest.raises(ValueError, match="no eigenvalue"):
        laplacian_eigenmaps(points[:5], 2, 4)


def test_duplicates_do_no_harm() -> None:
    points = np.repeat(blobs(20, seed=5)[0], 4, axis=0)
    found = laplacian_eigenmaps(points, 3, 5)
    assert np.isfinite(found.embedding).all() and (found.eigenvalues < 1 - 1e-9).all()


def test_as_a_baseline_only_train_images_are_in_the_graph() -> None:
    splits = Splits(image_set(80), image_set(16, seed=1), image_set(48, seed=2))
    config = tiny_config(method="laplacian-eigenmaps", representation_dim=4, graph_neighbors=6)
    state = fit(config, splits)
    features = embedder(config, splits, "cpu", state)
    np.testing.assert_array_equal(features(splits.train).representation, state["embedding"])
    points = splits.train.images.reshape(80, -1).astype(np.float32) / 255
    again = Eigenmaps(state["embedding"], state["eigenvalues"], 0)
    queries = splits.test.images.reshape(48, -1).astype(np.float32) / 255
    np.testing.assert_allclose(features(splits.test).representation, extend(points, again, queries, 6), atol=1e-6)
