"""``--until-decided`` with trials whose true values are known: what it adds, when it stops, what it says, how often it errs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from core.errors import InputError
from evaluation.evaluate import metric_ids
from sweeps.analysis.significance import ANYTIME_VALID_T_TEST, LEVEL, holm
from sweeps.command_line import parse
from sweeps.execution.runner import RunOutcome
from sweeps.flag_values import SeedBudget, parse_budget
from sweeps.planning.grid import Grid
from sweeps.planning.trial import Plan
from sweeps.storage.records import MetricResult
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.strategies import sequential_seeds
from sweeps.sweep_config import UNTIL_DECIDED_MARK, SweepConfig
from tests.conftest import TINY
from tests.sweeps.tiny import finish, is_done, planner, snapshot

TRUTH = {"base": 0.5, "far": 0.3, "near": 0.498, "like": 0.5}
NOISE = {"far": 0.01, "near": 0.03, "like": 0.005}


class FakeRunner:
    """Brings trials to their end at once, with values of a known truth."""

    def __init__(self, known: StoreSnapshot) -> None:
        self.outcome, self.trial_seconds = RunOutcome(), 0.0
        self.snapshot, self.store, self.seeds, self.failing = known, known.store, list[tuple[str, int]](), set[str]()

    def slots(self, plan: Plan) -> int:
        return 2

    def run(self, plan: Plan, *, draw: bool = True) -> None:
        for key in plan.requested:
            trial = plan.trials[key]
            if is_done(self.store, trial) or trial.arm in self.failing:
                continue
            seed = trial.config.seed
            shared = np.random.default_rng(seed).normal(0, 0.02)
            own = np.random.default_rng([seed, ord(trial.arm[0])]).normal(0, NOISE.get(trial.arm, 0.0))
            finish(self.store, trial)
            value = MetricResult(float(TRUTH[trial.arm] + shared + own), None, 1.0)
            self.store.save_results(trial.key, {metric_ids(trial.anomalies)["probe_accuracy"]: value})
            self.seeds.append((trial.arm, seed))
            self.trial_seconds += 10.0
        self.snapshot.clear()


def config(storage: Path, arms: list[str], budget: SeedBudget, earlier: tuple[int, ...] = ()) -> SweepConfig:
    fields = {"far": {"mu": 0}, "near": {"mu": 1}, "like": {"mu": 2}}
    grid = Grid(name="tiny", question="decided?", arms={name: fields[name] for name in arms}, base=dict(TINY), margin=0.01)
    by = planner(storage, earlier_seeds=lambda _: earlier)
    return SweepConfig(
        grid=grid, plan=by.plan(grid, seeds=(0, 1, 2)), planner=by, snapshot=snapshot(storage), storage=storage,
        data_dir=storage, tracking_uri="", address=None, gpus_per_trial=0.0, deterministic=False, dry_run=False,
        report_only=False, introduction="", folder_notes=(), budget=budget, test=ANYTIME_VALID_T_TEST,
        verbose=False,
    )  # fmt: skip


def decide(
    tmp_path: Path, arms: list[str], amount: float, unit: str = "core", earlier: tuple[int, ...] = ()
) -> tuple[FakeRunner, str, Plan]:
    tmp_path.mkdir(exist_ok=True)
    given = config(tmp_path, arms, SeedBudget("so much", amount, unit), earlier)
    runner, console = FakeRunner(given.snapshot), Console(record=True, width=200, file=(tmp_path / "log").open("w"))
    plan = sequential_seeds.run(given, given.budget, runner, console)  # type: ignore[arg-type]
    return runner, console.export_text(), plan


def test_seeds_are_added_to_what_is_undecided_alone(tmp_path: Path) -> None:
    runner, said, plan = decide(tmp_path, ["far", "like"], 100.0)
    seeds = {name: sorted(seed for arm, seed in runner.seeds if arm == name) for name in ("base", "far", "like")}
    assert seeds["base"] == seeds["like"] == list(range(len(seeds["like"])))
    assert 3 <= len(seeds["far"]) < len(seeds["like"]), "decided sooner, and left alone from then on"
    assert "every arm that has results is decided" in said
    found = {c.arm: c for c in sequential_seeds._contrasts(config(tmp_path, ["far", "like"], SeedBudget("", 1, "core")), plan)}
    assert found["far"].verdict == "lower" and found["like"].verdict == "equivalent"
    assert found["far"].n == len(seeds["far"]) and len(plan.requested) == len(runner.seeds)


def test_it_stops_when_the_budget_is_spent_and_says_what_more_it_would_take(tmp_path: Path) -> None:
    runner, said, _ = decide(tmp_path, ["near"], 0.05)  # core-hours; a trial takes 10 s
    assert runner.trial_seconds / 3600 <= 0.05
    assert "1 undecided; a further round would take about" in said and "is left" in said
    assert "undecided near: " in said and "4 more seeds, about" in said and "would resolve differences of" in said


def test_no_budget_no_further_seed(tmp_path: Path) -> None:
    runner, said, _ = decide(tmp_path, ["near"], 1e-6)
    assert {seed for _, seed in runner.seeds} == {0, 1, 2} and "0.00 core-hours is left" in said


def test_the_same_command_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, _, _ = decide(tmp_path / "whole", ["like"], 100.0)
    torn, _, _ = decide(tmp_path / "torn", ["like"], 0.03)
    assert (
        tmp_path / "torn" / "sweeps" / config(tmp_path, ["like"], SeedBudget("", 1, "core")).plan.sweep_id / UNTIL_DECIDED_MARK
    ).is_file()
    earlier = tuple(sorted({seed for _, seed in torn.seeds}))  # as the sweep's file tells the next command
    assert len(earlier) > 3
    rest, said, plan = decide(tmp_path / "torn", ["like"], 100.0, earlier=earlier)
    assert "every arm" in said and {(arm, seed) for arm, seed in rest.seeds} < set(whole.seeds)
    assert {(t.arm, t.config.seed) for t in plan.trials.values() if t.key in plan.requested} == set(whole.seeds)


def test_an_arm_that_always_fails_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(tmp_path, ["near"], SeedBudget("so much", 100.0, "core"))
    runner, console = FakeRunner(given.snapshot), Console(record=True, width=200, file=(tmp_path / "log").open("w"))
    runner.run(given.plan)
    runner.failing = {"near"}
    sequential_seeds.run(given, given.budget, runner, console)  # type: ignore[arg-type]
    assert "brought no result" in console.export_text()


def test_false_verdicts_are_as_rare_as_stated_over_the_whole_procedure() -> None:
    """Three arms equal to base in truth, up to 40 seeds added to the undecided alone, Holm at every look."""
    draw, wrong, runs = np.random.default_rng(11), 0, 600
    for _ in range(runs):
        differences = draw.normal(0, 0.02, (3, 40)) - draw.normal(0, 0.02, 40)  # base is shared
        n = [3, 3, 3]
        decided: set[int] = set()
        while len(decided) < 3 and max(n) < 40:
            p = []
            for arm in range(3):
                seen = differences[arm, : n[arm]]
                p.append(ANYTIME_VALID_T_TEST.p(float(seen.mean() / (seen.std(ddof=1) / np.sqrt(n[arm]))), n[arm]))
            decided = {arm for arm, corrected in enumerate(holm(p)) if corrected < LEVEL}
            if decided:
                break
            n = [k + 1 if arm not in decided else k for arm, k in enumerate(n)]
        wrong += bool(decided)
    assert wrong / runs < LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / runs)


@pytest.mark.parametrize(("text", "expected"), [
    ("30m", (1800, "wall")), ("2h", (7200, "wall")), ("90s", (90, "wall")), ("4core-h", (4, "core")),
    ("1.5gpu-h", (1.5, "gpu")),
])  # fmt: skip
def test_budgets(text: str, expected: tuple[float, str]) -> None:
    found = parse_budget(replace(parse([]), until_decided=True, budget=text))
    assert found is not None and (found.amount, found.unit) == expected


@pytest.mark.parametrize(("given", "named"), [
    ({"until_decided": True, "budget": None}, "--budget, e.g. 30m"),
    ({"until_decided": True, "budget": "soon"}, "--budget soon"),
    ({"until_decided": False, "budget": "30m"}, "goes with --until-decided"), ({"until_decided": True, "budget": "0m"}, "0m"),
])  # fmt: skip
def test_a_wrong_budget_says_what_is_wrong(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        parse_budget(replace(parse([]), **given))
