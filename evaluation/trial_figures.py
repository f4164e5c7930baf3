"""The figures of one trial, drawn from what is stored of it; nothing is computed here that a number in a table rests on.

A figure is a function of :class:`FigureInputs` and one line in :data:`FIGURES`, with the details and the metrics that it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.config import digest
from evaluation.evaluate import metric_ids
from evaluation.invariance import OPERATIONS
from evaluation.per_image import DETAILS, Arrays, detail_ids

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

    from core.datasets import ImageSet, Splits

#: Images shown of the most anomalous ones, as the studies showed.
SHOWN = 7


@dataclass(frozen=True)
class FigureInputs:
    """What figures are drawn from.

    Attributes:
        title: the arm and its seed.
        images: the trial's images, for those that are shown.
        anomalies: images of each anomaly set.
        details: name -> arrays.
        metrics: name -> number.
        history: one record for each epoch.
        pairing: how the pairs were made; "" where there are none.
    """

    title: str
    images: Splits
    anomalies: Mapping[str, ImageSet]
    details: Mapping[str, Arrays]
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    pairing: str = ""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.images.train.class_names


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        function: Material -> figure, or None where it does not apply; (Material, set) where ``per_anomaly_set``.
        meaning: one line.
        needs: names of the details it is drawn from.
        metrics: names of the metrics that it shows.
        version: raised when it is to be drawn anew.
        per_anomaly_set: one for each anomaly set.
    """

    function: Callable[..., MplFigure | None]
    meaning: str
    needs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    version: int = 1
    per_anomaly_set: bool = False


def draw_loss(m: FigureInputs) -> MplFigure | None:
    """Loss and its terms over the epochs, train and test; for a supervised encoder loss and accuracy."""
    if not m.history:
        return None
    from evaluation.plot_style import panels

    terms = [name.removeprefix("train/") for name in m.history[0] if name.startswith("train/")]
    figure, axes = panels(len(terms), width=2.9, height=2.7)
    epochs = [record["epoch"] for record in m.history]
    for panel, term in zip(axes[0], terms, strict=True):
        panel.plot(epochs, [record[f"train/{term}"] for record in m.history], color="#332288", marker="o", ms=3, label="train")
        panel.plot(
            epochs, [record[f"test/{term}"] for record in m.history], color="#CC6677", marker="^", ms=3, ls="--", label="test"
        )
        panel.set_title(term if term in ("loss", "accuracy") else f"{term} (unweighted)")
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].legend()
    note = "" if not m.pairing else f" — pairs: {m.pairing}. Losses of different pairings or weights are not comparable."
    images = f"n = {len(m.images.train):,} train and {len(m.images.test):,} test images"
    figure.suptitle(f"{m.title}: loss over {len(epochs)} epochs, {images}{note}", fontsize=9)
    return figure


def draw_projections(m: FigureInputs) -> MplFigure:
    """PCA and t-SNE of the test representations, by class."""
    from evaluation.plot_style import class_legend, panels, scatter

    projection, tsne = m.details["projection"], m.details["tsne"]
    figure, axes = panels(2, width=4.6, height=4.4)
    share = projection["variance_share"]
    points = projection["test"]
    if points.shape[1] == 1:
        points = np.concatenate([points, np.zeros_like(points)], axis=1)
    scatter(axes[0][0], points[:, :2], projection["test_labels"])
    axes[0][0].set_xlabel(f"axis 1: {share[0]:.1%} of the variance")
    axes[0][0].set_ylabel(f"axis 2: {share[1] if len(share) > 1 else 0:.1%}")
    axes[0][0].set_title(f"PCA, n = {len(points):,}")
    chosen = tsne["images"]
    scatter(axes[0][1], tsne["test"], projection["test_labels"][chosen])
    axes[0][1].set_title(f"t-SNE of the first {projection['test'].shape[1]} axes, n = {len(chosen):,}")
    class_legend(figure, m.class_names)
    figure.suptitle(f"{m.title}: test representations by class", fontsize=9)
    return figure


def draw_anomalies(m: FigureInputs, which: str) -> MplFigure:
    """ROC of the anomaly score, both distributions, the most anomalous images and the test images most mistaken for such."""
    from evaluation.plot_style import ANOMALOUS, NORMAL, mosaic, panels, show

    scores = m.details[f"anomalies/{which}"]
    normal, anomalous = scores["test"], scores["anomalies"]
    figure, axes = panels(3, width=4.0, height=3.3, ratios=(1, 1.1, 1.7))
    roc, histogram, pictures = axes[0]
    draw_roc(roc, normal, anomalous, label=f"AUC {m.metrics[f'anomaly_auc/{which}']:.4f}", color=NORMAL)
    roc.legend(loc="lower right")
    roc.set_title("ROC")
    edges = np.histogram_bin_edges(np.concatenate([normal, anomalous]), bins=60)
    for values, colour, style, label in (
        (normal, NORMAL, "-", f"test, n = {len(normal):,}"),
        (anomalous, ANOMALOUS, "--", f"anomalies, n = {len(anomalous):,}"),
    ):
        histogram.hist(values, edges, density=True, color=colour, alpha=0.25)
        histogram.hist(values, edges, density=True, histtype="step", color=colour, linestyle=style, label=label)
    histogram.set_xlabel("mean distance to the 2 nearest train representations")
    histogram.set_yticks([])
    histogram.legend()
    histogram.set_title("scores")
    most, mistaken = (np.argsort(-values, kind="stable")[:SHOWN] for values in (anomalous, normal))
    rows = [[m.anomalies[which].images[i] for i in most], [m.images.test.images[i] for i in mistaken]]
    width = max(map(len, rows))
    show(pictures, mosaic([[*row, *[None] * (width - len(row))] for row in rows]))
    names = [m.class_names[m.images.test.labels[i]] for i in mistaken]
    pictures.set_title(
        f"above: the {len(most)} most anomalous images\nbelow: the {len(mistaken)} test images most mistaken for such"
    )
    pictures.set_xlabel("test classes: " + ", ".join(names), fontsize=7, wrap=True)
    figure.suptitle(f"{m.title}: anomalies {which}", fontsize=9)
    return figure


def draw_roc(axes: Axes, normal: NDArray[Any], anomalous: NDArray[Any], **style: object) -> None:
    """A ROC curve of two score arrays, over the diagonal of chance."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(np.repeat([0, 1], [len(normal), len(anomalous)]), np.concatenate([normal, anomalous]))
    axes.plot(false, true, **style)  # type: ignore[arg-type]
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls=":")
    axes.set_xlabel("test images flagged")
    axes.set_ylabel("anomalies flagged")
    axes.set_aspect("equal")


def draw_retrieval(m: FigureInputs) -> MplFigure:
    """For one test image of each class its nearest and most distant train images, wrong classes framed."""
    from matplotlib.figure import Figure as MplFigure

    from evaluation.plot_style import mosaic, show

    found = m.details["retrieval"]
    rows, wrong = [], []
    for i, query in enumerate(found["queries"]):
        near, far = found["nearest"][i], found["farthest"][i]
        train = m.images.train.images
        rows.append([m.images.test.images[query], None, *(train[j] for j in near), None, *(train[j] for j in far)])
        label = found["labels"][i]
        wrong.append([False, False, *(found["nearest_labels"][i] != label), False, *(found["farthest_labels"][i] != label)])
    picture = mosaic(rows, wrong)
    columns = len(rows[0])
    figure = MplFigure(figsize=(7.5, 0.62 * len(rows) + 1.1))
    k = found["nearest"].shape[1]
    at = [(0.5 / columns, "image"), ((2 + k / 2) / columns, f"{k} nearest"), ((3 + 1.5 * k) / columns, f"{k} most distant")]
    show(figure.subplots(), picture, [m.class_names[label] for label in found["labels"]], at)
    distinct = len(np.unique(found["farthest"]))
    right = float(np.mean(found["nearest_labels"] == found["labels"][:, None]))
    far = f"{distinct} distinct images among the {found['farthest'].size} most distant"
    figure.suptitle(
        f"{m.title}: retrieval of train images (n = {len(m.images.train):,}); red frame: another class\n"
        f"{right:.0%} of the nearest are of the class; {far}",
        fontsize=9,
    )
    return figure


def draw_clusters(m: FigureInputs) -> MplFigure:
    """k-means clusters in t-SNE, by cluster with the centres and by class; the contingency of clusters and classes."""
    from evaluation.plot_style import class_legend, panels, scatter

    tsne, clusters, labels = m.details["tsne"], m.details["clusters"], m.details["projection"]["test_labels"]
    figure, axes = panels(3, width=4.2, height=4.1)
    by_cluster, by_class, table = axes[0]
    chosen = tsne["images"]
    scatter(by_cluster, tsne["test"], clusters["test"][chosen], marks=False)
    for k, (x, y) in enumerate(tsne["centers"]):
        by_cluster.scatter([x], [y], s=90, marker="o", c="white", edgecolors="black", zorder=3)
        by_cluster.text(x, y, str(k), fontsize=7, ha="center", va="center", zorder=4)
    by_cluster.set_title(f"test images by k-means cluster, with centres, n = {len(chosen):,}")
    scatter(by_class, tsne["test"], labels[chosen])
    class_legend(figure, m.class_names)
    by_class.set_title("the same by class")
    counts = clusters["contingency"]
    table.imshow(counts, cmap="cividis", aspect="auto")
    if counts.size <= 400:
        for (i, j), count in np.ndenumerate(counts):
            light = count > 0.6 * counts.max()
            table.text(j, i, str(count), ha="center", va="center", fontsize=6.5, color="black" if light else "white")
    if len(m.class_names) <= 30:
        table.set_yticks(range(len(m.class_names)), m.class_names)
    table.set_xlabel("cluster")
    table.set_title(f"train images by class and cluster, n = {counts.sum():,}")
    figure.suptitle(
        f"{m.title}: k-means of the train representation, NMI {_text(m, 'nmi')}, silhouette {_text(m, 'silhouette')} "
        "(t-SNE's distances are not the representation's)",
        fontsize=9,
    )
    return figure


def draw_spectrum(m: FigureInputs) -> MplFigure:
    """Eigenvalues of the covariance of the train representation."""
    from evaluation.plot_style import panels

    values = m.details["spectrum"]["eigenvalues"]
    figure, axes = panels(1, width=4.6, height=3.3)
    panel = axes[0][0]
    total = values.sum()
    relative = values / total if total > 0 else values
    shown = relative > relative[0] * 1e-12 if total > 0 else np.zeros(len(values), dtype=bool)
    rank = np.arange(1, len(values) + 1)
    panel.plot(rank[shown], relative[shown], marker="o", ms=3, color="#332288")
    if shown.any():
        panel.set_yscale("log")
    if len(values) > 200:
        panel.set_xscale("log")
    panel.set_xlabel(f"dimension, of {len(values)}")
    panel.set_ylabel("share of the variance")
    figure.suptitle(
        f"{m.title}: spectrum of the train representation, n = {len(m.images.train):,}\n"
        f"RankMe {_text(m, 'rankme', 1)}, effective rank {_text(m, 'effective_rank', 1)}",
        fontsize=9,
    )
    return figure


#: The rows of the invariance profile.
PROFILE = (*(f"moved_by_{operation}" for operation in OPERATIONS), "distance_within_class")


def profile_name(metric: str) -> str:
    """A row's name for people."""
    return "another of the class" if metric == "distance_within_class" else metric.removeprefix("moved_by_")


def draw_invariances(m: FigureInputs) -> MplFigure | None:
    """How far each operation moves a representation, in distances of two random test images."""
    from evaluation.plot_style import panels

    values = {name: m.metrics[name] for name in PROFILE if name in m.metrics}
    if not values:
        return None
    figure, axes = panels(1, width=6.2, height=3.2)
    panel = axes[0][0]
    places = np.arange(len(values))[::-1]
    panel.barh(places, list(values.values()), color=["#44AA99" if name != PROFILE[-1] else "#888888" for name in values])
    for place, value in zip(places, values.values(), strict=True):
        panel.text(value, place, f" {value:.2f}", va="center", fontsize=8)
    panel.set_yticks(places, [profile_name(name) for name in values])
    panel.axvline(1, color="0.6", lw=0.8, ls=":")
    panel.set_xlim(0, max(1.1, 1.15 * max(values.values())))
    panel.set_xlabel("mean shift, in mean distances of two test images")
    figure.suptitle(f"{m.title}: invariances (0: ignored, 1: as far as another image), n = {_looked_at(m):,}", fontsize=9)
    return figure


def _looked_at(m: FigureInputs) -> int:
    from evaluation.invariance import IMAGES

    return min(IMAGES, len(m.images.test))


def _text(m: FigureInputs, metric: str, digits: int = 3) -> str:
    return f"{m.metrics[metric]:.{digits}f}" if metric in m.metrics else "not defined"


FIGURES: dict[str, Figure] = {
    "loss": Figure(draw_loss, "loss and its terms per epoch, train and test", version=2),
    "projections": Figure(draw_projections, "PCA and t-SNE of the test representations", ("projection", "tsne")),
    "anomalies": Figure(
        draw_anomalies, "ROC, scores and images of an anomaly set", ("anomalies",), ("anomaly_auc",), per_anomaly_set=True
    ),
    "retrieval": Figure(draw_retrieval, "nearest and most distant train images of one image a class", ("retrieval",)),
    "clusters": Figure(
        draw_clusters, "k-means clusters in t-SNE, and their contingency with the classes", ("projection", "tsne", "clusters"),
        ("nmi", "silhouette"), version=2,
    ),
    "spectrum": Figure(draw_spectrum, "spectrum of the representation", ("spectrum",), ("rankme", "effective_rank"), version=2),
    "invariances": Figure(draw_invariances, "what the representation ignores", (), PROFILE, version=2),
}  # fmt: skip


def figure_ids(title: str, anomaly_identities: Mapping[str, str]) -> dict[str, str]:
    """Every figure's name (``anomalies/<set>``) -> what identifies it: itself and all that it shows.

    Args:
        title: the arm and its seed, which stand in the figure.
        anomaly_identities: anomaly set -> identity of its content.
    """
    details, metrics = detail_ids(anomaly_identities), metric_ids(anomaly_identities)
    ids = {}
    for name, figure in FIGURES.items():
        for which in anomaly_identities if figure.per_anomaly_set else [None]:
            own = name if which is None else f"{name}/{which}"
            shown = [_of_set(need, which, details) for need in figure.needs]
            shown += [_of_set(metric, which, metrics) for metric in figure.metrics]
            ids[own] = f"figure:{re.sub(r'[^-.A-Za-z0-9]', '_', own)}@{figure.version}+{digest([title, shown])[:8]}"
    return ids


def _of_set(name: str, which: str | None, ids: Mapping[str, str]) -> str | None:
    return ids.get(f"{name}/{which}", ids.get(name))


def needed_details(name: str) -> list[str]:
    """Names of the details that a figure of :func:`figure_ids` is drawn from."""
    bare, _, which = name.partition("/")
    return [f"{need}/{which}" if DETAILS[need].per_anomaly_set else need for need in FIGURES[bare].needs]


def draw(name: str, inputs: FigureInputs) -> bytes | None:
    """A figure of :func:`figure_ids` as PNG; None where it does not apply.

    Raises:
        ValueError: if it cannot be drawn from the inputs.
    """
    from evaluation.plot_style import png, styled

    bare, _, which = name.partition("/")
    function = FIGURES[bare].function
    with styled():
        figure = (partial(function, which=which) if FIGURES[bare].per_anomaly_set else function)(inputs)
        return None if figure is None else png(figure)
