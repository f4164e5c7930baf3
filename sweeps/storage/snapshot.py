"""What one command found in the store."""

from __future__ import annotations

from collections.abc import Iterable

from sweeps.planning.trial import Trial
from sweeps.storage.records import TrialRecord
from sweeps.storage.trial_state import TrialState
from sweeps.storage.trial_store import TrialStore


class StoreSnapshot:
    """What a command found in the store. It is handed on, so that each trial's files are read once, not by every question.

    A command that changes trials calls :meth:`forget` for them; they are then read anew.
    """

    def __init__(self, store: TrialStore) -> None:
        self.store = store
        self._states: dict[str, TrialState] = {}

    def state(self, key: str) -> TrialState:
        """Return what the store held of a trial when it was first asked for."""
        if key not in self._states:
            self._states[key] = self.store.read(key)
        return self._states[key]

    def forget(self, keys: Iterable[str]) -> None:
        """Drop what is known of these trials, for they have changed."""
        for key in keys:
            self._states.pop(key, None)

    def is_trained(self, key: str) -> bool:
        """Whether the trial with this key is trained."""
        return self.state(key).is_trained

    def is_done(self, trial: Trial) -> bool:
        """Whether nothing is left to do in the trial's slot."""
        return self.state(trial.key).is_done(trial)

    def is_drawn(self, trial: Trial) -> bool:
        """Whether all figures of the trial are drawn."""
        return self.state(trial.key).is_drawn(trial)

    def record(self, trial: Trial, *, skipped: str | None = None, pruned: str | None = None) -> TrialRecord:
        """Return the trial's record; see :meth:`TrialState.record`."""
        return self.state(trial.key).record(trial, skipped=skipped, pruned=pruned)
