"""A command, checked: everything that can be wrong is found here, all at once, before anything is started or written."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from core.config import PROFILES
from core.errors import InputError
from core.files import is_remote, load_json
from sweeps import tracking_uri
from sweeps.grid import Fields, Grid, list_grids, load_grid, parse_settings
from sweeps.hardware import cluster_address, cpu_flags, gpus_of_this_machine, is_submitted
from sweeps.inference import ANYTIME, FIXED, SeedTest
from sweeps.plan import Plan, make_plan
from sweeps.storage import check_folder
from sweeps.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Budget:
    """What a command may spend on further seeds.

    Attributes:
        text: as given.
        amount: seconds of wall time, or hours of cores or GPUs.
        unit: ``wall``, ``core`` or ``gpu``.
    """

    text: str
    amount: float
    unit: str


@dataclass(frozen=True)
class Job:
    """A checked command.

    Attributes:
        options: the command line.
        grid: the grid.
        plan: what it asks for at first.
        store: where trials are.
        uri: MLflow's database or server.
        gpus_per_trial: share of a GPU for each trial; 0: CPUs only.
        introduction: which profile, and why.
        budget: for seeds that are added until all is decided, else None.
        test: how differences between seeds are tested.
        replan: (grid, seeds, arms, names of the arms that only validation may look at) -> another plan of the same sweep.
    """

    options: argparse.Namespace
    grid: Grid
    plan: Plan
    store: Store
    uri: str
    gpus_per_trial: float
    introduction: str
    budget: Budget | None
    test: SeedTest
    replan: Callable[..., Plan]


#: In a sweep's folder where ``--until-decided`` began.
MARK = "until-decided.json"
#: With fewer seeds than this the anytime-valid test can decide nothing.
FIRST_SEEDS = 3


def prepare(options: argparse.Namespace) -> Job:
    """Checks everything that can be checked before anything is started or written; collects all faults."""
    faults: list[str] = []

    def collect(function: Callable[[], T], otherwise: T) -> T:
        try:
            return function()
        except InputError as error:
            faults.extend(error.faults)
            return otherwise

    address = cluster_address(options.address)
    if options.grid is None:
        raise InputError(f"--grid is missing; there are {', '.join(list_grids())}, or name a .yaml file")
    grid = collect(lambda: load_grid(options.grid), None)
    settings: Fields = collect(lambda: parse_settings(options.set), {})
    seeds = collect(lambda: _seeds(options.seeds), None)
    budget = collect(lambda: _budget(options), None)
    if grid is not None:
        grid = collect(partial(_search_options, grid, options, seeds), grid)
    uri = collect(lambda: options.tracking_uri or tracking_uri.default_uri(options.storage), "")
    if not options.dry_run:
        collect(lambda: tracking_uri.check(uri) if uri else None, None)
    collect(lambda: check_folder("--storage", options.storage, write=not options.dry_run), None)
    if is_remote(options.storage) and faults:
        raise InputError(faults)  # planning reads it
    collect(lambda: check_folder("--data", options.data), None)
    if options.profile not in ("auto", *PROFILES):
        faults.append(f"--profile {options.profile}: choose from auto, {', '.join(PROFILES)}")
    if address:
        faults += _cluster_faults(options, address)
    if options.gpus_per_trial is not None and options.gpus_per_trial < 0:
        faults.append(f"--gpus-per-trial {options.gpus_per_trial}: a share of 0 or more is needed")
    if grid is None or (faults and options.profile not in ("auto", *PROFILES)):
        raise InputError(faults)

    gpus, scales = _cluster_gpus(address) if address and not faults else (gpus_of_this_machine(), False)
    profile, introduction = _choose_profile(options.profile, gpus)
    faults += _gpu_faults(options.gpus_per_trial, gpus, scales)
    gpus_per_trial = (1.0 if gpus else 0.0) if options.gpus_per_trial is None else options.gpus_per_trial
    arms = collect(lambda: _arms(options.arms), None)
    replan = partial(
        make_plan, profile=profile, settings=settings, data_dir=options.data, gpu=gpus_per_trial > 0, cpu_flags=cpu_flags(),
        earlier_seeds=partial(_earlier_seeds, options.storage),
    )  # fmt: skip
    wanted = seeds or grid.seeds
    if budget is not None and len(wanted) < FIRST_SEEDS:
        wanted = tuple(dict.fromkeys((*wanted, *range(FIRST_SEEDS))))[:FIRST_SEEDS]
    plan = collect(lambda: replan(grid, seeds=wanted, arms=arms or None), None)
    if plan is None or faults:
        raise InputError(list(dict.fromkeys(faults)))
    if grid.search is not None:
        faults += _space_faults(grid, settings, plan, partial(replan, seeds=wanted))
    if budget is not None and budget.unit != "wall" and (budget.unit == "gpu") != (gpus_per_trial > 0):
        faults.append(f"--budget {budget.text}: the trials run on {'GPUs' if gpus_per_trial else 'cores'}, whose hours count")
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    looked_at = (budget is not None and not options.report_only) or (options.storage / "sweeps" / plan.sweep / MARK).is_file()
    return Job(
        options, grid, plan, Store(options.storage), uri, gpus_per_trial, introduction, budget,
        ANYTIME if looked_at else FIXED, replan,
    )  # fmt: skip


def _space_faults(grid: Grid, settings: Fields, plan: Plan, replan: Callable[..., Plan]) -> list[str]:
    """Values of a search's space that no config can have, and what else does not fit together with it."""
    search, base = grid.search, plan.base
    assert search is not None
    names = {key.removesuffix("/lambda").split(".")[0] for key in search.space}
    faults = [f"--set {key}: the search varies it" for key in settings if key in names]
    if base.lambda_ == 0 and any(key.endswith("/lambda") for key in search.space):
        faults.append(f"grid {grid.name}: search.space: a ratio to lambda needs a lambda above 0")
    if "validation_anomaly_auc" in search.objectives and not base.anomaly_datasets:
        faults.append(f"grid {grid.name}: search.objectives: validation_anomaly_auc needs an anomaly set, there is none")
    if faults:
        return faults
    for corner in search.corners():
        ((key, _),) = corner.items()
        try:
            fields = search.fields(corner, base)
            replan(grid.model_copy(update={"arms": {"probe": fields}}), arms=["probe"])
        except InputError as error:
            where = f"grid {grid.name}, arm probe: "
            faults += [f"grid {grid.name}: search.space.{key}: {fault.removeprefix(where)}" for fault in error.faults]
    return faults


_BUDGET = re.compile(r"(?P<amount>\d+(\.\d+)?)\s*(?P<unit>s|m|min|h|(core|gpu)-?(h|hours?))", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


def _budget(options: argparse.Namespace) -> Budget | None:
    """``30m`` or ``2h`` of wall time, ``4core-h`` or ``1.5gpu-h`` of work."""
    if not options.until_decided:
        if options.budget is not None:
            raise InputError("--budget: it goes with --until-decided, which it limits")
        return None
    if options.budget is None:
        raise InputError("--until-decided: say what it may cost with --budget, e.g. 30m, 2h, 4core-h or 1.5gpu-h")
    found = _BUDGET.fullmatch(options.budget.strip())
    if found is None or float(found["amount"]) == 0:
        raise InputError(f"--budget {options.budget}: give a time, e.g. 30m, 2h, 4core-h or 1.5gpu-h")
    unit, amount = found["unit"].lower(), float(found["amount"])
    if unit in _SECONDS:
        return Budget(options.budget, amount * _SECONDS[unit], "wall")
    return Budget(options.budget, amount, unit[:4] if unit.startswith("core") else "gpu")


def _search_options(grid: Grid, options: argparse.Namespace, seeds: Sequence[int] | None) -> Grid:
    """The grid with what the command line says of its search."""
    given = {
        "--trials": options.trials, "--objectives": options.objectives, "--early-stopping": options.early_stopping or None,
    }  # fmt: skip
    if grid.search is None:
        faults = [f"{flag}: grid {grid.name} searches nothing" for flag, value in given.items() if value is not None]
        if faults:
            raise InputError(faults)
        return grid
    faults = []
    if options.until_decided:
        faults.append(f"--until-decided: grid {grid.name} is a search; test what it chose in a grid of arms")
    if len(seeds or grid.seeds) > 1:
        faults.append(f"--seeds: a search has one seed; test what grid {grid.name} chose over several in a grid of arms")
    if options.arms is not None:
        faults.append(f"--arms: grid {grid.name} is a search, which finds its arms itself")
    changes: dict[str, Any] = {}
    if options.trials is not None:
        changes["trials"] = options.trials
    if options.objectives is not None:
        changes["objectives"] = [name.strip() for name in options.objectives.split(",") if name.strip()]
    if options.early_stopping:
        changes["early_stopping"] = True
    try:
        search = type(grid.search).model_validate(grid.search.model_dump() | changes)
    except ValidationError as error:
        for fault in error.errors():
            flag = f"--trials {options.trials}: " if fault["loc"][:1] == ("trials",) else ""
            faults.append(flag + str(fault["msg"]).removeprefix("Value error, "))
    if faults:
        raise InputError([line for fault in faults for line in fault.split("\n")])
    return grid.model_copy(update={"search": search})


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        raise InputError(f"--seeds {text}: a number of seeds, or a list such as 0,3,4, is needed") from None
    if len(numbers) == 1:
        numbers = tuple(range(numbers[0])) if "," not in text else numbers
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds {text}: at least one seed, none negative, none twice")
    return numbers


def _earlier_seeds(storage: Path, sweep: str) -> list[int]:
    """Seeds that earlier commands gave to a sweep."""
    return list(_sweep_file(storage, sweep).get("seeds", []))


def _sweep_file(storage: Path, sweep: str) -> dict[str, Any]:
    """What earlier commands left of a sweep."""
    return dict(load_json(storage / "sweeps" / sweep / "sweep.json") or {})


def _arms(text: str | None) -> list[str] | None:
    if text is None:
        return None
    if not (arms := [name.strip() for name in text.split(",") if name.strip()]):
        raise InputError("--arms: no arm is named")
    return arms


def _cluster_faults(options: argparse.Namespace, address: str) -> list[str]:
    """What must be said on a cluster, because nothing there can be guessed."""
    faults = []
    if options.profile == "auto":
        faults.append(f"--profile: on a cluster ({address}) it must be named: {', '.join(PROFILES)}")
    if is_submitted() and not is_remote(options.storage) and not options.storage.is_absolute():
        faults.append(
            f"--storage {options.storage}: a job runs in a copy of the code that vanishes with it: name an absolute path that "
            "all nodes share, or a URL"
        )
    return faults


def _cluster_gpus(address: str) -> tuple[int, bool]:
    """The GPUs of a cluster, and whether an autoscaler may bring more."""
    from sweeps import cluster

    cluster.connect(address)
    return cluster.gpus(), cluster.scales()


def _gpu_faults(per_trial: float | None, gpus: int, scales: bool) -> list[str]:
    if per_trial is None and not gpus and scales:
        return ["--gpus-per-trial: no GPU is there yet, and the autoscaler may bring some: name a share, or 0 to train on CPUs"]
    if per_trial and per_trial > 1 and per_trial != int(per_trial):
        return [f"--gpus-per-trial {per_trial}: above 1 it must be a whole number of GPUs"]
    if per_trial and per_trial > gpus and not scales:
        return [f"--gpus-per-trial {per_trial}: Ray sees {gpus} GPU(s), a trial would wait for ever"]
    return []


def _choose_profile(wanted: str, gpus: int) -> tuple[str, str]:
    sees = f"Ray sees {gpus} GPU(s)" if gpus else "Ray sees no GPU"
    if wanted != "auto":
        return wanted, f"profile {wanted}, as asked; {sees}"
    profile = "cifar10" if gpus else "digits-m"
    return profile, f"profile {profile}, because {sees} on this machine (--profile chooses: {', '.join(PROFILES)})"
