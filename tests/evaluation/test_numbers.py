"""Every number against an independent reference: scikit-learn, scipy, or the paper's formula written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from evaluation import anomaly, clustering, probe, retrieval, spectrum
from evaluation.probe import GRADIENT_NORM, L2_STRENGTHS, logistic_probe, study_probe

Points = NDArray[np.float32]
Labels = NDArray[np.int64]


def blobs(n: int, classes: int = 4, dim: int = 6, seed: int = 0, spread: float = 1.5) -> tuple[Points, Labels]:
    draw = np.random.default_rng(seed)
    centers = np.random.default_rng(77).normal(size=(classes, dim)) * 2
    labels = draw.integers(classes, size=n)
    return (centers[labels] + draw.normal(size=(n, dim)) * spread).astype(np.float32), labels


# -- probes --------------------------------------------------------------------------------------------------------------


def test_the_probe_is_scikit_learns_at_the_chosen_strength() -> None:
    train, validation, test = blobs(600), blobs(200, seed=1), blobs(400, seed=2)
    scale = np.array([1e-4, 1, 100, 1, 1, 1], dtype=np.float32)
    train, validation, test = ((points * scale, labels) for points, labels in (train, validation, test))
    found = logistic_probe(train, validation, test)
    scaler = StandardScaler().fit(train[0])
    reference = LogisticRegression(C=1 / (found.l2 * 600), tol=1e-9, max_iter=100_000).fit(scaler.transform(train[0]), train[1])
    assert found.converged and found.l2 in L2_STRENGTHS
    assert (reference.predict(scaler.transform(test[0])) == found.predictions).mean() > 0.997
    assert found.accuracy == pytest.approx(reference.score(scaler.transform(test[0]), test[1]), abs=0.005)


def objective(x: NDArray[Any], labels: Labels, l2: float, w: NDArray[Any]) -> float:
    """Mean cross-entropy + l2 / 2 ||W||^2, the last row of w being the bias."""
    logits = x @ w
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-log_p[np.arange(len(x)), labels].mean() + l2 / 2 * np.square(w[:-1]).sum())


@pytest.mark.parametrize("classes", [2, 3])
def test_every_fit_is_the_documented_minimum_and_scikit_learns(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[float, NDArray[np.float64], bool]] = []
    original = probe._fit

    def fit(x: Any, labels: Any, l2: float, *others: Any) -> tuple[NDArray[np.float64], bool]:
        weights, converged = original(x, labels, l2, *others)
        fitted.append((l2, weights, converged))
        return weights, converged

    monkeypatch.setattr(probe, "_fit", fit)
    points, labels = blobs(400, classes=classes)
    points[:, 1] = points[:, 0] + 1e-3 * points[:, 1]  # two directions that differ in scale by three orders of magnitude
    logistic_probe((points, labels * 3), blobs(100, classes=classes, seed=1), blobs(100, classes=classes, seed=2))
    x = np.hstack([(points - points.mean(axis=0, dtype=float)) / points.std(axis=0, dtype=float), np.ones((400, 1))])
    assert [l2 for l2, _, _ in fitted] == list(L2_STRENGTHS[: len(fitted)]) and len(fitted) > 3
    for l2, w, converged in fitted:
        p = np.exp(x @ w)
        gradient = x.T @ (p / p.sum(axis=1, keepdims=True) - np.eye(classes)[labels]) / 400
        gradient[:-1] += l2 * w[:-1]  # of mean cross-entropy + l2 / 2 ||W||^2
        assert converged and np.abs(gradient).max() <= GRADIENT_NORM * 1.001
        # With two classes scikit-learn fits one vector for the difference of the two: half the penalty is the same objective.
        model = LogisticRegression(C=(2 if classes == 2 else 1) / (l2 * 400), tol=1e-9, max_iter=100_000).fit(x[:, :-1], labels)
        theirs = np.hstack([model.coef_, model.intercept_[:, None]]).T
        theirs = np.hstack([-theirs / 2, theirs / 2]) if classes == 2 else theirs
        if l2 > 5e-6:
            assert np.linalg.norm(x @ (w - theirs)) < 2e-3 * np.linalg.norm(x @ theirs)
        values = [objective(x, labels, l2, weights) for weights in (w, theirs)]
        assert values[0] == pytest.approx(values[1], abs=5e-6), (
            "with weaker penalties it is flat, and distant weights are as good"
        )


def test_a_probe_of_fewer_points_than_dimensions_is_scikit_learns() -> None:
    train, validation, test = (blobs(n, dim=90, seed=seed, spread=4.0) for seed, n in enumerate((60, 200, 400)))
    found = logistic_probe(train, validation, test)
    scaler = StandardScaler().fit(train[0])
    reference = LogisticRegression(C=1 / (found.l2 * 60), tol=1e-9, max_iter=100_000).fit(scaler.transform(train[0]), train[1])
    assert 0.3 < found.accuracy < 0.99 and found.converged
    assert found.accuracy == pytest.approx(reference.score(scaler.transform(test[0]), test[1]), abs=0.003)


def test_a_probe_says_whether_its_strength_lies_at_the_edge_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation, test = blobs(600), blobs(200, seed=1), blobs(400, seed=2)
    assert not logistic_probe(train, validation, test).at_edge
    assert L2_STRENGTHS[0] == 1 and L2_STRENGTHS[-1] == pytest.approx(1e-10)
    # Two directions of which only their small difference tells the classes apart: only a weak penalty lets it count.
    draw = np.random.default_rng(0)

    def hidden(n: int) -> tuple[Points, Labels]:
        labels = draw.integers(2, size=n)
        common = draw.normal(size=n)
        noise = draw.normal(size=n)
        return np.stack([common, common + 3e-4 * (labels - 0.5) + 1e-4 * noise], axis=1).astype(np.float32), labels

    weak = logistic_probe(hidden(2000), hidden(2000), hidden(500))
    assert weak.l2 < 1e-5 and weak.accuracy > 0.85
    monkeypatch.setattr(probe, "L2_STRENGTHS", (1.0, weak.l2))
    assert logistic_probe(hidden(2000), hidden(2000), hidden(500)).at_edge


def test_a_drop_at_the_level_of_chance_does_not_end_the_search_and_overfitting_does(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = (np.arange(200) % 5 < 2).astype(np.int64)  # 60 % of class 0
    points = np.stack([2.0 * labels - 1, np.arange(200) % 2], axis=1).astype(np.float32)
    always_0, always_1 = np.array([[0, 0], [0, 0], [1, 0.0]]), np.array([[0, 0], [0, 0], [0, 1.0]])
    right = np.array([[-1, 1], [0, 0], [0, 0.0]])

    def chosen(fits: list[NDArray[np.float64]], validation: Labels) -> probe.Probe:
        left = iter(fits)
        monkeypatch.setattr(probe, "_fit", lambda *_: (next(left), True))
        monkeypatch.setattr(probe, "L2_STRENGTHS", (1.0, 0.1, 0.01)[: len(fits)])
        return logistic_probe((points, labels), (points, validation), (points, labels))

    assert chosen([always_0, always_1, right], labels).l2 == 0.01, "40 % after 60 %, and no more on train"
    # Validation labels that are the train images' turned round: what is right on train is wrong there.
    monkeypatch.undo()
    asked = []
    monkeypatch.setattr(
        probe, "_fit", lambda *given: (asked.append(given[2]), [always_1, right, always_1][len(asked) - 1], True)[1:]
    )
    assert logistic_probe((points, labels), (points, 1 - labels), (points, labels)).l2 == 1.0 and asked == [1.0, 0.1]


def test_a_fit_that_does_not_converge_ends_the_search_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation, test = blobs(600), blobs(200, seed=1), blobs(400, seed=2)
    monkeypatch.setattr(probe, "_ROUNDS", 1)
    monkeypatch.setattr(probe, "_ITERATIONS", 2)
    found = logistic_probe(train, validation, test)
    assert not found.converged and found.at_edge and found.l2 == 1


def test_a_probe_of_one_class_or_of_nan_is_not_defined() -> None:
    points, labels = blobs(40)
    with pytest.raises(ValueError, match="two classes"):
        logistic_probe((points, labels * 0), (points, labels), (points, labels))
    points[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        logistic_probe(blobs(40), (points, labels), (points, labels))


def test_the_strength_is_chosen_on_validation_not_on_test() -> None:
    draw = np.random.default_rng(0)
    noise = (
        draw.normal(size=(60, 80)).astype(np.float32),
        np.arange(60) % 2,
    )  # more dimensions than points: no more than memory
    test = (draw.normal(size=(500, 80)).astype(np.float32), np.arange(500) // 250)
    found = logistic_probe(noise, noise, test)
    assert found.validation_accuracy == 1.0, "validated on what it has learnt by heart"
    assert found.accuracy < 0.65


def test_the_probe_is_blind_to_scale_and_the_studies_probe_is_not() -> None:
    train, validation, test = blobs(600), blobs(200, seed=1), blobs(400, seed=2)
    tiny = [(points * np.float32(1e-3), labels) for points, labels in (train, validation, test)]
    assert logistic_probe(*tiny).accuracy == pytest.approx(logistic_probe(train, validation, test).accuracy, abs=0.01)
    many = blobs(6000)
    assert study_probe(many, test, 4) > study_probe((many[0] * np.float32(1e-3), many[1]), tiny[2], 4) + 0.2


def test_the_studies_probe_is_ten_epochs_of_adam() -> None:
    import torch

    from core.rng import generator

    (x, y), (xt, yt) = blobs(100), blobs(300, seed=2)
    layer = torch.nn.Linear(6, 4)
    bound = 1 / np.sqrt(6)
    initial = torch.from_numpy(generator(0, "study-probe").uniform(-bound, bound, (4, 7)).astype(np.float32))
    with torch.no_grad():
        layer.weight.copy_(initial[:, :6])
        layer.bias.copy_(initial[:, 6])
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-4)
    for epoch in range(10):
        order = generator(0, "study-probe/order", epoch).permutation(100)
        for start in range(0, 100, 32):
            batch = order[start : start + 32]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(torch.from_numpy(x[batch])), torch.from_numpy(y[batch])).backward()
            optimizer.step()
    expected = (layer(torch.from_numpy(xt)).argmax(dim=1).numpy() == yt).mean()
    assert study_probe((x, y), (xt, yt), 4) == pytest.approx(expected, abs=1e-9)


# -- anomalies -----------------------------------------------------------------------------------------------------------


def test_scores_are_mean_distances_to_the_two_nearest() -> None:
    train, queries = blobs(200)[0] + 50, blobs(30, seed=1)[0] + 50
    distances = np.sort(np.linalg.norm(queries[:, None].astype(np.float64) - train, axis=2), axis=1)[:, :2]
    np.testing.assert_allclose(anomaly.scores(train, queries), distances.mean(axis=1), rtol=1e-5)


def test_auc_equals_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(0)
    normal, strange = draw.normal(size=300).round(1), (draw.normal(size=200) + 1).round(1)  # with ties
    pairs = (strange[:, None] > normal).mean() + 0.5 * (strange[:, None] == normal).mean()
    assert anomaly.auc(normal, strange) == pytest.approx(pairs, abs=1e-12)
    assert anomaly.auc(normal, strange) == pytest.approx(roc_auc_score([0] * 300 + [1] * 200, [*normal, *strange]), abs=1e-12)
    assert anomaly.auc(normal, strange[:1]) >= 0  # one anomaly is enough


def test_fpr_at_95_tpr_by_counting() -> None:
    draw = np.random.default_rng(1)
    normal, strange = draw.normal(size=300), draw.normal(size=200) + 1
    threshold = np.sort(strange)[10]  # 190 of 200 lie at or above it
    assert anomaly.fpr_at_95_tpr(normal, strange) == pytest.approx((normal >= threshold).mean(), abs=1e-12)


# -- clusters ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_silhouettes_equal_scikit_learns(offset: float) -> None:
    points, labels = blobs(1500, spread=3)
    points = points + np.float32(offset)
    clusters = clustering.kmeans(points, 4).assignment
    ours = clustering.silhouettes(points, [clusters, labels])
    for value, assignment in zip(ours, (clusters, labels), strict=True):
        assert value == pytest.approx(silhouette_score(points.astype(np.float64), assignment), abs=1e-6)


def test_silhouette_with_a_point_alone_and_with_one_label() -> None:
    points, labels = blobs(50)
    labels[0] = 9
    value, none = clustering.silhouettes(points, [labels, np.zeros(50, dtype=np.int64)])
    assert value == pytest.approx(silhouette_score(points.astype(np.float64), labels), abs=1e-6)
    assert np.isnan(none)


def test_silhouette_of_equal_points_is_zero() -> None:
    assert clustering.silhouettes(np.ones((20, 3), np.float32), [np.arange(20) % 2]) == [0.0]


def test_cluster_accuracy_is_the_best_naming() -> None:
    draw = np.random.default_rng(0)
    labels, assignment = draw.integers(5, size=300), draw.integers(4, size=300)
    table = np.array([[(labels == i)[assignment == j].sum() for j in range(4)] for i in range(5)])
    rows, columns = linear_sum_assignment(-table)
    assert clustering.cluster_accuracy(labels, assignment) == pytest.approx(table[rows, columns].sum() / 300)
    assert clustering.cluster_accuracy(labels, (labels + 3) % 5) == 1.0


def test_anomalies_passed_where_95_percent_of_normal_images_are_by_counting() -> None:
    draw = np.random.default_rng(1)
    normal, strange = draw.normal(size=300), draw.normal(size=200) + 1
    threshold = np.sort(normal)[284]  # 285 of 300 lie at or below it
    assert anomaly.passed_at_95(normal, strange) == pytest.approx((strange <= threshold).mean(), abs=1e-12)
    assert anomaly.passed_at_95(normal, strange) != anomaly.fpr_at_95_tpr(normal, strange)


def test_kmeans_is_repeatable_and_survives_a_collapsed_encoder() -> None:
    points, _ = blobs(300)
    assert np.array_equal(clustering.kmeans(points, 4).assignment, clustering.kmeans(points, 4).assignment)
    assert clustering.kmeans(np.ones((50, 3), np.float32), 4).assignment.shape == (50,)


# -- neighbours and spectra ----------------------------------------------------------------------------------------------


def test_knn_accuracy_equals_scikit_learns() -> None:
    (x, y), (xt, yt) = blobs(500, spread=3), blobs(200, seed=1, spread=3)
    reference = KNeighborsClassifier(20, algorithm="brute").fit(x, y)
    assert retrieval.knn_accuracy(x, y, xt, yt) == pytest.approx(reference.score(xt, yt), abs=1e-9)


def test_knn_accuracy_of_a_collapsed_representation_is_that_of_float64() -> None:
    draw = np.random.default_rng(0)
    y, yt = np.arange(400) % 4, np.arange(100) % 4
    x, xt = ((7 + 2e-6 * (draw.normal(size=(len(of), 64)) + 0.6 * of[:, None])).astype(np.float32) for of in (y, yt))
    reference = KNeighborsClassifier(20, algorithm="brute").fit(x.astype(np.float64), y)
    assert retrieval.knn_accuracy(x, y, xt, yt) == reference.score(xt.astype(np.float64), yt)


def test_rankme_is_its_formula() -> None:
    z = np.random.default_rng(0).normal(size=(200, 20)) * np.geomspace(1, 1e-3, 20) + 0.3
    s = np.linalg.svd(z, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert spectrum.rankme(z.astype(np.float32)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def effective_rank(representation: NDArray[np.float32]) -> float:
    return spectrum.effective_rank(spectrum.covariance_eigenvalues(representation))


def test_effective_rank_is_its_formula() -> None:
    z = np.random.default_rng(0).normal(size=(200, 20)) * np.geomspace(1, 1e-3, 20) + 5
    p = np.linalg.eigvalsh(np.cov(z.astype(np.float32).astype(np.float64), rowvar=False))
    p = p / p.sum()
    assert effective_rank(z.astype(np.float32)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_ranks_of_known_representations() -> None:
    orthonormal = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 8)))[0].astype(np.float32)
    assert spectrum.rankme(orthonormal) == pytest.approx(8, rel=1e-4)
    line = np.outer(np.arange(50), [1, 2, 3]).astype(np.float32)
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    for constant in (np.zeros((10, 3), np.float32), np.ones((10, 3), np.float32)):
        assert effective_rank(constant) == 1.0
        assert spectrum.rankme(constant) == pytest.approx(1, abs=1e-4)
    wide = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)  # fewer points than dimensions
    s = np.linalg.svd(wide.astype(np.float64), compute_uv=False)
    p = s / s.sum() + 1e-7
    assert spectrum.rankme(wide) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_equal_points_are_at_no_distance_whatever_float32_made_of_them() -> None:
    """An encoder's outputs for one image differ in their last bits between batches of two sizes."""
    point = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    train = np.repeat(point, 50, axis=0)
    assert (anomaly.scores(train, np.repeat(np.nextafter(point, np.float32(9)), 5, axis=0)) == 0).all()
    assert (anomaly.scores(train, np.repeat(point * np.float32(1.0001), 5, axis=0)) > 0).all()


def test_distinct_farthest_counts_of_as_many_as_there_could_be() -> None:
    hubs = np.concatenate([np.zeros((95, 2)), 100 + np.arange(10).reshape(5, 2)]).astype(np.float32)
    queries = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
    assert retrieval.distinct_farthest(hubs, queries) == 5 / 100
    few = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert retrieval.distinct_farthest(few, queries) == 1.0, "all five are among the five most distant of any"
