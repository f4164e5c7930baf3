"""The invariance profile and the linear readout against definitions written out and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from torchvision.transforms.v2 import functional as tv

from core.datasets import ImageSet
from evaluation.invariance import OPERATIONS, mean_distance, operated, relative_class_distance, relative_shift
from evaluation.linear_readout import PENALTIES, linear_r2
from tests.conftest import image_set
from tests.evaluation.test_numbers import blobs


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return image_set(24)


def as_float(images: ImageSet) -> torch.Tensor:
    return torch.from_numpy(images.images).float() / 255


def bytes_of(x: torch.Tensor) -> np.ndarray:
    return x.mul(255).round().to(torch.uint8).numpy()


def test_every_operation_of_the_list_is_there_and_does_something(images: ImageSet) -> None:
    assert list(OPERATIONS) == ["crop", "flip", "brightness", "contrast", "saturation", "hue", "grey", "blur"]
    results = [operated(images, name).images for name in OPERATIONS]
    assert all(not np.array_equal(result, images.images) for result in results)
    assert len({result.tobytes() for result in results}) == len(results)
    assert all(np.array_equal(operated(images, name).images, result) for name, result in zip(OPERATIONS, results, strict=True))


def test_flip_and_grey_are_torchvisions_for_every_image(images: ImageSet) -> None:
    np.testing.assert_array_equal(operated(images, "flip").images, images.images[..., ::-1])
    grey = bytes_of(tv.rgb_to_grayscale(as_float(images), num_output_channels=3))
    assert np.abs(operated(images, "grey").images.astype(int) - grey).max() <= 1


@pytest.mark.parametrize(("operation", "function", "low", "high"), [
    ("brightness", tv.adjust_brightness, 0.6, 1.4),
    ("contrast", tv.adjust_contrast, 0.6, 1.4),
    ("saturation", tv.adjust_saturation, 0.8, 1.2),
    ("hue", tv.adjust_hue, -0.1, 0.1),
])  # fmt: skip
def test_colour_operations_act_alone_within_the_studies_strengths(
    images: ImageSet, operation: str, function: object, low: float, high: float
) -> None:
    found = operated(images, operation).images
    for image, result in zip(as_float(images), found, strict=True):
        tried = [np.abs(bytes_of(function(image, f)).astype(int) - result).max() for f in np.linspace(low, high, 401)]  # type: ignore[operator]
        assert min(tried) <= 2, "some factor within the range gives this image"


def test_shifts_are_relative_to_the_mean_distance_of_two_images() -> None:
    before, labels = blobs(80, seed=1)
    after = before + np.float32(0.3) * np.random.default_rng(0).normal(size=before.shape).astype(np.float32)
    scale = pdist(before.astype(np.float64)).mean()
    assert mean_distance(before) == pytest.approx(scale, rel=1e-9)
    expected = np.mean([np.linalg.norm(b.astype(np.float64) - a) for a, b in zip(before, after, strict=True)]) / scale
    assert relative_shift(before, after) == pytest.approx(expected, rel=1e-9)
    pairs = [np.linalg.norm(before[i].astype(np.float64) - before[j])
             for i in range(80) for j in range(i) if labels[i] == labels[j]]  # fmt: skip
    assert relative_class_distance(before, labels) == pytest.approx(np.mean(pairs) / scale, rel=1e-9)
    assert relative_shift(before * 1000, after * 1000) == pytest.approx(expected, rel=1e-5), "scale does not matter"


def test_what_is_not_defined_says_so() -> None:
    points, _ = blobs(20)
    with pytest.raises(ValueError, match="no scale"):
        relative_shift(np.ones((20, 3), np.float32), np.zeros((20, 3), np.float32))
    with pytest.raises(ValueError, match="no class has two"):
        relative_class_distance(points, np.arange(20))
    points[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        relative_shift(points, points)


def test_the_readout_is_ridge_regression_with_a_penalty_of_its_own_for_each_target() -> None:
    draw = np.random.default_rng(0)
    parts = [blobs(n, seed=seed)[0] for n, seed in ((300, 0), (80, 1), (120, 2))]
    for part in parts:
        part[:, 4] = 7  # says nothing, and has no deviation to divide by
    targets = {
        name: tuple(5 + 2 * part[:, :width] + noise * draw.normal(size=(len(part), width)) for part in parts)
        for name, width, noise in (("faint", 2, 20.0), ("clear", 1, 0.1))
    }
    x, v, t = (StandardScaler().fit(parts[0].astype(np.float64)).transform(part.astype(np.float64)) for part in parts)
    found = linear_r2((parts[0], parts[1], parts[2]), targets)
    chosen = set()
    for name, (y, yv, yt) in targets.items():
        models = [Ridge(penalty).fit(x, y) for penalty in PENALTIES]
        scores = [(r2_score(yv, model.predict(v)), i, r2_score(yt, model.predict(t))) for i, model in enumerate(models)]
        chosen.add(max(scores)[1])
        assert found[name] == pytest.approx(max(scores)[2], abs=1e-6)
    assert len(chosen) == 2, "the targets want different penalties"
