"""Readouts, label-free quality and further anomaly scores against their formulas written out in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from core.config import Augmentation
from core.datasets import ImageSet, Splits
from core.embed import Features, embed
from core.models import build_encoder, build_projector
from core.neighbors import most_similar
from evaluation import anomaly, lidar, retrieval, spectrum
from evaluation.evaluate import evaluate
from evaluation.inputs import EvaluationInputs
from evaluation.moments import Moments, moments_of
from tests.conftest import image_set

Points = NDArray[np.float32]


def points(n: int, dim: int, seed: int, shift: float = 0.0) -> Points:
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(n, dim)) @ np.random.default_rng(5).normal(size=(dim, dim))
    return (mixed + shift).astype(np.float32)


# -- kNN by cosine -------------------------------------------------------------------------------------------------------


def knn_by_hand(train: Points, labels: NDArray[np.int64], test: Points, k: int) -> list[int]:
    """DINO's vote, image by image: cosines, the k largest, exp(cosine / .07), the class with the most."""
    predicted = []
    for query in test.astype(float):
        cosines = [float(query @ x / np.linalg.norm(query) / np.linalg.norm(x)) for x in train.astype(float)]
        votes: dict[int, float] = {}
        for i in np.argsort(cosines)[::-1][:k]:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + float(np.exp(cosines[i] / 0.07))
        predicted.append(max(sorted(votes), key=lambda label: votes[label]))
    return predicted


@pytest.mark.parametrize("collapsed", [False, True])
def test_knn_by_cosine_is_dinos_vote_written_out(collapsed: bool) -> None:
    train, test = points(300, 6, 0, 1.0), points(80, 6, 1, 1.0)
    if collapsed:  # all cosines within 1e-6: float32 would not tell them apart
        train, test = ((1 + x * np.float32(1e-4)).astype(np.float32) for x in (train, test))
    labels = (train[:, 0] > np.median(train[:, 0])).astype(np.int64) + 2 * (train[:, 1] > np.median(train[:, 1]))
    truth = np.arange(80) % 4
    given = EvaluationInputs(
        Features(train, train[:, :3], labels, train[:, 2:]), Features(train[:9], train[:9], labels[:9]),
        Features(test, test[:, :3], truth, test[:, 2:]), 4,
    )  # fmt: skip
    values = evaluate(given, [f"knn_accuracy_cosine{space}" for space in ("", "_backbone", "_projection")]).values
    for space, columns in (("", slice(None)), ("_backbone", slice(3)), ("_projection", slice(2, None))):
        expected = np.mean(np.array(knn_by_hand(train[:, columns], labels, test[:, columns], 20)) == truth)
        assert values[f"knn_accuracy_cosine{space}"] == pytest.approx(expected, abs=1e-12), space


def test_knn_by_cosine_equals_scikit_learns_with_those_weights() -> None:
    train, test, draw = points(400, 5, 2), points(150, 5, 3), np.random.default_rng(0)
    labels, truth = draw.integers(3, size=400), draw.integers(3, size=150)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train.astype(float), test.astype(float))]
    voters = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = voters.fit(unit[0], labels).score(unit[1], truth)
    similarities, found = most_similar(retrieval.unit_length(train), retrieval.unit_length(test), 20)
    assert retrieval.weighted_knn_accuracy(similarities, labels[found], truth) == pytest.approx(expected)


def test_most_similar_are_the_largest_products_over_several_tiles() -> None:
    draw = np.random.default_rng(0)
    base, queries = draw.normal(size=(9000, 4)), draw.normal(size=(30, 4))
    products, found = most_similar(base, queries, 7)
    everything = queries @ base.T
    np.testing.assert_allclose(products, -np.sort(-everything, axis=1)[:, :7], rtol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(everything, found, axis=1), products, rtol=1e-12)
    with pytest.raises(ValueError, match="10 most similar points asked for among 9"):
        most_similar(base[:9], queries, 10)
    with pytest.raises(ValueError, match="NaN"):
        most_similar(np.full((9, 4), np.nan), queries, 1)


# -- quality without labels ----------------------------------------------------------------------------------------------


def lidar_by_hand(x: NDArray[np.float64]) -> float:
    """Eq. 1 to 4 of arXiv 2312.04000, image by image, with a matrix root by scipy."""
    from scipy.linalg import inv, sqrtm

    n, q, d = x.shape
    mean = x.reshape(-1, d).mean(axis=0)
    between, within = np.zeros((d, d)), np.zeros((d, d))
    for views in x:
        own = views.mean(axis=0)
        between += np.outer(own - mean, own - mean) / n
        for view in views:
            within += np.outer(view - own, view - own) / (n * q)
    root = np.real(inv(sqrtm(within + 1e-4 * np.eye(d))))
    values = np.linalg.eigvalsh(root @ between @ root).clip(min=0)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize(("n", "dim", "noise"), [(60, 5, 0.3), (20, 30, 1.0), (50, 8, 1e-4)])
def test_lidar_is_its_formula(n: int, dim: int, noise: float) -> None:
    draw = np.random.default_rng(1)
    embeddings = (points(n, dim, 0)[:, None] + noise * draw.normal(size=(n, 7, dim))).astype(np.float32)
    assert lidar.lidar(embeddings) == pytest.approx(lidar_by_hand(embeddings.astype(float)), rel=1e-6)


def test_lidar_of_known_embeddings() -> None:
    draw = np.random.default_rng(0)
    told_apart = np.zeros((4000, 1, 3)) + np.eye(3)[np.arange(4000) % 3][:, None]  # three means: two directions
    embeddings = (told_apart + 0.1 * draw.normal(size=(4000, 9, 3))).astype(np.float32)
    assert lidar.lidar(embeddings) == pytest.approx(2, abs=0.1)
    with pytest.raises(ValueError, match="same mean"):
        lidar.lidar(np.ones((5, 4, 3), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        lidar.lidar(np.full((5, 4, 3), np.nan, np.float32))


def test_lidar_of_a_trial_is_of_its_projections_of_augmented_train_images() -> None:
    splits = Splits(image_set(40), image_set(8, seed=1), image_set(16, seed=2))
    encoder = build_encoder("small", 6, 0, torch.zeros(3), torch.ones(3)).eval()
    projector = build_projector(6, (5, 4), 0).eval()

    def features(images: ImageSet) -> Features:
        return embed(encoder, images, projector=projector)

    given = EvaluationInputs(
        features(splits.train), features(splits.validation), features(splits.test), 4, images=splits, embed=features,
        augmentation=Augmentation(),
    )  # fmt: skip
    order = np.sort(np.arange(40))
    views = lidar.augmented(splits.train.take(order), Augmentation())
    assert len(views) == 40 * lidar.VIEWS and views.images.dtype == np.uint8
    assert (views.labels.reshape(40, -1) == splits.train.labels[:, None]).all(), "an image's views lie together"
    with torch.no_grad():
        projected = projector(encoder(torch.from_numpy(views.images).float() / 255)).numpy().reshape(40, lidar.VIEWS, 4)
    assert evaluate(given, ["lidar"]).values["lidar"] == pytest.approx(lidar_by_hand(projected.astype(float)), rel=1e-4)
    assert evaluate(replace(given, augmentation=None), ["lidar"]).values["lidar"] is None


@pytest.mark.parametrize(("dim", "alpha"), [(40, 0.5), (150, 1.0), (150, 2.5)])
def test_alpha_req_finds_the_exponent_of_a_power_law(dim: int, alpha: float) -> None:
    eigenvalues = 3.0 * np.arange(1, dim + 1) ** -alpha
    assert spectrum.alpha_req(eigenvalues) == pytest.approx(alpha, rel=1e-12)


def test_alpha_req_is_the_authors_weighted_fit() -> None:
    values = spectrum.covariance_eigenvalues(points(500, 130, 4))
    ranks = np.arange(4, 101)
    design = np.stack([-np.log(ranks), np.ones(len(ranks))], axis=1)
    root = np.sqrt(1 / ranks)[:, None]  # weighted least squares as ordinary ones of scaled rows
    expected = np.linalg.lstsq(design * root, np.log(values[ranks - 1]) * root[:, 0], rcond=None)[0][0]
    assert spectrum.alpha_req(values) == pytest.approx(expected, rel=1e-9)
    assert spectrum.alpha_req(np.pad(values[:60], (0, 40))) == pytest.approx(spectrum.alpha_req(values[:60]))
    with pytest.raises(ValueError, match=r"three eigenvalues above zero from rank 4 on; there are 2"):
        spectrum.alpha_req(np.array([5.0, 4, 3, 2, 1, 0, 0]))


def test_rankme_of_projections_is_its_formula_on_projections() -> None:
    x = points(200, 9, 6)
    given = EvaluationInputs(Features(x, x, np.arange(200) % 3, x[:, :5]), *[Features(x, x, np.arange(200) % 3)] * 2, 3)
    shares = np.linalg.svd(x[:, :5].astype(float), compute_uv=False)
    shares = shares / shares.sum() + 1e-7
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert evaluate(given, ["rankme_projection"]).values["rankme_projection"] == pytest.approx(expected, rel=1e-6)


# -- further anomaly scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [30, 200])
def test_the_kth_neighbours_score_is_its_definition(n: int) -> None:
    train, queries = points(n, 5, 0), points(60, 5, 1)
    unit = [x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (train, queries)]
    distances = np.sort(np.linalg.norm(unit[1][:, None] - unit[0], axis=2), axis=1)[:, min(50, n) - 1]
    given = EvaluationInputs(*[Features(train, train, np.arange(n) % 3)] * 3, 3)
    np.testing.assert_allclose(given.kth_scores(Features(queries, queries, np.zeros(60, int))), distances, rtol=1e-9)


def mahalanobis(moments: Moments, queries: Points) -> NDArray[np.float64]:
    return anomaly.mahalanobis_scores(moments.mean, anomaly.whitening(moments), queries)


def test_mahalanobis_scores_are_scikit_learns() -> None:
    train, queries = points(400, 6, 0), points(50, 6, 1, 1.0)
    reference = EmpiricalCovariance().fit(train.astype(float)).mahalanobis(queries.astype(float))  # squared, divisor N
    np.testing.assert_allclose(mahalanobis(moments_of(train), queries), np.sqrt(reference * 399 / 400), rtol=1e-9)


def test_mahalanobis_leaves_out_directions_without_deviation() -> None:
    train, queries = points(400, 4, 0), points(50, 4, 1)
    flat = [np.hstack([x, np.full((len(x), 2), 3.0, np.float32)]) for x in (train, queries)]
    expected = mahalanobis(moments_of(train), queries)
    np.testing.assert_allclose(mahalanobis(moments_of(flat[0]), flat[1]), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="coincide"):
        mahalanobis(moments_of(np.ones((9, 3), np.float32)), queries[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        mahalanobis(moments_of(train), np.full((2, 4), np.nan, np.float32))


def test_the_aucs_are_of_those_scores() -> None:
    train, test, odd = points(200, 5, 0), points(80, 5, 1), points(40, 5, 2, 2.0)
    given = EvaluationInputs(
        Features(train, train, np.arange(200) % 3), Features(test, test, np.arange(80) % 3),
        Features(test, test, np.arange(80) % 3), 3, {"odd": Features(odd, odd, np.zeros(40, int))},
    )  # fmt: skip
    values = evaluate(given, ["anomaly_auc_kth/odd", "anomaly_auc_mahalanobis/odd"]).values
    truth = np.repeat([0, 1], [80, 40])
    for name, scores in (
        ("kth", lambda x: given.kth_scores(Features(x, x, np.zeros(len(x), int)))),
        ("mahalanobis", lambda x: mahalanobis(moments_of(train), x)),
    ):
        expected = roc_auc_score(truth, np.concatenate([scores(test), scores(odd)]))
        assert values[f"anomaly_auc_{name}/odd"] == pytest.approx(expected)
