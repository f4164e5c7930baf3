"""Linear probes: how well a linear classifier on frozen features names the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from core.rng import generator

#: Points [N, D] float32 and their labels [N] int64.
Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]

#: L2 strengths tried, from strong to weak; the objective is mean cross-entropy + l2 / 2 * ||W||^2 (the bias is free).
L2_STRENGTHS = (1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
#: Largest absolute entry of the objective's gradient at which L-BFGS may stop.
GRADIENT_NORM = 1e-4
_MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        predictions: [M] int64, the class predicted for each test image.
        accuracy: share of test images named rightly.
        l2: the strength chosen on validation.
        validation_accuracy: the accuracy that chose it.
        converged: whether the gradient's norm fell below GRADIENT_NORM for the chosen strength.
    """

    predictions: NDArray[np.int64]
    accuracy: float
    l2: float
    validation_accuracy: float
    converged: bool


def logistic_probe(train: Labelled, validation: Labelled, test: Labelled) -> Probe:
    """Multinomial logistic regression on standardised features, fitted by L-BFGS until its gradient is small.

    Features are standardised with train's mean and deviation (constant ones are left at zero), so the result does not depend on
    their scale: a collapsed representation that still holds traces of the image is not shown up by this number. The
    strength of the L2 penalty is the one with the best validation accuracy, the stronger where two are equal; each fit starts
    from the one before, and none is weaker than the first whose validation accuracy is more than one standard error below the
    best (weak penalties take longest). The probe is not refitted on validation.

    Args:
        train: points [N, D] float32 with labels [N] int64; likewise validation and test, of which there may be none (M = 0;
            the accuracy then is NaN).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils._testing import ignore_warnings

    mean, std = train[0].mean(axis=0, dtype=np.float64), train[0].std(axis=0, dtype=np.float64)
    std[std == 0] = 1
    x, xv, xt = (((points - mean) / std).astype(np.float32) for points, _ in (train, validation, test))
    classes = len(np.unique(train[1]))
    best: Probe | None = None
    model = LogisticRegression(tol=GRADIENT_NORM, max_iter=_MAX_ITERATIONS, warm_start=True)
    for l2 in L2_STRENGTHS:
        # With two classes scikit-learn fits one vector for the difference of the two: half the penalty is the same objective.
        model.set_params(C=(2 if classes == 2 else 1) / (l2 * len(x)))
        ignore_warnings(category=ConvergenceWarning)(model.fit)(x, train[1])
        validation_accuracy = float(np.mean(model.predict(xv) == validation[1]))
        if best is None or validation_accuracy > best.validation_accuracy:
            predictions = model.predict(xt).astype(np.int64) if len(xt) else np.empty(0, dtype=np.int64)
            accuracy = float(np.mean(predictions == test[1])) if len(xt) else float("nan")
            converged = int(np.max(model.n_iter_)) < _MAX_ITERATIONS
            best = Probe(predictions, accuracy, l2, validation_accuracy, converged)
        error = np.sqrt(best.validation_accuracy * (1 - best.validation_accuracy) / len(xv))
        if validation_accuracy < best.validation_accuracy - error:
            break
    assert best is not None
    return best


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
