"""What this process knows of a trial's run in MLflow, and how configs and statuses are written there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.config import TrialConfig
from sweeps.storage.records import TrialStatus
from sweeps.tracking import view

#: Tag of a run: digest of what was last published to it. Its stored name has been "said" since the first version.
PUBLISHED_DIGEST = "said"

#: A trial's status -> the status of its run in MLflow.
RUN_STATUS = {
    TrialStatus.DONE: "FINISHED",
    TrialStatus.FAILED: "FAILED",
    TrialStatus.SKIPPED: "KILLED",
    TrialStatus.PRUNED: "KILLED",
    TrialStatus.PENDING: "RUNNING",
}


@dataclass
class ChildRun:
    """The run of one trial in MLflow.

    Attributes:
        run_id: MLflow's id of the run.
        status: MLflow's status of the run.
        tags: the run's tags.
        params: names of the params that the run already has.
        known: (metric, step) -> the value that the run already has; None: not read from MLflow yet.
        fresh: True if this process created the run and has not logged a model to it yet.
        seed: the trial's seed, as text, if the run was read from MLflow; None: it has none.
    """

    run_id: str
    status: str
    tags: Mapping[str, str]
    params: frozenset[str]
    known: dict[tuple[str, int], float] | None = None
    fresh: bool = False
    seed: str | None = None


def existing_child(run: Any) -> ChildRun:
    """Return a :class:`ChildRun` for a run that MLflow returned."""
    params = run.data.params
    return ChildRun(run.info.run_id, run.info.status, run.data.tags, frozenset(params), seed=params.get("seed"))


def config_params(config: TrialConfig) -> dict[str, str]:
    """Return the config fields that apply as params: dotted names -> texts; lists and the parent are JSON.

    Without a VICReg loss its weights are 0: in MLflow's plots a run that lacks a param would be just above the highest value.
    """
    fields: dict[str, Any] = dict.fromkeys(view.WEIGHTS, 0.0) | config.outcome_fields() | {"threads": config.threads}
    if config.needs_parent and config.parent is not None:
        own = config.parent.outcome_fields()
        fields["parent"] = {name: value for name, value in own.items() if fields.get(name) != value}
    params: dict[str, str] = {}
    for name, value in fields.items():
        if name == "augmentation":
            params |= {f"augmentation.{inner}": json.dumps(given) for inner, given in value.items()}
        else:
            params[name] = value if isinstance(value, str) else json.dumps(value)
    return params
