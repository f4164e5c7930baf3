"""The command line: ``python sweeps/run.py --grid ablations``.

Expands a grid, runs what the store does not hold yet, and leaves a table, CSV files and MLflow runs. The same command again
continues where the last one ended, however it ended.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from core.config import METHODS, PROFILES
from core.datasets import DATASETS
from core.errors import InputError
from core.files import load_json, save_json
from core.models import ENCODERS
from core.pairing import PAIRINGS
from evaluation.details import DETAILS
from evaluation.evaluate import METRICS
from evaluation.figures import FIGURES
from sweeps import contrasts, cost, page, report, tracking, tracking_uri
from sweeps.contrasts import Contrast
from sweeps.grid import Fields, list_grids, load_grid, parse_settings
from sweeps.hardware import cpu_flags, gpus_of_this_machine
from sweeps.images import load_images
from sweeps.origin import git_commit
from sweeps.plan import Plan, make_plan
from sweeps.progress import Progress, duration
from sweeps.store import Store, TrialRecord

T = TypeVar("T")
DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0 all trials done, 1 some failed, 2 the command or an input is wrong, 130 interrupted.
    """
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
    options = _parser().parse_args(arguments)
    try:
        if options.list:
            for name, question in list_grids().items():
                console.print(f"{name:14} {question}", highlight=False)
            return DONE
        return _sweep(_prepare(options), console)
    except InputError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        print(f"error: {error}; make room, and the same command continues", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python sweeps/run.py",
        description="Runs a grid of VICReg trials.",
        allow_abbrev=False,
        epilog=_registries(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--grid", metavar="NAME", help="a grid that --list shows, or the path of a YAML file")
    parser.add_argument("--list", action="store_true", help="list the grids")
    parser.add_argument("--profile", default="auto", metavar="|".join(("auto", *PROFILES)),
                        help="the setting: auto takes cifar10 where Ray sees a GPU on this machine, else digits-m")  # fmt: skip
    parser.add_argument("--seeds", metavar="N", help="so many seeds from 0, or a list (0,3,4); default: the grid's")
    parser.add_argument("--arms", metavar="A,B", help="only these arms")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of every trial; repeatable")
    parser.add_argument("--dry-run", action="store_true", help="show the trials and what they cost; run nothing")
    parser.add_argument(
        "--report-only", action="store_true", help="make table and MLflow runs from what is done; train nothing"
    )
    parser.add_argument("--storage", type=Path, default=Path("results"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=_default_data_dir(), metavar="DIR",
                        help="where data sets are, or are downloaded to; default: %(default)s")  # fmt: skip
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow's database or server; default: sqlite in the storage")
    parser.add_argument("--address", metavar="ADDRESS", help="a running Ray cluster; default: Ray on this machine alone")
    parser.add_argument("--gpus-per-trial", type=float, metavar="X", help="default: 1 where there are GPUs")
    parser.add_argument("--deterministic", action="store_true", help="bit-equal results on GPUs too (slower)")
    return parser


def _registries() -> str:
    """What there is to choose from and to read off, for ``--help``."""
    shown = {
        "methods": {name: method.meaning for name, method in METHODS.items()},
        "pairings": {name: pairing.meaning for name, pairing in PAIRINGS.items()},
        "encoders": {name: kind.meaning for name, kind in ENCODERS.items()},
        "data sets (and folder:PATH)": {name: source.meaning for name, source in DATASETS.items()},
        "metrics": {name: metric.meaning for name, metric in METRICS.items()},
        "arrays of single images": {name: detail.meaning for name, detail in DETAILS.items()},
        "figures of a trial": {name: figure.meaning for name, figure in FIGURES.items()},
    }
    lines = []
    for title, entries in shown.items():
        width = max(map(len, entries))
        lines += [f"{title}:", *(f"  {name:{width}}  {meaning}" for name, meaning in entries.items()), ""]
    return "\n".join(lines)


def _default_data_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vicreg-sweeps"


@dataclass(frozen=True)
class _Job:
    """A checked command."""

    options: argparse.Namespace
    plan: Plan
    store: Store
    uri: str
    gpus_per_trial: float
    introduction: str


def _prepare(options: argparse.Namespace) -> _Job:
    """Checks everything that can be checked before anything is started or written; collects all faults."""
    faults: list[str] = []

    def collect(function: Callable[[], T], otherwise: T) -> T:
        try:
            return function()
        except InputError as error:
            faults.extend(error.faults)
            return otherwise

    address = options.address or os.environ.get("RAY_ADDRESS")
    if options.grid is None:
        raise InputError(f"--grid is missing; there are {', '.join(list_grids())}, or name a .yaml file")
    grid = collect(lambda: load_grid(options.grid), None)
    settings: Fields = collect(lambda: parse_settings(options.set), {})
    seeds = collect(lambda: _seeds(options.seeds), None)
    uri = options.tracking_uri or tracking_uri.default_uri(options.storage)
    if not options.dry_run:
        collect(lambda: tracking_uri.check(uri), None)
        collect(lambda: _check_folder("--storage", options.storage), None)
    collect(lambda: _check_folder("--data", options.data), None)
    if options.profile not in ("auto", *PROFILES):
        faults.append(f"--profile {options.profile}: choose from auto, {', '.join(PROFILES)}")
    if address and options.profile == "auto":
        faults.append(f"--profile: on a cluster ({address}) it must be named: {', '.join(PROFILES)}")
    if options.gpus_per_trial is not None and options.gpus_per_trial < 0:
        faults.append(f"--gpus-per-trial {options.gpus_per_trial}: a share of 0 or more is needed")
    if grid is None or (faults and options.profile not in ("auto", *PROFILES)):
        raise InputError(faults)

    gpus = int(_cluster_gpus(address)) if address and not faults else gpus_of_this_machine()
    profile, introduction = _choose_profile(options.profile, gpus)
    if options.gpus_per_trial and options.gpus_per_trial > max(gpus, 0):
        faults.append(f"--gpus-per-trial {options.gpus_per_trial}: Ray sees {gpus} GPU(s), a trial would wait for ever")
    gpus_per_trial = (1.0 if gpus else 0.0) if options.gpus_per_trial is None else options.gpus_per_trial
    arms = None if options.arms is None else [name.strip() for name in options.arms.split(",") if name.strip()]
    if arms == []:
        faults.append("--arms: no arm is named")
    plan = collect(
        lambda: make_plan(
            grid, profile, settings=settings, seeds=seeds or grid.seeds, arms=arms or None, data_dir=options.data,
            gpu=gpus_per_trial > 0, cpu_flags=cpu_flags(), earlier_seeds=partial(_earlier_seeds, options.storage),
        ),
        None,
    )  # fmt: skip
    if plan is None or faults:
        raise InputError(list(dict.fromkeys(faults)))
    return _Job(options, plan, Store(options.storage), uri, gpus_per_trial, introduction)


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text}: a number of seeds, or a list such as 0,3,4, is needed") from None
    if len(numbers) == 1:
        numbers = tuple(range(numbers[0])) if "," not in text else numbers
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds {text}: at least one seed, none negative, none twice")
    return numbers


def _earlier_seeds(storage: Path, sweep: str) -> list[int]:
    """Seeds that earlier commands gave to a sweep."""
    return list((load_json(storage / "sweeps" / sweep / "sweep.json") or {}).get("seeds", []))


def _check_folder(flag: str, path: Path) -> None:
    existing = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{flag} {path}: {existing} is no folder that can be written to")


def _cluster_gpus(address: str) -> float:
    from sweeps import scheduler

    scheduler.connect(address)
    return scheduler.total("GPU")


def _choose_profile(wanted: str, gpus: int) -> tuple[str, str]:
    sees = f"Ray sees {gpus} GPU(s)" if gpus else "Ray sees no GPU"
    if wanted != "auto":
        return wanted, f"profile {wanted}, as asked; {sees}"
    profile = "cifar10" if gpus else "digits-m"
    return profile, f"profile {profile}, because {sees} on this machine (--profile chooses: {', '.join(PROFILES)})"


def _sweep(job: _Job, console: Console) -> int:
    options, plan, store = job.options, job.plan, job.store
    done = [key for key in plan.trials if key in plan.wanted and store.is_done(plan.trials[key])]
    open_keys = [key for key in plan.trials if key in plan.wanted and key not in done]
    undrawn = [key for key in done if not store.is_drawn(plan.trials[key])]
    estimate = cost.estimate(plan, store, done, gpu=job.gpus_per_trial > 0)
    console.print(job.introduction, highlight=False)
    if options.dry_run:
        _show_plan(job, done, estimate, console)
        return DONE

    outcome = _Outcome()
    ran = bool(open_keys or undrawn) and not options.report_only
    if ran:
        outcome, tracker = _run(job, open_keys, undrawn, estimate, console)
    else:
        console.print(f"{plan.sweep}: {len(done)} of {len(plan.wanted)} trials are done, nothing is trained", highlight=False)
        options.storage.mkdir(parents=True, exist_ok=True)
        tracker = _tracker(job)
    everything = [store.record(trial, skipped=outcome.skipped.get(key)) for key, trial in plan.trials.items()]
    # What earlier commands gave to the sweep belongs to its tables as well.
    records = [record for record in everything if record.status != "open" or record.trial.key in plan.wanted]
    for record in records:
        if record.status != "open":
            tracker.ended(record)
        if record.status == "done":
            tracker.drawn(record.trial)
    try:
        against_base = contrasts.of_sweep(plan, report.summarize(records), store)
        tables = _write(job, records, against_base, outcome, tracker)
    except BaseException:
        tracker.close(status="FAILED", metrics={}, moment=0.0, artifacts=[])
        raise
    exit_code = _conclude(job, records, against_base, tables, tracker, outcome, console)
    if ran:
        from sweeps import scheduler

        scheduler.disconnect()
    return exit_code


def _write(
    job: _Job, records: list[TrialRecord], against_base: list[Contrast], outcome: _Outcome, tracker: tracking.Tracker
) -> list[Path]:
    """Writes tables and report, and ends the parent run with them; returns the tables' and the report's paths."""
    plan, store = job.plan, job.store
    folder = job.options.storage / "sweeps" / plan.sweep
    problems = [(r.trial.title, name, problem) for r in records for name, problem in _problems(r, store).items()]
    problems += [(plan.trials[key].title, "figures", reason) for key, reason in outcome.undrawn.items()]
    sweep = page.Sweep(plan, records, store, job.introduction, _command(), git_commit(), problems, against_base)
    tables = report.write_tables(folder, plan, records)
    tables.append(contrasts.write(folder / "contrasts.csv", against_base))
    tables.append(page.write_page(folder / "report.html", sweep, job.options.data))
    save_json(folder / "sweep.json", {"sweep": plan.sweep, "profile": plan.profile, "base": plan.base.fields(),
                                      "seeds": sorted({r.trial.config.seed for r in records}),
                                      "trials": {r.trial.key: [r.trial.arm, r.status, r.reason] for r in records}})  # fmt: skip
    statuses = {record.status for record in records}
    status = "FAILED" if statuses & {"failed", "skipped"} else "KILLED" if "open" in statuses else "FINISHED"
    tracker.close(
        status=status,
        metrics=report.parent_metrics(plan, records) | contrasts.parent_metrics(against_base, plan.grid.primary),
        moment=max((record.evaluated for record in records), default=0.0),
        artifacts=[*tables, folder / "sweep.json"],
        summary=page.markdown(sweep),
    )
    return tables


@dataclass
class _Outcome:
    """How the running went, beside what the store knows: trials not tried, and figures not drawn, each with its reason."""

    skipped: dict[str, str] = field(default_factory=dict)
    undrawn: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def _tracker(job: _Job) -> tracking.Tracker:
    return tracking.Tracker(job.uri, job.options.storage, job.plan, job.store, _command())


def _command() -> str:
    return shlex.join(["python", "sweeps/run.py", *sys.argv[1:]])


def _run(
    job: _Job, open_keys: list[str], undrawn: list[str], estimate: cost.Estimate, console: Console
) -> tuple[_Outcome, tracking.Tracker]:
    """Loads the images, starts Ray and MLflow, and runs what is open; Ray and the tracker are left open."""
    from sweeps import scheduler
    from sweeps.drawing import Drawings

    options, plan, store = job.options, job.plan, job.store
    images = load_images([plan.trials[key] for key in (*open_keys, *undrawn)], options.data)
    options.storage.mkdir(parents=True, exist_ok=True)
    tracker = _tracker(job)  # creates its tables while Ray starts
    outcome = _Outcome()
    try:
        scheduler.connect(options.address or os.environ.get("RAY_ADDRESS"))
        slots = scheduler.slots(plan, job.gpus_per_trial)
        expected = cost.wall_time(plan, estimate.seconds, slots)
        console.print(
            f"{plan.sweep}: {len(plan.wanted)} trials, {len(plan.wanted) - len(open_keys)} done already, "
            f"{len(open_keys)} to run{_trained_already(job, open_keys)}, {slots} at once; "
            f"about {duration(expected)}, by {estimate.basis}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        shared = scheduler.share(images)
        with Progress(plan, estimate.seconds, slots, console) as progress:
            drawings = Drawings(shared, options.storage.resolve(), store, [progress, tracker])
            for key in undrawn:
                drawings.ended(store.record(plan.trials[key]))
            if open_keys:
                outcome.skipped = scheduler.run(
                    plan,
                    cost.by_critical_path(plan, estimate.seconds),
                    shared,
                    options.storage.resolve(),
                    gpus_per_trial=job.gpus_per_trial,
                    deterministic=options.deterministic,
                    listeners=[progress, tracker, drawings],
                )
            # Tune ends cleanly at a Ctrl-C, so what is neither done, failed nor skipped tells of one.
            records = [store.record(plan.trials[key], skipped=outcome.skipped.get(key)) for key in open_keys]
            outcome.interrupted = any(record.status == "open" for record in records)
            if not outcome.interrupted:
                outcome.undrawn = drawings.wait()
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome, tracker


def _trained_already(job: _Job, open_keys: list[str]) -> str:
    trained = sum(job.store.is_trained(key) for key in open_keys)
    return f" ({trained} of them trained already, to be evaluated)" if trained else ""


def _show_plan(job: _Job, done: list[str], estimate: cost.Estimate, console: Console) -> None:
    plan = job.plan
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
        drawn = "done" if job.store.is_drawn(trial) else "to draw"
        state = drawn if key in done else "to evaluate" if job.store.is_trained(key) else "to do"
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


def _problems(record: TrialRecord, store: Store) -> dict[str, str]:
    """Numbers, details and figures that are not defined for a trial, and why."""
    return {**record.problems, **store.problems(record.trial)}


def _conclude(
    job: _Job, records: list[TrialRecord], against_base: list[Contrast], tables: list[Path], tracker: tracking.Tracker,
    outcome: _Outcome, console: Console,
) -> int:  # fmt: skip
    verdicts = {contrast.arm: contrast.verdict for contrast in against_base if contrast.n > 1}
    console.print(report.table(job.plan, report.summarize(records), verdicts))
    for record in records:
        for name, problem in _problems(record, job.store).items():
            console.print(f"{record.trial.title}: no {name}: {problem}", highlight=False, soft_wrap=True)
        if record.status in ("failed", "skipped"):
            console.print(f"{record.status} {record.trial.title}: {record.reason}", highlight=False, soft_wrap=True)
    for key, reason in outcome.undrawn.items():
        console.print(f"no figures of {job.plan.trials[key].title}: {reason}", highlight=False, soft_wrap=True)
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
        print(f"interrupted; continue with: {_command()}", file=sys.stderr)
        return INTERRUPTED
    complete = all(
        record.status == "done" and job.store.is_done(record.trial) for record in records if record.trial.key in job.plan.wanted
    )
    return DONE if complete and not outcome.undrawn and not tracker.problem else FAILED


if __name__ == "__main__":
    sys.exit(main())
