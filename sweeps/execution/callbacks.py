"""Events that the driver reports while a plan runs, to the progress display, to MLflow and to the drawing of figures."""

from __future__ import annotations

from sweeps.planning.trial import Trial
from sweeps.storage.records import TrialRecord


class SweepCallback:
    """Base class of listeners: the method of every event does nothing by default, so a listener overrides only what it needs.

    Most methods are called from Ray Tune's event loop, so they must return quickly and must not raise. In order::

        on_sweep_start
          on_trial_added        (a search adds a trial)
          on_trial_start
            on_trial_wait       (the worker has to wait; or it died, and the trial continues on another one)
            on_damage           (a file of the trial is not what was written)
            on_epoch_end
          on_trial_end
        on_all_trials_end
          on_figures_end        (of one trial; may also come earlier)

    A command may run several plans: the first event comes once, the others for each plan. For trials that were done before, the
    end of a command reports ``on_trial_end`` and ``on_figures_end`` alone.
    """

    def on_sweep_start(self) -> None:
        """Handle the start: inputs are checked, and something will run. The first event, before anything is written."""

    def on_trial_added(self, trial: Trial) -> None:
        """Handle a trial that a search added to the plan."""

    def on_trial_start(self, trial: Trial) -> None:
        """Handle the start of the trial on a worker."""

    def on_epoch_end(self, trial: Trial, record: dict[str, float]) -> None:
        """Handle the end of an epoch, whose record is in the store."""

    def on_trial_wait(self, trial: Trial, reason: str) -> None:
        """Handle that the trial has to wait, for a worker or for another process."""

    def on_damage(self, trial: Trial, found: str) -> None:
        """Handle that a file of the trial was damaged; it was moved aside, and is made again."""

    def on_trial_end(self, record: TrialRecord) -> None:
        """Handle the end of the trial: it is done, failed, skipped or stopped."""

    def on_all_trials_end(self) -> None:
        """Handle the end of all trials; the last figures are still being drawn."""

    def on_figures_end(self, trial: Trial) -> None:
        """Handle that a done trial's figures were drawn, except those that could not be."""
