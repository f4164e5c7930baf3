"""What a command shows and leaves: the plan before it runs; tables, report and MLflow's parent run at its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core.files import save_json
from sweeps import contrasts, cost, page, report, tracking, tracking_uri
from sweeps.contrasts import Contrast
from sweeps.job import FIRST_SEEDS, Job
from sweeps.origin import command, git_commit
from sweeps.plan import Plan
from sweeps.progress import duration
from sweeps.search import Searched
from sweeps.session import Session
from sweeps.store import Store, TrialRecord

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def show_plan(job: Job, console: Console) -> None:
    """The table of trials, what they need, what is done, and what the rest will cost."""
    plan, store = job.plan, job.store
    done = [key for key in plan.trials if key in plan.wanted and store.is_done(plan.trials[key])]
    estimate = cost.estimate(plan, store, done, gpu=job.gpus_per_trial > 0)
    shown = Table(title=f"{plan.sweep}: {plan.grid.question}", title_justify="left")
    for name in ("arm", "seed", "state", "needs", "differs from base", "estimate"):
        shown.add_column(name)
    for key in (key for key in plan.trials if key in plan.wanted):
        trial = plan.trials[key]
        needs = [plan.trials[need].arm if need in plan.trials else f"{need} (kept)" for need in plan.waits_for(trial)]
        differs = [
            f"{name}: {mine}" if name != "augmentation" or mine is None else name for name, (_, mine) in trial.differs.items()
        ]
        arm = " = ".join((trial.arm, *trial.aliases)) + (" (added)" if trial.added_for else "")
        seed = str(trial.config.seed) if trial.config.has_encoder else ""
        drawn = "done" if store.is_drawn(trial) else "to draw"
        state = drawn if key in done else "to evaluate" if store.is_trained(key) else "to do"
        seconds = duration(estimate.seconds[key]) if key in estimate.seconds else ""
        shown.add_row(arm, seed, state, ", ".join(needs), "; ".join(differs), seconds)
    console.print(shown)
    per_trial = "GPU" if job.gpus_per_trial else "core"
    share = job.gpus_per_trial or plan.base.threads
    hours = sum(estimate.seconds.values()) * share / 3600
    slots = 1 if job.gpus_per_trial else max(1, (os.cpu_count() or 1) // plan.base.threads)
    console.print(
        f"{len(plan.wanted)} trials, {len(done)} done already, {len(estimate.seconds)} to run: {hours:.2f} {per_trial}-hours, "
        f"about {duration(cost.wall_time(plan, estimate.seconds, slots))} with {slots} at once, by {estimate.basis}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if job.grid.search is not None:
        search, each = job.grid.search, max(estimate.seconds.values(), default=0.0)
        each = each or max(cost.estimate(plan, store, (), gpu=job.gpus_per_trial > 0).seconds.values())
        console.print(
            f"then {search.trials} points in all for {' and '.join(search.objectives)} over {', '.join(search.space)}: "
            f"{search.trials * each * share / 3600:.2f} {per_trial}-hours, about {duration(search.trials * each / slots)}, if "
            "each takes as long as base and none is done already",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if job.budget is not None:
        console.print(
            f"then further seeds for what is still undecided, until {job.budget.text} are spent; the first {FIRST_SEEDS} "
            "seeds, below which nothing can be decided, run whatever they cost",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def conclude(job: Job, plan: Plan, session: Session, console: Console, searched: Searched | None = None) -> int:
    """Writes tables, report and MLflow's parent run from what the store holds, and shows the table.

    Args:
        job: the command.
        plan: all that the sweep has come to.
        session: what ran it; its tracker is closed here.
        console: where to show.
        searched: what a search found.

    Returns:
        The exit code.
    """
    store, tracker, outcome = job.store, session.tracker, session.outcome
    stopped = {} if searched is None else searched.stopped
    everything = [
        store.record(trial, skipped=outcome.skipped.get(key), stopped=stopped.get(key)) for key, trial in plan.trials.items()
    ]
    # What earlier commands gave to the sweep belongs to its tables as well.
    records = [record for record in everything if record.status != "open" or record.trial.key in plan.wanted]
    for record in records:
        if record.status != "open":
            tracker.ended(record)
        if record.status == "done":
            tracker.drawn(record.trial)
        if searched is not None and record.trial.key in searched.tags:
            tracker.marked(record.trial, searched.tags[record.trial.key])
    # Points of a search that was not decided on have no test metrics: they are in its own table alone.
    compared = [record for record in records if not record.trial.choosing]
    try:
        against_base = contrasts.of_sweep(plan, report.summarize(compared), store, job.test)
        tables = _write(job, plan, records, against_base, session, searched)
    except BaseException:
        tracker.close(status="FAILED", metrics={}, moment=0.0, artifacts=[])
        raise
    return _show(job, plan, records, against_base, tables, session, searched, console)


def _write(
    job: Job, plan: Plan, records: list[TrialRecord], against_base: list[Contrast], session: Session, searched: Searched | None
) -> list[Path]:
    """Writes tables and report, and ends the parent run with them; returns the tables' and the report's paths."""
    store = job.store
    folder = job.options.storage / "sweeps" / plan.sweep
    compared = [record for record in records if not record.trial.choosing]
    problems = [(r.trial.title, name, problem) for r in records for name, problem in _problems(r, store).items()]
    problems += [(plan.trials[key].title, "figures", reason) for key, reason in session.outcome.undrawn.items()]
    sweep = page.Sweep(
        plan, compared, store, job.introduction, command(), git_commit(), problems, against_base, job.test, searched
    )
    tables = report.write_tables(folder, plan, compared)
    tables.append(contrasts.write(folder / "contrasts.csv", against_base))
    if searched is not None:
        tables.append(searched.write(folder / "points.csv"))
    tables.append(page.write_page(folder / "report.html", sweep, job.options.data, session.images))
    save_json(folder / "sweep.json", {"sweep": plan.sweep, "profile": plan.profile, "base": plan.base.fields(),
                                      "seeds": sorted({r.trial.config.seed for r in records}),
                                      "trials": {r.trial.key: [r.trial.arm, r.status, r.reason] for r in records}})  # fmt: skip
    statuses = {record.status for record in records}
    lost = statuses & {"failed", "skipped"} or (searched is not None and searched.failed)
    status = "FAILED" if lost else "KILLED" if "open" in statuses else "FINISHED"
    metrics = report.parent_metrics(plan, compared) | contrasts.parent_metrics(against_base, plan.grid.primary)
    session.tracker.close(
        status=status,
        metrics=metrics | ({} if searched is None else searched.metrics),
        moment=max((record.evaluated for record in records), default=0.0),
        artifacts=[*tables, folder / "sweep.json"],
        summary=page.markdown(sweep),
        patience=10.0 if session.outcome.interrupted else tracking.PATIENCE,
    )
    return tables


def _problems(record: TrialRecord, store: Store) -> Mapping[str, str]:
    """Numbers, details and figures that are not defined for a trial, and why."""
    return {**record.problems, **store.problems(record.trial)}


def _show(
    job: Job, plan: Plan, records: list[TrialRecord], against_base: list[Contrast], tables: list[Path], session: Session,
    searched: Searched | None, console: Console,
) -> int:  # fmt: skip
    tracker, outcome = session.tracker, session.outcome
    verdicts = {contrast.arm: contrast.verdict for contrast in against_base if contrast.n > 1}
    if searched is not None:
        console.print(searched.table())
    console.print(report.table(plan, report.summarize([r for r in records if not r.trial.choosing]), verdicts))
    for record in records:
        for name, problem in _problems(record, job.store).items():
            console.print(f"{record.trial.title}: no {name}: {problem}", highlight=False, soft_wrap=True)
        if record.status in ("failed", "skipped"):
            console.print(f"{record.status} {record.trial.title}: {record.reason}", highlight=False, soft_wrap=True)
    for key, reason in outcome.undrawn.items():
        console.print(f"no figures of {plan.trials[key].title}: {reason}", highlight=False, soft_wrap=True)
    devices = {record.training.device for record in records if record.training}
    if len(devices) > 1:
        console.print(f"trials ran on different kinds of device: {'; '.join(sorted(devices))}", highlight=False)
    *csv_files, page_file = tables
    console.print(f"tables: {'  '.join(map(str, csv_files))}", highlight=False, soft_wrap=True)
    console.print(f"report: {page_file}", highlight=False, soft_wrap=True)
    console.print(f"compare: {tracking_uri.ui_command(job.uri)}", highlight=False, soft_wrap=True)
    if tracker.view:
        console.print(f"a ready view of this sweep there: {tracker.view}", highlight=False, soft_wrap=True)
    if tracker.problem:
        print(f"error: MLflow lacks part of the results ({tracker.problem}); they are in the storage, and the same command "
              "says them again", file=sys.stderr)  # fmt: skip
    if outcome.interrupted:
        print(f"interrupted; continue with: {command()}", file=sys.stderr)
        return INTERRUPTED
    complete = all(
        record.status == "stopped" or (record.status == "done" and job.store.is_done(record.trial))
        for record in records
        if record.trial.key in plan.wanted
    )
    complete = complete and not (searched is not None and searched.failed)
    return DONE if complete and not outcome.undrawn and not tracker.problem else FAILED
