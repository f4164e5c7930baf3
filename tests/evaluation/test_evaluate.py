"""The registry: every metric answers, or says why not; one that fails leaves the others alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.config import Augmentation
from core.datasets import ImageSet, Splits
from core.embed import Features, embed
from core.pairing import PairStatistics
from core.train import train
from evaluation import lidar
from evaluation.baselines import embedder, fit
from evaluation.evaluate import METRICS, Metric, evaluate, metric_ids
from evaluation.inputs import EvaluationInputs
from tests.conftest import image_set, tiny_config
from tests.evaluation.test_numbers import blobs

SETS = {"near": "id-1", "far": "id-2"}


@pytest.fixture(autouse=True)
def _few_images_for_lidar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lidar, "IMAGES", 16)  # views take most of the time


def features(n: int, seed: int, scale: float = 1.0) -> Features:
    points, labels = blobs(n, seed=seed)
    return Features(points * np.float32(scale), points[:, :3] * np.float32(scale), labels, points[:, 1:] * np.float32(scale))


def images(n: int, seed: int) -> ImageSet:
    """Images with one known factor, the first channel's mean, beside two that are noise."""
    made = image_set(n, seed=seed)
    draw = np.random.default_rng(seed)
    factors = {
        "background_colour": made.images.mean(axis=(2, 3)) / 255,
        "position": draw.normal(size=(n, 2)),
        "size": draw.normal(size=(n, 1)),
    }
    return ImageSet(made.images, made.labels, made.class_names, None, factors)


def embedded(given: ImageSet) -> Features:
    means = given.images.mean(axis=(2, 3)).astype(np.float32)
    points = np.concatenate([means, np.square(means)], axis=1) / np.float32(255)
    return Features(points, points, given.labels, points[:, :4])


def inputs(scale: float = 1.0, **changes: object) -> EvaluationInputs:
    history = ({"projection_std": 0.9, "dead_dimensions": 0.0},)
    given = {
        "train": features(300, 0, scale), "validation": features(60, 1, scale), "test": features(100, 2, scale), "classes": 4,
        "anomalies": {"near": features(50, 3, scale), "far": features(50, 4, 9 * scale)},
        "validation_anomalies": features(30, 5, scale),
        "history": history, "pairs": PairStatistics(0.5, 7), "untrained_probe_accuracy": 0.3,
        "images": Splits(images(300, 0), images(60, 1), images(100, 2)), "embed": embedded,
        "augmentation": Augmentation(),
    }  # fmt: skip
    return EvaluationInputs(**given | changes)  # type: ignore[arg-type]


def everything(given: EvaluationInputs) -> tuple[dict[str, float | None], dict[str, str]]:
    result = evaluate(given, list(metric_ids(dict.fromkeys(given.anomalies, "id"))))
    return result.values, result.problems


def test_every_metric_answers() -> None:
    values, problems = everything(inputs())
    assert problems == {}
    assert set(values) == set(metric_ids(SETS))
    assert all(value is not None and np.isfinite(value) for value in values.values())
    assert values["anomaly_auc/far"] > values["anomaly_auc/near"]  # type: ignore[operator]


def test_ids_change_with_version_and_anomaly_content(monkeypatch: pytest.MonkeyPatch) -> None:
    before = metric_ids(SETS)
    assert before["anomaly_auc/near"] != before["anomaly_auc/far"]
    old = METRICS["rankme"]
    monkeypatch.setitem(METRICS, "rankme", Metric(old.function, old.better, old.meaning, version=old.version + 1))
    assert {name for name, id_ in metric_ids(SETS).items() if id_ != before[name]} == {"rankme"}


def test_rows_without_training_have_no_training_metrics() -> None:
    plain = {part: replace(features(n, n), projection=None) for part, n in (("train", 300), ("validation", 60), ("test", 100))}
    values, problems = everything(
        inputs(history=(), pairs=None, has_backbone=False, untrained_probe_accuracy=None, images=None, embed=None,
                 validation_anomalies=None, **plain)
    )  # fmt: skip
    assert problems == {}
    absent = {name for name, value in values.items() if value is None}
    of_images = {name for name in METRICS if name.startswith(("moved_by_", "reads_"))}
    assert absent - of_images == {
        "projection_std", "dead_dimensions", "probe_gain", "collapse_indicators", "pair_label_purity", "distinct_partners",
        "probe_accuracy_backbone", "knn_accuracy_cosine_backbone", "validation_anomaly_auc", "probe_accuracy_projection",
        "knn_accuracy_cosine_projection", "rankme_projection", "lidar",
    }  # fmt: skip


def test_a_constant_representation_gives_results_or_statements() -> None:
    constant = {
        part: Features(np.ones((n, 4), np.float32), np.ones((n, 4), np.float32), np.arange(n) % 4)
        for part, n in (("train", 80), ("validation", 20), ("test", 40))
    }
    values, problems = everything(inputs(**constant, anomalies={"near": constant["test"]}))
    assert set(values) | set(problems) == set(metric_ids({"near": "x"}))
    assert values["effective_rank"] == 1.0 and values["anomaly_auc/near"] == 0.5


def test_nan_is_stated_metric_by_metric() -> None:
    train = features(300, 0)
    train.representation[5, 2] = np.nan
    values, problems = everything(inputs(train=train))
    assert "probe_accuracy" in problems and "anomaly_auc/near" in problems and "silhouette" in problems
    assert "NaN" in problems["knn_accuracy"]
    assert values["projection_std"] == 0.9, "what does not look at the representation is there"


@pytest.mark.parametrize(
    ("history", "untrained", "spoken"),
    [
        ({"projection_std": 0.9, "dead_dimensions": 0.0}, 0.3, 0),
        ({"projection_std": 0.09, "dead_dimensions": 0.0}, 0.3, 1),
        ({"projection_std": 0.09, "dead_dimensions": 0.6}, 0.3, 2),
        ({"projection_std": 0.09, "dead_dimensions": 0.6}, 0.99, 3),
    ],
)
def test_collapse_indicators(history: dict[str, float], untrained: float, spoken: int) -> None:
    values, _ = everything(inputs(history=(history,), untrained_probe_accuracy=untrained))
    assert values["collapse_indicators"] == spoken


def test_a_gain_within_the_test_sets_error_is_none() -> None:
    given = inputs()
    accuracy = given.probe.accuracy
    error = np.sqrt(2 * accuracy * (1 - accuracy) / 100)
    for gain, spoken in ((1.5 * error, 1), (3 * error, 0)):
        values, _ = everything(inputs(untrained_probe_accuracy=accuracy - gain))
        assert values["collapse_indicators"] == spoken


def test_embedding_leaves_the_encoder_as_it_was() -> None:
    splits = Splits(image_set(32), image_set(8, seed=1), image_set(16, seed=2))
    encoder = train(tiny_config(epochs=1, encoder="resnet18", representation_dim=8), splits).encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = embed(encoder, splits.test)
    assert encoder.training
    assert all(bool((before[name] == value).all()) for name, value in encoder.state_dict().items())
    assert found.representation.shape == (16, 8) and found.backbone.shape == (16, 512)


def test_what_an_operation_does_to_the_representation_is_measured() -> None:
    splits = Splits(images(300, 0), images(60, 1), images(100, 2))
    parts = {name: embedded(getattr(splits, name)) for name in ("train", "validation", "test")}
    values, _ = everything(inputs(**parts, images=splits, anomalies={"near": parts["test"]}))
    assert values["moved_by_flip"] == 0, "the channels' means do not change"
    moved = {name: value for name, value in values.items() if name.startswith("moved_by_")}
    assert len(moved) == 8 and all(value is not None and value > 0 for name, value in moved.items() if name != "moved_by_flip")
    assert values["moved_by_grey"] > values["moved_by_hue"] > values["moved_by_blur"]  # type: ignore[operator]
    assert values["distance_within_class"] < 0.7, "the class shows in the mean colour"  # type: ignore[operator]
    assert values["reads_background_colour"] > 0.95 and values["reads_position"] < 0.2  # type: ignore[operator]


def test_baselines_embed_pixels_their_components_and_initial_weights() -> None:
    splits = Splits(image_set(32), image_set(8, seed=1), image_set(16, seed=2))
    raw = embedder(tiny_config(method="raw-pixels"), splits, "cpu", {})(splits.test)
    np.testing.assert_allclose(raw.representation, splits.test.images.reshape(16, -1) / 255, atol=1e-7)
    one, two = (embedder(tiny_config(method="untrained", seed=s), splits, "cpu", {})(splits.test) for s in (0, 1))
    assert not np.array_equal(one.representation, two.representation)
    config = tiny_config(method="pca", representation_dim=5)
    found = embedder(config, splits, "cpu", fit(config, splits))(splits.test).representation
    train, test = (part.images.reshape(len(part), -1) / 255 for part in (splits.train, splits.test))
    _, _, axes = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs((test - train.mean(axis=0)) @ axes[:5].T), atol=1e-4)


@pytest.mark.parametrize(
    ("error", "is_defect"),
    [
        (ValueError("no"), False),
        (np.linalg.LinAlgError("no"), False),
        (torch.linalg.LinAlgError("no"), False),
        (KeyError("no"), True),
    ],
)
def test_what_has_no_solution_is_not_defined_and_anything_else_is_a_defect(
    error: Exception, is_defect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: EvaluationInputs) -> float:
        raise error

    monkeypatch.setitem(METRICS, "rankme", Metric(fails, "higher", ""))
    found = evaluate(inputs(), ["rankme", "silhouette"])
    assert set(found.problems) == {"rankme"} and set(found.values) == {"silhouette"}
    assert found.defects == ({"rankme"} if is_defect else set())


def test_a_gpu_whose_memory_is_used_up_ends_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: EvaluationInputs) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setitem(METRICS, "rankme", Metric(fails, "higher", ""))
    with pytest.raises(MemoryError, match=r"20\.00 GiB"):  # the trial is tried again; as a problem of the metric it would stay
        evaluate(inputs(), ["rankme"])
