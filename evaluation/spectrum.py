"""How many dimensions does a representation use? Both numbers are blind to scale, so neither alone tells a collapse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.moments import Moments, moments_of


def rankme(representation: NDArray[np.float32], moments: Moments | None = None) -> float:
    """RankMe (Garrido et al., ICML 2023, arXiv 2210.02885, eq. 1): exp of the entropy of the normalised singular values.

    Of the representation as it is: not centred, and singular values, not their squares. The paper's epsilon of 1e-7 is added
    to every share.

    Args:
        representation: [N, D].
        moments: its moments, where they are known.
    """
    moments = moments or moments_of(representation)
    shares = np.sqrt(moments.eigenvalues(centered=False))
    if shares.sum() == 0:
        return 1.0  # every image at the origin
    shares = shares / shares.sum() + 1e-7
    return float(np.exp(-np.sum(shares * np.log(shares))))


def covariance_eigenvalues(
    representation: NDArray[np.float32], moments: Moments | None = None
) -> NDArray[np.float64]:  # fmt: skip
    """The D eigenvalues of the covariance of [N, D], in descending order; what rounding made negative is zero.

    Args:
        representation: [N, D].
        moments: its moments, where they are known.

    Raises:
        ValueError: if a value is not finite.
    """
    moments = moments or moments_of(representation)
    values = moments.eigenvalues(centered=True)[::-1] / max(moments.n - 1, 1)
    return np.pad(values, (0, len(moments.mean) - len(values)))


def effective_rank(eigenvalues: NDArray[np.float64]) -> float:
    """exp of the entropy of the normalised eigenvalues of the covariance (Roy & Vetterli, EUSIPCO 2007, on eigenvalues).

    Args:
        eigenvalues: [D], as :func:`covariance_eigenvalues` returns them.
    """
    if eigenvalues.sum() == 0:
        return 1.0  # a constant representation
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
