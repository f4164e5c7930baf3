"""Figures of finished trials, drawn outside their slots: Ray tasks that take a CPU each when one is free, and never a GPU."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from evaluation.details import DETAILS, Arrays, derive
from evaluation.figures import Material, draw, needed_details
from sweeps import heap
from sweeps.plan import Trial
from sweeps.store import Store, TrialRecord

if TYPE_CHECKING:
    from sweeps.events import Listener
    from sweeps.images import Images


def draw_trial(trial: Trial, images: Images, storage: Path) -> None:
    """Derives the details and draws the figures that a finished trial lacks; what is not defined for it says why.

    Args:
        trial: done.
        images: the sweep's images.
        storage: where trials are kept.
    """
    heap.settle()
    store = Store(storage)
    if not store.is_trained(trial.key):  # a node that came late
        raise OSError(f"{platform.node()} does not share the storage {storage}")
    with store.lock(trial.key), threadpool_limits(1):
        missing = store.missing_details(trial, derived=True)
        store.save_results(
            trial.key, {id_: store.make(trial.key, id_, partial(_derive, store, trial, name)) for name, id_ in missing.items()}
        )
        missing = store.missing_figures(trial)
        if missing:
            make = partial(_draw, store, trial, material(store, trial, images, list(missing)))
            store.save_results(
                trial.key, {id_: store.make(trial.key, id_, partial(make, name)) for name, id_ in missing.items()}
            )


def material(store: Store, trial: Trial, images: Images, figures: Sequence[str]) -> Material:
    """What the named figures of a done trial are drawn from."""
    record = store.record(trial)
    names = dict.fromkeys(need for name in figures for need in needed_details(name))
    return Material(
        title=trial.title,
        images=images.of(trial.config),
        anomalies={name: images.anomalies[name] for name in trial.anomalies},
        details={name: found for name in names if (found := store.detail(trial, name)) is not None},
        metrics=record.metrics,
        history=record.training.history if record.training else (),
        pairing=trial.config.pairing if trial.config.method == "vicreg" else "",
    )


def _derive(store: Store, trial: Trial, name: str) -> Arrays | None:
    sources = {source: store.detail(trial, source) for source in DETAILS[name].derived}
    _check(store, trial, [source for source, found in sources.items() if found is None])
    return derive(name, {source: found for source, found in sources.items() if found is not None})


def _draw(store: Store, trial: Trial, drawn_from: Material, name: str) -> bytes | None:
    lacking = [need for need in needed_details(name) if need not in drawn_from.details]
    _check(store, trial, lacking)
    return None if lacking else draw(name, drawn_from)


def _check(store: Store, trial: Trial, lacking: Sequence[str]) -> None:
    """Raises ValueError with the reason for the first of the details that is not defined."""
    problems = store.problems(trial)
    for name in lacking:
        if f"detail {name}" in problems:
            raise ValueError(f"no {name}: {problems[f'detail {name}']}")


class Drawings:
    """A listener that has the figures of every trial drawn as soon as it is done."""

    def __init__(self, images: Any, storage: Path, store: Store, listeners: Sequence[Listener]) -> None:
        """Takes the reference to the images in Ray's object store."""
        import ray

        self._images, self._storage, self._store, self._listeners = images, storage, store, listeners
        self._task = ray.remote(num_cpus=1, max_calls=0)(draw_trial)
        self._open: dict[Any, Trial] = {}

    def added(self, trial: Trial) -> None:
        """Nothing to draw yet."""

    def started(self, trial: Trial) -> None:
        """Nothing to draw yet."""

    def epoch(self, trial: Trial, record: dict[str, float]) -> None:
        """Nothing to draw yet."""

    def waiting(self, trial: Trial, reason: str) -> None:
        """Nothing to draw yet."""

    def ended(self, record: TrialRecord) -> None:
        """Has the trial's figures drawn."""
        if record.status == "done" and not self._store.is_drawn(record.trial):
            self._open[self._task.remote(record.trial, self._images, self._storage)] = record.trial

    def drawn(self, trial: Trial) -> None:
        """Said by this listener itself."""

    def wait(self) -> dict[str, str]:
        """Waits for all figures, telling the listeners of each trial's; returns the trials that failed, by key, and why."""
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
            for listener in self._listeners:
                listener.drawn(trial)
        return failed
