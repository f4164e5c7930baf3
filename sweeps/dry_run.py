"""``--dry-run``: prints the trials, their dependencies, and their estimated cost."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from rich.console import Console

from sweeps.analysis.contrasts import start_text
from sweeps.execution import cost
from sweeps.formatting import duration
from sweeps.planning.trial import Trial
from sweeps.reporting.terminal_tables import MAX_ROWS, TextColumn, show
from sweeps.sweep_config import SweepConfig


def show_plan(config: SweepConfig, console: Console) -> None:
    """Print the table of trials: what they depend on, what is done, and what the rest will cost."""
    plan, snapshot = config.plan, config.snapshot
    done = {trial.key for trial in plan.requested_trials if snapshot.is_done(trial)}
    estimate = cost.estimate(plan, snapshot, done, gpu=config.gpus_per_trial > 0)
    trials = plan.requested_trials
    columns = _columns(config, trials if config.verbose else trials[:MAX_ROWS], done, estimate)
    show(console, f"{plan.sweep_id}: {plan.grid.question}", columns, total=len(trials), verbose=config.verbose)
    share, per_trial, slots = _slots(config)
    hours = sum(estimate.seconds.values()) * share / 3600
    _say(
        console,
        f"{len(plan.requested)} trials, {len(done)} done already, {len(estimate.seconds)} to run: "
        f"{hours:.2f} {per_trial}-hours, "
        f"about {duration(cost.wall_time(plan, estimate.seconds, slots))} with {slots} at once, by {estimate.basis}",
    )
    for line in snapshot.new_damage():
        _say(console, line)
    if config.grid.search is not None:
        search, each = config.grid.search, max(estimate.seconds.values(), default=0.0)
        each = each or max(cost.estimate(plan, snapshot, (), gpu=config.gpus_per_trial > 0).seconds.values())
        _say(
            console,
            f"then {search.trials} points in all for {' and '.join(search.objectives)} over {', '.join(search.space)}: "
            f"{search.trials * each * share / 3600:.2f} {per_trial}-hours, about {duration(search.trials * each / slots)}, if "
            "each takes as long as base and none is done already",
        )
    if config.budget is not None:
        _say(
            console,
            f"then further seeds for the arms that are still undecided, until {config.budget.text} are spent; "
            f"{start_text(plan)}, whatever they cost",
        )


def _slots(config: SweepConfig) -> tuple[float, str, int]:
    """Return a trial's number of GPUs or cores, which of the two, and how many trials run at once on this machine."""
    if config.gpus_per_trial:
        return config.gpus_per_trial, "GPU", 1
    threads = config.plan.base.threads
    return threads, "core", max(1, (os.cpu_count() or 1) // threads)


def _columns(
    config: SweepConfig, trials: Sequence[Trial], done: Collection[str], estimate: cost.Estimate
) -> list[TextColumn]:  # fmt: skip
    plan, snapshot = config.plan, config.snapshot
    rows = []
    for trial in trials:
        key = trial.key
        needs = [plan.trials[need].arm if need in plan.trials else f"{need} (kept)" for need in plan.dependencies(trial)]
        arm = " = ".join(trial.arms) + (" (added)" if trial.required_by else "")
        seed = str(trial.config.seed) if trial.config.has_seed else ""
        drawn = "done" if snapshot.is_drawn(trial) else "to draw"
        state = drawn if key in done else "to evaluate" if snapshot.is_trained(key, trial.parent_key) else "to do"
        seconds = duration(estimate.seconds[key]) if key in estimate.seconds else ""
        rows.append((arm, seed, state, ", ".join(needs), "; ".join(_differences(trial)), seconds))
    arms, seeds, states, needs_of, differences, estimates = (list(cells) for cells in zip(*rows, strict=True))
    return [
        TextColumn("arm", "arm", arms, needed=True, kind="name"),
        TextColumn("seed", "seed", seeds, needed=True),
        TextColumn("state", "state", states, needed=True),
        TextColumn("needs", "needs", needs_of, kind="words"),
        TextColumn("differs from base", "differs from base", differences, kind="words"),
        TextColumn("estimate", "estimate", estimates),
    ]


def _differences(trial: Trial) -> list[str]:
    return [
        f"{name}: {mine}" if name != "augmentation" or mine is None else name
        for name, (_, mine) in trial.diff_from_base.items()
    ]


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
