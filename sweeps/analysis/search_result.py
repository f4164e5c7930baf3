"""The result of a search: its points, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sweeps.planning.search_space import SearchSpec

PointState = Literal["done", "infeasible", "stopped", "failed", "running"]
#: ASHA: of the trials that reach a rung, one in REDUCTION continues; rungs are at 1, 3, 9, ... times the first rung's epoch.
REDUCTION = 3


@dataclass(frozen=True)
class SearchPoint:
    """One point of a search.

    Attributes:
        number: from 0, in the order of drawing.
        params: the drawn values, by the keys of the space.
        values: values of the objectives, in their order; empty unless the state is done or infeasible.
        state: done, infeasible (collapsed), stopped (early), failed, or running.
        reason: why it is infeasible, was stopped or failed.
    """

    number: int
    params: Mapping[str, Any]
    values: tuple[float, ...]
    state: PointState
    reason: str = ""

    @property
    def arm(self) -> str:
        """The name of the point's arm."""
        return f"point-{self.number:03d}"


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        search: the search of the grid file.
        points: every point, in order.
        chosen: numbers of the best point, or of the Pareto front.
        importances: for each objective, field -> share of the objective's variance that it accounts for.
        pruned: trial key -> why it was stopped early.
        tags: trial key -> tags of its run in MLflow.
        titles: point's number -> the name of its arm.
    """

    search: SearchSpec
    points: tuple[SearchPoint, ...]
    chosen: tuple[int, ...]
    importances: tuple[Mapping[str, float], ...]
    pruned: Mapping[str, str]
    tags: Mapping[str, Mapping[str, str]]
    titles: Mapping[int, str]

    @property
    def failed(self) -> list[SearchPoint]:
        """Failed points, without those for which another point of the same values did not fail."""
        later = [dict(point.params) for point in self.points if point.state != "failed"]
        return [point for point in self.points if point.state == "failed" and dict(point.params) not in later]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the sweep's parent run: the number of points in each state, and the best value of each objective."""
        counts = {f"points_{state}": float(sum(point.state == state for point in self.points))
                  for state in ("done", "infeasible", "stopped", "failed")}  # fmt: skip
        best = [point for point in self.points if point.number in self.chosen]
        for i, name in enumerate(self.search.objectives):
            if best:
                pick = min if self.search.minimizes(name) else max
                counts[f"best/{name}"] = pick(point.values[i] for point in best)
        return counts

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows of the table of points; a drawn value that encodes zero is shown as zero."""
        head = ["point", "state", *self.search.space, *self.search.objectives, "chosen", "reason"]
        rows = []
        for point in self.points:
            params = self.search.shown(point.params)
            values = [repr(value) for value in point.values] or [""] * len(self.search.objectives)
            yes = "yes" if point.number in self.chosen else ""
            rows.append([self.titles.get(point.number, point.arm), point.state, *params, *values, yes, point.reason])
        return head, rows
