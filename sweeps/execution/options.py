"""What execution needs to know of a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExecutionOptions:
    """How and where the plans of a command are run.

    Attributes:
        storage: where trials are kept; every node shares it.
        data_dir: where data sets are, or are downloaded to.
        address: of a running Ray cluster; None: Ray on this machine alone.
        gpus_per_trial: share of a GPU for each trial; 0: CPUs only, as many as the trial has threads.
        deterministic: see :func:`core.compute_settings.compute_settings`.
        more_plans: True if further plans may follow whose trials need images that this one's open trials do not.
    """

    storage: Path
    data_dir: Path
    address: str | None
    gpus_per_trial: float
    deterministic: bool
    more_plans: bool = False


@dataclass(frozen=True)
class Rungs:
    """When a search looks at a trial that is still training.

    Attributes:
        epochs: after which epochs.
        metric: by which metric; one that looks at no test image.
    """

    epochs: frozenset[int]
    metric: str
