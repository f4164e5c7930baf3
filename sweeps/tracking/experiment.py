"""The experiment that holds a grid's runs: found also after it was renamed; without a server, each storage has its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.masking import mask
from sweeps.planning.trial import Plan
from sweeps.tracking.names import matches
from sweeps.tracking.run_client import search_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Tag of an experiment: the grid whose runs it holds. Its name may be changed by the user.
_GRID = "grid"
_LONGEST_NAME = 500


def find_or_make(client: MlflowClient, plan: Plan, artifacts: str | None, say: Callable[[str], None]) -> str:
    """Return the id of the experiment for a sweep's runs; a new one is made if there is none, or none that can be used.

    An experiment that the user deleted is left as it is, since restoring it would bring back every run in it, also those that
    had been deleted one by one. One whose artifacts are in another storage is left to that storage.

    Args:
        client: of the tracking server or database.
        plan: the sweep.
        artifacts: URI of the folder for artifacts; None: the server keeps them.
        say: called with what the user must know.
    """
    found = _of_grid(client, plan.grid.name)
    usable = [e for e in found if e.lifecycle_stage == "active" and _keeps_in(e, artifacts)]
    if len(usable) > 1:
        usable = [e for e in usable if search_runs(client, e.experiment_id, matches("sweep", plan.sweep_id))] or usable
    if usable:
        experiment = max(usable, key=lambda e: (e.creation_time or 0, e.experiment_id))
        if experiment.tags.get(_GRID) != plan.grid.name:
            client.set_experiment_tag(experiment.experiment_id, _GRID, plan.grid.name)
        return str(experiment.experiment_id)
    name = _free_name(client, plan.grid.name, found, artifacts)
    made = str(client.create_experiment(name, artifact_location=artifacts, tags={_GRID: plan.grid.name}))
    for experiment in found:
        if experiment.lifecycle_stage == "active":
            say(f"MLflow: the experiment {experiment.name} keeps its artifacts in {mask(experiment.artifact_location)}, "
                f"another storage; this one's runs are in the experiment {name}")  # fmt: skip
        elif _keeps_in(experiment, artifacts):
            say(f"MLflow: the experiment {experiment.name} was deleted there, and stays so; the runs are in a new one, {name}")
    return made


def _of_grid(client: MlflowClient, name: str) -> list[Any]:
    """Return the experiments of a grid, also deleted ones: that of the grid's name, and those with its tag."""
    from mlflow.entities import ViewType

    tagged = client.search_experiments(view_type=ViewType.ALL, filter_string=matches(_GRID, name))
    found = [e for e in tagged if e.tags.get(_GRID) == name]
    named = client.get_experiment_by_name(name)
    if named is not None and named.experiment_id not in {e.experiment_id for e in found} and named.tags.get(_GRID) is None:
        found.append(named)
    return found


def _keeps_in(experiment: Any, artifacts: str | None) -> bool:
    """Return whether an experiment's artifacts are in this storage, or in a place of another kind that its creator chose."""
    location = str(experiment.artifact_location or "")
    if artifacts is None or location == artifacts:
        return True
    is_folder = location.startswith(("file:", "/")) or "://" not in location
    return not is_folder and not artifacts.startswith(location.partition("://")[0])


def _free_name(client: MlflowClient, name: str, found: list[Any], artifacts: str | None) -> str:
    """Return a name that no experiment has: the grid's, one with the storage in it, or one with a number."""
    if artifacts is not None and any(not _keeps_in(e, artifacts) for e in found):
        storage = mask(artifacts.removesuffix("/artifacts").removeprefix("file://"))
        name = f"{name} ({Path(storage).name if len(storage) > _LONGEST_NAME // 2 else storage})"
    numbered = (name if n == 1 else f"{name} ({n})" for n in range(1, 10_000))
    return next(candidate for candidate in numbered if client.get_experiment_by_name(candidate) is None)
