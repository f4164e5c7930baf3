"""The search of a grid file: Optuna draws points, each becomes an arm of the grid, and Ray Tune runs it like any other arm.

A point is judged by metrics that look at no test image. At the end, test metrics are computed only for the best point or, with
several objectives, for the Pareto front. Base is the first point, if the space contains it, and always a row of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from core.config import digest
from core.errors import InputError
from sweeps.analysis.search_result import REDUCTION, SearchPoint, SearchResult
from sweeps.execution.options import Rungs
from sweeps.execution.runner import SweepRunner
from sweeps.planning.grid import BASE
from sweeps.planning.search_space import SearchSpec
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.strategies.optuna_study import Study, rung_epochs
from sweeps.sweep_config import SweepConfig

#: A point is infeasible if, on training batches, the standard deviation of the projections falls short of gamma by more than
#: this share of gamma, on average: it is then below a tenth of gamma, as in the collapse indicators.
COLLAPSED_SHORTFALL = 0.9


def run(config: SweepConfig, runner: SweepRunner, console: Console) -> tuple[Plan, SearchResult]:
    """Run a search up to its number of points, then compute test metrics and figures of the best.

    Returns:
        The plan of all points, base and other arms, and the result of the search.
    """
    search, seed = config.grid.search, config.plan.base.seed
    assert search is not None
    name = f"study-{digest([search.identity, seed])[:8]}.journal"
    study = Study(config.sweep_folder / name, search, seed, epochs=config.plan.base.epochs)
    if not config.report_only:
        _run_points(config, search, study, runner, console)
    best = study.best_points  # read first: another driver may add points, so that every best point is among them
    points = study.points
    plan, by_number = _plan(config, search, points, best)
    if not config.report_only and not runner.outcome.interrupted:
        runner.run(plan)
    # In the end every point is requested, so that a failed one shows in the table and in the exit code.
    everything = replace(plan, requested=plan.requested | {trial.key for trial in by_number.values()})
    return everything, _result(search, study, points, best, by_number)


def _run_points(config: SweepConfig, search: SearchSpec, study: Study, runner: SweepRunner, console: Console) -> None:
    source = OptunaTrialSource(config, search, study)
    if (first := search.point_of(config.plan.base)) is None:
        console.print("base is outside of the search space: it is a row of the table, but no point", highlight=False)
    else:
        study.begin_with(first)
    source.retry_failed()
    if source.remaining:
        rungs = None
        if search.early_stopping:
            rungs = Rungs(frozenset(rung_epochs(config.plan.base.epochs)), search.objectives[0])
        runner.run(config.plan, source, rungs)


def _plan(
    config: SweepConfig, search: SearchSpec, points: Sequence[SearchPoint], best: Sequence[SearchPoint]
) -> tuple[Plan, dict[int, Trial]]:  # fmt: skip
    """Return a plan with all points as arms, which requests the best; and each point's trial, by the point's number."""
    arms: dict[str, Any] = {}
    for point in points:
        if set(point.params) == set(search.space):
            arms[point.arm] = search.fields(point.params, config.plan.base)
    picked = [point.arm for point in best]
    seeds = [config.plan.base.seed]
    valid = {}
    for name, fields in arms.items():  # a point with an invalid config has failed for that reason, and becomes no arm
        try:
            config.planner.plan(config.grid.model_copy(update={"arms": {name: fields}}), seeds=seeds, arms=[name])
            valid[name] = fields
        except InputError:
            continue
    grid = config.grid.model_copy(update={"arms": {**config.grid.arms, **valid}})
    not_picked = [name for name in valid if name not in picked]
    plan = config.planner.plan(grid, seeds=seeds, arms=[BASE, *config.grid.arms, *picked], validation_only=not_picked)
    of_seed = [trial for trial in plan.trials.values() if trial.config.seed == seeds[0] or not trial.config.has_seed]
    by_arm = {name: trial for trial in of_seed for name in trial.arms}
    return plan, {point.number: by_arm[point.arm] for point in points if point.arm in by_arm}


def _result(
    search: SearchSpec, study: Study, points: Sequence[SearchPoint], best: Sequence[SearchPoint], by_number: Mapping[int, Trial]
) -> SearchResult:  # fmt: skip
    numbers = tuple(point.number for point in best)
    pruned = {by_number[p.number].key: p.reason for p in points if p.state == "stopped" and p.number in by_number}
    tags: dict[str, dict[str, str]] = {}
    for point in points:
        if (trial := by_number.get(point.number)) is not None:
            tag = tags.setdefault(trial.key, {"points": "", "search_state": point.state, "chosen": "no"})
            tag["points"] = ", ".join(filter(None, (tag["points"], str(point.number))))
            tag["search_state"] = point.state
            tag["chosen"] = "yes" if point.number in numbers else tag["chosen"]
    titles = {number: " = ".join(trial.arms) for number, trial in by_number.items()}
    return SearchResult(search, tuple(points), numbers, tuple(study.importances()), pruned, tags, titles)


class OptunaTrialSource:
    """Supplies the trial queue with a search's points: first those that an earlier driver left unfinished, then new ones."""

    def __init__(self, config: SweepConfig, search: SearchSpec, study: Study) -> None:
        self._config, self._search, self._study = config, search, study
        self._halfway = study.unfinished()
        self._numbers: dict[str, list[int]] = {}  # trial key -> numbers of its unfinished points
        self._failed = 0  # number of points that failed in this command

    @property
    def remaining(self) -> int:
        """The number of points that are still to be tried."""
        points = self._study.points
        new = self._search.trials - sum(point.state != "failed" for point in points) - self._failed
        return max(0, new) + len(self._halfway)

    def retry_failed(self) -> None:
        """Enqueue the points that failed in earlier commands, unless a point of the same values did not fail or is enqueued."""
        points = self._study.points
        later = [dict(point.params) for point in points if point.state != "failed"] + self._study.waiting()
        failed = [dict(point.params) for point in points if point.state == "failed"]
        again: list[dict[str, Any]] = []
        for params in failed:
            if params not in later and params not in again and set(params) == set(self._search.space):
                again.append(params)
        for params in again[: self.remaining]:
            self._study.enqueue(params)

    def ask(self) -> Plan | None:
        """Return a plan for the next point whose trial must run, or None; end points whose trial is done already."""
        while self.remaining > 0:
            point = self._halfway.pop(0) if self._halfway else self._study.ask()
            try:
                plan = self._plan_of(point)
            except InputError as error:
                self._study.fail(point.number, "; ".join(error.errors))
                self._failed += 1
                continue
            trial = next(t for t in plan.trials.values() if point.arm in t.arms)
            running = trial.key in self._numbers
            self._numbers.setdefault(trial.key, []).append(point.number)
            store = self._config.snapshot.store
            if store.is_whole(trial):  # other drivers may have run it since the snapshot
                self.trial_ended(store.read(trial.key).record(trial))
            elif not running:
                return plan
        return None

    def _plan_of(self, point: SearchPoint) -> Plan:
        fields = self._search.fields(point.params, self._config.plan.base)
        grid = self._config.grid.model_copy(update={"arms": {**self._config.grid.arms, point.arm: fields}})
        seeds = [self._config.plan.base.seed]
        return self._config.planner.plan(grid, seeds=seeds, arms=[point.arm], validation_only=[point.arm])

    def should_prune(self, key: str, record: Mapping[str, float]) -> str | None:
        """Return the reason to prune the trial at this epoch, or None."""
        name = self._search.objectives[0]
        if not self._search.early_stopping or name not in record or key not in self._numbers:
            return None
        epoch = int(record["epoch"])
        if not self._study.should_prune(self._numbers[key][0], epoch, record[name]):
            return None
        return f"{record[name]:.4f} after epoch {epoch}, not in the best 1 of {REDUCTION} there"

    def trial_ended(self, record: TrialRecord) -> None:
        """Tell the study how the trial's points ended."""
        for number in self._numbers.pop(record.trial.key, []):
            values = [record.metrics.get(name) for name in self._search.objectives]
            missing = [name for name, value in zip(self._search.objectives, values, strict=True) if value is None]
            if record.status == TrialStatus.PRUNED:
                self._study.stop(number, record.reason or "")
            elif record.status != TrialStatus.DONE or missing:
                reason = record.reason or f"no {missing[0]}: {record.problems.get(missing[0], 'it does not apply')}"
                self._study.fail(number, reason)
                self._failed += 1
            else:
                excess = _shortfall(record) - COLLAPSED_SHORTFALL
                reason = f"collapsed: projections lack {excess + COLLAPSED_SHORTFALL:.0%} of gamma" if excess > 0 else ""
                self._study.tell(number, [value for value in values if value is not None], max(0.0, excess), reason)


def _shortfall(record: TrialRecord) -> float:
    """Return the mean hinge of the variance term on the last epoch's training batches, of one view, as a share of gamma."""
    history = record.training.history if record.training else ()
    return history[-1].get("train/variance", 0.0) / 2 / record.trial.config.gamma if history else 0.0
