"""What else can be read off linearly? Ridge regression from the representation to what an image was made from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Points [N, D] float32 and their targets [N, F] float64.
Targets = tuple[NDArray[np.float32], NDArray[np.float64]]

#: Ridge penalties tried, for standardised features and a sum of squared errors.
PENALTIES = tuple(10.0**exponent for exponent in range(-2, 6))


def linear_r2(train: Targets, validation: Targets, test: Targets) -> float:
    """The share of the targets' variance that a linear function of the representation explains on test (mean R^2).

    Features are standardised on train; the penalty with the best R^2 on validation is taken. Below 0 it predicts worse than
    the mean does.

    Args:
        train: points [N, D] with targets [N, F]; likewise validation and test.
    """
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    best: tuple[float, float] | None = None
    for penalty in PENALTIES:
        model = make_pipeline(StandardScaler(), Ridge(penalty)).fit(train[0].astype(np.float64), train[1])
        on_validation = float(r2_score(validation[1], model.predict(validation[0].astype(np.float64))))
        if best is None or on_validation > best[0]:
            best = on_validation, float(r2_score(test[1], model.predict(test[0].astype(np.float64))))
    assert best is not None
    return best[1]
