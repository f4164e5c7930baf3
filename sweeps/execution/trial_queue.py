"""The order in which trials run: which ones wait for others, are ready, are running, or are over. Independent of Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from sweeps.execution.callbacks import SweepCallback
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.storage.trial_store import TrialStore


class TrialSource(Protocol):
    """A source of further trials while a sweep runs: a search."""

    @property
    def remaining(self) -> int:
        """How many trials are still to come from it."""

    def ask(self) -> Plan | None:
        """Return a plan with one more trial to run and the trials that it depends on; None if there is none."""

    def should_prune(self, key: str, record: Mapping[str, float]) -> str | None:
        """Return the reason to stop the trial after this epoch, or None to let it continue."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Take in the record of a trial that is over."""


class TrialQueue:
    """Hands out each trial once the trials that it depends on are over, and reports every event to the callbacks."""

    def __init__(
        self,
        plan: Plan,
        open_keys: Sequence[str],
        store: TrialStore,
        callbacks: Sequence[SweepCallback],
        source: TrialSource | None = None,
        slots: Callable[[], int] = lambda: 1,
    ) -> None:
        """Start with the open trials waiting.

        Args:
            plan: the plan.
            open_keys: keys of the trials to run, in order.
            store: where trials are.
            callbacks: receive every event.
            source: adds trials while the sweep runs, and may stop them early; it is asked for one only if a slot is free.
            slots: returns how many slots there are at the moment.
        """
        self._plan, self._store, self._callbacks = plan, store, callbacks
        self._source, self._slots = source, slots
        self._waiting = list(open_keys)
        self._over = set(plan.trials) - set(open_keys)
        self._running: set[str] = set()
        self._lost: dict[str, str] = {}  # failed or skipped -> reason
        self._skipped: dict[str, str] = {}
        self._pruned: dict[str, str] = {}
        self._records: dict[str, TrialRecord] = {}  # of the trials that ended here

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles searcher and callbacks to restore a sweep; here a sweep is restored from the store."""
        return {}

    @property
    def finished(self) -> bool:
        """Whether no trial will ever be ready again; valid after :meth:`next_ready` returned None."""
        return not self._waiting and (self._source is None or not self._running)

    @property
    def interrupted(self) -> bool:
        """Whether the run ended (by a signal) while trials were waiting, running, or still to come from the source."""
        return bool(self._waiting or self._running) or (self._source is not None and self._source.remaining > 0)

    @property
    def skipped(self) -> dict[str, str]:
        """Key of each trial that was not tried -> why."""
        return dict(self._skipped)

    @property
    def failed(self) -> dict[str, str]:
        """Key of each trial that failed -> why; the store does not have the reason where it could not be written there."""
        return {key: record.reason or "failed" for key, record in self._records.items() if record.status == TrialStatus.FAILED}

    # -- what runs next --------------------------------------------------------------------------------------------------

    def next_ready(self) -> Trial | None:
        """Return the next trial whose dependencies are over, else one from the source; None if no trial can run now."""
        trial = self._pop_ready()
        if trial is None and self._source is not None and self._has_free_slot() and self._ask_source():
            trial = self._pop_ready()
        return trial

    def _has_free_slot(self) -> bool:
        slots = self._slots()
        return len(self._running) < slots and len(self._waiting) < slots

    def _ask_source(self) -> bool:
        """Add the next trials from the source that are not done; return False if it has none to run."""
        while self._source is not None and (more := self._source.ask()) is not None:
            known = [key for key in more.requested if key in self._records]
            new = [key for key in more.trials if key in more.requested and key not in self._plan.trials]
            self._plan = self._plan.merged_with(more)
            for key in new:
                trial = self._plan.trials[key]
                if self._store.is_whole(trial):
                    self._over.add(key)
                else:
                    self._waiting.append(key)
                    self._tell(partial(_report_added, trial=trial))
            for key in known:  # an earlier point had the same config, and its trial is over: this point gets its result
                self._source.trial_ended(self._records[key])
            self._skip_dependents()
            if any(key in self._waiting for key in new):
                return True
        return False

    def _pop_ready(self) -> Trial | None:
        for key in self._waiting:
            trial = self._plan.trials[key]
            if all(need in self._over for need in self._plan.dependencies(trial)):
                self._waiting.remove(key)
                self._running.add(key)
                return trial
        return None

    # -- what happens to those that run ----------------------------------------------------------------------------------

    def trial_started(self, key: str) -> None:
        """Report that a worker began a trial."""
        self._tell(lambda callback: callback.on_trial_start(self._plan.trials[key]))

    def epoch_ended(self, key: str, record: dict[str, float]) -> None:
        """Report an epoch of a trial."""
        self._tell(lambda callback: callback.on_epoch_end(self._plan.trials[key], record))

    def trial_waits(self, key: str, reason: str) -> None:
        """Report that a trial has to wait, for a worker or for another process."""
        self._tell(lambda callback: callback.on_trial_wait(self._plan.trials[key], reason))

    def damage_found(self, key: str, found: str) -> None:
        """Report that a file of a trial was damaged."""
        self._tell(lambda callback: callback.on_damage(self._plan.trials[key], found))

    def should_prune(self, key: str, record: Mapping[str, float]) -> bool:
        """Return True if the source wants the trial to be stopped after this epoch."""
        reason = self._source.should_prune(key, record) if self._source is not None else None
        if reason is not None:
            self._pruned[key] = reason
        return reason is not None

    def trial_ended(self, key: str, error: str | None) -> None:
        """Record and report that a trial is over.

        Its result is read from the store. If its worker died there is none, and the trial fails with ``error`` as the reason.
        """
        if key not in self._running:
            return
        self._running.discard(key)
        trial = self._plan.trials[key]
        record = self._store.read(key).record(trial, pruned=self._pruned.get(key))
        if record.status != TrialStatus.DONE and record.reason is None:
            reason = error or "the worker ended without a result"
            with suppress(OSError):  # a full disk must not end the driver; the reason is reported all the same
                self._store.save_failure(key, reason)
            record = replace(record, status=TrialStatus.FAILED, reason=reason)
        self._over.add(key)
        if record.status != TrialStatus.DONE:
            self._lost[key] = record.reason or "failed"
        self._report_end(record)
        self._skip_dependents()

    def _report_end(self, record: TrialRecord) -> None:
        self._records[record.trial.key] = record
        if self._source is not None:
            self._source.trial_ended(record)
        self._tell(lambda callback: callback.on_trial_end(record))

    def _skip_dependents(self) -> None:
        """Skip the trials whose parent failed or was skipped, and those that depend on them."""
        for key in list(self._waiting):
            trial = self._plan.trials[key]
            if trial.parent_key in self._lost:
                parent = self._plan.trials[trial.parent_key]
                reason = f"its parent ({parent.title}) failed: {self._lost[trial.parent_key]}"
                self._waiting.remove(key)
                self._over.add(key)
                self._lost[key] = self._skipped[key] = reason
                self._report_end(self._store.read(key).record(trial, skipped=reason))
                self._skip_dependents()
                return

    def _tell(self, message: Callable[[SweepCallback], None]) -> None:
        for callback in self._callbacks:
            message(callback)


def _report_added(callback: SweepCallback, trial: Trial) -> None:
    callback.on_trial_added(trial)
