"""How many dimensions does a representation use? These numbers are blind to scale, so none alone tells a collapse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.moments import Moments, above_rounding, moments_of


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


#: Ranks of the eigenvalues, from 1, to which the power law is fitted.
_FIRST_RANK, _LAST_RANK = 4, 100


def alpha_req(eigenvalues: NDArray[np.float64]) -> float:
    """alpha-ReQ (Agrawal et al., NeurIPS 2022, "alpha-ReQ: Assessing representation quality in self-supervised learning").

    The exponent of a power law: eigenvalue of rank j ~ j ** -alpha. Near 1 is best, by the paper. The paper gives neither ranks
    nor weights; as in its authors' code, the logarithms of the eigenvalues of rank 4 to 100 are fitted by least squares with
    the weights 1 / j.

    Args:
        eigenvalues: [D], as :func:`covariance_eigenvalues` returns them.

    Raises:
        ValueError: if fewer than three of those eigenvalues are above zero, up to rounding.
    """
    used = eigenvalues[above_rounding(eigenvalues)][_FIRST_RANK - 1 : _LAST_RANK]
    ranks = np.arange(_FIRST_RANK, _FIRST_RANK + len(used))
    if len(used) < 3:
        raise ValueError(f"a power law needs three eigenvalues above zero from rank {_FIRST_RANK} on; there are {len(used)}")
    x, y, weights = -np.log(ranks), np.log(used), 1 / ranks
    x_mean, y_mean = (np.average(values, weights=weights) for values in (x, y))
    return float(np.sum(weights * (x - x_mean) * (y - y_mean)) / np.sum(weights * np.square(x - x_mean)))


def effective_rank(eigenvalues: NDArray[np.float64]) -> float:
    """exp of the entropy of the normalised eigenvalues of the covariance (Roy & Vetterli, EUSIPCO 2007, on eigenvalues).

    Args:
        eigenvalues: [D], as :func:`covariance_eigenvalues` returns them.
    """
    if eigenvalues.sum() == 0:
        return 1.0  # a constant representation
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
