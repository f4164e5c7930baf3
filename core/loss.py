"""The VICReg loss (Bardes, Ponce, LeCun, "VICReg", ICLR 2022, arXiv 2105.04906) as pure functions.

The loss is ``lambda * s(Z, Z') + mu * [v(Z) + v(Z')] + nu * [c(Z) + c(Z')]`` (eq. 6), with

* s, the invariance: the mean over batch *and dimensions* of the squared difference. The paper's eq. 5 sums over dimensions;
  the authors' code and every other implementation take the mean, and so do we;
* v, the variance (eq. 1 and 2), the two views **summed**, as in eq. 6. The authors' code halves this sum, so their mu is twice
  ours: ``mu = 25`` there is ``mu = 12.5`` here, and ``mu = 25`` here is ``mu = 50`` there;
* c, the covariance (eq. 3 and 4), the two views summed.

Everything is computed in float32 even under autocast (float64 inputs stay float64), but the variance's hinge, a difference of
nearly equal numbers once training works, in float64. ``core.config.LOSS_CONVENTION`` names these choices in every run's
tags.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LossTerms(NamedTuple):
    """The loss and its three unweighted terms, each a scalar tensor; variance and covariance are sums over the views."""

    loss: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def invariance(za: Tensor, zb: Tensor) -> Tensor:
    """s (eq. 5, as a mean): the mean squared difference of the projections za, zb [B, D]."""
    return (za - zb).square().mean()


def variance(z: Tensor, gamma: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """v (eq. 1 and 2): the mean over dimensions of ``max(0, gamma - sqrt(Var(z_j) + epsilon))``.

    Args:
        z: [B, D] projections, B at least 2.
        gamma: the target of the standard deviation.
        epsilon: inside the root, so that the gradient stays finite when a dimension is constant.

    The variance is the unbiased one, over the actual batch.
    """
    return _hinge(_variances(_centered(z)), gamma, epsilon, z.dtype)


def covariance(z: Tensor) -> Tensor:
    """c (eq. 3 and 4): the sum of squared off-diagonal entries of the covariance of z [B, D], divided by D.

    The covariance has the divisor B - 1.
    """
    return _off_diagonal(_centered(z))


def vicreg_loss(
    za: Tensor,
    zb: Tensor,
    *,
    lambda_: float = 25.0,
    mu: float = 25.0,
    nu: float = 1.0,
    gamma: float = 1.0,
    epsilon: float = 1e-4,
) -> LossTerms:
    """The loss of two batches of projections (eq. 6) with its unweighted terms.

    Args:
        za: [B, D] projections of the first views, B at least 2.
        zb: [B, D] projections of the second views.
        lambda_: weight of the invariance.
        mu: weight of the variance, both views summed.
        nu: weight of the covariance, both views summed.
        gamma: target of the standard deviation.
        epsilon: see :func:`variance`.

    Raises:
        ValueError: if the shapes differ or are not [B, D] with B at least 2.
    """
    if za.shape != zb.shape or za.ndim != 2 or len(za) < 2:
        raise ValueError(f"two batches of one shape [B >= 2, D] are needed, not {tuple(za.shape)} and {tuple(zb.shape)}")
    with torch.autocast(za.device.type, enabled=False):
        za, zb = _at_least_float32(za), _at_least_float32(zb)
        ca, cb = _centered(za), _centered(zb)
        s = invariance(za, zb)
        v = _hinge(_variances(ca), gamma, epsilon, ca.dtype) + _hinge(_variances(cb), gamma, epsilon, cb.dtype)
        c = _off_diagonal(ca) + _off_diagonal(cb)
        return LossTerms(lambda_ * s + mu * v + nu * c, s, v, c)


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _centered(z: Tensor) -> Tensor:
    return z - z.mean(dim=0)


def _variances(centered: Tensor) -> Tensor:
    """[B, D] -> [D] float64: where a deviation is close to gamma, their float32 difference would be mostly rounding."""
    return centered.double().square().sum(dim=0) / (len(centered) - 1)


def _hinge(variances: Tensor, gamma: float, epsilon: float, dtype: torch.dtype) -> Tensor:
    return torch.relu(gamma - torch.sqrt(variances + epsilon)).mean().to(dtype)


def _off_diagonal(centered: Tensor) -> Tensor:
    n, d = centered.shape
    cov = centered.T @ centered / (n - 1)
    # All entries less the diagonal ones would cancel where the diagonal dominates; zeroing the diagonal does not.
    return (cov - torch.diag(cov.diagonal())).square().sum() / d
