"""Mean and scatter of a representation: the one large product that probe, spectrum and linear read-out share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.neighbors import product

if TYPE_CHECKING:
    import torch


def above_rounding(eigenvalues: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of a covariance's D eigenvalues belong to deviations that float32 resolves beside the largest one.

    The tolerance is that of a matrix's rank, D times float32's epsilon, for the square roots.
    """
    floor = (len(eigenvalues) * np.finfo(np.float32).eps) ** 2
    above: NDArray[np.bool_] = eigenvalues > eigenvalues.max(initial=0.0) * floor
    return above


@dataclass(frozen=True)
class Moments:
    """First and second moments of n points.

    Attributes:
        n: number of points.
        mean: [D] float64.
        scatter: [D, D] float64: X^T X of the points X less their mean.
        device: where the scatter was computed, and what is derived from it is.
    """

    n: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]
    device: torch.device | str = "cpu"

    def eigenvalues(self, *, centered: bool) -> NDArray[np.float64]:
        """[min(N, D)] eigenvalues of X^T X in ascending order, of the points less their mean or as they are.

        What rounding made negative is zero.
        """
        import torch

        # As it is, X^T X = scatter + n mean mean^T; the other way round the scatter would be lost to cancellation.
        products = self.scatter if centered else self.scatter + self.n * np.outer(self.mean, self.mean)
        values: NDArray[np.float64] = (
            torch.linalg.eigvalsh(torch.from_numpy(products).to(self.device)).cpu().numpy().clip(min=0)
        )
        return values[max(0, len(values) - self.n) :]


def moments_of(points: NDArray[np.float32], device: torch.device | str = "cpu") -> Moments:
    """The moments of points [N, D].

    Raises:
        ValueError: if a value is not finite.
    """
    import torch

    if not np.isfinite(points).all():
        raise ValueError("a representation holds NaN or infinity")
    mean = points.mean(axis=0, dtype=np.float64)
    centered = torch.from_numpy(points - mean).to(device)
    return Moments(len(points), mean, product(centered.T, centered).cpu().numpy(), device)
