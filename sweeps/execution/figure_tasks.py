"""Drawing the figures of finished trials outside their slots: Ray tasks that each need one free CPU and never a GPU."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from core.causes import explain
from evaluation.per_image import DETAILS, Arrays, derive
from evaluation.trial_figures import FigureInputs, draw, needed_details
from sweeps import process
from sweeps.execution.callbacks import SweepCallback
from sweeps.planning.trial import Trial
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.storage.trial_store import TrialStore

if TYPE_CHECKING:
    from sweeps.storage.image_sets import Images


def draw_figures(trial: Trial, images: Images, storage: Path) -> list[str]:
    """Derive the per-image arrays and draw the figures that a done trial lacks; if one is not defined, store the reason.

    Args:
        trial: a done trial.
        images: the sweep's images.
        storage: where trials are kept.

    Returns:
        A line for each damaged file that was found and set aside.

    Raises:
        OSError: if the trial is not in the storage, because this node does not share it.
    """
    process.freeze_gc()
    store = TrialStore(storage)
    if not store.read(trial.key).is_trained:  # on a node that joined after the check of the storage
        raise OSError(f"{platform.node()} does not share the storage {storage}")
    with store.lock(trial.key), threadpool_limits(1):
        damage = store.mend(trial)
        if damage and not store.read(trial.key).is_done(trial):
            return damage  # what figures are drawn from was damaged; the next command makes it again
        missing = store.read(trial.key).missing_details(trial, derived=True)
        made = {id_: store.make(trial.key, id_, partial(_derive, store, trial, name)) for name, id_ in missing.items()}
        store.save_results(trial.key, made)
        missing = store.read(trial.key).missing_figures(trial)
        if missing:
            make = partial(_draw, store, trial, figure_inputs(store, trial, images, list(missing)))
            drawn = {id_: store.make(trial.key, id_, partial(make, name)) for name, id_ in missing.items()}
            store.save_results(trial.key, drawn)
        return damage


def figure_inputs(store: TrialStore, trial: Trial, images: Images, figures: Sequence[str]) -> FigureInputs:
    """Return the data that the named figures of a done trial are drawn from."""
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
    """Raise ValueError if one of the missing per-image arrays is not defined, with the reason for the first such array."""
    problems = store.read(trial.key).product_problems(trial)
    for name in lacking:
        if f"detail {name}" in problems:
            raise ValueError(f"no {name}: {problems[f'detail {name}']}")


class FigureTasks(SweepCallback):
    """Starts the drawing of each trial's figures as soon as the trial is done."""

    def __init__(self, images: Any, store: TrialStore, callbacks: Sequence[SweepCallback]) -> None:
        """Prepare; nothing is drawn yet.

        Args:
            images: reference to the images in Ray's object store.
            store: where trials are.
            callbacks: receive an event for each trial whose figures are drawn.
        """
        import ray

        self._images, self._store, self._callbacks = images, store, callbacks
        self._task = ray.remote(num_cpus=1, max_calls=0)(draw_figures)
        self._open: dict[Any, Trial] = {}

    def on_trial_end(self, record: TrialRecord) -> None:
        """Start a task that draws the trial's figures, if it is done and lacks any."""
        trial = record.trial
        if record.status == TrialStatus.DONE and not self._store.read(trial.key).is_drawn(trial):
            self.draw(trial)

    def draw(self, trial: Trial) -> None:
        """Start a task that draws the figures that a done trial lacks, damaged ones included."""
        self._open[self._task.remote(trial, self._images, self._store.storage)] = trial

    def wait(self) -> dict[str, str]:
        """Wait for all tasks and report each trial to the callbacks; return key -> reason for the trials whose task failed."""
        import ray

        failed: dict[str, str] = {}
        while self._open:
            (reference,), _ = ray.wait(list(self._open), num_returns=1)
            trial = self._open.pop(reference)
            try:
                damage = ray.get(reference)
            except (ray.exceptions.RayError, OSError) as error:
                cause = getattr(error, "cause", error)
                lines = [line for line in str(error).strip().splitlines() if line.strip()]
                failed[trial.key] = explain(cause) if isinstance(cause, OSError) else (lines or [type(error).__name__])[-1]
                damage = []
            for callback, found in product(self._callbacks, damage):
                callback.on_damage(trial, found)
            for callback in self._callbacks:
                callback.on_figures_end(trial)
        return failed
