"""Ray Tune as the scheduler of trials that depend on one another.

Tune asks a searcher for the next trial. Ours hands one out when what it waits for is over, answers "nothing yet" while all that
is left waits, and "finished" at the end; so free slots are never held by waiting trials. What a trial leaves behind is in the
store, not in Tune's own state: a killed sweep is continued from the store.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from core.files import is_remote
from sweeps import cluster, heap
from sweeps.events import Listener
from sweeps.plan import Plan, Trial
from sweeps.store import Store, TrialRecord
from sweeps.trial import Rungs, run_trial

# Read by Tune when it is imported or started: every ready trial may wait for resources (an autoscaler then sees them all),
# no logger of Tune's writes files of its own, and its own state, which nobody reads, is written at the end alone.
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

_KEY = "trial_key"
#: So often a trial whose worker died (killed, out of memory, its node lost) goes on elsewhere from its last epoch.
MAX_DEATHS = 3
_SLOT_SECONDS = 5.0  # for which the number of slots is taken for granted


class Source(Protocol):
    """Where further trials come from while a sweep runs: a search."""

    @property
    def left(self) -> int:
        """How many trials it will still ask for."""

    def ask(self) -> Plan | None:
        """A plan that holds one more trial to run, and what it needs; None if there is none."""

    def hopeless(self, key: str, record: Mapping[str, float]) -> str | None:
        """Why a trial is to be stopped after this epoch; None if it is to go on."""

    def ended(self, record: TrialRecord) -> None:
        """A trial is over."""


class Progression:
    """Which trials are waiting, ready, running and over. Tells the listeners; knows nothing of Ray."""

    def __init__(
        self,
        plan: Plan,
        open_keys: Sequence[str],
        store: Store,
        listeners: Sequence[Listener],
        source: Source | None = None,
        slots: Callable[[], int] = lambda: 1,
    ) -> None:
        """Args as :func:`run` takes them; of a source no more trials are asked for than there are slots at the time."""
        self._plan, self._store, self._listeners = plan, store, listeners
        self._source, self._slots = source, slots
        self._waiting = list(open_keys)
        self._over = set(plan.trials) - set(open_keys)
        self._running: set[str] = set()
        self._lost: dict[str, str] = {}  # failed or skipped -> reason
        self._skipped: dict[str, str] = {}
        self._stopped: dict[str, str] = {}
        self._records: dict[str, TrialRecord] = {}  # of the trials that ended here

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles searcher and callbacks to restore a sweep, which the store does here."""
        return {}

    @property
    def finished(self) -> bool:
        """Whether nothing is left to hand out, after :meth:`take` found nothing."""
        return not self._waiting and (self._source is None or not self._running)

    @property
    def cut_short(self) -> bool:
        """Whether the running ended (at a Ctrl-C) with trials that wait, run, or were still to be asked for."""
        return bool(self._waiting or self._running) or (self._source is not None and self._source.left > 0)

    @property
    def skipped(self) -> dict[str, str]:
        """Trials that were not tried -> why."""
        return dict(self._skipped)

    def take(self) -> Trial | None:
        """The next trial whose needs are met, in the plan's order, else one that the source adds; None if all waits."""
        trial = self._ready()
        if trial is None and self._source is not None and self._is_free() and self._ask():
            trial = self._ready()
        return trial

    def _is_free(self) -> bool:
        slots = self._slots()
        return len(self._running) < slots and len(self._waiting) < slots

    def _ask(self) -> bool:
        """Adds what the source wants tried next; whether there was anything."""
        while self._source is not None and (more := self._source.ask()) is not None:
            known = [key for key in more.wanted if key in self._records]
            new = [key for key in more.trials if key in more.wanted and key not in self._plan.trials]
            self._plan = self._plan.extended(more)
            for key in new:
                trial = self._plan.trials[key]
                if self._store.is_done(trial):
                    self._over.add(key)
                else:
                    self._waiting.append(key)
                    self._tell(lambda listener, trial=trial: listener.added(trial))
            for key in known:  # another point came to it, and it is over: with the same end
                self._source.ended(self._records[key])
            self._skip_dependents()
            if any(key in self._waiting for key in new):
                return True
        return False

    def hopeless(self, key: str, record: Mapping[str, float]) -> bool:
        """Whether a trial is to be stopped after this epoch."""
        reason = self._source.hopeless(key, record) if self._source is not None else None
        if reason is not None:
            self._stopped[key] = reason
        return reason is not None

    def _ready(self) -> Trial | None:
        for key in self._waiting:
            trial = self._plan.trials[key]
            if all(need in self._over for need in self._plan.waits_for(trial)):
                self._waiting.remove(key)
                self._running.add(key)
                return trial
        return None

    def started(self, key: str) -> None:
        """A worker took a trial."""
        self._tell(lambda listener: listener.started(self._plan.trials[key]))

    def epoch(self, key: str, record: dict[str, float]) -> None:
        """A trial reported an epoch."""
        self._tell(lambda listener: listener.epoch(self._plan.trials[key], record))

    def waiting(self, key: str, reason: str) -> None:
        """A worker has to wait before it can work on a trial."""
        self._tell(lambda listener: listener.waiting(self._plan.trials[key], reason))

    def ended(self, key: str, error: str | None) -> None:
        """A trial is over; the store knows how it went, save where its worker died."""
        if key not in self._running:
            return
        self._running.discard(key)
        trial = self._plan.trials[key]
        record = self._store.record(trial, stopped=self._stopped.get(key))
        if record.status != "done" and record.reason is None:
            reason = error or "the worker ended without a result"
            with suppress(OSError):  # a full disk must not end the driver, which tells the reason all the same
                self._store.save_failure(key, reason)
            record = replace(record, status="failed", reason=reason)
        self._over.add(key)
        if record.status != "done":
            self._lost[key] = record.reason or "failed"
        self._ended(record)
        self._skip_dependents()

    def _ended(self, record: TrialRecord) -> None:
        self._records[record.trial.key] = record
        if self._source is not None:
            self._source.ended(record)
        self._tell(lambda listener: listener.ended(record))

    def _skip_dependents(self) -> None:
        for key in list(self._waiting):
            parent = self._plan.trials[key].parent
            if parent in self._lost:
                reason = f"its parent ({self._plan.trials[parent].title}) failed: {self._lost[parent]}"
                self._waiting.remove(key)
                self._over.add(key)
                self._lost[key] = self._skipped[key] = reason
                record = self._store.record(self._plan.trials[key], skipped=reason)
                self._ended(record)
                self._skip_dependents()
                return

    def _tell(self, message: Any) -> None:
        for listener in self._listeners:
            message(listener)


class _DependencySearcher(Searcher):
    """Hands Tune the trials of a progression."""

    def __init__(self, progression: Progression) -> None:
        super().__init__()
        self._progression = progression
        self._keys: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        trial = self._progression.take()
        if trial is None:
            return Searcher.FINISHED if self._progression.finished else None
        self._keys[trial_id] = trial.key
        return {_KEY: trial.key, "trial": trial}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error and trial_id in self._keys:
            self._progression.ended(self._keys[trial_id], None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Messages(tune.Callback):
    """Passes what Tune reports on to the progression."""

    def __init__(self, progression: Progression) -> None:
        self._progression = progression

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._progression.started(trial.config[_KEY])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "record" in result:
            self._progression.epoch(trial.config[_KEY], result["record"])
        if "waiting" in result:
            self._progression.waiting(trial.config[_KEY], result["waiting"])
        if "failed" in result:
            self._progression.ended(trial.config[_KEY], result["failed"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._progression.waiting(trial.config[_KEY], f"its worker died ({_reason(trial)}); it goes on from its last epoch")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._progression.ended(trial.config[_KEY], f"its worker died {MAX_DEATHS + 1} times; the last time: {_reason(trial)}")


def _reason(trial: Any) -> str:
    """Why a trial's worker died, in a line: the last of the file in the driver's folder, which Tune copies too late to ask."""
    said = Path(trial.error_file).read_text() if trial.error_file else ""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("ray.exceptions.RayActorError: ") if lines else "killed, or its machine is gone"


class _EarlyStopping(FIFOScheduler):
    """Stops the trials that the source holds to be hopeless."""

    def __init__(self, progression: Progression) -> None:
        super().__init__()
        self._progression = progression

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        # Tune hands schedulers nested results flat.
        record = {name.removeprefix("record/"): value for name, value in result.items() if name.startswith("record/")}
        stop = bool(record) and self._progression.hopeless(trial.config[_KEY], record)
        return str(FIFOScheduler.STOP if stop else FIFOScheduler.CONTINUE)


@contextmanager
def _deaths_for_memory_counted() -> Iterator[None]:
    """Within the block a worker that Ray's memory monitor killed is one that died; Tune (2.60) ends the driver over it.

    Tune knows RayActorError and RayTaskError, and raises at the monitor's OutOfMemoryError, which is neither.
    """
    known = RayActorManager._actor_task_failed

    def failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            used = re.search(r"was (\S+ used / \S+) limit", str(exception))
            exception = ray.exceptions.RayActorError(
                error_msg=f"killed for memory by Ray's monitor{f', {used[1]} on its machine' if used else ''}"
            )
        known(manager, tracked_actor_task=tracked_actor_task, exception=exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = known


def run(
    plan: Plan,
    open_keys: Sequence[str],
    images: Any,
    storage: Path,
    *,
    gpus_per_trial: float,
    deterministic: bool,
    listeners: Sequence[Listener],
    source: Source | None = None,
    rungs: Rungs | None = None,
) -> tuple[dict[str, str], bool]:
    """Runs the open trials on the connected cluster.

    Args:
        plan: the plan.
        open_keys: keys of the trials to run, in order.
        images: what :func:`sweeps.cluster.share` returned.
        storage: where trials are kept; every node shares it.
        gpus_per_trial: share of a GPU for each trial; 0: CPUs only, as many as the trial has threads.
        deterministic: see :func:`run_trial`.
        listeners: told what happens.
        source: adds trials while the sweep runs, and may stop them early.
        rungs: see :func:`run_trial`.

    Returns:
        The trials that were skipped, and why; and whether the running was cut short.
    """
    progression = Progression(plan, open_keys, Store(storage), listeners, source, _slots(plan, gpus_per_trial))

    def trainable(config: dict[str, Any]) -> None:
        trial: Trial = config["trial"]
        # Raised, and no result: Tune tries the trial again in a new worker, on another node if there is one.
        _check_shared(storage, scratch)
        heap.settle()
        try:
            run_trial(
                trial,
                ray.get(images),
                storage,
                gpu=gpus_per_trial > 0,
                deterministic=deterministic,
                on_epoch=lambda record: tune.report({"record": record}),
                on_wait=lambda: tune.report({"waiting": "another process of this machine works on it"}),
                rungs=rungs if trial.choosing else None,
            )
        except Exception as error:
            import traceback

            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            with suppress(OSError):
                Store(storage).save_failure(trial.key, reason, traceback.format_exc())
            # What raised would raise again: a result, and no error, after which Tune would try it once more.
            tune.report({"failed": reason})
        tune.report({"done": True})  # Tune prints a line for a trial that never reported anything

    # Its tracebacks of workers that died, and its list of their trials: progress says so, in a line for each.
    for name in ("execution.tune_controller", "tune"):
        logging.getLogger(f"ray.tune.{name}").setLevel(logging.CRITICAL)
    resources = cluster.resources(plan, gpus_per_trial)
    heap.settle()
    with Store(storage).scratch() as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory([resources])),
            tune_config=tune.TuneConfig(
                search_alg=_DependencySearcher(progression),
                scheduler=_EarlyStopping(progression),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch.resolve()),
                verbose=0,
                callbacks=[_Messages(progression)],
                failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
            ),
        )
        with _deaths_for_memory_counted():
            tuner.fit()
    return progression.skipped, progression.cut_short


def _check_shared(storage: Path, scratch: Path) -> None:
    """Raises on a node that came after all were asked for the storage, and does not share it."""
    if is_remote(storage):
        storage.exists()  # or the store's library raises
    elif not scratch.is_dir():
        raise OSError(f"{platform.node()} does not share the storage {storage}")


def _slots(plan: Plan, gpus_per_trial: float) -> Callable[[], int]:
    """Slots of the nodes that are there, which may come and go, and one more for an autoscaler to see."""
    known = [0, 0.0]

    def count() -> int:
        if time.monotonic() - known[1] > _SLOT_SECONDS:
            known[:] = [cluster.slots(plan, gpus_per_trial) + cluster.scales(), time.monotonic()]
        return int(known[0])

    return count


def _name(trial: Any) -> str:
    return str(trial.config[_KEY])
