"""The command-line flags: their parser, the texts of ``--help`` and ``--list-fields``, and the parsed :class:`CommandLine`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from core.config import METHODS, PROFILES, Augmentation, TrialConfig
from core.datasets import DATASETS
from core.models import ENCODERS
from core.pairing import PAIRINGS
from evaluation.evaluate import METRICS
from evaluation.per_image import DETAILS
from evaluation.trial_figures import FIGURES
from sweeps.process import ExitCode
from sweeps.storage.location import folder_path, storage_path
from sweeps.terminal import complain


@dataclass(frozen=True)
class CommandLine:
    """The parsed flags, not yet checked; :func:`sweeps.sweep_config.check` checks them.

    Attributes:
        grid: name of a grid, or the path of a YAML file.
        list_grids: whether to list the grids.
        list_fields: whether to list the fields of a trial.
        profile: name of a profile (defaults for fields that the grid does not set), or ``auto``.
        seeds: the number of seeds, counted from 0, or a list of seeds; None: the grid's.
        arms: names of arms, separated by commas; None: all.
        settings: fields of every trial, each ``key=value``.
        until_decided: whether to add seeds to undecided arms.
        budget: limit on the cost of ``until_decided``.
        search_trials: number of points that a search tries; None: the grid's.
        objectives: metrics that a search optimises, separated by commas; None: the grid's.
        early_stopping: whether a search stops unpromising trials early.
        dry_run: whether to show the plan and its cost, and run nothing.
        report_only: whether to make tables and report from finished trials, and train nothing.
        check: whether to read every file of the storage, and say which are damaged.
        storage: folder or URL for the results.
        data_dir: folder where data sets are, or are downloaded to.
        tracking_uri: MLflow's database or server; None: a database in the storage.
        address: address of a running Ray cluster; None: this machine alone.
        gpus_per_trial: share of a GPU for each trial; None: 1 where there are GPUs, else 0.
        deterministic: whether results are bit-equal on GPUs too.
        verbose: whether to print every row of a long table.
    """

    grid: str | None
    list_grids: bool
    list_fields: bool
    profile: str
    seeds: str | None
    arms: str | None
    settings: tuple[str, ...]
    until_decided: bool
    budget: str | None
    search_trials: int | None
    objectives: str | None
    early_stopping: bool
    dry_run: bool
    report_only: bool
    check: bool
    storage: Path
    data_dir: Path
    tracking_uri: str | None
    address: str | None
    gpus_per_trial: float | None
    deterministic: bool
    verbose: bool


def parse(arguments: Sequence[str] | None = None) -> CommandLine:
    """Parse the command line; on an unknown flag, or one that --check does not follow, the process ends with exit code 2."""
    parser = _parser()
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    if options["check"] and (others := _given(parser, options) - {"--check", "--storage"}):
        parser.error(f"--check reads the storage and follows no flag but --storage; leave out {', '.join(sorted(others))}")
    options["settings"] = tuple(options["settings"])
    return CommandLine(**options)


def _given(parser: argparse.ArgumentParser, options: dict[str, Any]) -> set[str]:
    """Return the flags whose values are not the defaults."""
    actions = parser._actions  # argparse has no public list of its flags
    return {a.option_strings[0] for a in actions if a.dest in options and options[a.dest] != a.default}


class _Parser(argparse.ArgumentParser):
    """A parser whose messages repeat neither a password nor what a terminal would obey."""

    def error(self, message: str) -> NoReturn:
        """Print the message and end the process."""
        self.print_usage(sys.stderr)
        complain(f"{self.prog}: error: {message}")
        sys.exit(ExitCode.WRONG_INPUT)


def _parser() -> _Parser:
    parser = _Parser(
        prog="python sweeps/run.py",
        description="Runs a grid of VICReg trials.",
        allow_abbrev=False,
        epilog=_registries(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--grid", metavar="NAME", help="a grid that --list shows, or the path of a YAML file")
    add("--list", dest="list_grids", action="store_true", help="list the grids")
    add("--list-fields", action="store_true", help="list the fields of a trial, for grid files and --set")
    add("--profile", default="auto", metavar="|".join(("auto", *PROFILES)),
        help="defaults for fields not set by the grid; auto: cifar10 if Ray sees a GPU here, else digits-m")  # fmt: skip
    add("--seeds", metavar="N", help="number of seeds (3: seeds 0, 1 and 2), or a list (0,3,4); default: the grid's")
    add("--arms", metavar="A,B", help="run only these arms, and the parents that they need")
    add("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="set a field of every trial; repeatable")  # fmt: skip
    add("--until-decided", action="store_true", help="add seeds to undecided arms until all are decided or --budget is spent")
    add("--budget", metavar="X", help="limit for --until-decided: 30m, 2h, 4core-h, 1.5gpu-h")
    add("--search-trials", "--trials", dest="search_trials", type=int, metavar="N",
        help="for a search: number of points to try")  # fmt: skip
    add("--objectives", metavar="A,B", help="for a search: the metric to optimise, or several")
    add("--early-stopping", action="store_true", help="for a search: stop unpromising trials early (ASHA)")
    add("--dry-run", action="store_true", help="show the trials and their estimated cost; run nothing")
    add("--report-only", action="store_true", help="make tables, report and MLflow runs from finished trials; train nothing")
    add("--check", action="store_true",
        help="read every file of the storage; move damaged ones aside to be made again; takes only --storage")  # fmt: skip
    add("--storage", type=storage_path, default=Path("results"), metavar="DIR|URL",
        help="where results go: a folder, or s3://... or gs://...; default: %(default)s")  # fmt: skip
    add("--data", dest="data_dir", type=folder_path, default=_default_data_dir(), metavar="DIR",
        help="where data sets are, or are downloaded to; default: %(default)s")  # fmt: skip
    add("--tracking-uri", metavar="URI", help="MLflow's database or server; default: sqlite in the storage")
    add("--address", metavar="ADDRESS", help="address of a running Ray cluster; default: Ray on this machine alone")
    add("--gpus-per-trial", type=float, metavar="X",
        help="share of a GPU for each trial; default: 1 where there are GPUs, else 0")  # fmt: skip
    add("--deterministic", action="store_true", help="make results bit-equal on GPUs too (slower)")
    add("--verbose", action="store_true", help="print every row of a long table")
    return parser


def _registries() -> str:
    """Return the lists of methods, pairings, metrics and so on that ``--help`` ends with."""
    shown = {
        "methods": {name: method.meaning for name, method in METHODS.items()},
        "pairings": {name: pairing.meaning for name, pairing in PAIRINGS.items()},
        "encoders": {name: kind.meaning for name, kind in ENCODERS.items()},
        "data sets (and folder:PATH)": {name: source.meaning for name, source in DATASETS.items()},
        "metrics": {name: metric.meaning for name, metric in METRICS.items()},
        "per-image arrays": {name: detail.meaning for name, detail in DETAILS.items()},
        "figures of a trial": {name: figure.meaning for name, figure in FIGURES.items()},
    }
    lines = []
    for title, entries in shown.items():
        width = max(map(len, entries))
        lines += [f"{title}:", *(f"  {name:{width}}  {meaning}" for name, meaning in entries.items()), ""]
    return "\n".join(lines)


def fields_table() -> str:
    """Return name, default and meaning of every field of a trial, for ``--list-fields``."""
    lines = ["fields of a trial, for grid files and --set; the profile and the grid may give other defaults", ""]
    defaults = TrialConfig().fields()
    for name, field in TrialConfig.model_fields.items():
        key = field.alias or name
        if key == "augmentation":
            lines.append(f"{key}: {field.description}")
            for entry, inner in Augmentation.model_fields.items():
                lines += _field_lines(f"{key}.{entry}", defaults[key][entry], inner.description)
        else:
            lines += _field_lines(key, defaults[key], field.description)
    return "\n".join(lines)


def _field_lines(key: str, default: Any, description: str | None) -> list[str]:
    text = default if isinstance(default, str) else json.dumps(default)
    return [f"{key} = {text}", f"    {description}"]


def _default_data_dir() -> Path:
    """Return the folder for data sets in the user's cache; below / for a user without a home, as if HOME were /."""
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("/")
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or home / ".cache")  # noqa: PTH111  Path's may raise
    return Path(cache) / "vicreg-sweeps"
