"""Checks a command: finds all errors, and reports them together, before anything is started or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from core.config import PROFILES
from core.errors import InputError
from core.messages import as_typed, faults_of
from core.paths import is_remote
from sweeps.analysis.contrasts import compared_arms
from sweeps.analysis.significance import ANYTIME_VALID_T_TEST, PAIRED_T_TEST, SeedTest, first_seeds
from sweeps.command_line import CommandLine
from sweeps.execution.machine import cluster_address, cpu_flags, gpus_of_this_machine, is_submitted, name_of_address
from sweeps.execution.options import ExecutionOptions
from sweeps.flag_values import SeedBudget, parse_arms, parse_budget, parse_seeds, share_error, text_errors
from sweeps.planning.arms import parse_settings
from sweeps.planning.grid import Fields, Grid
from sweeps.planning.grid_file import list_grids, load_grid
from sweeps.planning.planner import Planner
from sweeps.planning.trial import Plan
from sweeps.storage.checked_folder import CHECKSUMS, CheckedFolder, DamagedFileError
from sweeps.storage.image_sets import describe_folders
from sweeps.storage.location import check_folder
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_state import parse_mapping
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking import uri

T = TypeVar("T")

#: File in a sweep's folder that marks a sweep for which ``--until-decided`` was used.
UNTIL_DECIDED_MARK = "until-decided.json"
_PROFILES = ("auto", *PROFILES)


@dataclass(frozen=True)
class SweepConfig:
    """A checked command.

    Attributes:
        grid: the grid.
        plan: the first plan, to which a search or ``--until-decided`` adds trials.
        planner: makes further plans of the same sweep.
        snapshot: the trials in the storage.
        storage: folder or URL for the results.
        data_dir: folder of the data sets.
        tracking_uri: MLflow's database or server.
        address: address of a Ray cluster; None: this machine alone.
        gpus_per_trial: share of a GPU for each trial; 0: CPUs only.
        deterministic: whether results are bit-equal on GPUs too.
        dry_run: whether to show the plan and its cost, and run nothing.
        report_only: whether to make tables and report from finished trials, and train nothing.
        introduction: the first line to print: which profile is used, and why.
        folder_notes: further lines: what folders of images hold, what of them is passed over, and what looks wrong.
        budget: limit for ``--until-decided``; None without it.
        test: the test of differences between seeds.
        verbose: whether to print every row of a long table.
    """

    grid: Grid
    plan: Plan
    planner: Planner
    snapshot: StoreSnapshot
    storage: Path
    data_dir: Path
    tracking_uri: str
    address: str | None
    gpus_per_trial: float
    deterministic: bool
    dry_run: bool
    report_only: bool
    introduction: str
    folder_notes: tuple[str, ...]
    budget: SeedBudget | None
    test: SeedTest
    verbose: bool

    @property
    def sweep_folder(self) -> Path:
        """Folder of the tables and the report."""
        return self.storage / "sweeps" / self.plan.sweep_id

    @property
    def execution(self) -> ExecutionOptions:
        """Options for running plans."""
        return ExecutionOptions(
            self.storage.resolve(), self.data_dir, self.address, self.gpus_per_trial, self.deterministic,
            more_plans=self.budget is not None or self.grid.search is not None,
        )  # fmt: skip


class _Errors:
    """Collects the errors of several checks."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def collect(self, check: Callable[[], T], otherwise: T) -> T:
        """Return the result of ``check``; if it raises InputError, record its errors and return ``otherwise``."""
        try:
            return check()
        except InputError as error:
            self.found.extend(error.errors)
            return otherwise

    def raise_if_any(self) -> None:
        """Raise InputError with all errors so far, each once."""
        if self.found:
            raise InputError(list(dict.fromkeys(self.found)))


def check(command: CommandLine) -> SweepConfig:
    """Check a command, before anything is started or written, and return its config.

    Raises:
        InputError: with all errors.
    """
    if command.grid is None:
        raise InputError(f"--grid is missing; there are {', '.join(list_grids())}, or name a .yaml file")
    if wrong := text_errors(command):
        raise InputError(wrong)
    errors, address = _Errors(), cluster_address(command.address)
    name = command.grid
    loaded: Grid | None = errors.collect(lambda: load_grid(name), None)
    settings: Fields = errors.collect(lambda: parse_settings(command.settings), {})
    seeds = errors.collect(lambda: parse_seeds(command.seeds), None)
    budget = errors.collect(lambda: parse_budget(command), None)
    grid = None if loaded is None else errors.collect(partial(_with_search_flags, loaded, command, seeds), loaded)
    tracking_uri = _check_places(command, errors)
    arms = errors.collect(lambda: parse_arms(command.arms), None)
    errors.found += _profile_errors(command, address)
    # A cluster is asked only by a command that is right so far.
    gpus, scales = _cluster_gpus(address) if address and not errors.found else (gpus_of_this_machine(), False)
    gpus_per_trial = (1.0 if gpus else 0.0) if command.gpus_per_trial is None else command.gpus_per_trial
    if not (address and errors.found) and share_error(command.gpus_per_trial) is None:
        errors.found += _gpu_errors(command.gpus_per_trial, gpus, scales) + _budget_errors(budget, gpus_per_trial)
    if grid is None or command.profile not in _PROFILES:
        raise InputError(list(dict.fromkeys(errors.found)))

    profile, introduction = _choose_profile(command.profile, gpus)
    snapshot = StoreSnapshot(TrialStore(command.storage))
    planner = Planner(
        profile, settings, command.data_dir, gpu=gpus_per_trial > 0, cpu_flags=cpu_flags(),
        earlier_seeds=partial(_earlier_seeds, snapshot),
    )  # fmt: skip
    plan = errors.collect(lambda: planner.plan(grid, seeds=seeds or grid.seeds, arms=arms or None), None)
    errors.raise_if_any()
    assert plan is not None
    if budget is not None:
        plan = planner.plan(grid, seeds=_first_seeds(seeds or grid.seeds, plan), arms=arms or None)
    errors.found += _space_errors(grid, settings, plan, planner, seeds or grid.seeds)
    errors.raise_if_any()
    marked = (command.storage / "sweeps" / plan.sweep_id / UNTIL_DECIDED_MARK).is_file()
    return SweepConfig(
        grid=grid,
        plan=plan,
        planner=planner,
        snapshot=snapshot,
        storage=command.storage,
        data_dir=command.data_dir,
        tracking_uri=tracking_uri,
        address=address,
        gpus_per_trial=gpus_per_trial,
        deterministic=command.deterministic,
        dry_run=command.dry_run,
        report_only=command.report_only,
        introduction=introduction,
        folder_notes=tuple(describe_folders(plan.requested_trials, command.data_dir)),
        budget=budget,
        verbose=command.verbose,
        test=ANYTIME_VALID_T_TEST if marked or (budget is not None and not command.report_only) else PAIRED_T_TEST,
    )


def _check_places(command: CommandLine, errors: _Errors) -> str:
    """Check the storage, the data folder and MLflow's URI; return the URI."""
    tracking_uri = errors.collect(lambda: uri.resolve_uri(command.tracking_uri, command.storage), "")
    if not command.dry_run and tracking_uri:
        errors.collect(lambda: uri.check_uri(tracking_uri), None)
    if command.report_only and not is_remote(command.storage) and not (command.storage / "trials").is_dir():
        errors.found.append(f"--storage {command.storage}: no trials there; --report-only shows those that are done")
    errors.collect(lambda: check_folder("--storage", command.storage, write=not command.dry_run), None)
    if is_remote(command.storage):
        errors.raise_if_any()  # planning reads the storage
    errors.collect(lambda: check_folder("--data", command.data_dir, write=False), None)  # a full cache is only read
    return tracking_uri


def _profile_errors(command: CommandLine, address: str | None) -> list[str]:
    errors = []
    if command.profile not in _PROFILES:
        errors.append(f"--profile {as_typed(command.profile)}: choose from {', '.join(_PROFILES)}")
    if address:
        errors += _cluster_errors(command, address)
    if (wrong := share_error(command.gpus_per_trial)) is not None:
        errors.append(wrong)
    return errors


def _first_seeds(seeds: tuple[int, ...], plan: Plan) -> tuple[int, ...]:
    """Return the seeds of the first plan with ``--until-decided``: at least so many that something can be decided."""
    least = first_seeds(len(compared_arms(plan)))
    return seeds if len(seeds) >= least else tuple(dict.fromkeys((*seeds, *range(least))))[:least]


def _space_errors(grid: Grid, settings: Fields, plan: Plan, planner: Planner, seeds: Sequence[int]) -> list[str]:
    """Return errors of a search: values that no config can have, and conflicts with ``--set``, base or the objectives."""
    search, base = grid.search, plan.base
    if search is None:
        return []
    names = {key.removesuffix("/lambda").split(".")[0] for key in search.space}
    errors = [f"--set {key}: the search varies it" for key in settings if key in names]
    if base.lambda_ == 0 and any(key.endswith("/lambda") for key in search.space):
        errors.append(f"grid {grid.name}: search.space: a ratio to lambda needs a lambda above 0")
    if "validation_anomaly_auc" in search.objectives and not base.anomaly_datasets:
        errors.append(f"grid {grid.name}: search.objectives: validation_anomaly_auc needs an anomaly set, there is none")
    if errors:
        return errors
    for extreme in search.extremes():
        ((key, _),) = extreme.items()
        try:
            fields = search.fields(extreme, base)
            planner.plan(grid.model_copy(update={"arms": {"probe": fields}}), seeds=seeds, arms=["probe"])
        except InputError as error:
            where = f"grid {grid.name}, arm probe: "
            errors += [f"grid {grid.name}: search.space.{key}: {text.removeprefix(where)}" for text in error.errors]
    return errors


def _budget_errors(budget: SeedBudget | None, gpus_per_trial: float) -> list[str]:
    if budget is None or budget.unit == "wall" or (budget.unit == "gpu") == (gpus_per_trial > 0):
        return []
    return [f"--budget {budget.text}: the trials run on {'GPUs' if gpus_per_trial else 'cores'}; give hours of those"]


def _with_search_flags(grid: Grid, command: CommandLine, seeds: Sequence[int] | None) -> Grid:
    """Return the grid with the search flags of the command line applied."""
    given = {
        "--search-trials": command.search_trials, "--objectives": command.objectives,
        "--early-stopping": command.early_stopping or None,
    }  # fmt: skip
    if grid.search is None:
        errors = [f"{flag}: grid {grid.name} has no search" for flag, value in given.items() if value is not None]
        if errors:
            raise InputError(errors)
        return grid
    errors = []
    if command.until_decided:
        errors.append(f"--until-decided: grid {grid.name} is a search; to test its best point, make it an arm of another grid")
    if len(seeds or grid.seeds) > 1:
        errors.append(
            f"--seeds: grid {grid.name} is a search, with one seed; for several, make its best point an arm of another grid"
        )
    if command.arms is not None:
        errors.append(f"--arms: grid {grid.name} is a search, which makes its own arms")
    changes: dict[str, Any] = {}
    if command.search_trials is not None:
        changes["trials"] = command.search_trials
    if command.objectives is not None:
        changes["objectives"] = [name.strip() for name in command.objectives.split(",") if name.strip()]
    if command.early_stopping:
        changes["early_stopping"] = True
    try:
        search = type(grid.search).model_validate(grid.search.model_dump() | changes)
    except ValidationError as error:
        for fault in faults_of(error):
            errors.append(f"--search-trials: {fault.text}" if fault.place == ("trials",) else fault.text)
    if errors:
        raise InputError([line for text in errors for line in text.split("\n")])
    return grid.model_copy(update={"search": search})


def _earlier_seeds(snapshot: StoreSnapshot, sweep_id: str) -> list[int]:
    """Return the seeds of a sweep that earlier commands ran; if its ``sweep.json`` is damaged or gone, those of all trials."""
    files = CheckedFolder(snapshot.store.storage / "sweeps" / sweep_id)
    try:
        seeds = files.load("sweep.json", lambda content: [int(seed) for seed in parse_mapping(content)["seeds"]])
        if files.problem is not None:
            snapshot.note_damage(f"{files.path / CHECKSUMS}: {files.problem}; written again at the end of this command")
        if seeds is not None or files.digest("sweep.json") is None:
            return seeds or []
        snapshot.note_damage(f"{files.path / 'sweep.json'}: it is gone; written again at the end of this command")
    except DamagedFileError as error:
        snapshot.note_damage(f"{error}; written again at the end of this command")
    configs = [(snapshot.state(key).config or {}).get("config", {}) for key in snapshot.store.trial_keys()]
    return sorted({config["seed"] for config in configs if isinstance(config.get("seed"), int)})


def _cluster_errors(command: CommandLine, address: str) -> list[str]:
    """Options that are mandatory on a cluster."""
    errors = []
    if command.profile == "auto":
        errors.append(f"--profile: on a cluster ({name_of_address(address)}) it must be named: {', '.join(PROFILES)}")
    if is_submitted() and not is_remote(command.storage) and not command.storage.is_absolute():
        errors.append(
            f"--storage {command.storage}: a job runs in a copy of the code that is deleted with it: give an absolute path "
            "that all nodes share, or a URL"
        )
    return errors


def _cluster_gpus(address: str) -> tuple[int, bool]:
    """Return the number of GPUs of a cluster, and whether an autoscaler may add more."""
    from sweeps.execution import cluster, ray_private

    cluster.join(address)
    return cluster.gpus(), ray_private.has_autoscaler()


def _gpu_errors(per_trial: float | None, gpus: int, scales: bool) -> list[str]:
    if per_trial is None and not gpus and scales:
        return ["--gpus-per-trial: there is no GPU yet, but the autoscaler may add some: give a share, or 0 to train on CPUs"]
    if per_trial and per_trial > 1 and per_trial != int(per_trial):
        return [f"--gpus-per-trial {per_trial}: above 1 it must be a whole number of GPUs"]
    if per_trial and per_trial > gpus and not scales:
        return [f"--gpus-per-trial {per_trial}: Ray sees {gpus} GPU(s), a trial would wait for ever"]
    return []


def _choose_profile(requested: str, gpus: int) -> tuple[str, str]:
    sees = f"Ray sees {gpus} GPU(s)" if gpus else "Ray sees no GPU"
    if requested != "auto":
        return requested, f"profile {requested}, as asked; {sees}"
    profile = "cifar10" if gpus else "digits-m"
    return profile, f"profile {profile}, because {sees} on this machine (--profile chooses: {', '.join(PROFILES)})"
