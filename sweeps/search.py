"""The search of a grid file: points that Optuna draws become arms of the grid, and Ray Tune runs them like any others.

A point is judged by metrics that look at no test image. Test metrics are computed in the end for those that were decided on
alone: the best point, or with several objectives those that no other dominates. Base is the first point, where the space holds
it, and always a row of the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core.config import digest
from core.errors import InputError
from core.files import whole_file
from sweeps.grid import BASE
from sweeps.job import Job
from sweeps.plan import Plan, Trial
from sweeps.session import Session
from sweeps.space import Search
from sweeps.store import TrialRecord
from sweeps.study import REDUCTION, Point, Study, chosen, rung_epochs

#: A point is infeasible where the projections' mean shortfall of deviation on training batches is above this share of gamma:
#: their deviation then is below a tenth of gamma, as in the collapse indicators.
COLLAPSED_SHORTFALL = 0.9


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        search: what was searched.
        points: every point, in order.
        chosen: numbers of those decided on.
        importances: objective by objective, field -> share of the variance that it accounts for.
        stopped: trial key -> why it was stopped early.
        tags: trial key -> tags of its run in MLflow.
        titles: point's number -> the name of its arm.
    """

    search: Search
    points: tuple[Point, ...]
    chosen: tuple[int, ...]
    importances: tuple[Mapping[str, float], ...]
    stopped: Mapping[str, str]
    tags: Mapping[str, Mapping[str, str]]
    titles: Mapping[int, str]

    @property
    def failed(self) -> list[Point]:
        """Points that failed and were not made good by a later one."""
        later = [dict(point.params) for point in self.points if point.state != "failed"]
        return [point for point in self.points if point.state == "failed" and dict(point.params) not in later]

    @property
    def metrics(self) -> dict[str, float]:
        """For the sweep's parent run: how many points ended how, and the best value of each objective."""
        counts = {f"points_{state}": float(sum(point.state == state for point in self.points))
                  for state in ("done", "infeasible", "stopped", "failed")}  # fmt: skip
        best = [point for point in self.points if point.number in self.chosen]
        for i, name in enumerate(self.search.objectives):
            if best:
                pick = min if self.search.minimizes(name) else max
                counts[f"best/{name}"] = pick(point.values[i] for point in best)
        return counts

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of the table of points; what was drawn below a range's low end is shown as the zero it stands for."""
        head = ["point", "state", *self.search.space, *self.search.objectives, "chosen", "reason"]
        rows = []
        for point in self.points:
            params = self.search.shown(point.params)
            values = [repr(value) for value in point.values] or [""] * len(self.search.objectives)
            yes = "yes" if point.number in self.chosen else ""
            rows.append([self.titles.get(point.number, point.arm), point.state, *params, *values, yes, point.reason])
        return head, rows

    def write(self, path: Path) -> Path:
        """Writes the points as CSV; returns the path."""
        text = io.StringIO()
        head, rows = self.rows()
        csv.writer(text, lineterminator="\n").writerows([head, *rows])
        with whole_file(path) as temporary:
            temporary.write_text(text.getvalue())
        return path

    def table(self) -> Table:
        """The table of points for the console."""
        shown = Table(title=f"points of the search for {' and '.join(self.search.objectives)}", title_justify="left")
        head, rows = self.rows()
        for name in head:
            shown.add_column(name)
        for row in rows:
            shown.add_row(*(f"{float(cell):.4f}" if name in self.search.objectives and cell else cell
                            for name, cell in zip(head, row, strict=True)))  # fmt: skip
        return shown


def run(job: Job, session: Session, console: Console) -> tuple[Plan, Searched]:
    """Runs a search to its number of points, then what it decided on in full.

    Returns:
        The plan of everything, and what was found.
    """
    search = job.grid.search
    assert search is not None
    seed = job.plan.base.seed
    folder = job.options.storage / "sweeps" / job.plan.sweep
    name = f"study-{digest([search.identity, seed])[:8]}.journal"
    study = Study(folder / name, search, seed, epochs=job.plan.base.epochs)
    if not job.options.report_only:
        source = _Source(job, search, study)
        if (first := search.point_of(job.plan.base)) is None:
            console.print("base lies outside of the space: it is a row of the table, and no point", highlight=False)
        else:
            study.begin_with(first)
        source.retry_failed()
        if source.left:
            names = search.objectives
            rungs = None
            if search.early_stopping:
                from sweeps.trial import Rungs

                rungs = Rungs(frozenset(rung_epochs(job.plan.base.epochs)), names[0])
            session.run(job.plan, source, rungs, points=source.left)
    points = study.points
    best = chosen(points, search.objectives)
    plan, by_number = _plan(job, search, points, best)
    if not job.options.report_only and not session.outcome.interrupted:
        session.run(plan)
    return _everything(plan, by_number), _searched(search, study, plan, points, best, by_number)


def _plan(job: Job, search: Search, points: Sequence[Point], best: Sequence[Point]) -> tuple[Plan, dict[int, Trial]]:
    """The plan of all points as arms, which asks for what was decided on; and each point's trial."""
    arms: dict[str, Any] = {}
    for point in points:
        if set(point.params) == set(search.space):
            arms[point.arm] = search.fields(point.params, job.plan.base)
    picked = [point.arm for point in best]
    seeds = [job.plan.base.seed]
    valid = {}
    for name, fields in arms.items():  # a point whose config is impossible was told so, and is no arm
        try:
            job.replan(job.grid.model_copy(update={"arms": {name: fields}}), seeds=seeds, arms=[name])
            valid[name] = fields
        except InputError:
            continue
    grid = job.grid.model_copy(update={"arms": {**job.grid.arms, **valid}})
    plan = job.replan(
        grid, seeds=seeds, arms=[BASE, *job.grid.arms, *picked], choosing=[name for name in valid if name not in picked]
    )
    of_seed = [trial for trial in plan.trials.values() if trial.config.seed == seeds[0] or not trial.config.has_encoder]
    by_arm = {name: trial for trial in of_seed for name in (trial.arm, *trial.aliases)}
    return plan, {point.number: by_arm[point.arm] for point in points if point.arm in by_arm}


def _everything(plan: Plan, by_number: Mapping[int, Trial]) -> Plan:
    """The plan, asking for every point: one that failed tells of itself in table and exit code."""
    return replace(plan, wanted=plan.wanted | {trial.key for trial in by_number.values()})


def _searched(
    search: Search, study: Study, plan: Plan, points: Sequence[Point], best: Sequence[Point], by_number: Mapping[int, Trial]
) -> Searched:
    numbers = tuple(point.number for point in best)
    stopped = {by_number[p.number].key: p.reason for p in points if p.state == "stopped" and p.number in by_number}
    tags: dict[str, dict[str, str]] = {}
    for point in points:
        if (trial := by_number.get(point.number)) is not None:
            tag = tags.setdefault(trial.key, {"points": "", "search_state": point.state, "chosen": "no"})
            tag["points"] = ", ".join(filter(None, (tag["points"], str(point.number))))
            tag["search_state"] = point.state
            tag["chosen"] = "yes" if point.number in numbers else tag["chosen"]
    return Searched(
        search, tuple(points), numbers, tuple(study.importances()), stopped, tags,
        {number: " = ".join((trial.arm, *trial.aliases)) for number, trial in by_number.items()},
    )  # fmt: skip


class _Source:
    """Points for the scheduler: those that a driver before left half done, then new ones, up to the search's number."""

    def __init__(self, job: Job, search: Search, study: Study) -> None:
        self._job, self._search, self._study = job, search, study
        self._halfway = study.left()
        self._numbers: dict[str, list[int]] = {}  # trial key -> points that come to it and have not ended
        self._failed = 0  # in this command

    @property
    def left(self) -> int:
        """How many points are still to try."""
        points = self._study.points
        new = self._search.trials - sum(point.state != "failed" for point in points) - self._failed
        return max(0, new) + len(self._halfway)

    def retry_failed(self) -> None:
        """Has points that failed in an earlier command tried again, unless that was done meanwhile."""
        points = self._study.points
        later = [dict(point.params) for point in points if point.state != "failed"] + self._study.waiting()
        failed = [dict(point.params) for point in points if point.state == "failed"]
        wanted: list[dict[str, Any]] = []
        for params in failed:
            if params not in later and params not in wanted and set(params) == set(self._search.space):
                wanted.append(params)
        for params in wanted[: self.left]:
            self._study.again(params)

    def ask(self) -> Plan | None:
        """The next point that is not known to the store as a plan; what is known is told at once and costs nothing."""
        while self.left > 0:
            point = self._halfway.pop(0) if self._halfway else self._study.ask()
            try:
                plan = self._plan_of(point)
            except InputError as error:
                self._study.fail(point.number, "; ".join(error.faults))
                self._failed += 1
                continue
            trial = next(t for t in plan.trials.values() if point.arm in (t.arm, *t.aliases))
            running = trial.key in self._numbers
            self._numbers.setdefault(trial.key, []).append(point.number)
            if self._job.store.is_done(trial):
                self.ended(self._job.store.record(trial))
            elif not running:
                return plan
        return None

    def _plan_of(self, point: Point) -> Plan:
        fields = self._search.fields(point.params, self._job.plan.base)
        grid = self._job.grid.model_copy(update={"arms": {**self._job.grid.arms, point.arm: fields}})
        plan: Plan = self._job.replan(grid, seeds=[self._job.plan.base.seed], arms=[point.arm], choosing=[point.arm])
        return plan

    def hopeless(self, key: str, record: Mapping[str, float]) -> str | None:
        """ASHA's word on a trial at a rung."""
        name = self._search.objectives[0]
        if not self._search.early_stopping or name not in record or key not in self._numbers:
            return None
        epoch = int(record["epoch"])
        if not self._study.hopeless(self._numbers[key][0], epoch, record[name]):
            return None
        return f"{record[name]:.4f} after epoch {epoch}, not in the best 1 of {REDUCTION} there"

    def ended(self, record: TrialRecord) -> None:
        """Tells the study how a trial's points ended."""
        for number in self._numbers.pop(record.trial.key, []):
            values = [record.metrics.get(name) for name in self._search.objectives]
            lacking = [name for name, value in zip(self._search.objectives, values, strict=True) if value is None]
            if record.status == "stopped":
                self._study.stop(number, record.reason or "")
            elif record.status != "done" or lacking:
                reason = record.reason or f"no {lacking[0]}: {record.problems.get(lacking[0], 'it does not apply')}"
                self._study.fail(number, reason)
                self._failed += 1
            else:
                excess = _shortfall(record) - COLLAPSED_SHORTFALL
                reason = f"collapsed: projections lack {excess + COLLAPSED_SHORTFALL:.0%} of gamma" if excess > 0 else ""
                self._study.tell(number, [value for value in values if value is not None], max(0.0, excess), reason)


def _shortfall(record: TrialRecord) -> float:
    """Mean hinge of the variance term on the last epoch's training batches, of one view, as a share of gamma."""
    history = record.training.history if record.training else ()
    return history[-1].get("train/variance", 0.0) / 2 / record.trial.config.gamma if history else 0.0
