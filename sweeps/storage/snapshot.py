"""A cache of the trials that a command has read from the store."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from core.paths import is_remote
from sweeps.planning.trial import Trial
from sweeps.storage.checked_folder import CHECKSUMS
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.storage.trial_state import GONE, LASTING, TrialState
from sweeps.storage.trial_store import OTHER_PARENT, TrialStore


class StoreSnapshot:
    """The trials that a command has read from the store, cached so that each trial's files are read only once.

    A run changes the store, and so may other drivers meanwhile: after one, :meth:`clear` has everything read again.
    """

    def __init__(self, store: TrialStore) -> None:
        self.store = store
        self._states: dict[str, TrialState] = {}
        self._said: set[str] = set()
        self._noted: list[str] = []

    def state(self, key: str) -> TrialState:
        """Return the state of a trial as it was when first read."""
        if key not in self._states:
            self._states[key] = self.store.read(key)
        return self._states[key]

    def clear(self) -> None:
        """Forget everything, because the store has changed; it is then read again."""
        self._states.clear()

    def verify(self, trials: Iterable[Trial]) -> None:
        """Read all files of trials, so that damage is known before they are used, and record missing checksums.

        Where the storage is a URL nothing is done: reading everything would take too long.
        """
        if is_remote(self.store.storage):
            return
        for trial in trials:
            state = self.state(trial.key)
            state.verify()
            missing = [*state.missing(), *([CHECKSUMS] if state.lacks_checksums else [])]
            self._noted += [f"missing: {state.files.path / name}: {GONE}" for name in missing]
            with suppress(OSError):  # a storage that cannot be written to
                state.record_missing()
                for name in missing:
                    if name not in LASTING:  # what is made again may get another name, or is not needed any more
                        state.files.forget(name)

    def note_damage(self, found: str) -> None:
        """Keep what was found of a file that belongs to no trial, for :meth:`new_damage`."""
        self._noted.append(f"damaged: {found}")

    def new_damage(self) -> list[str]:
        """Return a line for each damaged file that was met and not returned before."""
        found = [
            f"damaged: {state.files.path / name}: {reason}"
            for state in self._states.values()
            for name, reason in state.damage.items()
        ]
        lines = [line for line in dict.fromkeys([*self._noted, *found]) if line not in self._said]
        self._said.update(lines)
        return lines

    def is_trained(self, key: str, parent_key: str | None) -> bool:
        """Return whether the trial with this key is trained: if it has a parent, with the parent's present encoder."""
        state = self.state(key)
        return state.is_trained and not self.store.trained_with_another_parent(parent_key, state, self.state)

    def is_done(self, trial: Trial) -> bool:
        """Return whether nothing is left to do in the trial's slot; see :meth:`TrialState.is_done`."""
        state = self.state(trial.key)
        return state.is_done(trial) and not self.store.trained_with_another_parent(trial.parent_key, state, self.state)

    def is_drawn(self, trial: Trial) -> bool:
        """Return whether all figures of the trial are drawn."""
        return self.state(trial.key).is_drawn(trial)

    def record(self, trial: Trial, *, skipped: str | None = None, pruned: str | None = None) -> TrialRecord:
        """Return the trial's record; see :meth:`TrialState.record`."""
        state = self.state(trial.key)
        if pruned is None and self.store.trained_with_another_parent(trial.parent_key, state, self.state):
            return TrialRecord(trial, TrialStatus.SKIPPED if skipped else TrialStatus.PENDING, reason=skipped or OTHER_PARENT)
        return state.record(trial, skipped=skipped, pruned=pruned)
