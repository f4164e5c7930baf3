"""The registry's numbers against independent definitions, on random features, digits-m's and those of real images."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score, silhouette_score

from core.datasets import ImageSet, load, load_anomalies
from core.embed import Features, embed
from core.models import build_encoder
from core.neighbors import exact_distances, farthest, nearest
from evaluation.evaluate import evaluate
from evaluation.inputs import EvaluationInputs

Labels = NDArray[np.int64]
NAMES = ("anomaly_auc/x", "silhouette", "silhouette_classes", "nmi", "ari", "cluster_accuracy", "rankme", "knn_accuracy")


def random_features(seed: int, scale: float) -> EvaluationInputs:
    draw = np.random.default_rng(seed)

    def part(n: int, shift: float = 0.0) -> Features:
        points = (draw.normal(size=(n, 12)) * scale + shift).astype(np.float32)
        return Features(points, points, draw.integers(5, size=n))

    return EvaluationInputs(part(400), part(50), part(200), 5, {"x": part(150, scale)})


def of_images(train: ImageSet, test: ImageSet, anomalies: ImageSet) -> EvaluationInputs:
    encoder = build_encoder("small", 64, 0, torch.full((3,), 0.45), torch.full((3,), 0.25)).eval()
    sizes = ((train, 500), (train, 20), (test, 300), (anomalies, 200))
    chosen = [images.take(np.arange(min(n, len(images)))) for images, n in sizes]
    features = [embed(encoder, images) for images in chosen]
    return EvaluationInputs(*features[:3], len(train.class_names), {"x": features[3]})


@pytest.fixture(scope="module", params=["random", "tiny", "digits-m", pytest.param("real", marks=pytest.mark.real_data)])
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EvaluationInputs:
    cache = tmp_path_factory.mktemp("cache")
    if request.param in ("random", "tiny"):
        return random_features(3, 1.0 if request.param == "random" else 1e-3)
    if request.param == "digits-m":
        train, test = (load("digits-m", cache, split) for split in ("train", "test"))
        return of_images(train, test, load_anomalies("digits-m-black", cache))
    folder = Path(os.environ["REAL_DATA"])
    mixed = load(f"folder:{folder / 'cifar10'}", cache, "test")  # sorted by class: every twentieth, so that all are there
    spread = [mixed.take(np.arange(start, len(mixed), 20)) for start in (0, 7)]
    return of_images(spread[0], spread[1], load_anomalies(f"folder:{folder / 'mnist'}", cache))


def contingency(one: Labels, other: Labels) -> tuple[Counter[tuple[int, int]], Counter[int], Counter[int]]:
    return Counter(zip(one.tolist(), other.tolist(), strict=True)), Counter(one.tolist()), Counter(other.tolist())


def nmi(one: Labels, other: Labels) -> float:
    """I(A; B) / mean(H(A), H(B)), counted out."""
    joint, a, b = contingency(one, other)
    n = len(one)
    information = sum(c / n * math.log(c * n / (a[i] * b[j])) for (i, j), c in joint.items())
    entropies = [-sum(c / n * math.log(c / n) for c in counts.values()) for counts in (a, b)]
    return information / (sum(entropies) / 2)


def ari(one: Labels, other: Labels) -> float:
    """Hubert & Arabie 1985, pairs counted out."""
    joint, a, b = contingency(one, other)
    pairs = [sum(math.comb(c, 2) for c in counts.values()) for counts in (joint, a, b)]
    expected = pairs[1] * pairs[2] / math.comb(len(one), 2)
    return (pairs[0] - expected) / ((pairs[1] + pairs[2]) / 2 - expected)


def test_the_registrys_numbers_are_the_definitions(given: EvaluationInputs) -> None:
    found = evaluate(given, NAMES)
    assert found.problems == {}
    values = {name: value for name, value in found.values.items() if value is not None}
    train, labels, assignment = given.train.representation, given.train.labels, given.clusters.assignment
    x = train.astype(np.float64)

    def score(points: NDArray[np.float32]) -> NDArray[np.float64]:
        distances = np.linalg.norm(points[:, None].astype(np.float64) - x, axis=-1)
        result: NDArray[np.float64] = np.sort(distances, axis=1)[:, :2].mean(axis=1)
        return result

    normal, anomalous = score(given.test.representation), score(given.anomalies["x"].representation)
    truth = np.repeat([0, 1], [len(normal), len(anomalous)])
    assert values["anomaly_auc/x"] == pytest.approx(roc_auc_score(truth, np.r_[normal, anomalous]), abs=1e-6)
    np.testing.assert_allclose(given.test_scores, normal, rtol=1e-9)
    assert values["silhouette"] == pytest.approx(silhouette_score(x, assignment), abs=1e-6)
    assert values["silhouette_classes"] == pytest.approx(silhouette_score(x, labels), abs=1e-6)
    assert values["nmi"] == pytest.approx(nmi(labels, assignment), abs=1e-6)
    assert values["ari"] == pytest.approx(ari(labels, assignment), abs=1e-6)
    counts = np.array([[np.sum((labels == i) & (assignment == j)) for j in range(given.classes)] for i in range(given.classes)])
    named = counts[linear_sum_assignment(-counts)].sum() / len(labels)
    assert values["cluster_accuracy"] == pytest.approx(named, abs=1e-12)
    singular = np.linalg.svd(x, compute_uv=False)
    shares = singular / singular.sum() + 1e-7
    assert values["rankme"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_neighbours_near_and_far_are_brute_force(given: EvaluationInputs) -> None:
    base, queries = given.train.representation, given.test.representation
    distances = np.linalg.norm(queries[:, None].astype(np.float64) - base, axis=-1)
    for search, ordered in ((nearest, np.sort(distances, axis=1)), (farthest, -np.sort(-distances, axis=1))):
        found, indices = search(base, queries, 7)
        np.testing.assert_allclose(found, ordered[:, :7], rtol=1e-3, atol=1e-4 * distances.max())
        at = np.take_along_axis(distances, indices, axis=1)
        np.testing.assert_allclose(at, ordered[:, :7], rtol=1e-3, atol=1e-4 * distances.max())
    found, indices = exact_distances(base, queries, 2)
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :2], rtol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(distances, indices, axis=1), found, rtol=1e-9)
