"""What the driver tells its listeners (progress, MLflow) while a sweep runs."""

from __future__ import annotations

from typing import Protocol

from sweeps.plan import Trial
from sweeps.store import TrialRecord


class Listener(Protocol):
    """Somebody who wants to know. Calls come from Ray Tune's event loop, so they return at once and never raise."""

    def added(self, trial: Trial) -> None:
        """A search decided on one more trial."""

    def started(self, trial: Trial) -> None:
        """A worker took the trial."""

    def epoch(self, trial: Trial, record: dict[str, float]) -> None:
        """An epoch ended and is in the store."""

    def waiting(self, trial: Trial, reason: str) -> None:
        """A worker has to wait before it can work on the trial."""

    def ended(self, record: TrialRecord) -> None:
        """The trial is done, failed, skipped or stopped."""

    def drawn(self, trial: Trial) -> None:
        """The figures of a done trial are drawn, save those that could not be; not called from Tune's loop."""
