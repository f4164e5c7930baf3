"""A cache of the trials that a command has read from the store."""

from __future__ import annotations

from sweeps.planning.trial import Trial
from sweeps.storage.records import TrialRecord
from sweeps.storage.trial_state import TrialState
from sweeps.storage.trial_store import TrialStore


class StoreSnapshot:
    """The trials that a command has read from the store, cached so that each trial's files are read only once.

    A run changes the store, and so may other drivers meanwhile: after one, :meth:`clear` has everything read again.
    """

    def __init__(self, store: TrialStore) -> None:
        self.store = store
        self._states: dict[str, TrialState] = {}

    def state(self, key: str) -> TrialState:
        """Return the state of a trial as it was when first read."""
        if key not in self._states:
            self._states[key] = self.store.read(key)
        return self._states[key]

    def clear(self) -> None:
        """Forget everything, because the store has changed; it is then read again."""
        self._states.clear()

    def is_trained(self, key: str) -> bool:
        """Return whether the trial with this key is trained."""
        return self.state(key).is_trained

    def is_done(self, trial: Trial) -> bool:
        """Return whether nothing is left to do in the trial's slot; see :meth:`TrialState.is_done`."""
        return self.state(trial.key).is_done(trial)

    def is_drawn(self, trial: Trial) -> bool:
        """Return whether all figures of the trial are drawn."""
        return self.state(trial.key).is_drawn(trial)

    def record(self, trial: Trial, *, skipped: str | None = None, pruned: str | None = None) -> TrialRecord:
        """Return the trial's record; see :meth:`TrialState.record`."""
        return self.state(trial.key).record(trial, skipped=skipped, pruned=pruned)
