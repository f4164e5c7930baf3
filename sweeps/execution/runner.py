"""Runs the plans of one command: owns the Ray connection and the shared images, and reports events to the callbacks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from core.errors import InputError
from core.paths import ensure_dir
from sweeps import process
from sweeps.execution import cost
from sweeps.execution.callbacks import SweepCallback
from sweeps.execution.machine import name_of_address
from sweeps.execution.options import ExecutionOptions, Rungs
from sweeps.execution.private_folder import private_folder
from sweeps.execution.progress import Progress
from sweeps.formatting import duration
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.image_sets import Images, load_images
from sweeps.storage.records import TrialRecord
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore

if TYPE_CHECKING:
    from sweeps.execution.trial_queue import TrialSource


@dataclass
class RunOutcome:
    """How the runs of a command went, as far as it is not in the store.

    Attributes:
        skipped: key of each trial that was not tried -> why.
        failed: key of each trial that failed -> why.
        undrawn: key of each trial whose figures could not be drawn -> why.
        interrupted: whether a signal ended a run.
    """

    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    undrawn: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


class SweepRunner:
    """Runs the plans of one sweep. The first plan with something to run starts Ray and loads the images."""

    def __init__(
        self, options: ExecutionOptions, snapshot: StoreSnapshot, callbacks: Sequence[SweepCallback], console: Console
    ) -> None:  # fmt: skip
        """Prepare; nothing is started yet.

        Args:
            options: how and where to run.
            snapshot: what the store holds.
            callbacks: receive every event.
            console: where progress is shown.
        """
        self._options, self._snapshot, self._console = options, snapshot, console
        self._meter = SlotTimeMeter()
        self._callbacks = [*callbacks, self._meter]
        self._images: Any = None
        self._ray = ExitStack()
        self.outcome = RunOutcome()

    @property
    def ran(self) -> bool:
        """Whether a run was started or interrupted."""
        return self._images is not None or self.outcome.interrupted

    @property
    def trial_seconds(self) -> float:
        """Seconds that trials have spent in their slots so far."""
        return self._meter.seconds

    @property
    def images(self) -> Images | None:
        """The images that were loaded for the trials to run; None if nothing was to run, or after an interruption."""
        if self._images is None or self.outcome.interrupted:
            return None
        from sweeps.execution import cluster

        return cluster.get_images(self._images)

    def slots(self, plan: Plan) -> int:
        """Return how many trials run at once; starts Ray if it is not running."""
        from sweeps.execution import cluster

        self._start(plan)
        return cluster.slots(plan, self._options.gpus_per_trial)

    def run(
        self,
        plan: Plan,
        source: TrialSource | None = None,
        rungs: Rungs | None = None,
        *,
        draw: bool = True,
    ) -> None:
        """Run the requested trials of a plan that are not done, and draw their figures.

        Args:
            plan: a plan of the sweep.
            source: adds trials while others run.
            rungs: see :func:`sweeps.execution.worker.run_trial`.
            draw: whether to draw figures now; else a later plan that requests the same trials draws them.
        """
        requested = plan.requested_trials
        self._snapshot.verify(plan.trials.values())
        done = [trial.key for trial in requested if self._snapshot.is_done(trial)]
        open_keys = [trial.key for trial in requested if trial.key not in done]
        undrawn = [key for key in done if draw and not self._snapshot.is_drawn(plan.trials[key])]
        for line in self._snapshot.new_damage():
            self._say(line)
        if not open_keys and not undrawn and source is None:
            return
        try:
            self._run(plan, done, open_keys, undrawn, source, rungs, draw=draw)
        except KeyboardInterrupt:
            self.outcome.interrupted = True
        except Exception:
            if process.received_signal() is None:
                raise
            self.outcome.interrupted = True  # what got the same signal failed: Ray's own processes, say
        finally:
            self._snapshot.clear()  # this run, and other drivers meanwhile, changed the store

    def _run(
        self, plan: Plan, done: Sequence[str], open_keys: Sequence[str], undrawn: Sequence[str], source: TrialSource | None,
        rungs: Rungs | None, *, draw: bool,
    ) -> None:  # fmt: skip
        self._start(plan)
        from sweeps.execution import cluster, tune_backend
        from sweeps.execution.figure_tasks import FigureTasks

        options, store = self._options, TrialStore(self._options.storage)
        slots, points = cluster.slots(plan, options.gpus_per_trial), source.remaining if source is not None else 0
        estimate = cost.estimate(plan, self._snapshot, done, gpu=options.gpus_per_trial > 0)
        self._announce(plan, estimate, len(done), open_keys, points, slots)
        with Progress(plan, estimate.seconds, slots, self._console, points=points) as progress:
            callbacks = [progress, *self._callbacks]
            figure_tasks = FigureTasks(self._images, store, callbacks, cpu_slots=None if options.gpus_per_trial else slots)
            for key in undrawn:
                figure_tasks.draw(plan.trials[key])
            interrupted = False
            if open_keys or source is not None:
                skipped, failed, interrupted = tune_backend.run(
                    plan,
                    cost.critical_path_order(plan, estimate.seconds),
                    self._images,
                    options,
                    [*callbacks, *([figure_tasks] if draw else [])],
                    source=source,
                    rungs=rungs,
                )
                self.outcome.skipped |= skipped
                self.outcome.failed |= failed
            self.outcome.interrupted = interrupted
            if not self.outcome.interrupted:
                for callback in callbacks:
                    callback.on_all_trials_end()
                self.outcome.undrawn |= figure_tasks.wait()

    def _announce(
        self, plan: Plan, estimate: cost.Estimate, n_done: int, open_keys: Sequence[str], points: int, slots: int
    ) -> None:  # fmt: skip
        trained = sum(self._snapshot.is_trained(key, plan.trials[key].parent_key) for key in open_keys)
        self._say(
            f"{plan.sweep_id}: {len(plan.requested)} trials, {n_done} done already, {len(open_keys)} to run"
            + (f" ({trained} of them trained already, to be evaluated)" if trained else "")
            + (f", {points} points to try" if points else "")
            + f", {slots} at once; about {duration(cost.wall_time(plan, estimate.seconds, slots))}, by {estimate.basis}"
        )

    def _start(self, plan: Plan) -> None:
        """Load the images, check the cluster's nodes, and connect to Ray; later calls do nothing."""
        if self._images is not None:
            return
        from sweeps.execution import cluster

        options = self._options
        try:
            folder = None if options.address is not None else self._make_private_folder()
            # Loaded before anything is written, since images may have errors. Plans that follow need no other images.
            images = load_images(self._trials_to_load(plan), options.data_dir)
            _check_validation_anomalies(plan, images)
            if options.address is not None:  # nodes may have errors: until they are checked, only probe files are written
                self._ray.enter_context(cluster.joined(options.address))
                self._say(f"runs on the Ray cluster of {name_of_address(options.address)}")
                ensure_dir(options.storage)
                if note := cluster.check_nodes(plan, options.gpus_per_trial, options.storage):
                    self._say(note)
        except BaseException:
            self._ray.close()
            raise
        for callback in self._callbacks:
            callback.on_sweep_start()
        if folder is not None:
            self._ray.enter_context(cluster.running_here(folder))
        self._images = cluster.put_images(images)

    def _make_private_folder(self) -> Path:
        """Make the folder for Ray's files, before anything is started, since ``TMPDIR`` may have errors."""
        folder, note = self._ray.enter_context(private_folder())
        if note is not None:
            self._say(note)
        return folder

    def _trials_to_load(self, plan: Plan) -> list[Trial]:
        if self._options.more_plans:
            return plan.requested_trials
        return [t for t in plan.requested_trials if not (self._snapshot.is_done(t) and self._snapshot.is_drawn(t))]

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Disconnect from Ray; call it when no other thread is left (in particular the tracker's)."""
        self._images = None
        self._ray.close()


def _check_validation_anomalies(plan: Plan, images: Images) -> None:
    """Raise InputError if a search's objective needs validation images of an anomaly set that has none."""
    search, headline = plan.grid.search, next(iter(plan.base.anomaly_datasets), "")
    if search and "validation_anomaly_auc" in search.objectives and images.validation_anomalies.get(headline) is None:
        raise InputError(
            f"validation_anomaly_auc: {headline} has no images for validation (a folder needs train/ and test/, each "
            "with class folders)"
        )


class SlotTimeMeter(SweepCallback):
    """Adds up the seconds from each trial's start to its end; time spent waiting counts, because the trial holds its slot."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._running: dict[str, float] = {}

    def on_trial_start(self, trial: Trial) -> None:
        """Start the trial's clock."""
        self._running[trial.key] = time.monotonic()

    def on_trial_end(self, record: TrialRecord) -> None:
        """Stop the trial's clock."""
        if (began := self._running.pop(record.trial.key, None)) is not None:
            self.seconds += time.monotonic() - began
