"""What trials leave behind, under ``<storage>/trials/<key>/``; each file is written whole or not at all.

==========================  =============================================================================================
``config.json``             the config, and what it was trained on
``checkpoint.pt``           the state after the last epoch so far; kept at the end, for longer trials to go on from
``encoder.pt``              the trained encoder's weights
``fitted.npz``              what PCA or Laplacian eigenmaps took from the train images
``trained.json``            written when training is over: history, pairs, device, time. Its presence says "trained"
``evaluation-<id>.json``    numbers, each under what identifies its computation; several files add up
``details/<id>.npz``        features, predictions, scores of single images (:mod:`evaluation.details`)
``figures/<id>.png``        figures (:mod:`evaluation.figures`)
``lock``                    held by the process that works on the trial
``failure.json``            why the last attempt failed; removed by the next attempt
==========================  =============================================================================================

This module knows no torch: planning and reporting read the store without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from core.config import digest
from core.files import load_arrays, load_json, locked, remove_scratch, save_arrays, save_json, scratch_folder, whole_file
from evaluation.details import DETAILS
from evaluation.evaluate import NOT_DEFINED
from sweeps.plan import Trial

_SCRATCH = "tune-"  # prefix of folders in the storage, or of temporary ones beside a URL
_FOLDER = {"detail": "details", "figure": "figures"}
_SUFFIX = {"detail": "npz", "figure": "png"}


@dataclass(frozen=True)
class Training:
    """What is known of a finished training.

    Attributes:
        history: one record for each epoch.
        pairs: statistics of the training pairs, or None.
        seconds: time spent by this trial's own epochs, or in fitting PCA or eigenmaps; 0 for rows that do neither.
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
    """One outcome in the store: a number, None where it does not apply, or a problem; for a detail or a figure that has a
    file, 1.
    """

    value: float | None
    problem: str | None
    time: float
    again: bool = False  # the problem is a defect of the metric or figure, which the next command tries again


@dataclass(frozen=True)
class TrialRecord:
    """A trial as reports and MLflow see it.

    Attributes:
        trial: the planned trial.
        status: done, failed, skipped, stopped (early, by a search), or open (not done yet).
        training: None until trained.
        metrics: name -> number, those that apply; the first anomaly set's also under the bare names.
        problems: name -> why there is no number.
        evaluated: Unix time at which the last metric was stored.
        reason: why it failed, was skipped or stopped.
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

    def lock(self, key: str, on_wait: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Within the block no other process of this machine works on the trial; see :func:`core.files.locked`."""
        return locked(self.folder(key) / "lock", on_wait)

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder for what need not outlive the block."""
        return scratch_folder(self._trials.parent, _SCRATCH)

    def remove_scratch(self) -> None:
        """Removes what processes that died left of theirs."""
        remove_scratch(self._trials.parent, _SCRATCH)

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
        known = self.results(trial.key)
        return {name: id_ for name, id_ in trial.metric_ids.items() if (result := known.get(id_)) is None or result.again}

    def is_done(self, trial: Trial) -> bool:
        """Whether nothing is left to do in a trial's slot; its figures may still be to draw."""
        return self.is_trained(trial.key) and not self.missing(trial) and not self.missing_details(trial)

    # -- details and figures --------------------------------------------------------------------------------------------

    def missing_details(self, trial: Trial, *, derived: bool = False) -> dict[str, str]:
        """Names and ids of the details that a trial still lacks: those of its slot, or those derived outside of it."""
        return self._absent(trial.key, _details_of_slot(trial, derived=derived))

    def missing_figures(self, trial: Trial) -> dict[str, str]:
        """Names and ids of the figures that a trial still lacks."""
        return self._absent(trial.key, trial.figure_ids)

    def is_drawn(self, trial: Trial) -> bool:
        """Whether nothing is left to do for a trial's figures."""
        return not self.missing_figures(trial)

    def _absent(self, key: str, ids: Mapping[str, str]) -> dict[str, str]:
        known = self.results(key)
        there = {path for kind in {id_.split(":")[0] for id_ in ids.values()} for path in self._files(key, kind)}
        return {
            name: id_
            for name, id_ in ids.items()
            if (result := known.get(id_)) is None
            or result.again
            or (result.value is not None and self._file(key, id_) not in there)
        }

    def _files(self, key: str, kind: str) -> list[Path]:
        """A trial's details or figures, by one look at the folder: behind a URL a question for each would take seconds."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return list((self.folder(key) / _FOLDER[kind]).iterdir())
        return []

    def _file(self, key: str, id_: str) -> Path:
        kind, name = id_.split(":", 1)
        return self.folder(key) / _FOLDER[kind] / f"{name}.{_SUFFIX[kind]}"

    def _save_file(self, key: str, id_: str, content: Mapping[str, NDArray[Any]] | bytes | None) -> Result:
        """Keeps a detail's arrays or a figure's bytes; returns the result to be saved once all files are there."""
        if isinstance(content, bytes):
            with whole_file(self._file(key, id_)) as temporary:
                temporary.write_bytes(content)
        elif content is not None:
            save_arrays(self._file(key, id_), dict(content))
        return Result(None if content is None else 1.0, None, time.time())

    def make(self, key: str, id_: str, function: Callable[[], Mapping[str, NDArray[Any]] | bytes | None]) -> Result:
        """Makes and keeps a detail or a figure; where it is not defined, the result says why."""
        try:
            content = function()
        except MemoryError:
            raise
        except Exception as error:  # whatever one does, the others are made
            again = not isinstance(error, NOT_DEFINED)
            return Result(None, f"{type(error).__name__}: {error}", time.time(), again)
        return self._save_file(key, id_, content)

    def detail(self, trial: Trial, name: str) -> dict[str, NDArray[Any]] | None:
        """A detail's arrays; None where it does not apply or is not there."""
        return load_arrays(self._file(trial.key, trial.detail_ids[name]))

    def figures(self, trial: Trial) -> dict[str, Path]:
        """A trial's figures, by name."""
        files = {name: self._file(trial.key, id_) for name, id_ in trial.figure_ids.items()}
        there = set(self._files(trial.key, "figure"))
        return {name: path for name, path in files.items() if path in there}

    def problems(self, trial: Trial) -> dict[str, str]:
        """Details and figures that are not defined for a trial, and why."""
        known = self.results(trial.key)
        ids = {f"detail {name}": id_ for name, id_ in trial.detail_ids.items()}
        ids |= {f"figure {name}": id_ for name, id_ in trial.figure_ids.items()}
        return {name: known[id_].problem or "" for name, id_ in ids.items() if id_ in known and known[id_].problem}

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

    def record(self, trial: Trial, *, skipped: str | None = None, stopped: str | None = None) -> TrialRecord:
        """A trial as the store knows it.

        Args:
            trial: the planned trial.
            skipped: why it was not tried, if so.
            stopped: why a search stopped it early, if so.
        """
        if stopped is not None:
            return TrialRecord(trial, "stopped", reason=stopped)
        training, results = self.training(trial.key), self.results(trial.key)
        metrics: dict[str, float] = {}
        problems: dict[str, str] = {}
        headline = next(iter(trial.anomalies), None)
        ids = trial.metric_ids
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
        if training is not None and {*ids.values(), *_details_of_slot(trial, derived=False).values()} <= set(results):
            return TrialRecord(trial, "done", training, metrics, problems, evaluated)
        failure = self.failure(trial.key)
        status = "skipped" if skipped else "failed" if failure else "open"
        return TrialRecord(trial, status, training, metrics, problems, evaluated, skipped or failure)


def _details_of_slot(trial: Trial, *, derived: bool) -> dict[str, str]:
    """Names and ids of a trial's details that are made in its slot, or of those derived outside of it."""
    ids = trial.detail_ids
    return {name: id_ for name, id_ in ids.items() if bool(DETAILS[name.partition("/")[0]].derived) == derived}


def save_config(store: Store, trial: Trial, extra: Mapping[str, Any]) -> None:
    """Writes a trial's ``config.json``: all fields, its key, and what else is worth keeping beside them."""
    content = {"key": trial.key, "parent": trial.parent, "config": trial.config.fields(), **extra}
    save_json(store.folder(trial.key) / "config.json", content)
