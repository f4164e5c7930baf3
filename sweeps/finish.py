"""The end of a command: writes tables, report and MLflow's parent run from the store, and returns the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from sweeps import process
from sweeps.analysis import contrasts, shapley
from sweeps.analysis.arm_summary import summarize
from sweeps.analysis.contrasts import Contrast
from sweeps.analysis.search_result import SearchResult
from sweeps.analysis.shapley import Decomposition
from sweeps.analysis.significance import ANYTIME_VALID_T_TEST, SeedTest
from sweeps.execution.callbacks import SweepCallback
from sweeps.execution.runner import RunOutcome, SweepRunner
from sweeps.planning.trial import Plan
from sweeps.process import ExitCode
from sweeps.provenance import command_line, git_commit
from sweeps.reporting import tables, terminal_tables
from sweeps.reporting.html_report import write_report
from sweeps.reporting.report_input import ReportInput
from sweeps.reporting.report_text import look_note, markdown
from sweeps.storage.checked_folder import CheckedFolder
from sweeps.storage.looks import Looks, read_looks, write_looks
from sweeps.storage.records import LOST, TrialRecord, TrialStatus
from sweeps.sweep_config import SweepConfig
from sweeps.terminal import complain
from sweeps.tracking import uri
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.queued_writer import PATIENCE
from sweeps.tracking.tracker import Tracker

#: How many seconds to wait for an unreachable tracking server after a Ctrl-C.
_PATIENCE_INTERRUPTED = 10.0


@dataclass(frozen=True)
class _Results:
    """Results of a command: its plan, a record of each trial, contrasts with base, what a factorial's switches contribute, the
    result of a search, and problems.

    ``provisional``: planned seeds are still to be run, so that nothing is tested yet. Else ``looks`` include the verdicts of
    this command, and ``test`` is the test that they are made by.
    """

    plan: Plan
    records: Sequence[TrialRecord]
    contrasts: Sequence[Contrast]
    decompositions: Sequence[Decomposition]
    search_result: SearchResult | None
    problems: Sequence[tuple[str, str, str]]
    provisional: bool
    looks: Looks
    test: SeedTest

    @property
    def compared(self) -> list[TrialRecord]:
        """The records for the tables: all but those of points that a search did not choose, which have no test metrics."""
        return _compared(self.records)


def conclude(
    config: SweepConfig,
    plan: Plan,
    runner: SweepRunner,
    tracker: Tracker,
    console: Console,
    search_result: SearchResult | None = None,
) -> ExitCode:
    """Write tables, report and MLflow's parent run from the store, print the table, and return the exit code.

    Args:
        config: the command.
        plan: all trials of the sweep, including those that a search or ``--until-decided`` added.
        runner: the runner that ran the plan.
        tracker: writes the MLflow runs; this function closes it.
        console: where to print.
        search_result: the result of a search; None if there was none.
    """
    for line in CheckedFolder(config.sweep_folder).set_damaged_aside():
        console.print(f"{line}, and written again", highlight=False, soft_wrap=True)
    try:
        records = _records(config, plan, runner.outcome, search_result)
        provisional, looks, test = _look(config, plan, records)
        summaries = summarize(_compared(records))
        against_base = contrasts.of_sweep(plan, summaries, config.snapshot, test, provisional=provisional)
        parts = shapley.of_sweep(plan, summaries, test)
        problems = _problems(config, plan, records, runner.outcome)
        results = _Results(plan, records, against_base, parts, search_result, problems, provisional, looks, test)
        files = _write_tables(config, results)
        _show_tables(config, results, files, console)  # before MLflow is connected to, which takes seconds
        _tell(results, tracker)
        report = _write_report(config, results, files, runner, tracker)
    except BaseException:
        tracker.close(SweepSummary("FAILED", {}, 0.0, ()))
        raise
    _show_rest(config, results, files, report, tracker, console)
    return _exit_code(config, results, runner.outcome, tracker)


class LookPlanner(SweepCallback):
    """Writes how many seeds of each arm a command plans: before anything is trained, so that nothing seen can change it."""

    def __init__(self, config: SweepConfig) -> None:
        self._config = config

    def on_sweep_start(self) -> None:
        """Write the plan, now that all inputs are checked."""
        trials = [trial for trial in self._config.plan.requested_trials if trial.config.has_seed]
        files = CheckedFolder(self._config.sweep_folder)
        write_looks(files, read_looks(files).with_plan(Counter(arm for trial in trials for arm in trial.arms)))


def _look(config: SweepConfig, plan: Plan, records: Sequence[TrialRecord]) -> tuple[bool, Looks, SeedTest]:
    """Return whether planned seeds are still to be run; else the looks with this one, which is written, and the test for it."""
    files = CheckedFolder(config.sweep_folder)
    looks = read_looks(files)
    if any(r.status == TrialStatus.PENDING and r.trial.key in plan.requested for r in _compared(records)):
        return True, looks, config.test
    over = [r.trial for r in _compared(records) if r.trial.config.has_seed and r.status in (TrialStatus.DONE, *LOST)]
    seeds = {arm: n for arm, n in Counter(arm for trial in over for arm in trial.arms).items() if n > 1}
    test = config.test if looks.is_planned(seeds) else ANYTIME_VALID_T_TEST
    looks = looks.with_look(seeds)
    write_looks(files, looks)
    return False, looks, test


def _tell(results: _Results, tracker: Tracker) -> None:
    """Have MLflow's runs of all trials brought up to date."""
    tracker.correct_members(results.plan)
    tags = {} if results.search_result is None else results.search_result.tags
    for record in results.records:
        if record.status != TrialStatus.PENDING:
            tracker.on_trial_end(record)
        if record.status == TrialStatus.DONE:
            tracker.on_figures_end(record.trial)
        if record.trial.key in tags:
            tracker.tag_trial(record.trial, tags[record.trial.key])


def _records(
    config: SweepConfig, plan: Plan, outcome: RunOutcome, search_result: SearchResult | None
) -> list[TrialRecord]:  # fmt: skip
    pruned = {} if search_result is None else search_result.pruned
    records = [
        config.snapshot.record(trial, skipped=outcome.skipped.get(key), pruned=pruned.get(key))
        for key, trial in plan.trials.items()
    ]
    # A reason that could not be written to the store, say because the disk is full, is known to this command alone.
    records = [
        replace(record, status=TrialStatus.FAILED, reason=outcome.failed[record.trial.key])
        if record.status == TrialStatus.PENDING and record.trial.key in outcome.failed
        else record
        for record in records
    ]
    # The tables also show the trials that earlier commands ran for this sweep.
    return [r for r in records if r.status != TrialStatus.PENDING or r.trial.key in plan.requested]


def _compared(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if not record.trial.validation_only]


def _problems(
    config: SweepConfig, plan: Plan, records: Sequence[TrialRecord], outcome: RunOutcome
) -> list[tuple[str, str, str]]:  # fmt: skip
    """Return the metrics, per-image arrays and figures that are not defined, as (title of the trial, name, reason)."""
    found = []
    for record in records:
        products = config.snapshot.state(record.trial.key).product_problems(record.trial)
        found += [(record.trial.title, name, problem) for name, problem in {**record.problems, **products}.items()]
    return found + [(plan.trials[key].title, "figures", reason) for key, reason in outcome.undrawn.items()]


def _write_tables(config: SweepConfig, results: _Results) -> list[Path]:
    """Write the tables; return their paths."""
    folder = config.sweep_folder
    files = tables.write_tables(folder, results.plan, results.compared)
    files.append(tables.write_contrasts(folder / "contrasts.csv", results.contrasts))
    if results.decompositions:
        files.append(tables.write_contributions(folder / "contributions.csv", results.decompositions))
    if results.search_result is not None:
        files.append(tables.write_points(folder / "points.csv", results.search_result))
    return files


def _write_report(
    config: SweepConfig, results: _Results, files: Sequence[Path], runner: SweepRunner, tracker: Tracker
) -> Path:  # fmt: skip
    """Write the report, and end the parent run with it and the tables; return its path."""
    plan, folder, search_result, outcome = results.plan, config.sweep_folder, results.search_result, runner.outcome
    report = ReportInput(
        plan, results.compared, config.snapshot, config.introduction, command_line(), git_commit(), results.problems,
        results.contrasts, results.test, search_result, results.provisional, results.looks, results.decompositions,
    )  # fmt: skip
    page = write_report(folder / "report.html", report, config.data_dir, runner.images)
    CheckedFolder(folder).write_json("sweep.json", {
        "sweep": plan.sweep_id, "profile": plan.profile, "base": plan.base.fields(),
        "seeds": sorted({r.trial.config.seed for r in results.records}),
        "trials": {r.trial.key: [r.trial.arm, r.status, r.reason] for r in results.records},
    })  # fmt: skip
    metrics = tables.parent_metrics(plan, results.compared)
    metrics |= contrasts.parent_metrics(results.contrasts, plan.grid.primary)
    summary = SweepSummary(
        status=_parent_status(results),
        metrics=metrics | ({} if search_result is None else search_result.metrics),
        moment=max((record.evaluated for record in results.records), default=0.0),
        artifacts=[*files, page, folder / "sweep.json"],
        description=markdown(report),
    )
    tracker.close(summary, patience=_PATIENCE_INTERRUPTED if outcome.interrupted else PATIENCE)
    return page


def _parent_status(results: _Results) -> str:
    """Return the MLflow status of the sweep's parent run."""
    statuses = {record.status for record in results.records}
    if statuses & set(LOST):
        return "FAILED"
    if results.search_result is not None and results.search_result.failed:
        return "FAILED"
    return "KILLED" if TrialStatus.PENDING in statuses else "FINISHED"


def _show_tables(config: SweepConfig, results: _Results, files: Sequence[Path], console: Console) -> None:
    by_name = {file.name: file for file in files}
    if results.search_result is not None:
        search = results.search_result.search
        terminal_tables.show(console, f"points of the search for {' and '.join(search.objectives)}",
                             terminal_tables.points_columns(results.search_result), str(by_name["points.csv"]),
                             verbose=config.verbose)  # fmt: skip
    verdicts = {contrast.arm: contrast.label for contrast in results.contrasts if contrast.n > 1}
    columns = terminal_tables.results_columns(results.plan, summarize(results.compared), verdicts)
    title = f"{results.plan.sweep_id}: {results.plan.grid.question}"
    terminal_tables.show(console, title, columns, str(by_name["table.csv"]), verbose=config.verbose)
    for found in results.decompositions[:1]:
        if found.contributions:
            title = terminal_tables.contributions_title(found, provisional=results.provisional)
            columns = terminal_tables.contributions_columns(found)
            terminal_tables.show(console, title, columns, str(by_name["contributions.csv"]), verbose=config.verbose)


def _show_rest(
    config: SweepConfig, results: _Results, files: Sequence[Path], report: Path, tracker: Tracker, console: Console
) -> None:  # fmt: skip
    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    for line in config.snapshot.new_damage():
        say(f"{line}; the same command without --report-only makes it again")
    for title, name, problem in results.problems:
        say(f"no figures of {title}: {problem}" if name == "figures" else f"{title}: no {name}: {problem}")
    for line in reasons(results.records):
        say(line)
    if note := look_note(results.provisional, results.looks, results.test):
        say(note)
    devices = {record.training.device for record in results.records if record.training}
    if len(devices) > 1:
        say(f"trials ran on different kinds of device: {'; '.join(sorted(devices))}")
    say(f"tables: {'  '.join(map(str, files))}")
    say(f"report: {report}")
    say(f"compare: {uri.ui_command(config.tracking_uri)}")
    if tracker.view_address:
        say(f"a ready view of this sweep there: {tracker.view_address}")


def reasons(records: Sequence[TrialRecord]) -> list[str]:
    """Return a line for each trial that has no results and a reason for that."""
    lines = [f"{record.status} {record.trial.title}: {record.reason}" for record in records if record.status in LOST]
    return lines + [
        f"{record.status} {record.trial.title}: {record.reason}; the same command without --report-only runs it"
        for record in records
        if record.status == TrialStatus.PENDING and record.reason
    ]


def _exit_code(config: SweepConfig, results: _Results, outcome: RunOutcome, tracker: Tracker) -> ExitCode:
    """Return the exit code; print to stderr if MLflow lacks results or the command was interrupted."""
    if tracker.problem:
        complain(f"error: MLflow lacks part of the results ({tracker.problem}); {tracker.advice}")
    if outcome.interrupted:
        code, text = process.interruption()
        complain(text)
        return code
    complete = all(
        record.status == TrialStatus.PRUNED or (record.status == TrialStatus.DONE and config.snapshot.is_done(record.trial))
        for record in results.records
        if record.trial.key in results.plan.requested
    )
    failed_points = results.search_result is not None and results.search_result.failed
    well = complete and not failed_points and not outcome.undrawn and not tracker.problem
    return ExitCode.DONE if well else ExitCode.FAILED
