"""What holds of the loss whatever the projections are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from core.loss import covariance, invariance, variance, vicreg_loss

SHAPES = st.tuples(st.integers(2, 12), st.integers(1, 6))
#: Ordinary projections, collapsed ones, and some far from the origin. No number is so small that its fourth power vanishes.
NUMBERS = st.integers(-3, 3).map(float) | st.floats(1e-6, 1e3) | st.floats(-1e3, -1e-6)
POWERS = st.integers(-6, 6).map(lambda n: 2.0**n)
WEIGHTS = st.fixed_dictionaries({name: st.floats(0, 50) for name in ("lambda_", "mu", "nu")} | {"gamma": st.floats(0.1, 3)})


@st.composite
def views(draw: Any, number: int = 2) -> tuple[Tensor, ...]:
    """Batches of one shape, in float64."""
    shape = draw(SHAPES)
    return tuple(torch.from_numpy(draw(arrays(np.float64, shape, elements=NUMBERS))) for _ in range(number))


def close(one: Tensor, other: Tensor, scale: float) -> bool:
    """Whether two numbers differ by no more than rounding, for terms that are made of numbers up to ``scale``."""
    return bool((one - other).abs() <= 1e-12 * (1 + scale) + 1e-10 * one.abs())


def size(*batches: Tensor) -> float:
    return max(float(z.abs().max()) for z in batches)


@given(views(), WEIGHTS)
def test_the_views_may_be_exchanged(pair: tuple[Tensor, Tensor], weights: dict[str, float]) -> None:
    assert vicreg_loss(*pair, **weights) == vicreg_loss(*reversed(pair), **weights)


@given(views(1))
def test_equal_views_have_no_invariance_and_both_count(one: tuple[Tensor]) -> None:
    (z,) = one
    terms = vicreg_loss(z, z.clone())
    assert terms.invariance == 0
    assert terms.variance == 2 * variance(z) and terms.covariance == 2 * covariance(z)


@given(views(), st.randoms(use_true_random=False))
def test_the_order_of_the_batch_does_not_matter(pair: tuple[Tensor, Tensor], random: Any) -> None:
    order = list(range(len(pair[0])))
    random.shuffle(order)
    whole, shuffled = vicreg_loss(*pair), vicreg_loss(*(z[order] for z in pair))
    scale = size(*pair)
    assert close(whole.invariance, shuffled.invariance, scale**2)
    assert close(whole.variance, shuffled.variance, scale)
    assert close(whole.covariance, shuffled.covariance, scale**4)


@given(views(), POWERS)
def test_invariance_is_quadratic_in_scale(pair: tuple[Tensor, Tensor], factor: float) -> None:
    assert invariance(*(factor * z for z in pair)) == factor**2 * invariance(*pair)  # exact: factor is a power of two


@given(views(1), POWERS)
def test_variance_and_covariance_scale_as_they_should(one: tuple[Tensor], factor: float) -> None:
    (z,) = one
    assert covariance(factor * z) == factor**4 * covariance(z)
    scaled = variance(factor * z, gamma=factor * 1.5, epsilon=factor**2 * 2.0**-13)
    assert scaled == factor * variance(z, gamma=1.5, epsilon=2.0**-13)


@given(views(), st.floats(-1e3, 1e3))
def test_a_shift_of_both_views_changes_nothing(pair: tuple[Tensor, Tensor], shift: float) -> None:
    one, other = vicreg_loss(*pair), vicreg_loss(*(z + shift for z in pair))
    scale = size(*pair) + abs(shift)
    assert close(one.invariance, other.invariance, scale**2)
    # Of a constant dimension the deviation is a root of rounding alone.
    assert abs(float(one.variance - other.variance)) < 1e-9 * (1 + scale)
    assert close(one.covariance, other.covariance, scale**4)


@given(views(1))
def test_terms_are_those_of_torchs_own_statistics(one: tuple[Tensor]) -> None:
    (z,) = one
    d = z.shape[1]
    deviations = (z.var(dim=0) + 1e-4).sqrt()  # with the divisor n - 1
    assert close(variance(z), (1 - deviations).clamp(min=0).mean(), size(z))
    squares = torch.cov(z.T).reshape(d, d).square()
    assert close(covariance(z), (squares.sum() - squares.trace()) / d, size(z) ** 4)


@given(views(1), st.randoms(use_true_random=False))
def test_dimensions_may_be_exchanged_and_mirrored(one: tuple[Tensor], random: Any) -> None:
    (z,) = one
    order = list(range(z.shape[1]))
    random.shuffle(order)
    signs = torch.tensor([random.choice((-1.0, 1.0)) for _ in order], dtype=z.dtype)
    other, scale = z[:, order] * signs, size(z)
    assert close(variance(z), variance(other), scale)
    assert close(covariance(z), covariance(other), scale**4)


@given(views(1), st.floats(0, 6.3))
def test_a_rotation_keeps_the_sum_of_all_squares_of_the_covariance(one: tuple[Tensor], angle: float) -> None:
    """The covariance term and the squared variances together are the squared norm of the covariance matrix."""
    (z,) = one
    if z.shape[1] > 1:
        turn = torch.eye(z.shape[1], dtype=z.dtype)
        turn[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        total = [y.shape[1] * covariance(y) + y.var(dim=0).square().sum() for y in (z, z @ turn)]
        assert close(total[0], total[1], size(z) ** 4 * 10)
    else:
        assert covariance(z) == 0


@given(views(), WEIGHTS)
def test_terms_are_within_their_bounds_and_add_up(pair: tuple[Tensor, Tensor], weights: dict[str, float]) -> None:
    terms = vicreg_loss(*pair, **weights)
    assert terms.invariance >= 0 and terms.covariance >= 0 and 0 <= terms.variance <= 2 * weights["gamma"]
    total = weights["lambda_"] * terms.invariance + weights["mu"] * terms.variance + weights["nu"] * terms.covariance
    assert terms.loss == total
    deviations = torch.stack([(z.var(dim=0) + 1e-4).sqrt() for z in pair])
    wide_enough = bool((deviations > weights["gamma"] * (1 + 1e-9)).all())
    assert not wide_enough or terms.variance == 0


@given(views(1), st.floats(1, 50))
def test_spreading_a_batch_never_raises_the_variance_term(one: tuple[Tensor], factor: float) -> None:
    (z,) = one
    assert variance(factor * z) <= variance(z) + 1e-9 * (1 + factor * size(z))


@given(views())
def test_float32_differs_by_its_rounding_alone(pair: tuple[Tensor, Tensor]) -> None:
    short = [z.float() for z in pair]
    terms, exact = vicreg_loss(*short), vicreg_loss(*(z.double() for z in short))
    scale, eps = size(*pair), torch.finfo(torch.float32).eps
    assert abs(float(terms.variance - exact.variance)) <= 2 * eps * (1 + 16 * scale)
    assert float(terms.invariance) == pytest.approx(float(exact.invariance), rel=64 * eps, abs=1e-30)
    assert float(terms.covariance) == pytest.approx(float(exact.covariance), rel=64 * eps, abs=256 * eps * scale**4)
