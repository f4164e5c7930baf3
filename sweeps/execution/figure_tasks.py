"""Drawing the figures of finished trials outside their slots, by Ray tasks that never take a GPU."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

#: How much lower the priority of a drawing is than that of the trials beside it: on Linux it gets a quarter of a core that is
#: never idle, which is enough to keep up with them.
_NICENESS = 5


def draw_figures(trial: Trial, images: Images, storage: Path) -> list[str]:
    """Compute the metrics, derive the arrays and draw the figures that a done trial lacks and that its slot does not make.

    If one is not defined, the reason is stored.

    Args:
        trial: a done trial.
        images: the sweep's images.
        storage: where trials are kept.

    Returns:
        A line for each damaged file that was found and set aside.

    Raises:
        OSError: if the trial is not in the storage, because this node does not share it.
    """
    from sweeps.execution.after_slot import compute_metrics  # it loads torch, which the process that starts tasks does without

    process.freeze_gc()
    store = TrialStore(storage)
    if not store.read(trial.key).is_trained:  # on a node that joined after the check of the storage
        raise OSError(f"{platform.node()} does not share the storage {storage}")
    with store.lock(trial.key), threadpool_limits(1):
        damage = store.mend(trial)
        if damage and not store.read(trial.key).is_done(trial):
            return damage  # the next command makes it again, and draws the figures
        compute_metrics(trial, images, store)
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
    """Draws each trial's figures after the trial has ended, while others run.

    Where trials take GPUs, each drawing takes a free CPU. Where trials take all CPUs, a drawing runs beside every two of them,
    with a low priority: it has what they leave, above all while a slot waits for a parent, and little is left for the end.
    """

    def __init__(self, images: Any, store: TrialStore, callbacks: Sequence[SweepCallback], *, cpu_slots: int | None) -> None:
        """Prepare; nothing is drawn yet.

        Args:
            images: reference to the images in Ray's object store.
            store: where trials are.
            callbacks: receive an event for each trial whose figures are drawn.
            cpu_slots: how many trials run at once where they take the CPUs; None: they take GPUs.
        """
        import ray

        self._images, self._store, self._callbacks = images, store, callbacks
        # Ray puts tasks that take nothing on one node, unless they are to be spread.
        resources = {"num_cpus": 1} if cpu_slots is None else {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
        self._task = ray.remote(max_calls=0, **resources)(_with_priority)
        self._limit, self._niceness = (sys.maxsize, 0) if cpu_slots is None else (max(1, cpu_slots // 2), _NICENESS)
        self._cpu_slots = cpu_slots
        self._waiting: deque[Trial] = deque()
        self._open: dict[Any, Trial] = {}
        self._failed: dict[str, str] = {}

    def on_trial_end(self, record: TrialRecord) -> None:
        """Have the figures drawn that the trial lacks, if it is done."""
        if record.status == TrialStatus.DONE:
            self.draw(record.trial)

    def on_epoch_end(self, trial: Trial, record: dict[str, float]) -> None:
        """Start the next drawing, if one has ended."""
        self._go_on()

    def draw(self, trial: Trial) -> None:
        """Have the figures drawn that a done trial lacks, damaged ones included."""
        self._waiting.append(trial)
        self._go_on()

    def wait(self) -> dict[str, str]:
        """Have all that is left drawn, now that no trial runs, and wait for it.

        Returns:
            Key -> reason for the trials whose drawing failed.
        """
        if self._cpu_slots is not None:
            self._limit, self._niceness = self._cpu_slots, 0
        self._go_on()
        while self._open:
            self._go_on(wait=True)
        return self._failed

    def _go_on(self, *, wait: bool = False) -> None:
        """Report the drawings that have ended, and start as many as may run."""
        import ray

        if self._open:
            ended, _ = ray.wait(list(self._open), num_returns=1 if wait else len(self._open), timeout=None if wait else 0)
            for reference in ended:
                self._report(self._open.pop(reference), reference)
        while self._waiting and len(self._open) < self._limit:
            trial = self._waiting.popleft()
            reference = self._task.remote(self._niceness, draw_figures, trial, self._images, self._store.storage)
            self._open[reference] = trial

    def _report(self, trial: Trial, reference: Any) -> None:
        import ray

        try:
            damage = ray.get(reference)
        except (ray.exceptions.RayError, OSError) as error:
            cause = getattr(error, "cause", error)
            lines = [line for line in str(error).strip().splitlines() if line.strip()]
            reason = explain(cause) if isinstance(cause, OSError) else (lines or [type(error).__name__])[-1]
            self._failed[trial.key], damage = reason, []
        for callback, found in product(self._callbacks, damage):
            callback.on_damage(trial, found)
        for callback in self._callbacks:
            callback.on_figures_end(trial)


def _with_priority(niceness: int, function: Callable[..., list[str]], *arguments: Any) -> list[str]:
    """``function(*arguments)`` with a lower priority; in a thread of its own, since a process cannot take its own back."""
    if not niceness or not sys.platform.startswith("linux"):  # elsewhere a thread has no priority of its own
        return function(*arguments)
    with ThreadPoolExecutor(1, initializer=_lower_priority, initargs=(niceness,)) as thread:
        return thread.submit(function, *arguments).result()


def _lower_priority(niceness: int) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + niceness)
