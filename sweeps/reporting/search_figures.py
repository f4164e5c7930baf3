"""Figures of a search: history, importance of the fields, objectives over pairs of fields, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.plot_style import colour, panels


@dataclass(frozen=True)
class Tried:
    """The data of one point of a search for the figures.

    Attributes:
        number: the point's number.
        params: field -> number, or text for a choice.
        values: of the objectives, in their order; empty if the point has none.
        feasible: False for a collapsed point.
        chosen: whether it is the best point or on the Pareto front.
    """

    number: int
    params: Mapping[str, Any]
    values: tuple[float, ...]
    feasible: bool
    chosen: bool


def history(points: Sequence[Tried], objectives: Sequence[str], minimized: Sequence[bool]) -> Figure:
    """Draw each objective over the points in their order, with the best value so far."""
    figure, axes = panels(len(objectives), width=4.4, height=3.0)
    for i, (panel, name) in enumerate(zip(axes[0], objectives, strict=True)):
        valued = [point for point in points if point.values]
        _dots(panel, [(point.number, point.values[i], point) for point in valued])
        sound = [point for point in valued if point.feasible]
        best = (np.minimum if minimized[i] else np.maximum).accumulate([point.values[i] for point in sound])
        if sound:
            panel.step([point.number for point in sound], best, where="post", color="#CC6677", lw=1, label="best so far")
            panel.legend()
        lost = [point.number for point in points if not point.values]
        panel.plot(lost, np.full(len(lost), 0.02), "x", color="0.5", ms=4, transform=panel.get_xaxis_transform())
        panel.set_title(name)
        panel.set_xlabel("point")
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{_legend(points)};\ncrosses: stopped, failed or running", fontsize=9)
    return figure


def importances(shares: Sequence[Mapping[str, float]], objectives: Sequence[str], n: int) -> Figure | None:
    """Draw the share of each objective's variance over the points that each field accounts for; None if not defined.

    Args:
        shares: for each objective: field -> share.
        objectives: their names.
        n: number of points with values.
    """
    if not any(shares):
        return None
    fields = list(dict.fromkeys(field for share in shares for field in share))
    order = sorted(fields, key=lambda field: max(share.get(field, 0.0) for share in shares))
    figure, axes = panels(len(objectives), width=4.4, height=0.3 * len(fields) + 1.0)
    for i, (panel, name) in enumerate(zip(axes[0], objectives, strict=True)):
        panel.barh(range(len(order)), [shares[i].get(field, 0.0) for field in order], color=colour(0), height=0.6)
        panel.set_yticks(range(len(order)), order if i == 0 else [""] * len(order))
        panel.set_xlim(0, 1)
        panel.set_title(name)
        panel.set_xlabel("share of variance")
    figure.suptitle(f"importance of the fields (fANOVA),\n{n} points with values (few make it rough)", fontsize=9)
    return figure


def responses(points: Sequence[Tried], objective: int, name: str, logs: Mapping[str, bool]) -> Figure | None:
    """Draw every pair of fields against each other, with the objective as colour; None for fewer than two fields.

    Args:
        points: the points.
        objective: index of the objective.
        name: the objective's name.
        logs: field -> whether its axis is logarithmic; zeros are then drawn left of (or below) all other values.
    """
    fields = list(logs)
    valued = [point for point in points if point.values]
    if len(fields) < 2 or not valued:
        return None
    places = {field: _Axis([point.params[field] for point in points], logs[field]) for field in fields}
    size = len(fields) - 1
    figure, axes = panels(size, size, width=2.2, height=2.0)
    values = np.array([point.values[objective] for point in valued])
    drawn = None
    for row, other in enumerate(fields[1:]):
        for column, one in enumerate(fields[:-1]):
            panel = axes[row, column]
            if column > row:
                panel.set_axis_off()
                continue
            x, y = ([places[field].at(point.params[field]) for point in valued] for field in (one, other))
            hollow = [i for i, point in enumerate(valued) if not point.feasible]
            drawn = panel.scatter(x, y, c=values, cmap="cividis", s=26, linewidths=0)
            panel.plot([x[i] for i in hollow], [y[i] for i in hollow], "x", color="#CC6677", ms=5)
            picked = [i for i, point in enumerate(valued) if point.chosen]
            panel.plot([x[i] for i in picked], [y[i] for i in picked], "o", mfc="none", mec="#CC6677", ms=9)
            places[one].label(panel, "x", one if row == size - 1 else "")
            places[other].label(panel, "y", other if column == 0 else "")
    if drawn is not None:
        figure.colorbar(drawn, ax=axes.ravel().tolist(), label=name, shrink=0.7)
    figure.suptitle(f"{name} over pairs of fields, n = {len(valued)}; rings: selected, crosses: collapsed", fontsize=9)
    return figure


def fronts(points: Sequence[Tried], objectives: Sequence[str]) -> Figure | None:
    """Draw every pair of objectives against each other, the selected points with a ring; None for one objective."""
    pairs = [(i, j) for j in range(len(objectives)) for i in range(j)]
    if not pairs:
        return None
    figure, axes = panels(len(pairs), width=4.4, height=3.6)
    for panel, (i, j) in zip(axes[0], pairs, strict=True):
        _dots(panel, [(point.values[i], point.values[j], point) for point in points if point.values])
        panel.margins(0.08)
        panel.set_xlabel(objectives[i])
        panel.set_ylabel(objectives[j])
    figure.suptitle(f"{_legend(points)}: on the Pareto front", fontsize=9)
    return figure


def _dots(panel: Axes, placed: Sequence[tuple[float, float, Tried]]) -> None:
    for x, y, point in placed:
        face = colour(0) if point.feasible else "none"
        panel.scatter([x], [y], s=20, facecolors=face, edgecolors=colour(0), linewidths=0.8, zorder=3)
        if point.chosen:
            panel.scatter([x], [y], s=80, facecolors="none", edgecolors="#CC6677", zorder=4)
            panel.annotate(str(point.number), (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)


def _legend(points: Sequence[Tried]) -> str:
    return f"{len(points)} points; hollow: collapsed, ringed: selected"


class _Axis:
    """The position of a field's values on an axis: the numbers, their logarithms, or the index of a choice."""

    def __init__(self, values: Sequence[Any], log: bool) -> None:
        self.choices = list(dict.fromkeys(map(str, values))) if not all(_is_number(value) for value in values) else []
        positive = [float(value) for value in values if not self.choices and value > 0]
        self._log = log and not self.choices and bool(positive)
        low, high = (np.log10([min(positive), max(positive)])) if self._log else (0.0, 0.0)
        self._zero = float(low - 0.12 * max(high - low, 1.0))

    def at(self, value: Any) -> float:
        """Return a value's position on the axis."""
        if self.choices:
            return float(self.choices.index(str(value)))
        if self._log:
            return float(np.log10(value)) if value > 0 else self._zero
        return float(value)

    def label(self, panel: Axes, which: str, name: str) -> None:
        """Label the axis ``which`` ("x" or "y") and its ticks; with an empty name, hide both."""
        axis = panel.xaxis if which == "x" else panel.yaxis
        if self.choices:
            axis.set_ticks(range(len(self.choices)), self.choices if name else [""] * len(self.choices))
        elif self._log:
            low, high = axis.get_view_interval()
            numbers = [m * 10.0**e for e in range(int(np.floor(self._zero)), int(np.ceil(high)) + 1) for m in (1, 3)]
            numbers = [number for number in numbers if max(low, self._zero + 0.05) <= np.log10(number) <= high]
            every = 2 if len(numbers) > 5 else 1  # only powers of ten, if there are enough of them
            numbers = [n for n in numbers if every == 1 or np.isclose(np.log10(n) % 1, 0)]
            places, texts = [float(np.log10(number)) for number in numbers], [f"{number:g}" for number in numbers]
            if low <= self._zero:
                places, texts = [self._zero, *places], ["0", *texts]
            axis.set_ticks(places, texts if name else [""] * len(texts))
        elif not name:
            axis.set_ticklabels([])
        axis.set_label_text(name)
        if which == "x":
            panel.tick_params(axis="x", rotation=30)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
