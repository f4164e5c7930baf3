"""How many dimensions does a representation use? Both numbers are blind to scale, so neither alone tells a collapse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rankme(representation: NDArray[np.float32]) -> float:
    """RankMe (Garrido et al., ICML 2023, arXiv 2210.02885, eq. 1): exp of the entropy of the normalised singular values.

    Of the representation as it is: not centred, and singular values, not their squares. The paper's epsilon of 1e-7 is added
    to every share.

    Args:
        representation: [N, D].
    """
    shares = np.sqrt(_eigenvalues(representation.astype(np.float64)))
    if shares.sum() == 0:
        return 1.0  # every image at the origin
    shares = shares / shares.sum() + 1e-7
    return float(np.exp(-np.sum(shares * np.log(shares))))


def covariance_eigenvalues(representation: NDArray[np.float32]) -> NDArray[np.float64]:
    """The D eigenvalues of the covariance of [N, D], in descending order; what rounding made negative is zero.

    Raises:
        ValueError: if a value is not finite.
    """
    if not np.isfinite(representation).all():
        raise ValueError("a representation holds NaN or infinity")
    n, d = representation.shape
    points = representation.astype(np.float64)
    values = _eigenvalues(points - points.mean(axis=0))[::-1] / max(n - 1, 1)
    return np.pad(values, (0, d - len(values)))


def effective_rank(eigenvalues: NDArray[np.float64]) -> float:
    """exp of the entropy of the normalised eigenvalues of the covariance (Roy & Vetterli, EUSIPCO 2007, on eigenvalues).

    Args:
        eigenvalues: [D], as :func:`covariance_eigenvalues` returns them.
    """
    if eigenvalues.sum() == 0:
        return 1.0  # a constant representation
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _eigenvalues(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared singular values of [N, D], from the smaller Gram matrix; what rounding made negative is zero."""
    n, d = points.shape
    gram = points.T @ points if d <= n else points @ points.T
    values: NDArray[np.float64] = np.linalg.eigvalsh(gram).clip(min=0)
    return values
