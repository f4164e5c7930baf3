"""Figures of finished trials, drawn outside their slots: Ray tasks that take a CPU each when one is free, and never a GPU."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from evaluation.per_image import DETAILS, Arrays, derive
from evaluation.trial_figures import FigureInputs, draw, needed_details
from sweeps import process
from sweeps.execution.callbacks import SweepCallback
from sweeps.planning.trial import Trial
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.storage.trial_store import TrialStore

if TYPE_CHECKING:
    from sweeps.storage.image_sets import Images


def draw_figures(trial: Trial, images: Images, storage: Path) -> None:
    """Derive the per-image arrays and draw the figures that a done trial lacks; where one is not defined, keep the reason.

    Args:
        trial: done.
        images: the sweep's images.
        storage: where trials are kept.
    """
    process.freeze_gc()
    store = TrialStore(storage)
    if not store.read(trial.key).is_trained:  # a node that came late
        raise OSError(f"{platform.node()} does not share the storage {storage}")
    with store.lock(trial.key), threadpool_limits(1):
        missing = store.read(trial.key).missing_details(trial, derived=True)
        made = {id_: store.make(trial.key, id_, partial(_derive, store, trial, name)) for name, id_ in missing.items()}
        store.save_results(trial.key, made)
        missing = store.read(trial.key).missing_figures(trial)
        if missing:
            make = partial(_draw, store, trial, figure_inputs(store, trial, images, list(missing)))
            drawn = {id_: store.make(trial.key, id_, partial(make, name)) for name, id_ in missing.items()}
            store.save_results(trial.key, drawn)


def figure_inputs(store: TrialStore, trial: Trial, images: Images, figures: Sequence[str]) -> FigureInputs:
    """Gather what the named figures of a done trial are drawn from."""
    record = store.read(trial.key).record(trial)
    names = dict.fromkeys(need for name in figures for need in needed_details(name))
    return FigureInputs(
        title=trial.title,
        images=images.of(trial.config),
        anomalies={name: images.anomalies[name] for name in trial.anomalies},
        details={name: found for name in names if (found := store.detail(trial, name)) is not None},
        metrics=record.metrics,
        history=record.training.history if record.training else (),
        pairing=trial.config.pairing if trial.config.method == "vicreg" else "",
    )


def _derive(store: TrialStore, trial: Trial, name: str) -> Arrays | None:
    sources = {source: store.detail(trial, source) for source in DETAILS[name].derived}
    _check(store, trial, [source for source, found in sources.items() if found is None])
    return derive(name, {source: found for source, found in sources.items() if found is not None})


def _draw(store: TrialStore, trial: Trial, drawn_from: FigureInputs, name: str) -> bytes | None:
    lacking = [need for need in needed_details(name) if need not in drawn_from.details]
    _check(store, trial, lacking)
    return None if lacking else draw(name, drawn_from)


def _check(store: TrialStore, trial: Trial, lacking: Sequence[str]) -> None:
    """Raises ValueError with the reason for the first of the details that is not defined."""
    problems = store.read(trial.key).product_problems(trial)
    for name in lacking:
        if f"detail {name}" in problems:
            raise ValueError(f"no {name}: {problems[f'detail {name}']}")


class FigureTasks(SweepCallback):
    """Has the figures of every trial drawn as soon as it is done."""

    def __init__(self, images: Any, store: TrialStore, callbacks: Sequence[SweepCallback]) -> None:
        """Take the reference to the images in Ray's object store, and the callbacks that hear of finished figures."""
        import ray

        self._images, self._store, self._callbacks = images, store, callbacks
        self._task = ray.remote(num_cpus=1, max_calls=0)(draw_figures)
        self._open: dict[Any, Trial] = {}

    def on_trial_end(self, record: TrialRecord) -> None:
        """Have the trial's figures drawn."""
        trial = record.trial
        if record.status == TrialStatus.DONE and not self._store.read(trial.key).is_drawn(trial):
            self._open[self._task.remote(trial, self._images, self._store.storage)] = trial

    def wait(self) -> dict[str, str]:
        """Wait for all figures and report each trial's; return the trials whose figures failed, by key, and why."""
        import ray

        failed: dict[str, str] = {}
        while self._open:
            (reference,), _ = ray.wait(list(self._open), num_returns=1)
            trial = self._open.pop(reference)
            try:
                ray.get(reference)
            except (ray.exceptions.RayError, OSError) as error:
                lines = [line for line in str(error).strip().splitlines() if line.strip()]
                failed[trial.key] = lines[-1] if lines else type(error).__name__
            for callback in self._callbacks:
                callback.on_figures_end(trial)
        return failed
