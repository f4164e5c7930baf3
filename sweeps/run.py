"""The command line: ``python sweeps/run.py --grid ablations``.

Expands a grid, runs the trials that are not in the store yet, and writes tables, CSV files, a report and MLflow runs. Running
the same command again continues the sweep where the command before ended, even if that one was killed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sweeps import process

if __name__ == "__main__":
    process.exit_on_signals()  # until everything is imported, which takes seconds

from rich.console import Console

from core.causes import explain
from core.errors import InputError
from sweeps import terminal
from sweeps.command_line import CommandLine, fields_table, parse
from sweeps.process import ExitCode
from sweeps.provenance import command_line, continuing_command
from sweeps.terminal import complain


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 all trials done, 1 some failed, 2 the command or an input is wrong, 130 interrupted (129 by SIGHUP, 143
        by SIGTERM).
    """
    command = parse(arguments)  # before the rest is imported, so that --help comes at once
    console = terminal.make_console()
    try:
        if command.list_grids or command.list_fields:
            _list(command, console)
            return ExitCode.DONE
        return _check(command, console) if command.check else _run_sweep(command, console)
    except InputError as error:
        for text in error.errors:
            complain(f"error: {text}")
        return ExitCode.WRONG_INPUT
    except KeyboardInterrupt:
        code, text = process.interruption()
        complain(f"\n{text}")
        return code
    except (OSError, MemoryError) as error:
        complain(f"error: {explain(error)}; then continue with: {continuing_command()}")
        return ExitCode.FAILED


def _list(command: CommandLine, console: Console) -> None:
    if command.list_grids:
        from sweeps.planning.grid_file import list_grids

        for name, question in list_grids().items():
            console.print(f"{name:14} {question}", highlight=False)
    if command.list_fields:
        console.print(fields_table(), highlight=False, soft_wrap=True)


def _check(command: CommandLine, console: Console) -> int:
    from sweeps.storage.check import check_storage

    process.interrupt_on_signals()
    intact = check_storage(command.storage, lambda line: console.print(line, highlight=False, soft_wrap=True))
    return ExitCode.DONE if intact else ExitCode.FAILED


def _run_sweep(command: CommandLine, console: Console) -> int:
    from sweeps.dry_run import show_plan
    from sweeps.execution import private_folder
    from sweeps.execution.machine import usable_home
    from sweeps.execution.runner import SweepRunner
    from sweeps.finish import LookPlanner, conclude
    from sweeps.reporting.html_report import ReportPreloader
    from sweeps.strategies import search, sequential_seeds
    from sweeps.sweep_config import check
    from sweeps.tracking import uri
    from sweeps.tracking.tracker import Tracker

    process.interrupt_on_signals()
    config = check(command)
    for line in (config.introduction, *config.folder_notes, *uri.notes(command.tracking_uri)):
        console.print(line, highlight=False, soft_wrap=True)
    if config.dry_run:
        show_plan(config, console)
        return ExitCode.DONE
    terminal.say_when_unread(f"nobody reads the output any more; the sweep goes on, its results are in {config.storage}")
    store, plan, search_result = config.snapshot.store, config.plan, None
    store.remove_scratch()
    private_folder.remove_abandoned()
    sys.setswitchinterval(0.001)  # of Python's default, 5 ms, Tune's loop would lose as much to each busy thread
    tracker = Tracker(
        config.tracking_uri, plan, store, command_line(), lambda line: console.print(line, highlight=False, soft_wrap=True)
    )
    runner = SweepRunner(config.execution, config.snapshot, [tracker, LookPlanner(config), ReportPreloader()], console)
    with usable_home():
        try:
            if config.grid.search is not None:
                plan, search_result = search.run(config, runner, console)
            elif config.budget is not None and not config.report_only:
                plan = sequential_seeds.run(config, config.budget, runner, console)
            elif not config.report_only:
                runner.run(plan)
            if not runner.ran:
                done = sum(config.snapshot.is_done(trial) for trial in plan.requested_trials)
                text = f"{plan.sweep_id}: {done} of {len(plan.requested)} trials are done, nothing is trained"
                console.print(text, highlight=False)
            return conclude(config, plan, runner, tracker, console, search_result)
        except BaseException:  # Ray does not start, say, or no table can be written
            tracker.abandon()
            raise
        finally:
            runner.close()


if __name__ == "__main__":
    terminal.prepare_streams()
    code = main()
    process.ignore_signals()
    sys.exit(code if code or terminal.is_complete() else ExitCode.FAILED)
