"""What the driver reports while a plan runs; progress, MLflow and the figures listen."""

from __future__ import annotations

from sweeps.planning.trial import Trial
from sweeps.storage.records import TrialRecord


class SweepCallback:
    """Base class of listeners: every event does nothing by default, so a listener defines only those that it needs.

    Most events come from Ray Tune's event loop: an implementation returns at once and never raises. In order::

        on_sweep_start
          on_trial_added        (a search adds a trial)
          on_trial_start
            on_trial_wait       (the worker has to wait, or died and the trial continues elsewhere)
            on_epoch_end
          on_trial_end
        on_all_trials_end
          on_figures_end        (of one trial; may come earlier, too)
    """

    def on_sweep_start(self) -> None:
        """The inputs are checked and something is going to run; the first event, before anything is written."""

    def on_trial_added(self, trial: Trial) -> None:
        """A search added a trial to the plan."""

    def on_trial_start(self, trial: Trial) -> None:
        """A worker began the trial."""

    def on_epoch_end(self, trial: Trial, record: dict[str, float]) -> None:
        """An epoch ended and is in the store."""

    def on_trial_wait(self, trial: Trial, reason: str) -> None:
        """The trial has to wait for a worker or for another process."""

    def on_trial_end(self, record: TrialRecord) -> None:
        """The trial is done, failed, skipped or stopped."""

    def on_all_trials_end(self) -> None:
        """All trials are over; the last figures are being drawn."""

    def on_figures_end(self, trial: Trial) -> None:
        """The figures of a done trial are drawn, except those that could not be; not called from Tune's loop."""
