"""Figures that compare several arms, drawn from the same stored results as the figures of one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.evaluate import METRICS
from evaluation.per_image import Arrays
from evaluation.plot_style import class_legend, colour, line, mark, mosaic, panels, scatter, show
from evaluation.trial_figures import PROFILE, draw_roc, profile_name

if TYPE_CHECKING:
    from core.datasets import Splits


@dataclass(frozen=True)
class Arm:
    """The data of one arm for the figures.

    Attributes:
        name: the arm's name.
        values: metric -> one number for each seed.
        history: of the first seed that is done: one record for each epoch.
        details: of the same seed: name -> per-image arrays.
        baseline: whether the arm is a baseline rather than a VICReg run.
        collapsed: whether the arm counts as collapsed.
    """

    name: str
    values: Mapping[str, Sequence[float]]
    history: Sequence[Mapping[str, float]]
    details: Mapping[str, Arrays]
    baseline: bool
    collapsed: bool

    def mean(self, metric: str) -> float | None:
        """Return the metric's mean over the seeds, or None if there is no value."""
        return mean(self.values[metric]) if self.values.get(metric) else None


def ranked(arms: Sequence[Arm], metric: str) -> list[Arm]:
    """Return the arms sorted by a metric's mean, the best last; arms without the metric come first."""
    sign = -1 if METRICS[metric.partition("/")[0]].better == "lower" else 1
    return sorted(arms, key=lambda arm: (arm.mean(metric) is not None, sign * (arm.mean(metric) or 0)))


def leaderboard(arms: Sequence[Arm], metrics: Sequence[str], base: str) -> Figure:
    """Draw each metric by arm: a dot for each seed, mean and standard deviation; the best arm by the first metric on top.

    Args:
        arms: the arms.
        metrics: the metrics, one panel for each.
        base: name of the arm whose mean is marked by a dashed line.
    """
    order = ranked(arms, metrics[0])
    figure, axes = panels(len(metrics), width=3.6, height=0.27 * len(order) + 1.0)
    for k, metric in enumerate(metrics):
        panel = axes[0][k]
        for baseline in (False, True):
            rows = [(place, arm.values.get(metric, ())) for place, arm in enumerate(order) if arm.baseline == baseline]
            dots = [dot for place, values in rows for dot in zip(values, place + _jitter(len(values)), strict=True)]
            shade = "#888888" if baseline else "#332288"
            panel.scatter(*np.reshape(dots, (-1, 2)).T, s=16, marker="s" if baseline else "o", c=shade, zorder=3, linewidths=0)
            places, several = [place for place, v in rows if len(v) > 1], [v for _, v in rows if len(v) > 1]
            centers, spreads = np.array([mean(v) for v in several]), np.array([stdev(v) for v in several])
            panel.hlines(places, centers - spreads, centers + spreads, color=shade, lw=1)
            panel.vlines(centers, np.array(places) - 0.3, np.array(places) + 0.3, color=shade, lw=2)
        of_base = next((arm.values.get(metric, ()) for arm in order if arm.name == base), ())
        if of_base:
            panel.axvline(mean(of_base), color="#CC6677", lw=0.8, ls="--", zorder=1)
        if k == 0:
            panel.set_yticks(range(len(order)), [arm.name for arm in order])
        else:
            panel.set_yticks([])
        panel.set_ylim(-0.6, len(order) - 0.4)
        panel.grid(axis="x", color="0.92")
        panel.set_title(metric)
    most = max((len(v) for arm in arms for v in arm.values.values()), default=0)
    figure.suptitle(
        f"one dot a seed (n up to {most}), bar: mean, line: one standard deviation; squares: baselines; dashed: {base}",
        fontsize=9,
    )
    return figure


def _jitter(n: int) -> NDArray[np.float64]:
    return np.linspace(-0.16, 0.16, n) if n > 1 else np.zeros(n)


def agreement(arms: Sequence[Arm], metrics: Sequence[str]) -> Figure:
    """Draw every pair of metrics against each other, with one point at the means of each arm."""
    pairs = [(one, other) for i, one in enumerate(metrics) for other in metrics[i + 1 :]]
    figure, axes = panels(len(pairs), width=4.0, height=3.6)
    for panel, (one, other) in zip(axes[0], pairs, strict=True):
        for i, arm in enumerate(arms):
            x, y = arm.mean(one), arm.mean(other)
            if x is None or y is None:
                continue
            face = "none" if arm.collapsed else colour(i)
            panel.scatter([x], [y], s=40, marker=mark(i), facecolors=face, edgecolors=colour(i), label=arm.name)
        panel.margins(0.08)
        panel.set_xlabel(one)
        panel.set_ylabel(other)
    handles = {text: handle for panel in axes[0] for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=7)
    figure.suptitle("the arms' means; hollow: collapsed", fontsize=9)
    return figure


def curves(arms: Sequence[Arm]) -> Figure | None:
    """Draw loss and terms on the test images over the epochs, one panel for each with all arms; None if no arm has them."""
    terms = ("loss", "invariance", "variance", "covariance")
    shown = [(i, arm) for i, arm in enumerate(arms) if arm.history and "test/variance" in arm.history[0]]
    if not shown:
        return None
    figure, axes = panels(len(terms), width=3.2, height=3.1)
    for panel, term in zip(axes[0], terms, strict=True):
        for i, arm in shown:
            epochs = [record["epoch"] for record in arm.history]
            marker = "o" if len(epochs) == 1 else None
            panel.plot(
                epochs, [record[f"test/{term}"] for record in arm.history], lw=1.3, marker=marker, label=arm.name, **line(i)
            )
        if term == "covariance":  # with a weight of 0 this term grows a hundredfold
            panel.set_yscale("symlog", linthresh=1)
        panel.set_title(f"test/{term}" + ("" if term == "loss" else " (unweighted)"))
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.suptitle(
        "loss and terms on the test images, first seed; pairs differ between arms, so levels are not comparable", fontsize=9
    )
    return figure


def projections(arms: Sequence[Arm], kind: str, names: Sequence[str]) -> Figure | None:
    """Draw the projected test representations of every arm, coloured by class; None if no arm has them.

    Args:
        arms: the arms.
        kind: ``tsne``, or ``pca`` (whose axes show their share of the variance).
        names: the classes' names.
    """
    shown = [arm for arm in arms if "projection" in arm.details and (kind == "pca" or "tsne" in arm.details)]
    if not shown:
        return None
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = panels(columns, rows, width=2.5, height=2.6)
    for panel in axes.flat[len(shown) :]:
        panel.set_axis_off()
    for panel, arm in zip(axes.flat, shown, strict=False):
        projection = arm.details["projection"]
        labels = projection["test_labels"]
        if kind == "tsne":
            points, chosen = arm.details["tsne"]["test"], arm.details["tsne"]["images"]
            scatter(panel, points, labels[chosen], size=3)
        else:
            points = projection["test"][:, :2]
            points = points if points.shape[1] == 2 else np.c_[points, np.zeros(len(points))]
            scatter(panel, points, labels, size=3)
            panel.set_xlabel(" + ".join(f"{share:.0%}" for share in projection["variance_share"][:2]) + " of the variance")
        panel.set_title(arm.name)
    class_legend(figure, names)
    n = len(shown[0].details["tsne"]["images"]) if kind == "tsne" else len(shown[0].details["projection"]["test"])
    figure.suptitle(
        f"{'t-SNE' if kind == 'tsne' else 'PCA'} of the test representations by class, first seed, n = {n:,}", fontsize=9
    )
    return figure


def rocs(arms: Sequence[Arm], which: str) -> Figure | None:
    """Draw the ROC curves of all arms for the anomaly set ``which``; None if no arm has its scores."""
    shown = [(i, arm) for i, arm in enumerate(arms) if f"anomalies/{which}" in arm.details]
    if not shown:
        return None
    figure, axes = panels(1, width=7.4, height=max(4.2, 0.17 * len(shown) + 0.8))  # at least as high as the legend
    panel = axes[0][0]
    for i, arm in shown:
        scores = arm.details[f"anomalies/{which}"]
        area = arm.mean(f"anomaly_auc/{which}")
        label = arm.name + ("" if area is None else f"  {area:.3f}")
        draw_roc(panel, scores["test"], scores["anomalies"], label=label, lw=1.2, **line(i))
    panel.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title="arm, mean AUC")
    figure.suptitle(f"anomalies {which}, first seed", fontsize=9)
    return figure


def invariances(arms: Sequence[Arm]) -> Figure | None:
    """Draw a table of how far each operation moves each arm's representation; None if no arm has these metrics.

    The unit is the mean distance of two test images.
    """
    names = [name for name in PROFILE if any(arm.mean(name) is not None for arm in arms)]
    shown = [arm for arm in arms if any(arm.mean(name) is not None for name in names)]
    if not shown:
        return None
    table = np.array([[np.nan if (value := arm.mean(name)) is None else value for name in names] for arm in shown])
    figure, axes = panels(1, width=8.6, height=0.27 * len(shown) + 1.3)
    panel = axes[0][0]
    panel.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color="black" if value > 0.6 else "white")
    panel.set_yticks(range(len(shown)), [arm.name for arm in shown])
    panel.set_xticks(range(len(names)), [profile_name(name) for name in names], rotation=25, ha="right")
    figure.suptitle(
        "mean shift of a representation, in mean distances of two test images (0: ignored, 1: another image)", fontsize=9
    )
    return figure


def retrievals(arms: Sequence[Arm], images: Splits, label: int) -> Figure | None:
    """Draw, for a test image of class ``label``, the nearest and the most distant train images of every arm.

    Images of other classes have a red frame. None if no arm has retrievals for the class.
    """
    rows, wrong, names = [], [], []
    for arm in arms:
        found = arm.details.get("retrieval")
        if found is None or label not in found["labels"]:
            continue
        i = int(np.flatnonzero(found["labels"] == label)[0])
        near, far = found["nearest"][i], found["farthest"][i]
        rows.append([
            images.test.images[found["queries"][i]], None, *images.train.images[near], None, *images.train.images[far],
        ])  # fmt: skip
        wrong.append([False, False, *(found["nearest_labels"][i] != label), False, *(found["farthest_labels"][i] != label)])
        names.append(arm.name)
    if not rows:
        return None
    figure = Figure(figsize=(7.5, 0.47 * len(rows) + 0.9))
    k = (len(rows[0]) - 3) // 2
    at = [
        (0.5 / len(rows[0]), "image"),
        ((2 + k / 2) / len(rows[0]), f"{k} nearest"),
        ((3 + 1.5 * k) / len(rows[0]), f"{k} most distant"),
    ]
    show(figure.subplots(), mosaic(rows, wrong), names, at)
    figure.suptitle(f"retrieval for a test image of class {images.train.class_names[label]}; red: another class", fontsize=9)
    return figure
