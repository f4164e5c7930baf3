"""The figure of what each switch of a factorial contributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from evaluation.plot_style import colour, panels
from sweeps.analysis.shapley import Decomposition


def contributions(shown: Sequence[Decomposition]) -> Figure | None:
    """Draw each switch's Shapley value as a bar with its interval, and marks for leaving it out and for having it alone.

    Args:
        shown: one panel for each; those without seeds are left out.

    Returns:
        None if none is left.
    """
    shown = [found for found in shown if found.contributions]
    if not shown:
        return None
    names = [part.name for part in shown[0].contributions]
    places = np.arange(len(names))[::-1]  # the first switch on top
    figure, axes = panels(len(shown), width=3.8, height=0.45 * len(names) + 1.3)
    for k, found in enumerate(shown):
        panel, parts = axes[0][k], found.contributions
        values = [part.shapley.value for part in parts]
        panel.barh(places, values, height=0.55, color=colour(0), alpha=0.4, label="Shapley value")
        bounded = [(place, part.shapley.interval) for place, part in zip(places, parts, strict=True) if part.shapley.interval]
        rows, lows, highs = [p for p, _ in bounded], [low for _, (low, _) in bounded], [high for _, (_, high) in bounded]
        panel.hlines(rows, lows, highs, color="black", lw=1.5)
        for mark, shade, name in (("<", colour(1), "left out"), (">", colour(2), "alone")):
            of_parts = [(part.left_out if name == "left out" else part.alone).value for part in parts]
            panel.scatter(of_parts, places, s=34, marker=mark, facecolors="none", edgecolors=shade, zorder=4, label=name)
        panel.axvline(0, color="0.4", lw=0.8)
        panel.set_yticks(places, names if k == 0 else [""] * len(names))
        panel.set_ylim(-0.6, len(names) - 0.4)
        panel.grid(axis="x", color="0.92")
        panel.set_axisbelow(True)
        panel.set_title(f"{found.metric}, n = {len(found.seeds)}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("what each part contributes; line: 95 % interval of the Shapley value", fontsize=9)
    return figure
