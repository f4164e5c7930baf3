"""Ray Tune as the scheduler of trials that depend on one another.

Tune asks a searcher for the next trial. Our searcher returns a trial when its dependencies are over, "nothing yet" while all
remaining trials wait, and "finished" at the end, so waiting trials never hold a slot. The results of trials are in the store,
not in Tune's own state: a killed sweep is continued from the store.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from core.causes import as_memory_error, explain
from core.paths import is_remote
from sweeps import process
from sweeps.execution import cluster, ray_private
from sweeps.execution.callbacks import SweepCallback
from sweeps.execution.options import ExecutionOptions, Rungs
from sweeps.execution.trial_queue import TrialQueue, TrialSource
from sweeps.execution.worker import run_trial
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.trial_store import TrialStore

_KEY = "trial_key"
#: Environment variables that Tune reads when it runs; values that the user has set are kept. In order: all ready trials may
#: wait for resources, so that an autoscaler sees them; none of Tune's loggers writes files; Tune's own state, which is never
#: read, is written only at the end; Tune prints nothing; signals are handled by :mod:`sweeps.process`.
_ENVIRONMENT = {
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
#: How many times a trial whose worker died (killed, out of memory, node lost) continues on another worker from its last epoch.
MAX_DEATHS = 3
_SLOT_SECONDS = 5.0  # after so long the slots are counted again


def run(
    plan: Plan,
    open_keys: Sequence[str],
    images: Any,
    options: ExecutionOptions,
    callbacks: Sequence[SweepCallback],
    *,
    source: TrialSource | None = None,
    rungs: Rungs | None = None,
) -> tuple[dict[str, str], dict[str, str], bool]:
    """Run the open trials on the connected cluster.

    Args:
        plan: the plan.
        open_keys: keys of the trials to run, in order.
        images: the reference returned by :func:`sweeps.execution.cluster.put_images`.
        options: how and where to run.
        callbacks: receive every event.
        source: adds trials while the sweep runs, and may stop them early.
        rungs: see :func:`sweeps.execution.worker.run_trial`.

    Returns:
        Key of each skipped trial -> why; key of each failed trial -> why; and whether the run was interrupted.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    store = TrialStore(options.storage)
    queue = TrialQueue(plan, open_keys, store, callbacks, source, _slot_counter(plan, options.gpus_per_trial))
    # Silences Tune's tracebacks of workers that died, its list of their trials, and its tracebacks of a full disk, on which it
    # keeps a state of its own that nobody reads. Progress reports each trial in one line.
    for name in ("execution.tune_controller", "execution.experiment_state", "tune"):
        logging.getLogger(f"ray.tune.{name}").setLevel(logging.CRITICAL)
    resources = tune.PlacementGroupFactory([cluster.resources(plan, options.gpus_per_trial)])
    process.freeze_gc()
    with store.scratch() as scratch:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(images, store.storage, scratch, options, rungs), resources),
            tune_config=tune.TuneConfig(
                search_alg=_DependencySearcher(queue),
                scheduler=_PruningScheduler(queue),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch.resolve()),
                verbose=0,
                callbacks=[_TuneCallback(queue)],
                failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
            ),
        )
        with ray_private.treat_oom_kill_as_actor_death(), ray_private.without_aws_variables(), _stopped_by_signals():
            tuner.fit()
    return queue.skipped, queue.failed, queue.interrupted


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Within the block a signal raises nothing, which Ray might discard: :class:`_TuneCallback` sees it and stops Tune."""
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with process.stop_on_signals(lambda: None):
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, before)  # Tune leaves a handler of its own


def _trainable(
    images: Any, storage: Path, scratch: Path, options: ExecutionOptions, rungs: Rungs | None
) -> Callable[[dict[str, Any]], None]:  # fmt: skip
    """The function that a worker runs for each trial."""

    def trainable(config: dict[str, Any]) -> None:
        trial: Trial = config["trial"]
        # An error here is raised, not reported: Tune then retries the trial in a new worker, on another node if there is one.
        _check_shared(storage, scratch)
        process.freeze_gc()
        try:
            run_trial(
                trial,
                ray.get(images),
                storage,
                gpu=options.gpus_per_trial > 0,
                deterministic=options.deterministic,
                on_epoch=lambda record: tune.report({"record": record}),
                on_wait=lambda: tune.report({"waiting": "another process of this machine works on it"}),
                on_damage=lambda found: tune.report({"damage": found}),
                rungs=rungs if trial.validation_only else None,
            )
        except Exception as error:
            reason = _reason(error)
            with suppress(OSError):
                TrialStore(storage).save_failure(trial.key, reason, traceback.format_exc())
            # Reported, not raised: after an exception Tune would retry the trial, which would fail again.
            tune.report({"failed": reason})
        tune.report({"done": True})  # else Tune prints a line for a trial that reported nothing

    return trainable


def _reason(error: Exception) -> str:
    error = as_memory_error(error) or error
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        return f"{type(error).__name__}: {explain(error)}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


class _DependencySearcher(Searcher):
    """Gives the trials of a queue to Tune."""

    def __init__(self, queue: TrialQueue) -> None:
        super().__init__()
        self._queue = queue
        self._keys: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        trial = self._queue.next_ready()
        if trial is None:
            return Searcher.FINISHED if self._queue.finished else None
        self._keys[trial_id] = trial.key
        return {_KEY: trial.key, "trial": trial}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error and trial_id in self._keys:
            self._queue.trial_ended(self._keys[trial_id], None)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: everything is in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _TuneCallback(tune.Callback):
    """Passes Tune's events on to the queue."""

    def __init__(self, queue: TrialQueue) -> None:
        self._queue = queue

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if process.received_signal() is not None:
            signal.raise_signal(signal.SIGUSR1)  # Tune ends its loop; the trials that run are stopped, and keep what they saved

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._queue.trial_started(trial.config[_KEY])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "record" in result:
            self._queue.epoch_ended(trial.config[_KEY], result["record"])
        if "waiting" in result:
            self._queue.trial_waits(trial.config[_KEY], result["waiting"])
        if "damage" in result:
            self._queue.damage_found(trial.config[_KEY], result["damage"])
        if "failed" in result:
            self._queue.trial_ended(trial.config[_KEY], result["failed"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = f"its worker died ({_death_reason(trial)}); it goes on from its last epoch"
        self._queue.trial_waits(trial.config[_KEY], reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = f"its worker died {MAX_DEATHS + 1} times; the last time: {_death_reason(trial)}"
        self._queue.trial_ended(trial.config[_KEY], reason)


def _death_reason(trial: Any) -> str:
    """Why a trial's worker died: the last line of the error file that Tune writes in the driver's folder.

    ``Trial.get_error()`` reads a copy of that file, which Tune writes too late.
    """
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial.error_file else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("ray.exceptions.RayActorError: ") if lines else "killed, or its machine is gone"


class _PruningScheduler(FIFOScheduler):
    """Stops the trials that the source wants pruned."""

    def __init__(self, queue: TrialQueue) -> None:
        super().__init__()
        self._queue = queue

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        # Tune flattens nested results before it passes them to a scheduler.
        record = {name.removeprefix("record/"): value for name, value in result.items() if name.startswith("record/")}
        stop = bool(record) and self._queue.should_prune(trial.config[_KEY], record)
        return str(FIFOScheduler.STOP if stop else FIFOScheduler.CONTINUE)


def _check_shared(storage: Path, scratch: Path) -> None:
    """Raise OSError if this node, which may have joined after the nodes were checked, does not share the storage."""
    if is_remote(storage):
        storage.exists()  # raises if the object store cannot be reached
    elif not scratch.is_dir():
        raise OSError(f"{platform.node()} does not share the storage {storage}")


def _slot_counter(plan: Plan, gpus_per_trial: float) -> Callable[[], int]:
    """A function that counts the slots of the present nodes; plus one with an autoscaler, so that it sees a waiting trial."""
    known = [0, 0.0]

    def count() -> int:
        if time.monotonic() - known[1] > _SLOT_SECONDS:
            known[:] = [cluster.slots(plan, gpus_per_trial) + ray_private.has_autoscaler(), time.monotonic()]
        return int(known[0])

    return count


def _name(trial: Any) -> str:
    return str(trial.config[_KEY])
