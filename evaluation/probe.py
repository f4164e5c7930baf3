"""Linear probes: how well a linear classifier on frozen features names the classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from core.neighbors import product
from core.rng import generator
from evaluation.moments import Moments, moments_of

if TYPE_CHECKING:
    from torch import Tensor

#: Points [N, D] float32 and their labels [N] int64.
Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]

#: L2 strengths tried, from strong to weak; the objective is mean cross-entropy + l2 / 2 * ||W||^2 (the bias is free).
L2_STRENGTHS = tuple(10.0**-exponent for exponent in range(11))
#: Largest absolute entry of the objective's gradient at which L-BFGS may stop.
GRADIENT_NORM = 1e-6
#: Rounds of L-BFGS, and the most steps of each.
_ROUNDS, _ITERATIONS = 4, 200


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        predictions: [M] int64, the class predicted for each test image.
        accuracy: share of test images named rightly.
        l2: the strength chosen on validation.
        validation_accuracy: the accuracy that chose it.
        converged: whether the gradient's norm fell below GRADIENT_NORM for the chosen strength.
        at_edge: whether the chosen strength is the weakest that was fitted because weaker ones are not in L2_STRENGTHS or were
            given up, so that a weaker one might be better still.
    """

    predictions: NDArray[np.int64]
    accuracy: float
    l2: float
    validation_accuracy: float
    converged: bool
    at_edge: bool


def logistic_probe(train: Labelled, validation: Labelled, test: Labelled, moments: Moments | None = None) -> Probe:
    """Multinomial logistic regression on standardised features, fitted by L-BFGS until its gradient is small.

    Features are standardised with train's mean and deviation (constant ones are left at zero), so the result does not depend on
    their scale: a collapsed representation that still holds traces of the image is not detected by this number. The
    strength of the L2 penalty is the one with the best validation accuracy, the stronger where two are equal; each fit starts
    from the one before. None is weaker than the first that overfits, with a validation accuracy more than one standard error
    below the best and two below that on train, or than the first that does not converge (weak penalties take longest). The
    probe is not refitted on validation.

    Args:
        train: points [N, D] float32 with labels [N] int64; likewise validation and test, of which there may be none (M = 0;
            the accuracy then is NaN).
        moments: of the train points, where they are known; the probe is fitted on their device. None: on the CPU.

    Raises:
        ValueError: if a value is not finite, or train has a single class.
    """
    import torch

    if not all(np.isfinite(points).all() for points, _ in (train, validation, test)):
        raise ValueError("a representation holds NaN or infinity")
    moments = moments or moments_of(train[0])
    mean, std = moments.mean, train[0].std(axis=0, dtype=np.float64)
    std[std == 0] = 1
    names, labels = np.unique(train[1], return_inverse=True)
    if len(names) < 2:
        raise ValueError("a classifier needs images of two classes")
    x = torch.from_numpy(np.ascontiguousarray(((train[0] - mean) / std).T)).to(moments.device)
    xv, xt = ((points - mean) / std for points, _ in (validation, test))
    curvature = torch.from_numpy(moments.scatter / np.outer(std, std) / (moments.n * len(names))).to(moments.device)
    if len(x) > x.shape[1]:  # fewer points than dimensions: weights off the points' span would be penalised and do nothing
        span, x = torch.linalg.qr(x)
        curvature = product(x, x.T.contiguous()) / (moments.n * len(names))
        xv, xt = (points @ span.cpu().numpy() for points in (xv, xt))
    best: Probe | None = None
    weights = np.zeros((len(x) + 1, len(names)))
    for l2 in L2_STRENGTHS:
        weights, converged = _fit(x, torch.from_numpy(labels).to(moments.device), l2, curvature, weights)
        validation_accuracy, _ = _accuracy(xv, validation[1], weights, names)
        if best is None or validation_accuracy > best.validation_accuracy:
            accuracy, predictions = _accuracy(xt, test[1], weights, names)
            best = Probe(predictions, accuracy, l2, validation_accuracy, converged, at_edge=False)
        error = np.sqrt(best.validation_accuracy * (1 - best.validation_accuracy) / len(xv))
        lower = validation_accuracy < best.validation_accuracy - error
        # Where it is low on train as well, the penalty may be too strong still: at the level of chance the best is noise.
        if not converged or (lower and _accuracy_on(x, labels, weights) > validation_accuracy + 2 * error):
            break
    assert best is not None
    return replace(best, at_edge=best.l2 == l2)


def _accuracy(
    x: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64], names: NDArray[np.int64]
) -> tuple[float, NDArray[np.int64]]:
    predictions = names[(x @ weights[:-1] + weights[-1]).argmax(axis=1)]
    return (float(np.mean(predictions == labels)) if len(x) else float("nan")), predictions


def _accuracy_on(x: Tensor, labels: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """Accuracy on the points [D, N] that the weights were fitted to."""
    import torch

    w = torch.from_numpy(weights).to(x.device)
    predicted = product(w[:-1].T.contiguous(), x).add_(w[-1][:, None]).argmax(dim=0)
    return float(np.mean(predicted.cpu().numpy() == labels))


def _fit(
    x: Tensor, labels: Tensor, l2: float, curvature: Tensor, start: NDArray[np.float64]
) -> tuple[NDArray[np.float64], bool]:
    """Weights [D + 1, C], the bias last, at the minimum of mean cross-entropy + l2 / 2 * ||W||^2; and whether it was reached.

    Args:
        x: [D, N] float64; points lie in columns, where products with few rows are fastest.
        labels: [N] int64 in [0, C), on its device.
        l2: the penalty's strength.
        curvature: x^T x / (N C), [D, D], likewise.
        start: where to start, [D + 1, C].
    """
    import torch

    weights = torch.from_numpy(start).to(x.device)
    for _ in range(_ROUNDS):
        weights, steepest = _descend(x, labels, l2, curvature, weights)
        if steepest <= GRADIENT_NORM:
            break
        # Probabilities are far from even here: the curvature that they have now makes the further steps fewer.
        p = torch.softmax(product(weights[:-1].T.contiguous(), x).add_(weights[-1][:, None]), dim=0)
        share = (p * (1 - p)).sum(dim=0) / (len(p) - 1)  # 1 / C where they are even
        curvature = product(x * share, x.T.contiguous()) / x.shape[1]
    return weights.cpu().numpy(), steepest <= GRADIENT_NORM


def _descend(x: Tensor, labels: Tensor, l2: float, curvature: Tensor, start: Tensor) -> tuple[Tensor, float]:
    """A round of L-BFGS from ``start``: the weights, and the largest absolute entry of the gradient there.

    L-BFGS works on R^T W, where R R^T is the objective's Hessian at even probabilities (Böhning 1992 bounds it so): a
    representation's directions differ in scale by orders of magnitude, and in these coordinates steps are few.
    """
    import torch
    from scipy.optimize import minimize

    n, device = x.shape[1], x.device
    points = torch.arange(n, device=device)
    root = torch.linalg.cholesky(curvature + l2 * torch.eye(len(curvature), dtype=x.dtype, device=device))
    of_bias = start.shape[1] ** -0.5
    steepest = np.inf

    def weights_of(position: NDArray[np.float64]) -> Tensor:
        u = torch.from_numpy(position.reshape(start.shape)).to(device)
        return torch.cat([torch.linalg.solve_triangular(root.T, u[:-1], upper=True), u[-1:] / of_bias])

    def objective(position: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal steepest
        w = weights_of(position)
        log_p = torch.log_softmax(product(w[:-1].T, x).add_(w[-1][:, None]), dim=0)  # [C, N]
        error = log_p.exp()
        error[labels, points] -= 1
        gradient = torch.cat([product(error, x.T).T / n + l2 * w[:-1], error.mean(dim=1)[None]])
        steepest = float(gradient.abs().max())
        value = -log_p[labels, points].mean() + l2 / 2 * w[:-1].square().sum()
        changed = [torch.linalg.solve_triangular(root, gradient[:-1], upper=False), gradient[-1:] / of_bias]
        return float(value), torch.cat(changed).cpu().numpy().ravel()

    def enough(_: NDArray[np.float64]) -> None:
        if steepest <= GRADIENT_NORM:
            raise StopIteration

    found = minimize(
        objective, torch.cat([root.T @ start[:-1], start[-1:] * of_bias]).cpu().numpy().ravel(), jac=True, method="L-BFGS-B",
        callback=enough, options={"maxiter": _ITERATIONS, "ftol": 0.0, "gtol": 0.0},
    )  # fmt: skip
    objective(found.x)
    return weights_of(found.x), steepest


def study_probe(train: Labelled, test: Labelled, classes: int) -> float:
    """The studies' probe: a linear layer, 10 epochs of Adam at 3e-4, batches of 32, features as they are.

    Not standardised and not converged, so it measures the features' scale as well: features of a tiny scale stay at chance
    whatever they hold. Kept to be compared with the studies' figures.

    Args:
        train: points [N, D] float32 with labels [N] int64; likewise test.
        classes: number of classes.

    Returns:
        The test accuracy after the last epoch.
    """
    bound = 1 / np.sqrt(train[0].shape[1])  # torch's default for a linear layer
    weight = generator(0, "study-probe").uniform(-bound, bound, (classes, train[0].shape[1] + 1)).astype(np.float32)
    x, xt = (np.pad(points, ((0, 0), (0, 1)), constant_values=1) for points in (train[0], test[0]))  # the bias, last
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    step = 0
    for epoch in range(10):
        order = generator(0, "study-probe/order", epoch).permutation(len(x))
        for start in range(0, len(x), 32):
            # The gradient by hand: of so small a batch, autograd and an optimiser would take ten times as long.
            batch = order[start : start + 32]
            step += 1
            error = softmax(x[batch] @ weight.T, axis=1)
            error[np.arange(len(batch)), train[1][batch]] -= 1
            gradient = error.T @ x[batch] / np.float32(len(batch))
            mean += np.float32(0.1) * (gradient - mean)
            square += np.float32(0.001) * (gradient * gradient - square)
            rate, deviation = 3e-4 / (1 - 0.9**step), np.sqrt(square) / np.float32(np.sqrt(1 - 0.999**step))
            weight -= np.float32(rate) * mean / (deviation + np.float32(1e-8))
    return float(np.mean((xt @ weight.T).argmax(axis=1) == test[1]))
