"""The settings of a command that the execution of its plans depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExecutionOptions:
    """How and where the plans of a command are run.

    Attributes:
        storage: where trials are kept: an absolute path, or a URL; all nodes share it.
        data_dir: where data sets are, or are downloaded to.
        address: of a running Ray cluster; None: start Ray on this machine only.
        gpus_per_trial: share of a GPU for each trial; 0: no GPU, and as many CPUs as the trial has threads.
        deterministic: see :func:`core.compute_settings.compute_settings`.
        more_plans: True if later plans may follow: the images of all requested trials are loaded, not only those of open ones.
    """

    storage: Path
    data_dir: Path
    address: str | None
    gpus_per_trial: float
    deterministic: bool
    more_plans: bool = False


@dataclass(frozen=True)
class Rungs:
    """After which epochs a search decides whether to stop a trial early (ASHA's rungs), and by which metric.

    Attributes:
        epochs: the rungs, as numbers of epochs.
        metric: the metric that is computed at each rung; it uses no test image.
    """

    epochs: frozenset[int]
    metric: str
