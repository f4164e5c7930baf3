"""The figure of anomalies by several scores: does an arm's place depend on the score?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np
from matplotlib.figure import Figure

from evaluation.plot_style import colour, mark, panels
from sweeps.analysis.metric_differences import ANOMALY_SCORES
from sweeps.reporting.arm_figures import Arm, ranked

_OTHERS = tuple(ANOMALY_SCORES)[1:]
#: How far apart the scores of one arm are drawn, in rows.
_APART = 0.26


def anomaly_scores(arms: Sequence[Arm], sets: Mapping[str, str], base: str) -> Figure | None:
    """Draw the AUC by arm, a panel for each anomaly set, a colour for each score; the best arm by the first set's AUC on top.

    Large marks are means over the seeds, small dots single seeds. Base's mean is a dashed line in the score's colour.

    Args:
        arms: the arms.
        sets: name -> title of the anomaly sets.
        base: name of the arm whose mean is marked.

    Returns:
        None if no arm has another score than ``anomaly_auc`` for any set.
    """
    shown = [which for which in sets if any(arm.values.get(f"{name}/{which}") for arm in arms for name in _OTHERS)]
    if not shown:
        return None
    order = ranked(arms, f"anomaly_auc/{shown[0]}")
    figure, axes = panels(len(shown), width=5.6 if len(shown) == 1 else 4.2, height=0.36 * len(order) + 1.1)
    for k, (panel, which) in enumerate(zip(axes[0], shown, strict=True)):
        for i, (name, words) in enumerate(ANOMALY_SCORES.items()):
            offset = (1 - i) * _APART
            values = [(place + offset, arm.values.get(f"{name}/{which}", ())) for place, arm in enumerate(order)]
            dots = [(value, y) for y, found in values for value in found]
            means = [(mean(found), y) for y, found in values if found]
            panel.scatter(*np.reshape(dots, (-1, 2)).T, s=5, c=colour(i), alpha=0.5, linewidths=0, zorder=2)
            panel.scatter(
                *np.reshape(means, (-1, 2)).T,
                s=26,
                c=colour(i),
                marker=mark(i),
                linewidths=0,
                zorder=3,
                label=words.removeprefix("the "),
            )
            of_base = next((arm.mean(f"{name}/{which}") for arm in order if arm.name == base), None)
            if of_base is not None:
                panel.axvline(of_base, color=colour(i), lw=0.9, ls="--", zorder=1)
        panel.hlines(
            np.arange(len(order) - 1) + 0.5, 0, 1, transform=panel.get_yaxis_transform(), color="0.9", lw=0.6, zorder=0
        )
        panel.set_yticks(range(len(order)), [arm.name if k == 0 else "" for arm in order])
        panel.tick_params(axis="y", length=0)
        panel.set_ylim(-0.5, len(order) - 0.5)
        panel.set_xlabel("ROC AUC")
        panel.set_title(sets[which])
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=1 if len(shown) == 1 else 3)
    figure.suptitle(f"large: mean, small: one seed; dashed: {base} by the score of that colour", fontsize=9)
    return figure
