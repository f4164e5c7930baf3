"""Details of single images against independent references, and figures drawn from them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure as MplFigure
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics.cluster import contingency_matrix

from core.datasets import Splits
from core.embed import Features
from evaluation.evaluate import evaluate, metric_ids
from evaluation.inputs import EvaluationInputs
from evaluation.per_image import DETAILS, Arrays, _axes, compute, derive, detail_ids
from evaluation.plot_style import drawn, panels, styled
from evaluation.trial_figures import FIGURES, FigureInputs, draw, draw_anomalies, figure_ids, needed_details
from sweeps.reporting import arm_figures
from sweeps.reporting.arm_figures import Arm
from tests.conftest import image_set
from tests.evaluation.test_evaluate import inputs

SETS = {"near": "id-1", "far": "id/2"}


@pytest.fixture(scope="module")
def given() -> EvaluationInputs:
    return inputs()


@pytest.fixture(scope="module")
def details(given: EvaluationInputs) -> dict[str, Arrays]:
    found = {name: compute(name, given) for name in detail_ids(SETS) if not DETAILS[name.partition("/")[0]].derived}
    present = {name: arrays for name, arrays in found.items() if arrays is not None}
    return present | {"tsne": derive("tsne", present) or {}}


def test_every_detail_is_named_and_identified() -> None:
    ids = detail_ids(SETS)
    assert set(ids) == {*DETAILS} - {"anomalies"} | {"anomalies/near", "anomalies/far"}
    assert len(set(ids.values())) == len(ids) and all("/" not in id_ for id_ in ids.values())
    assert ids["anomalies/near"] != detail_ids({"near": "other"})["anomalies/near"]


def test_projection_is_pca(given: EvaluationInputs, details: dict[str, Arrays]) -> None:
    found, points = details["projection"], given.test.representation.astype(np.float64)
    reference = PCA().fit(points)
    np.testing.assert_allclose(found["variance_share"], reference.explained_variance_ratio_, atol=1e-10)
    np.testing.assert_allclose(np.abs(found["test"]), np.abs(reference.transform(points)), atol=1e-4)
    np.testing.assert_allclose(np.abs(found["centers"]), np.abs(reference.transform(given.clusters.centers)), atol=1e-4)


def test_axes_of_fewer_images_than_dimensions_are_those_of_pca_and_those_without_variance_are_0(
    given: EvaluationInputs,
) -> None:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(12, 2)) * [3, 1e-3] @ draw.normal(size=(2, 40)) + 5
    features = Features(points, points, np.zeros(12, dtype=np.int64))  # type: ignore[arg-type]
    mean, variances, axes = _axes(replace(given, test=features))
    reference = PCA(2).fit(points)
    np.testing.assert_allclose(mean, points.mean(axis=0))
    np.testing.assert_allclose(variances[:2], reference.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(np.abs(axes[:, :2]), np.abs(reference.components_.T), atol=1e-5)
    assert not axes[:, 2:].any()


def test_clusters_of_test_images_and_contingency(given: EvaluationInputs, details: dict[str, Arrays]) -> None:
    found = details["clusters"]
    distances = np.linalg.norm(given.test.representation[:, None].astype(np.float64) - found["centers"], axis=-1)
    np.testing.assert_array_equal(found["test"], distances.argmin(axis=1))
    np.testing.assert_array_equal(found["contingency"], contingency_matrix(given.train.labels, given.clusters.assignment))


def test_retrieval_is_brute_force(given: EvaluationInputs, details: dict[str, Arrays]) -> None:
    found = details["retrieval"]
    assert list(found["labels"]) == [0, 1, 2, 3]
    for query, label, near, far in zip(found["queries"], found["labels"], found["nearest"], found["farthest"], strict=True):
        assert given.test.labels[query] == label
        point = given.test.representation[query].astype(np.float64)
        order = np.argsort(np.linalg.norm(given.train.representation - point, axis=1))
        np.testing.assert_array_equal(near, order[:5])
        np.testing.assert_array_equal(far, order[::-1][:5])


def test_spectrum_predictions_and_scores(given: EvaluationInputs, details: dict[str, Arrays]) -> None:
    eigenvalues = np.linalg.svd(given.train.representation - given.train.representation.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(details["spectrum"]["eigenvalues"], eigenvalues / (len(given.train) - 1), rtol=1e-4)
    predicted = details["predictions"]
    assert np.mean(predicted["test"] == predicted["test_labels"]) == given.probe.accuracy
    values = evaluate(given, ["anomaly_auc/far"]).values
    scores = details["anomalies/far"]
    above = (scores["anomalies"][:, None] > scores["test"]).mean()
    assert values["anomaly_auc/far"] == pytest.approx(above, abs=1e-9)
    np.testing.assert_array_equal(scores["representation"], given.anomalies["far"].representation)


def test_tsne_is_repeatable_and_places_images_and_centres(details: dict[str, Arrays]) -> None:
    found, again = details["tsne"], derive("tsne", details)
    assert again is not None
    np.testing.assert_array_equal(found["test"], again["test"])
    assert found["test"].shape == (100, 2) and found["centers"].shape == (4, 2) and np.isfinite(found["test"]).all()


def test_raw_pixels_are_not_kept_again(given: EvaluationInputs) -> None:
    wide = np.zeros((10, 3072), np.float32)
    features = type(given.train)(wide, wide, np.arange(10) % 4)
    assert compute("representations", inputs(train=features)) is None


# -- figures -------------------------------------------------------------------------------------------------------------

HISTORY = tuple(
    {f"{part}/{term}": 1.0 / epoch for part in ("train", "test") for term in ("loss", "invariance", "variance", "covariance")}
    | {"epoch": epoch, "projection_std": 0.9, "dead_dimensions": 0.0, "seconds": 1.0, "images_per_second": 300.0}
    for epoch in (1, 2, 3)
)


@pytest.fixture(scope="module")
def material(given: EvaluationInputs, details: dict[str, Arrays]) -> FigureInputs:
    names = list(metric_ids(SETS))
    values = {name: value for name, value in evaluate(given, names).values.items() if value is not None}
    images = Splits(image_set(300), image_set(60, seed=1), image_set(100, seed=2))
    anomalies = {"near": image_set(50, seed=3), "far": image_set(50, seed=4)}
    return FigureInputs("neighbors · seed 7", images, anomalies, details, values, HISTORY, "neighbors")


def texts(figure: MplFigure) -> str:
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
        found += [tick.get_text() for tick in (*axes.get_yticklabels(), *axes.get_xticklabels())]
    for legend in [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]:
        found += [text.get_text() for text in legend.get_texts()]
    return "\n".join(found)


@pytest.mark.parametrize("name", figure_ids("", SETS))
def test_every_figure_is_a_picture_that_names_its_arm(name: str, material: FigureInputs) -> None:
    picture = draw(name, material)
    assert picture is not None
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG" and min(image.size) > 200
    assert len(np.unique(np.asarray(image.convert("L")))) > 10, "something is drawn"
    bare, _, which = name.partition("/")
    figure = FIGURES[bare].function(material, which) if which else FIGURES[bare].function(material)
    assert isinstance(figure, MplFigure) and "neighbors · seed 7" in texts(figure)


def test_figures_say_what_a_reader_must_know(material: FigureInputs) -> None:
    drawn = {name: texts(FIGURES[name].function(material)) for name in FIGURES if not FIGURES[name].per_anomaly_set}
    assert "not comparable" in drawn["loss"] and "pairs: neighbors" in drawn["loss"]
    share = material.details["projection"]["variance_share"]
    assert f"axis 1: {share[0]:.1%} of the variance" in drawn["projections"] and "n = 100" in drawn["projections"]
    assert all(name in drawn[figure].split("\n") for name in "abcd" for figure in ("projections", "clusters", "retrieval"))
    distinct = len(np.unique(material.details["retrieval"]["farthest"]))
    assert f"{distinct} distinct images among the 20 most distant" in drawn["retrieval"]
    assert f"RankMe {material.metrics['rankme']:.1f}" in drawn["spectrum"]
    assert "another of the class" in drawn["invariances"] and "n = 100" in drawn["invariances"]
    anomalies = texts(draw_anomalies(material, "far"))
    assert (
        f"AUC {material.metrics['anomaly_auc/far']:.4f}" in anomalies
        and "n = 50" in anomalies
        and "7 most anomalous" in anomalies
    )


def test_the_images_shown_are_the_most_anomalous_and_the_most_mistaken(material: FigureInputs) -> None:
    panel = draw_anomalies(material, "far").axes[2]
    picture = np.asarray(panel.images[0].get_array())
    scores = material.details["anomalies/far"]
    rows = [(material.anomalies["far"], scores["anomalies"]), (material.images.test, scores["test"])]
    cell = 32 + 8
    for i, (images, values) in enumerate(rows):
        for j, index in enumerate(np.argsort(-values)[:7]):
            shown = picture[i * cell + 4 : i * cell + 36, j * cell + 4 : j * cell + 36]
            np.testing.assert_array_equal(shown, images.images[index].transpose(1, 2, 0))


def test_wrong_classes_are_framed(material: FigureInputs) -> None:
    panel = FIGURES["retrieval"].function(material).axes[0]  # type: ignore[union-attr]
    picture, found, cell = np.asarray(panel.images[0].get_array()), material.details["retrieval"], 40
    for i in range(4):
        for j in range(5):
            corner = picture[i * cell + 2, (j + 2) * cell + 2]
            framed = tuple(corner) == (204, 51, 17)
            assert framed == (found["nearest_labels"][i, j] != found["labels"][i])


def test_what_a_figure_shows_identifies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = figure_ids("base", SETS)
    assert set(before) == {
        "loss",
        "projections",
        "anomalies/near",
        "anomalies/far",
        "retrieval",
        "clusters",
        "spectrum",
        "invariances",
    }
    assert all(before[name] != id_ for name, id_ in figure_ids("other", SETS).items()), "the title is in the picture"
    monkeypatch.setitem(DETAILS, "projection", type(DETAILS["projection"])(**{**vars(DETAILS["projection"]), "version": 2}))
    changed = {name for name, id_ in figure_ids("base", SETS).items() if id_ != before[name]}
    assert changed == {"projections", "clusters"}
    assert needed_details("anomalies/far") == ["anomalies/far"] and needed_details("clusters") == [
        "projection",
        "tsne",
        "clusters",
    ]


def test_names_that_look_like_formulas_are_drawn_as_they_are(material: FigureInputs) -> None:
    odd = FigureInputs(**{**vars(material), "title": r"$\frac{x$ & 50 %"})
    assert all(draw(name, odd) is not None for name in figure_ids("", SETS))


def test_rows_without_history_have_no_loss_figure(material: FigureInputs) -> None:
    assert draw("loss", FigureInputs(**{**vars(material), "history": ()})) is None


# -- arms together -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms(material: FigureInputs) -> list[Arm]:
    values: dict[str, Any] = {name: [value, value + 0.01] for name, value in material.metrics.items()}
    return [
        Arm("base", values, HISTORY, material.details, baseline=False, collapsed=False),
        Arm("no-variance", values | {"probe_accuracy": [0.1]}, HISTORY, material.details, baseline=False, collapsed=True),
        Arm("raw-pixels", {"probe_accuracy": [0.2]}, (), {}, baseline=True, collapsed=False),
    ]


def test_comparisons_show_every_arm_that_has_the_numbers(arms: list[Arm], material: FigureInputs) -> None:
    board = arm_figures.leaderboard(arms, ["probe_accuracy", "anomaly_auc/far"], "base")
    order = [tick.get_text() for tick in board.axes[0].get_yticklabels()]
    assert order == ["no-variance", "raw-pixels", "base"], "the best on top"
    dots = [c for c in board.axes[0].collections if isinstance(c, PathCollection)]
    offsets = sum(len(c.get_offsets()) for c in dots)  # type: ignore[arg-type]
    assert offsets == 4, "one dot a seed"
    for figure, names in (
        (arm_figures.curves(arms), {"base", "no-variance"}),
        (arm_figures.rocs(arms, "far"), {"base", "no-variance"}),
        (arm_figures.invariances(arms), {"base", "no-variance"}),
        (arm_figures.projections(arms, "tsne", material.class_names), {"base", "no-variance"}),
        (arm_figures.projections(arms, "pca", material.class_names), {"base", "no-variance"}),
        (arm_figures.retrievals(arms, material.images, 2), {"base", "no-variance"}),
    ):
        assert figure is not None
        shown = texts(figure)
        assert all(name in shown for name in names) and "raw-pixels" not in shown
    assert "base" in texts(arm_figures.agreement(arms, ["probe_accuracy", "rankme"]))


def test_comparisons_of_nothing_are_left_out(arms: list[Arm], material: FigureInputs) -> None:
    empty = [arms[2]]
    assert arm_figures.curves(empty) is None and arm_figures.rocs(empty, "far") is None
    assert arm_figures.invariances(empty) is None and arm_figures.projections(empty, "tsne", "abcd") is None
    assert arm_figures.retrievals(empty, material.images, 0) is None


def test_a_single_dimension_is_placed_and_drawn(material: FigureInputs) -> None:
    points = np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32)
    projection = {"test": points, "variance_share": np.ones(1), "test_labels": material.details["projection"]["test_labels"],
                  "centers": points[:4]}  # fmt: skip
    tsne = derive("tsne", {"projection": projection})
    assert tsne is not None and tsne["test"].shape == (100, 2)
    flat = FigureInputs(**{**vars(material), "details": {**material.details, "projection": projection, "tsne": tsne}})
    assert draw("projections", flat) is not None


def test_a_logarithmic_axis_is_labelled_in_plain_numbers() -> None:
    """The house's style draws no formulas, and matplotlib's own labels of such an axis are formulas."""
    with styled():
        figure, axes = panels(2)
        for panel, scale in zip(axes[0], ("log", "symlog"), strict=True):
            panel.plot([1, 10, 100], [1e-6, 1e-3, 1e3])
            panel.set_yscale(scale)
        drawn(figure)
        labels = [label.get_text() for panel in axes[0] for label in panel.get_yticklabels(which="both")]
    assert not [label for label in labels if "$" in label]
    # Which decades are labelled is matplotlib's choice: the even ones since 3.11, the odd ones before.
    assert {"1e−06", "0.01", "100"} <= set(labels) or {"1e−05", "0.1", "10"} <= set(labels)
