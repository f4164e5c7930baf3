"""A trial's run in MLflow, as far as this process knows it; and how configs, metrics and statuses are spelt there."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.config import TrialConfig
from sweeps.storage.records import TrialStatus
from sweeps.tracking import view

#: Tag of a run: digest of what was last published to it. It is stored as "said" since the first version.
PUBLISHED_DIGEST = "said"

#: A trial's status -> its run's, in MLflow's words.
RUN_STATUS = {
    TrialStatus.DONE: "FINISHED",
    TrialStatus.FAILED: "FAILED",
    TrialStatus.SKIPPED: "KILLED",
    TrialStatus.PRUNED: "KILLED",
    TrialStatus.PENDING: "RUNNING",
}


@dataclass
class ChildRun:
    """One run.

    Attributes:
        run_id: MLflow's id.
        status: MLflow's status.
        tags: the run's tags.
        params: names of the params that it holds.
        known: (metric, step) -> the value that it holds; None: not asked for yet.
        fresh: True if it was made by this process, and no model was logged since.
    """

    run_id: str
    status: str
    tags: Mapping[str, str]
    params: frozenset[str]
    known: dict[tuple[str, int], float] | None = None
    fresh: bool = False


def existing_child(run: Any) -> ChildRun:
    """Return the child for a run that MLflow found."""
    return ChildRun(run.info.run_id, run.info.status, run.data.tags, frozenset(run.data.params))


def metric_name(name: str) -> str:
    """Return a name that MLflow takes: other characters become underscores, and as a path it is in its shortest form."""
    return posixpath.normpath(re.sub(r"[^\w.\-:/ ]", "_", name))


def config_params(config: TrialConfig) -> dict[str, str]:
    """Return the fields that apply, dotted, as texts; lists and the parent as JSON.

    Where there is no VICReg loss its weights are 0: MLflow's plots would draw a run that lacks a param just above the highest.
    """
    fields = dict.fromkeys(view.WEIGHTS, 0.0) | config.outcome_fields() | {"threads": config.threads}
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
