"""``--until-decided``: adds seeds to the arms whose contrast is still undecided, until all are decided or the budget is spent.

Whether seeds are added depends on the results so far, for which the usual t-test is not valid. So from now on the verdicts on
this sweep use :data:`sweeps.analysis.significance.ANYTIME_VALID_T_TEST`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from sweeps.analysis import contrasts
from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.contrasts import Contrast
from sweeps.analysis.significance import ANYTIME_VALID_T_TEST, LEVEL, seeds_to_decide
from sweeps.execution import cost
from sweeps.execution.runner import SweepRunner
from sweeps.flag_values import SeedBudget
from sweeps.formatting import duration
from sweeps.planning.grid import BASE
from sweeps.planning.trial import Plan
from sweeps.provenance import command_line
from sweeps.storage.checked_folder import CheckedFolder
from sweeps.storage.records import TrialStatus
from sweeps.sweep_config import UNTIL_DECIDED_MARK, SweepConfig

#: The outlook at the end says what this many further seeds would show.
_FURTHER = 4


def run(config: SweepConfig, budget: SeedBudget, runner: SweepRunner, console: Console) -> Plan:
    """Run the plan, then further seeds round by round; return the plan of all trials.

    A round is one further seed of every undecided arm and of base, or more seeds if there are slots for them. It starts only if
    the rest of the budget covers its estimated cost. Figures are drawn at the end.
    """
    began, plan = time.monotonic(), config.plan
    # Written first: even if this command is killed, the sweep must be tested as one whose results were looked at repeatedly.
    mark = {"command": command_line(), "budget": budget.text}
    CheckedFolder(config.sweep_folder).write_json(UNTIL_DECIDED_MARK, mark)
    seeds = list(dict.fromkeys(trial.config.seed for trial in plan.requested_trials))
    _say(console, contrasts.start_text(plan))
    # What is drawn takes time, but the primary metric may be one that is computed along with it.
    draw = any(trial.is_after_slot(config.grid.primary) for trial in plan.requested_trials)
    runner.run(plan, draw=draw)
    while not runner.outcome.interrupted:
        undecided = _undecided(config, plan, console)
        if not undecided:
            break
        more = _round(config, plan, seeds, [contrast.arm for contrast in undecided], runner)
        price, spent = _price(config, more, runner, budget), _spent(config, runner, budget, began)
        if spent + price > budget.amount:
            _say(console, f"{len(undecided)} undecided; a further round would take about {_amount(price, budget)}, and of "
                          f"{budget.text} {_amount(max(0.0, budget.amount - spent), budget)} is left")  # fmt: skip
            break
        new = list(dict.fromkeys(t.config.seed for t in more.requested_trials if t.config.has_seed))
        _say(console, f"undecided: {', '.join(contrast.arm for contrast in undecided)}; adding seed {', '.join(map(str, new))}")
        tried = any(not config.snapshot.is_done(trial) for trial in more.requested_trials)
        runner.run(more, draw=draw)
        seeds += [seed for seed in new if seed not in seeds]
        plan = plan.merged_with(more)
        before = {contrast.arm: contrast.n for contrast in undecided}
        if tried and all(contrast.n <= before[contrast.arm] for contrast in _contrasts(config, plan) if contrast.arm in before):
            _say(console, "the further seeds brought no result, so no more are added")
            break
    for line in outlook(config, plan, runner):
        _say(console, line)
    if not runner.outcome.interrupted:
        runner.run(plan)  # draws the figures, which do not count against the budget
    return plan


def _undecided(config: SweepConfig, plan: Plan, console: Console) -> list[Contrast]:
    """Return the contrasts that further seeds may decide; print why the others cannot be decided, and if none is left."""
    found = _contrasts(config, plan)
    # The test is not defined if all differences are equal, and more of them would not change that.
    undecided = [c for c in found if c.verdict == "one seed" or (c.verdict == "undecided" and c.interval is not None)]
    for contrast in found:
        if contrast.verdict == "undecided" and contrast not in undecided:
            _say(console, f"{contrast.arm}: {contrast.difference:+.4f} in each seed, without the spread that a test needs")
    if not undecided:
        none_left = any(contrast.verdict == "undecided" for contrast in found)
        _say(console, "further seeds cannot decide the rest" if none_left else "every arm that has results is decided")
    return undecided


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _contrasts(config: SweepConfig, plan: Plan) -> list[Contrast]:
    records = [config.snapshot.record(trial) for trial in plan.trials.values()]
    summaries = summarize([record for record in records if record.status != TrialStatus.PENDING])
    return contrasts.contrasts(summaries, config.grid.primary, config.grid.margin, test=ANYTIME_VALID_T_TEST)


def _round(config: SweepConfig, plan: Plan, seeds: Sequence[int], undecided: Sequence[str], runner: SweepRunner) -> Plan:
    """Return a plan of base and the undecided arms for the next seed, or for as many seeds as fill over half of the slots."""
    next_seed, new = 0, list[int]()
    while True:
        while next_seed in seeds or next_seed in new:
            next_seed += 1
        new.append(next_seed)
        found = config.planner.plan(config.grid, seeds=new, arms=[BASE, *undecided])
        if 2 * len(found.requested) > runner.slots(plan):
            return found


def _open(config: SweepConfig, plan: Plan) -> dict[str, float]:
    """Return the estimated seconds of each open trial of the plan, by key."""
    done = [trial.key for trial in plan.requested_trials if config.snapshot.is_done(trial)]
    return dict(cost.estimate(plan, config.snapshot, done, gpu=config.gpus_per_trial > 0).seconds)


def _price(config: SweepConfig, plan: Plan, runner: SweepRunner, budget: SeedBudget) -> float:
    """Return the estimated cost of a plan's open trials, in the budget's unit (seconds or hours)."""
    seconds = _open(config, plan)
    if budget.unit == "wall":
        return cost.wall_time(plan, seconds, runner.slots(plan))
    return sum(seconds.values()) * _share(config) / 3600


def _spent(config: SweepConfig, runner: SweepRunner, budget: SeedBudget, began: float) -> float:
    return time.monotonic() - began if budget.unit == "wall" else runner.trial_seconds * _share(config) / 3600


def _share(config: SweepConfig) -> float:
    """Return the number of GPUs or cores that a trial uses."""
    return config.gpus_per_trial or config.plan.base.threads


def _amount(amount: float, budget: SeedBudget) -> str:
    return duration(amount) if budget.unit == "wall" else f"{amount:.2f} {budget.unit}-hours"


def outlook(config: SweepConfig, plan: Plan, runner: SweepRunner) -> list[str]:
    """Return a line for each undecided arm: what further seeds would show, and how many would decide it."""
    found = _contrasts(config, plan)
    rejected = sum(contrast.verdict in ("higher", "lower") for contrast in found)
    # The level at which Holm's method tests the smallest of the remaining p-values.
    level = LEVEL / max(1, sum(contrast.p is not None for contrast in found) - rejected)
    lines = []
    for contrast in found:
        if contrast.verdict != "undecided" or contrast.deviation is None or contrast.difference is None:
            continue
        reach = ANYTIME_VALID_T_TEST.half_width(contrast.deviation, contrast.n + _FURTHER, level)
        resolved = f"{reach:.4f}" if reach < 1e6 else "nothing"
        text = (
            f"undecided {contrast.arm}: {contrast.difference:+.4f} in {contrast.n} seeds; {_FURTHER} more seeds, about "
            f"{duration(_FURTHER * _seed_seconds(config, plan, contrast.arm, runner))}, would resolve differences of {resolved}"
        )
        total = seeds_to_decide(contrast.difference, contrast.deviation, contrast.n, level=level, margin=config.grid.margin)
        if total is None:
            lines.append(f"{text}; if it stays as it is, over 500 seeds would not decide it")
        elif total > contrast.n + _FURTHER:
            seconds = (total - contrast.n) * _seed_seconds(config, plan, contrast.arm, runner)
            lines.append(f"{text}; if it stays as it is, {total - contrast.n} more would decide it, about {duration(seconds)}")
        else:
            lines.append(f"{text}; if it stays as it is, {total - contrast.n} more would decide it")
    return lines


def _seed_seconds(config: SweepConfig, plan: Plan, arm: str, runner: SweepRunner) -> float:
    """Return the estimated wall time of one further seed of an arm, base and parents included."""
    fresh = max(trial.config.seed for trial in plan.trials.values()) + 1
    further = config.planner.plan(config.grid, seeds=[fresh], arms=[BASE, arm])
    return cost.wall_time(further, _open(config, further), runner.slots(plan))
