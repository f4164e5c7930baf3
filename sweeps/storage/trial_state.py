"""The stored state of a trial; each file is read at most once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from core.atomic_files import load_json
from evaluation.per_image import DETAILS
from sweeps.planning.trial import Trial
from sweeps.storage.records import MetricResult, TrainingRecord, TrialRecord, TrialStatus

_FOLDER = {"detail": "details", "figure": "figures"}
_SUFFIX = {"detail": "npz", "figure": "png"}


def product_path(folder: Path, id_: str) -> Path:
    """Return the path of the arrays or the figure with this id (``detail:...``, ``figure:...``) in a trial's folder."""
    kind, name = id_.split(":", 1)
    return folder / _FOLDER[kind] / f"{name}.{_SUFFIX[kind]}"


class TrialState:
    """One trial's files, each read when it is first needed and then cached."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """The content of ``config.json``; None if there is no such file."""
        content: Mapping[str, Any] | None = load_json(self._folder / "config.json")
        return content

    @cached_property
    def training(self) -> TrainingRecord | None:
        """The finished training; None until the trial is trained."""
        content = load_json(self._folder / "trained.json")
        return None if content is None else TrainingRecord(**content | {"history": tuple(content["history"])})

    @property
    def is_trained(self) -> bool:
        """Whether training is over; for methods that train nothing: whether the trial has run."""
        return self.training is not None

    @cached_property
    def results(self) -> Mapping[str, MetricResult]:
        """Id of a computation -> its result; the later result if it was computed twice."""
        found: dict[str, MetricResult] = {}
        for path in self._folder.glob("evaluation-*.json"):
            for id_, content in (load_json(path) or {}).items():
                result = MetricResult(**content)
                if id_ not in found or found[id_].time < result.time:
                    found[id_] = result
        return found

    @cached_property
    def failure(self) -> str | None:
        """Why the last attempt failed, in one line; None if it did not."""
        content = load_json(self._folder / "failure.json")
        return None if content is None else str(content["reason"])

    # -- what is missing ------------------------------------------------------------------------------------------------

    def missing_metrics(self, trial: Trial) -> dict[str, str]:
        """Return names and ids of the metrics that are still to be computed."""
        return {
            name: id_ for name, id_ in trial.metric_ids.items() if (result := self.results.get(id_)) is None or result.again
        }

    def missing_details(self, trial: Trial, *, derived: bool = False) -> dict[str, str]:
        """Return names and ids of the missing per-image arrays: those made in the trial's slot, or (``derived``) after it."""
        return self._missing_products(_details(trial, derived=derived))

    def missing_figures(self, trial: Trial) -> dict[str, str]:
        """Return names and ids of the figures still to be drawn."""
        return self._missing_products(trial.figure_ids)

    def is_done(self, trial: Trial) -> bool:
        """Return whether nothing is left to do in the trial's slot, the cores or the GPU share that Ray reserves for it.

        Figures and derived per-image arrays are made outside of the slot, so they may still be missing.
        """
        return self.is_trained and not self.missing_metrics(trial) and not self.missing_details(trial)

    def is_drawn(self, trial: Trial) -> bool:
        """Return whether all figures are drawn."""
        return not self.missing_figures(trial)

    def _missing_products(self, ids: Mapping[str, str]) -> dict[str, str]:
        return {
            name: id_
            for name, id_ in ids.items()
            if (result := self.results.get(id_)) is None
            or result.again
            or (result.value is not None and not self._has_file(id_))
        }

    # One listing of each folder: with a URL as storage, a request for each file would take seconds.

    @cached_property
    def _detail_files(self) -> frozenset[Path]:
        return _listing(self._folder / _FOLDER["detail"])

    @cached_property
    def _figure_files(self) -> frozenset[Path]:
        return _listing(self._folder / _FOLDER["figure"])

    def _has_file(self, id_: str) -> bool:
        files = self._figure_files if id_.startswith("figure:") else self._detail_files
        return product_path(self._folder, id_) in files

    # -- what is there --------------------------------------------------------------------------------------------------

    def figures(self, trial: Trial) -> dict[str, Path]:
        """Return the paths of the trial's figures that exist, by name."""
        return {name: product_path(self._folder, id_) for name, id_ in trial.figure_ids.items() if self._has_file(id_)}

    def product_problems(self, trial: Trial) -> dict[str, str]:
        """Return the per-image arrays and figures that are not defined for the trial, and why."""
        ids = {f"detail {name}": id_ for name, id_ in trial.detail_ids.items()}
        ids |= {f"figure {name}": id_ for name, id_ in trial.figure_ids.items()}
        return {name: result.problem for name, id_ in ids.items() if (result := self.results.get(id_)) and result.problem}

    def record(self, trial: Trial, *, skipped: str | None = None, pruned: str | None = None) -> TrialRecord:
        """Return the trial's record.

        Args:
            trial: the planned trial.
            skipped: why it was not tried, if so.
            pruned: why a search stopped it early, if so.
        """
        if pruned is not None:
            return TrialRecord(trial, TrialStatus.PRUNED, reason=pruned)
        metrics, problems = self._metrics(trial)
        evaluated = max((result.time for result in self.results.values()), default=0.0)
        needed = {*trial.metric_ids.values(), *_details(trial, derived=False).values()}
        if self.training is not None and needed <= set(self.results):
            return TrialRecord(trial, TrialStatus.DONE, self.training, metrics, problems, evaluated)
        status = TrialStatus.SKIPPED if skipped else TrialStatus.FAILED if self.failure else TrialStatus.PENDING
        return TrialRecord(trial, status, self.training, metrics, problems, evaluated, skipped or self.failure)

    def _metrics(self, trial: Trial) -> tuple[dict[str, float], dict[str, str]]:
        """Return numbers and problems by metric; those of the headline anomaly set also under their bare names."""
        metrics: dict[str, float] = {}
        problems: dict[str, str] = {}
        headline = next(iter(trial.anomalies), None)
        for name, id_ in trial.metric_ids.items():
            if (result := self.results.get(id_)) is None:
                continue
            bare, _, which = name.partition("/")
            for alias in (name, bare) if which and which == headline else (name,):
                if result.problem is not None:
                    problems[alias] = result.problem
                elif result.value is not None:
                    metrics[alias] = result.value
        return metrics, problems


def _details(trial: Trial, *, derived: bool) -> dict[str, str]:
    """Return names and ids of the per-image arrays made in the trial's slot, or of those derived outside of it."""
    ids = trial.detail_ids
    return {name: id_ for name, id_ in ids.items() if bool(DETAILS[name.partition("/")[0]].derived) == derived}


def _listing(folder: Path) -> frozenset[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return frozenset(folder.iterdir())
    return frozenset()
