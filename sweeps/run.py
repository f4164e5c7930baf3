"""The command line: ``python sweeps/run.py --grid ablations``.

Expands a grid, runs what the store does not hold yet, and leaves a table, CSV files and MLflow runs. The same command again
continues where the last one ended, however it ended.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sweeps import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # the imports take seconds

from rich.console import Console

from core.config import METHODS, PROFILES
from core.datasets import DATASETS
from core.errors import InputError
from core.models import ENCODERS
from core.pairing import PAIRINGS
from evaluation.details import DETAILS
from evaluation.evaluate import METRICS
from evaluation.figures import FIGURES
from sweeps import deciding, search
from sweeps.ending import DONE, FAILED, INTERRUPTED, WRONG_INPUT, conclude, show_plan
from sweeps.grid import list_grids
from sweeps.job import Job, prepare
from sweeps.origin import command
from sweeps.session import Session
from sweeps.storage import storage_path


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
        return _sweep(prepare(options), console)
    except InputError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print(f"\ninterrupted; continue with: {command()}", file=sys.stderr)
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
    parser.add_argument("--until-decided", action="store_true", help="add seeds to what is undecided, within --budget")
    parser.add_argument("--budget", metavar="X", help="what --until-decided may cost: 30m, 2h, 4core-h, 1.5gpu-h")
    parser.add_argument("--trials", type=int, metavar="N", help="of a search: how many points are tried")
    parser.add_argument("--objectives", metavar="A,B", help="of a search: one metric or several")
    parser.add_argument("--early-stopping", action="store_true", help="of a search: stop hopeless trials (ASHA)")
    parser.add_argument("--dry-run", action="store_true", help="show the trials and what they cost; run nothing")
    parser.add_argument(
        "--report-only", action="store_true", help="make table and MLflow runs from what is done; train nothing"
    )
    parser.add_argument("--storage", type=storage_path, default=Path("results"), metavar="DIR|URL",
                        help="where results go: a folder, or s3://... or gs://...; default: %(default)s")  # fmt: skip
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


def _sweep(job: Job, console: Console) -> int:
    console.print(job.introduction, highlight=False)
    if job.options.dry_run:
        show_plan(job, console)
        return DONE
    job.store.remove_scratch()
    # MLflow's thread computes much; at Python's 5 ms a hand-over Tune's loop would wait for it noticeably.
    sys.setswitchinterval(0.001)
    session, plan, searched = Session(job, console), job.plan, None
    if job.grid.search is not None:
        plan, searched = search.run(job, session, console)
    elif job.budget is not None and not job.options.report_only:
        plan = deciding.run(job, job.budget, session, console)
    elif not job.options.report_only:
        session.run(plan)
    if not session.ran:
        done = sum(job.store.is_done(plan.trials[key]) for key in plan.wanted)
        console.print(f"{plan.sweep}: {done} of {len(plan.wanted)} trials are done, nothing is trained", highlight=False)
    exit_code = conclude(job, plan, session, console, searched)
    session.close()
    return exit_code


if __name__ == "__main__":
    interrupts.interrupt()
    code = main()
    interrupts.ignore()
    sys.exit(code)
