"""What holds of neighbours and of partners whatever the points and the classes are."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.neighbors import exact_distances, farthest, nearest, neighbor_table, neighbor_table_within
from core.pairing import PAIRINGS, PairingContext, pair_statistics
from core.rng import generator

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def points(draw: Any, least: int = 3, most: int = 40) -> np.ndarray:
    """[N, D] float32: scattered, or on a coarse grid, where many coincide and many are equally far, or all in one place."""
    shape = draw(st.integers(least, most)), draw(st.integers(1, 5))
    kind, random = draw(st.sampled_from(("scattered", "grid", "one place"))), np.random.default_rng(draw(SEEDS))
    found = random.normal(scale=draw(st.sampled_from((1e-2, 1, 100))), size=shape) if kind == "scattered" else np.ones(shape)
    return (random.integers(-2, 3, shape) if kind == "grid" else found).astype(np.float32)


def labels_of(where: np.ndarray, seed: int) -> np.ndarray:
    """[N] int64, of one to four classes."""
    random = np.random.default_rng(seed)
    return random.integers(random.integers(1, 5), size=len(where))


@st.composite
def contexts(draw: Any) -> PairingContext:
    """Labels of one to four classes, a table of neighbours, and a purity."""
    where = draw(points())
    labels = labels_of(where, draw(SEEDS))
    k = draw(st.integers(1, min(4, len(where) - 1)))
    within = draw(st.booleans())
    table = neighbor_table_within(where, labels, k) if within else neighbor_table(where, k)
    return PairingContext(labels, table, draw(st.floats(0, 1)))


def all_distances(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return np.linalg.norm(queries[:, None].astype(np.float64) - base[None], axis=-1)


def rounding(*sets: np.ndarray) -> float:
    """What float32 may do to a distance between such points: the root of the rounding of a square."""
    return float(1e-3 * (1 + max(np.abs(found).max() for found in sets)) * np.sqrt(sets[0].shape[1]))


@given(points(), st.data())
def test_a_table_has_k_others_and_the_nearest(where: np.ndarray, data: st.DataObject) -> None:
    n = len(where)
    k = data.draw(st.integers(1, n - 1))
    table = neighbor_table(where, k)
    assert table.shape == (n, k) and table.dtype == np.int64
    assert table.min() >= 0 and table.max() < n and not (table == np.arange(n)[:, None]).any()
    assert all(len(set(row)) == k for row in table.tolist())
    distances = all_distances(where, where)
    chosen = np.take_along_axis(distances, table, axis=1)
    distances[np.diag_indices(n)] = np.inf
    assert np.abs(np.sort(chosen, axis=1) - np.sort(distances, axis=1)[:, :k]).max() <= rounding(where)


@given(points(), SEEDS, st.integers(1, 5))
def test_a_table_within_classes_stays_in_them(where: np.ndarray, seed: int, k: int) -> None:
    labels = labels_of(where, seed)
    table = neighbor_table_within(where, labels, k)
    assert table.shape == (len(where), k) and (labels[table] == labels[:, None]).all()
    for i, row in enumerate(table.tolist()):
        others = int((labels == labels[i]).sum()) - 1
        assert (set(row) == {i}) if others == 0 else (i not in row and len(set(row)) == min(k, others))


@given(points(), points(1, 30), st.data())
def test_how_queries_are_batched_does_not_matter(base: np.ndarray, queries: np.ndarray, data: st.DataObject) -> None:
    d = min(base.shape[1], queries.shape[1])
    base, queries = base[:, :d], queries[:, :d]
    k = data.draw(st.integers(1, len(base)))
    cut = data.draw(st.integers(0, len(queries)))
    parts = [part for part in (queries[:cut], queries[cut:]) if len(part)]
    for search, tolerance in ((nearest, rounding(base, queries)), (farthest, rounding(base, queries)), (exact_distances, 1e-5)):
        whole, indices = search(base, queries, k)  # type: ignore[operator]
        apart = np.concatenate([search(base, part, k)[0] for part in parts])  # type: ignore[operator]
        assert whole.shape == indices.shape == (len(queries), k)
        assert np.abs(whole - apart).max() <= tolerance
        measured = np.take_along_axis(all_distances(base, queries), indices, axis=1)
        assert np.abs(measured - whole).max() <= rounding(base, queries)
        ordered = np.sort(whole, axis=1)
        assert np.array_equal(whole, ordered[:, ::-1] if search is farthest else ordered)


@given(st.sampled_from(sorted(PAIRINGS)), contexts(), st.integers(0, 9), st.integers(1, 9))
@settings(max_examples=2 * settings().max_examples)
def test_partners_are_valid_and_never_the_image_itself(name: str, given_context: PairingContext, seed: int, epoch: int) -> None:
    labels, n = given_context.labels, len(given_context.labels)
    partners = PAIRINGS[name].partners(given_context, generator(seed, "partners", epoch))
    assert partners.shape == (n,) and partners.dtype == np.int64 and partners.min() >= 0 and partners.max() < n
    assert np.array_equal(partners, PAIRINGS[name].partners(given_context, generator(seed, "partners", epoch)))
    itself = np.flatnonzero(partners == np.arange(n))
    assert given_context.neighbors is not None
    if name.startswith("augment"):
        assert len(itself) == n
    elif name == "random":
        assert not len(itself)
    else:  # itself only where it is alone in its class, or its table could hold nothing else
        alone = (labels[:, None] == labels).sum(axis=1) == 1
        allowed = alone | (given_context.neighbors == np.arange(n)[:, None]).any(axis=1)
        assert allowed[itself].all()
    if PAIRINGS[name].partners is PAIRINGS["neighbors"].partners:
        assert (given_context.neighbors == partners[:, None]).any(axis=1).all()


@given(contexts(), st.integers(0, 9), st.booleans())
def test_wholly_pure_and_impure_classes_are_exact(context: PairingContext, seed: int, pure: bool) -> None:
    labels = context.labels
    found = PairingContext(labels, None, float(pure))
    same = labels[PAIRINGS["class"].partners(found, generator(seed, "partners", 1))] == labels
    assert same.all() if pure or len(set(labels.tolist())) == 1 else not same.any()


@given(st.floats(0, 1), st.integers(2, 6), SEEDS)
def test_purity_is_as_asked(purity: float, classes: int, seed: int) -> None:
    n = 2000
    labels = generator(seed, "labels").integers(classes, size=n)
    context = PairingContext(labels, None, purity)
    partners = PAIRINGS["class"].partners(context, generator(seed, "partners", 1))
    found = pair_statistics(context, [partners])
    assert abs(found.label_purity - purity) <= 6 * np.sqrt(max(purity * (1 - purity), 1 / n) / n)
    assert found.distinct_partners == len(set(partners.tolist()))
    as_pure = PAIRINGS["class-as-pure"].partners(PairingContext(labels, partners[:, None]), generator(seed, "other", 1))
    own = float(np.mean(labels[partners] == labels))
    assert abs(float(np.mean(labels[as_pure] == labels)) - own) <= 6 * np.sqrt(max(own * (1 - own), 1 / n) / n)
