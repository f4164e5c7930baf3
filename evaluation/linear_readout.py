"""What else can be read off linearly? Ridge regression from the representation to what an image was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.moments import Moments, moments_of

#: Ridge penalties tried, for standardised features and a sum of squared errors.
PENALTIES = tuple(10.0**exponent for exponent in range(-2, 6))


def linear_r2(
    features: Sequence[NDArray[np.float32]],
    targets: Mapping[str, Sequence[NDArray[np.float64]]],
    moments: Moments | None = None,
) -> dict[str, float]:
    """The share of each target's variance that a linear function of the representation explains on test (mean R^2).

    Features are standardised on train; for each target the penalty with the best R^2 on validation is taken. Below 0 a target
    is predicted worse than by its mean. All targets are read off one Gram matrix: of 3,072 pixels it takes seconds, and each
    penalty a fraction of one.

    Args:
        features: [N, D] of train, [M, D] of validation, [K, D] of test.
        targets: for each, [N, F] of train, [M, F] of validation, [K, F] of test.
        moments: of the train features, where they are known.
    """
    import torch
    from sklearn.metrics import r2_score
    from sklearn.preprocessing import StandardScaler

    moments = moments or moments_of(features[0])
    scaler = StandardScaler().fit(features[0].astype(np.float64))
    x, xv, xt = (scaler.transform(points.astype(np.float64)) for points in features)
    y = np.concatenate([parts[0] for parts in targets.values()], axis=1)
    means = y.mean(axis=0)
    gram = torch.from_numpy(moments.scatter / np.outer(scaler.scale_, scaler.scale_)).to(moments.device)
    right = torch.from_numpy(x.T @ (y - means)).to(moments.device)
    columns = np.cumsum([0, *(parts[0].shape[1] for parts in targets.values())])
    best: dict[str, tuple[float, float]] = {}
    for penalty in PENALTIES:
        root = torch.linalg.cholesky(gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        weights = torch.cholesky_solve(right, root).cpu().numpy()
        on_validation, on_test = xv @ weights + means, xt @ weights + means
        for i, (name, (_, v, t)) in enumerate(targets.items()):
            own = slice(columns[i], columns[i + 1])
            score = float(r2_score(v, on_validation[:, own]))
            if name not in best or score > best[name][0]:
                best[name] = score, float(r2_score(t, on_test[:, own]))
    return {name: on_test for name, (_, on_test) in best.items()}
