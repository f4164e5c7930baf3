"""Pairing strategies: every one keeps its promise; one contract for all."""

from __future__ import annotations

import numpy as np
import pytest

from core.neighbors import exact_distances, farthest, nearest, neighbor_table, neighbor_table_within
from core.pairing import PAIRINGS, PairingContext, pair_statistics
from core.rng import generator


def context(n: int = 200, classes: int = 5, purity: float = 1.0, seed: int = 0) -> PairingContext:
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=n)
    points = (draw.normal(size=(n, 6)) + 2 * labels[:, None]).astype(np.float32)
    return PairingContext(labels, neighbor_table(points, 3), purity)


@pytest.mark.parametrize("name", PAIRINGS)
def test_contract(name: str) -> None:
    given = context()
    partners = [PAIRINGS[name].partners(given, generator(0, "partners", epoch)) for epoch in (1, 1, 2)]
    assert partners[0].shape == (200,) and partners[0].dtype == np.int64
    assert partners[0].min() >= 0 and partners[0].max() < 200
    assert np.array_equal(partners[0], partners[1]), "a function of seed and epoch alone"
    if not name.startswith("augment"):
        assert not np.array_equal(partners[0], partners[2]), "drawn anew each epoch"
        assert not (partners[0] == np.arange(200)).any(), "never itself"


def test_neighbors_come_from_the_table() -> None:
    given = context()
    assert given.neighbors is not None
    draws = np.stack([PAIRINGS["neighbors"].partners(given, generator(0, "p", e)) for e in range(60)])
    for i in range(200):
        assert set(draws[:, i]) == set(given.neighbors[i]), "all k of them are drawn, and nothing else"


def test_neighbours_of_the_class_are_the_nearest_of_the_class() -> None:
    draw = np.random.default_rng(4)
    points, labels = draw.normal(size=(90, 5)).astype(np.float32), np.repeat([0, 1, 2, 3], [50, 37, 2, 1])
    table = neighbor_table_within(points, labels, 3)
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=-1)
    distances[np.diag_indices(90)] = np.inf
    for i in range(87):
        same = np.flatnonzero(labels == labels[i])
        assert list(table[i]) == list(same[np.argsort(distances[i, same])][:3])
    assert list(table[87]) == [88] * 3 and list(table[88]) == [87] * 3, "the one other, repeated"
    assert list(table[89]) == [89] * 3, "alone in its class"


def test_neighbor_classes_have_the_neighbours_classes_and_not_their_images() -> None:
    given = context(n=20_000)
    assert given.neighbors is not None
    partners = PAIRINGS["neighbor-classes"].partners(given, generator(0, "p", 1))
    neighbors = PAIRINGS["neighbors"].partners(given, generator(0, "p", 1))
    # The draws of neighbours are the same, so each partner is of the class of the neighbour that would have been drawn.
    assert (given.labels[partners] == given.labels[neighbors]).all()
    assert np.mean(partners == neighbors) < 0.01 and not (partners == np.arange(20_000)).any()
    counts = np.bincount(partners, minlength=20_000)
    assert counts.max() < 12, "spread over the class"


def test_class_partners_are_of_the_class() -> None:
    given = context()
    partners = PAIRINGS["class"].partners(given, generator(0, "p", 1))
    assert (given.labels[partners] == given.labels).all()


@pytest.mark.parametrize("purity", [0.0, 0.35, 0.8])
def test_class_purity_is_what_was_asked_for(purity: float) -> None:
    given = context(n=20_000, purity=purity)
    partners = [PAIRINGS["class"].partners(PairingContext(given.labels, None, purity), generator(0, "p", 1))]
    assert pair_statistics(given, partners).label_purity == pytest.approx(purity, abs=0.015)


def test_class_pairs_are_as_pure_as_the_neighbours_and_no_neighbours() -> None:
    labels = np.random.default_rng(0).integers(4, size=20_000)
    table = np.random.default_rng(1).integers(20_000, size=(20_000, 3))
    table = np.where(np.random.default_rng(2).random((20_000, 3)) < 0.4, np.arange(20_000)[:, None], table)  # purity about .55
    given = PairingContext(labels, table)
    partners = PAIRINGS["class-as-pure"].partners(given, generator(0, "p", 1))
    assert np.mean(labels[partners] == labels) == pytest.approx(np.mean(labels[table] == labels[:, None]), abs=0.015)
    assert (table == partners[:, None]).any(axis=1).mean() < 0.01


def test_impure_partners_are_spread_over_all_other_classes() -> None:
    labels = np.repeat([0, 1, 2, 3], [500, 500, 500, 1500])
    given = PairingContext(labels, None, 0.0)
    partners = PAIRINGS["class"].partners(given, generator(0, "p", 1))
    counts = np.bincount(labels[partners[labels == 0]], minlength=4)
    assert counts[0] == 0 and counts[3] == pytest.approx(300, abs=60) and counts[1] == pytest.approx(100, abs=40)


def test_an_image_alone_in_its_class_is_its_own_partner() -> None:
    given = PairingContext(np.array([0, 0, 0, 1]), None, 1.0)
    assert PAIRINGS["class"].partners(given, generator(0, "p", 1))[3] == 3


def test_statistics_count_pairs_and_partners() -> None:
    given = PairingContext(np.array([0, 0, 1, 1]))
    found = pair_statistics(given, [np.array([1, 0, 0, 2]), np.array([1, 2, 3, 2])])
    assert found.label_purity == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert found.distinct_partners == 4


def test_neighbors_equal_brute_force_and_exclude_the_point_itself() -> None:
    points = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32) + 1000  # far from the origin
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1)[:, :5]
    assert (neighbor_table(points, 5) == expected).mean() > 0.999  # float32 may swap near-ties
    found, _ = nearest(points, points[:10], 1)
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-2)


def test_duplicates_do_not_make_a_point_its_own_neighbour() -> None:
    points = np.zeros((10, 3), dtype=np.float32)
    table = neighbor_table(points, 3)
    assert table.shape == (10, 3)
    assert not (table == np.arange(10)[:, None]).any()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_points_that_are_not_finite_are_refused(broken: float) -> None:
    points = np.zeros((5, 2), dtype=np.float32)
    points[3, 1] = broken
    with pytest.raises(ValueError, match="NaN or infinity"):
        neighbor_table(points, 2)


def test_more_neighbours_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="6 neighbours asked for among 5 points"):
        neighbor_table(np.zeros((5, 2), dtype=np.float32), 5)


def test_neighbours_of_a_collapsed_representation_are_the_nearest_ones_all_the_same() -> None:
    """Points that lie together, far from a few others: the rounding of their squares is larger than what parts them."""
    draw = np.random.default_rng(0)
    points = np.concatenate([5 + 3e-3 * draw.normal(size=(300, 64)), 20 * draw.normal(size=(20, 64))]).astype(np.float32)
    apart = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=2)
    np.fill_diagonal(apart, np.inf)
    distances, found = nearest(points, points, 4)
    assert np.array_equal(neighbor_table(points, 3), np.argsort(apart, axis=1)[:, :3])
    assert np.array_equal(found[:, 0], np.arange(320)) and (distances[:, 0] == 0).all()
    np.testing.assert_allclose(distances[:, 1:], np.sort(apart, axis=1)[:, :3], rtol=1e-5)


def test_of_equally_near_points_the_first_are_taken() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    assert np.array_equal(nearest(points, points, 5)[1], np.repeat(np.arange(15).reshape(3, 5), 5, axis=0))
    assert nearest(points, points[:0], 2)[0].shape == (0, 2)


@pytest.mark.parametrize(("n", "d", "k"), [(5, 1, 5), (7, 3, 1), (4100, 2, 3)])
def test_nearest_and_most_distant_points_however_the_arrays_lie_in_memory(n: int, d: int, k: int) -> None:
    draw = np.random.default_rng(0)
    points, queries = (draw.normal(size=(m, d)).astype(np.float32) for m in (n, 9))
    points = np.asfortranarray(points)
    points.setflags(write=False)
    queries = queries[::-1]
    apart = np.linalg.norm(queries[:, None].astype(np.float64) - points, axis=2)
    in_order = np.argsort(apart, axis=1, kind="stable")
    assert np.array_equal(nearest(points, queries, k)[1], in_order[:, :k])
    assert np.array_equal(exact_distances(points, queries, k)[1], in_order[:, :k])
    assert np.array_equal(farthest(points, queries, k)[1], np.argsort(-apart, axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize("spread", [1e-3, 3e-4])
def test_neighbours_within_tight_groups_far_apart_are_the_nearest_ones(spread: float) -> None:
    draw = np.random.default_rng(0)
    points = (np.repeat([[1.0], [-1.0]], 300, axis=0) + spread * draw.normal(size=(600, 64))).astype(np.float32)
    apart = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (neighbor_table(points, 3) == np.argsort(apart, axis=1)[:, :3]).mean() > 0.999
