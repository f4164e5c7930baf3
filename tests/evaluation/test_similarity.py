"""Linear CKA against the definition by HSIC, and its invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.similarity import linear_cka, pairwise_cka

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(60, 7)) + 3, DRAW.normal(size=(60, 4))
Y[:, 0] += X[:, 1]


def by_hsic(x: NDArray[Any], y: NDArray[Any]) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), HSIC(K, L) = tr(K H L H) / (n - 1)^2, linear kernels (the paper's eq. 3)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    n = len(x)
    h = np.eye(n) - np.full((n, n), 1 / n)

    def hsic(k: NDArray[Any], m: NDArray[Any]) -> float:
        return float(np.trace(k @ h @ m @ h)) / (n - 1) ** 2

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize(
    ("x", "y"), [(X, Y), (X.astype(np.float32), Y), (X[:5], DRAW.normal(size=(5, 40))), (X, X + Y[:, :1])],
    ids=["float64", "float32", "more dimensions than images", "alike"],
)  # fmt: skip
def test_it_is_the_definition_by_hsic(x: NDArray[Any], y: NDArray[Any]) -> None:
    assert linear_cka(x, y) == pytest.approx(by_hsic(x, y), rel=1e-10)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)
    assert 0 < linear_cka(x, y) < 1


def test_orthogonal_maps_shifts_and_one_scale_change_nothing_and_other_linear_maps_do() -> None:
    rotation = np.linalg.qr(DRAW.normal(size=(7, 7)))[0]
    expected = linear_cka(X, Y)
    assert linear_cka(1e3 * X @ rotation - 5, Y) == pytest.approx(expected, rel=1e-10)
    assert linear_cka(X, X) == pytest.approx(1, rel=1e-12) and linear_cka(X, -2 * X @ rotation) == pytest.approx(1, rel=1e-12)
    assert abs(linear_cka(X * [9, 1, 1, 1, 1, 1, 1], Y) - expected) > 0.05
    assert linear_cka(X, X @ DRAW.normal(size=(7, 7))) < 0.99


def test_a_collapse_up_to_rounding_has_the_value_of_what_is_left() -> None:
    nearly = (1 + 1e-6 * X).astype(np.float32)
    assert linear_cka(nearly, Y) == pytest.approx(by_hsic((nearly - np.float32(1)) * np.float32(2**19), Y), rel=1e-9)
    for scale in (1e-38, 1e38, 1e-100, 1e100):  # the fourth power of the last is out of float64's range
        assert linear_cka(X * scale, Y / scale) == pytest.approx(linear_cka(X, Y), rel=1e-10)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (X, Y[:-1], "60 and of 59 images"),
        (X[:1], Y[:1], "at least 2 images"),
        (np.where(np.arange(7) == 2, np.nan, X), Y, "NaN or infinity"),
        (X, np.where(np.arange(4) == 2, np.inf, Y), "NaN or infinity"),
        (np.full((60, 3), 0.1), Y, "constant"),
        (X, np.full((60, 3), 0.1, dtype=np.float32), "constant"),
    ],
    ids=["numbers of images", "one image", "NaN", "infinity", "constant", "constant float32"],
)
def test_what_has_no_cka_is_refused(x: NDArray[Any], y: NDArray[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        linear_cka(x, y)


def test_the_matrix_holds_every_pair_and_nan_for_what_is_constant() -> None:
    constant = np.full((60, 2), 0.3, dtype=np.float32)
    given = [X, constant, Y, X[:, ::-1].astype(np.float32)]
    found = pairwise_cka(given)
    assert np.isnan(found[1]).all() and np.isnan(found[:, 1]).all()
    for i in (0, 2, 3):
        assert found[i, i] == 1
        for j in {0, 2, 3} - {i}:
            assert found[i, j] == pytest.approx(linear_cka(given[i], given[j]), rel=1e-12)
    with pytest.raises(ValueError, match="different numbers"):
        pairwise_cka([X, Y[1:]])
    with pytest.raises(ValueError, match="NaN or infinity"):
        pairwise_cka([X, X * np.nan])
