"""Records of a trial: its training, its metrics, its status."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from evaluation.evaluate import Evaluation
from sweeps.planning.trial import Trial


class TrialStatus(StrEnum):
    """Status of a trial. The values are written to tables, to ``sweep.json`` and to MLflow.

    ::

        PENDING ──> DONE      trained and evaluated
           ├──────> FAILED    an error, or its worker died too often; the next command tries it again
           ├──────> SKIPPED   its parent failed
           └──────> PRUNED    stopped early by a search; it has no numbers
    """

    PENDING = "open"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    PRUNED = "stopped"


#: A trial that ended with one of these has no results, and the next command tries it again.
LOST = (TrialStatus.FAILED, TrialStatus.SKIPPED)


@dataclass(frozen=True)
class TrainingRecord:
    """Record of a finished training.

    Attributes:
        history: one record for each epoch.
        pairs: statistics of the training pairs, or None.
        seconds: time spent on this trial's own epochs, or on fitting PCA or eigenmaps; 0 for rows that do neither.
        epochs_trained: epochs trained for this trial; fewer than its epochs if it continued another trial.
        device: kind of device, e.g. "cpu (Intel ...)".
        threads: CPU threads.
        versions: package -> version, of the packages that compute.
        finished: Unix time.
        weights: SHA-256 of the file with the encoder's weights, or with what PCA or eigenmaps learned; None for rows without
            either, and where an earlier version of this program trained it.
        parent_encoder: SHA-256 of the parent's encoder file that it was trained with; None without a parent, and where an
            earlier version of this program trained it.
    """

    history: tuple[dict[str, float], ...]
    pairs: dict[str, float] | None
    seconds: float
    epochs_trained: int
    device: str
    threads: int
    versions: dict[str, str]
    finished: float
    weights: str | None = None
    parent_encoder: str | None = None


@dataclass(frozen=True)
class MetricResult:
    """The outcome of one computation: of a metric, of per-image arrays, or of a figure.

    Attributes:
        value: the number; None where the metric does not apply; 1 for arrays or a figure that has a file.
        problem: why there is no value, or None.
        time: Unix time of the computation.
        again: True if the problem is a defect of the metric or figure; the next command then computes it again.
    """

    value: float | None
    problem: str | None
    time: float
    again: bool = False


def results_of(evaluation: Evaluation, ids: Mapping[str, str]) -> dict[str, MetricResult]:
    """Return the results of an evaluation that has just ended, by id.

    Args:
        evaluation: numbers and problems by name.
        ids: name -> id of the computation.
    """
    now = time.time()
    results = {ids[name]: MetricResult(value, None, now) for name, value in evaluation.values.items()}
    return results | {
        ids[name]: MetricResult(None, problem, now, name in evaluation.defects) for name, problem in evaluation.problems.items()
    }


@dataclass(frozen=True)
class TrialRecord:
    """Status, training and metrics of a trial, for reports and MLflow.

    Attributes:
        trial: the planned trial.
        status: its status.
        training: None until it is trained.
        metrics: name -> number, for metrics that apply; those of the headline anomaly set also under their bare names.
        problems: name of a metric -> why there is no number.
        evaluated: Unix time at which the last metric was stored.
        reason: why it failed, was skipped or was stopped.
    """

    trial: Trial
    status: TrialStatus
    training: TrainingRecord | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    evaluated: float = 0.0
    reason: str | None = None
