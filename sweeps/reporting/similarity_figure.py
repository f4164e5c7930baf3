"""The figure of the arms' similarity: linear CKA of their test representations, with a dendrogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core.config import TrialConfig
from evaluation.similarity import pairwise_cka
from sweeps.analysis.arm_summary import ArmSummary
from sweeps.storage.records import TrialRecord
from sweeps.storage.snapshot import StoreSnapshot


@dataclass(frozen=True)
class Representations:
    """Test representations of several arms on the same images.

    Attributes:
        of_arms: arm -> [N, D] float32; D may differ.
        seed: the seed of all arms that depend on one; None if none does.
        left_out: arm -> why it is not among them.
    """

    of_arms: Mapping[str, NDArray[Any]]
    seed: int | None
    left_out: Mapping[str, str]

    @property
    def left_out_text(self) -> str:
        """A sentence on the arms that are left out; "" if none is."""
        said = [f"{arm} ({why})" for arm, why in self.left_out.items()]
        return f"Left out: {', '.join(said)}." if said else ""


def representations(summaries: Sequence[ArmSummary], base: TrialConfig, snapshot: StoreSnapshot) -> Representations:
    """Return the test representations of the arms on base's images, each trial's file read once.

    All are of one seed: the first that is done for all arms that depend on the seed, or, if there is none, the first that is
    done for the most of them.

    Args:
        summaries: the arms.
        base: the config of base.
        snapshot: of the store.
    """
    left_out: dict[str, str] = {}
    done = {summary.arm: _by_seed(summary) for summary in summaries}
    seeds = [seed for found in done.values() for seed in found if seed is not None]
    seed = min(set(seeds), key=lambda seed: (-seeds.count(seed), seed), default=None)
    read: dict[str, NDArray[Any] | None] = {}
    of_arms: dict[str, NDArray[Any]] = {}
    for arm, found in done.items():
        record = found.get(seed, found.get(None))
        if record is None:
            left_out[arm] = f"seed {seed} is not done"
            continue
        trial = record.trial
        if trial.config.images_key[:2] != base.images_key[:2]:
            left_out[arm] = "other images than base's"
            continue
        if trial.key not in read:
            arrays = snapshot.state(trial.key).detail(trial, "representations")
            read[trial.key] = None if arrays is None else arrays["test"]
        points = read[trial.key]
        if points is None:
            left_out[arm] = "its representations are not kept"
        elif not np.isfinite(points).all():
            left_out[arm] = "its representation holds NaN or infinity"
        else:
            of_arms[arm] = points
    return Representations(of_arms, seed, left_out)


def _by_seed(summary: ArmSummary) -> dict[int | None, TrialRecord]:
    return {r.trial.config.seed if r.trial.config.has_seed else None: r for r in summary.done}


def heat_map(given: Representations) -> Figure | None:
    """Draw the linear CKA of every two arms as a heat map, in the order of a dendrogram (average linkage of 1 - CKA) beside it.

    Constant representations, for which CKA is not defined, come last, in grey.

    Returns:
        None if CKA is defined for fewer than two arms.
    """
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    names = list(given.of_arms)
    found = pairwise_cka(list(given.of_arms.values()))
    defined = np.flatnonzero(~np.isnan(found.diagonal()))
    if len(defined) < 2:
        return None
    distances = squareform(1 - found[np.ix_(defined, defined)], checks=False)
    tree = dendrogram(linkage(distances, method="average", optimal_ordering=True), no_plot=True)
    order = [*defined[tree["leaves"]], *np.flatnonzero(np.isnan(found.diagonal()))]
    n = len(order)
    figure = Figure(figsize=(0.52 * n + 4.2, 0.34 * n + 1.9))
    branches, panel = figure.subplots(1, 2, width_ratios=[1, 4])
    for across, depth in zip(tree["icoord"], tree["dcoord"], strict=True):  # leaf i is at 10 i + 5
        branches.plot(depth, (np.array(across) - 5) / 10, color="#332288", lw=1)
    branches.set_xlim(max(1e-3, 1.05 * max(max(depth) for depth in tree["dcoord"])), 0)
    branches.set_ylim(n - 0.5, -0.5)
    branches.set_yticks([])
    branches.spines["left"].set_visible(False)
    branches.set_xlabel("1 - CKA")
    _draw_table(panel, found[np.ix_(order, order)], [names[i] for i in order])
    count = len(next(iter(given.of_arms.values())))
    which = "" if given.seed is None else f", seed {given.seed}"
    figure.suptitle(f"linear CKA of the test representations{which}, n = {count:,}; grey: not defined (constant)", fontsize=9)
    return figure


def _draw_table(panel: Any, table: NDArray[np.float64], names: Sequence[str]) -> None:
    """Draw [A, A] as a heat map with its numbers; NaN is grey."""
    panel.set_facecolor("0.85")
    panel.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="black" if value > 0.6 else "white")
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    panel.set_yticks(range(len(names)), names)
    panel.yaxis.tick_right()
    panel.tick_params(length=0)
