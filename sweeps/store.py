"""What trials leave behind, under ``<storage>/trials/<key>/``; each file is written whole or not at all.

==========================  =============================================================================================
``config.json``             the config, and what it was trained on
``checkpoint.pt``           the state after the last epoch so far; kept at the end, for longer trials to go on from
``encoder.pt``              the trained encoder's weights
``trained.json``            written when training is over: history, pairs, device, time. Its presence says "trained"
``evaluation-<id>.json``    numbers, each under what identifies its computation; several files add up
``failure.json``            why the last attempt failed; removed by the next attempt
==========================  =============================================================================================

This module knows no torch: planning and reporting read the store without it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.config import digest
from core.files import load_json, save_json
from evaluation.evaluate import metric_ids
from sweeps.plan import Trial


@dataclass(frozen=True)
class Training:
    """What is known of a finished training.

    Attributes:
        history: one record for each epoch.
        pairs: statistics of the training pairs, or None.
        seconds: time spent in training, in total and by this trial's own epochs; 0 for rows that train nothing.
        epochs_trained: epochs trained for this trial; fewer than its epochs where it continued another.
        device: kind of device, e.g. "cpu (Intel ...)".
        threads: CPU threads.
        versions: of the packages that compute.
        finished: Unix time.
    """

    history: tuple[dict[str, float], ...]
    pairs: dict[str, float] | None
    seconds: float
    epochs_trained: int
    device: str
    threads: int
    versions: dict[str, str]
    finished: float


@dataclass(frozen=True)
class Result:
    """One metric's outcome in the store: a number, None where it does not apply, or a problem."""

    value: float | None
    problem: str | None
    time: float


@dataclass(frozen=True)
class TrialRecord:
    """A trial as reports and MLflow see it.

    Attributes:
        trial: the planned trial.
        status: done, failed, skipped, or open (not done yet).
        training: None until trained.
        metrics: name -> number, those that apply; the first anomaly set's also under the bare names.
        problems: name -> why there is no number.
        evaluated: Unix time at which the last metric was stored.
        reason: why it failed or was skipped.
    """

    trial: Trial
    status: str
    training: Training | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    evaluated: float = 0.0
    reason: str | None = None


class Store:
    """The trials below one storage folder."""

    def __init__(self, storage: Path) -> None:
        self._trials = storage / "trials"

    def folder(self, key: str) -> Path:
        """Where a trial's files lie."""
        return self._trials / key

    def trial_keys(self) -> list[str]:
        """All trials that left anything."""
        return sorted(path.name for path in self._trials.iterdir() if path.is_dir()) if self._trials.is_dir() else []

    # -- training -------------------------------------------------------------------------------------------------------

    def is_trained(self, key: str) -> bool:
        """Whether training is over (for rows that train nothing: whether they were looked at)."""
        return (self.folder(key) / "trained.json").is_file()

    def save_training(self, key: str, training: Training) -> None:
        """Says that a trial is trained."""
        save_json(self.folder(key) / "trained.json", asdict(training))

    def training(self, key: str) -> Training | None:
        """What is known of a finished training."""
        content = load_json(self.folder(key) / "trained.json")
        return None if content is None else Training(**content | {"history": tuple(content["history"])})

    # -- evaluation -----------------------------------------------------------------------------------------------------

    def save_results(self, key: str, results: Mapping[str, Result]) -> None:
        """Adds results, by what identifies their computation."""
        if results:
            name = f"evaluation-{digest(sorted(results))[:8]}.json"
            save_json(self.folder(key) / name, {id_: asdict(result) for id_, result in results.items()})

    def results(self, key: str) -> dict[str, Result]:
        """All results; where one was computed twice, the later one."""
        found: dict[str, Result] = {}
        for path in self.folder(key).glob("evaluation-*.json"):
            for id_, content in (load_json(path) or {}).items():
                result = Result(**content)
                if id_ not in found or found[id_].time < result.time:
                    found[id_] = result
        return found

    def missing(self, trial: Trial) -> dict[str, str]:
        """Names and ids of the metrics that a trial still lacks."""
        known: Collection[str] = self.results(trial.key)
        return {name: id_ for name, id_ in metric_ids(trial.anomalies).items() if id_ not in known}

    def is_done(self, trial: Trial) -> bool:
        """Whether nothing is left to do for a trial."""
        return self.is_trained(trial.key) and not self.missing(trial)

    # -- failures -------------------------------------------------------------------------------------------------------

    def save_failure(self, key: str, reason: str, details: str = "") -> None:
        """Records why an attempt failed."""
        save_json(self.folder(key) / "failure.json", {"reason": reason, "details": details, "time": time.time()})

    def failure(self, key: str) -> str | None:
        """Why the last attempt failed, in a line; None if it did not."""
        content = load_json(self.folder(key) / "failure.json")
        return None if content is None else str(content["reason"])

    def clear_failure(self, key: str) -> None:
        """Forgets a failure: another attempt begins."""
        with suppress(FileNotFoundError):
            (self.folder(key) / "failure.json").unlink()

    # -- everything -----------------------------------------------------------------------------------------------------

    def record(self, trial: Trial, *, skipped: str | None = None) -> TrialRecord:
        """A trial as the store knows it.

        Args:
            trial: the planned trial.
            skipped: why it was not tried, if so.
        """
        training, results = self.training(trial.key), self.results(trial.key)
        metrics: dict[str, float] = {}
        problems: dict[str, str] = {}
        headline = next(iter(trial.anomalies), None)
        ids = metric_ids(trial.anomalies)
        for name, id_ in ids.items():
            result = results.get(id_)
            if result is None:
                continue
            bare, _, which = name.partition("/")
            for alias in (name, bare) if which and which == headline else (name,):
                if result.problem is not None:
                    problems[alias] = result.problem
                elif result.value is not None:
                    metrics[alias] = result.value
        evaluated = max((result.time for result in results.values()), default=0.0)
        if training is not None and all(id_ in results for id_ in ids.values()):
            return TrialRecord(trial, "done", training, metrics, problems, evaluated)
        failure = self.failure(trial.key)
        status = "skipped" if skipped else "failed" if failure else "open"
        return TrialRecord(trial, status, training, metrics, problems, evaluated, skipped or failure)


def save_config(store: Store, trial: Trial, extra: Mapping[str, Any]) -> None:
    """Writes a trial's ``config.json``: all fields, its key, and what else is worth keeping beside them."""
    content = {"key": trial.key, "parent": trial.parent, "config": trial.config.fields(), **extra}
    save_json(store.folder(trial.key) / "config.json", content)
