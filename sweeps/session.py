"""What a command keeps open while it runs plans: Ray, the images in its object store, MLflow; and how the running went."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from core.errors import InputError
from core.files import make_folder
from sweeps import cost, tracking
from sweeps.hardware import cluster_address
from sweeps.images import Images, load_images
from sweeps.job import Job
from sweeps.origin import command
from sweeps.plan import Plan, Trial
from sweeps.progress import Progress, duration
from sweeps.store import TrialRecord

if TYPE_CHECKING:
    from sweeps.scheduler import Source
    from sweeps.trial import Rungs


@dataclass
class Outcome:
    """How the running went, beside what the store knows: trials not tried, and figures not drawn, each with its reason."""

    skipped: dict[str, str] = field(default_factory=dict)
    undrawn: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


class Session:
    """Runs plans of one sweep. Ray and the images are there from the first plan that needs them."""

    def __init__(self, job: Job, console: Console) -> None:
        self._job, self._console = job, console
        self._tracker: tracking.Tracker | None = None
        self._images: Any = None
        self._meter = _Meter()
        self.outcome = Outcome()

    @property
    def tracker(self) -> tracking.Tracker:
        """MLflow, from the first need on."""
        if self._tracker is None:
            job = self._job
            make_folder(job.options.storage)
            self._tracker = tracking.Tracker(job.uri, job.options.storage, job.plan, job.store, command(), self._say)
        return self._tracker

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    @property
    def ran(self) -> bool:
        """Whether anything was run or tried."""
        return self._images is not None or self.outcome.interrupted

    @property
    def trial_seconds(self) -> float:
        """Seconds that trials spent in their slots so far."""
        return self._meter.seconds

    @property
    def images(self) -> Images | None:
        """The images of the trials that were to run; None where none were, or after an interruption."""
        if self._images is None or self.outcome.interrupted:
            return None
        from sweeps import cluster

        return cluster.shared(self._images)

    def slots(self, plan: Plan) -> int:
        """How many trials run at once."""
        from sweeps import cluster

        self._start(plan)
        return cluster.slots(plan, self._job.gpus_per_trial)

    def _start(self, plan: Plan) -> None:
        from sweeps import cluster

        if self._images is not None:
            return
        options = self._job.options
        # Loaded before anything is written, since images may be at fault; a plan that grows later needs no others.
        images = load_images(self._to_load(plan), options.data)
        search = self._job.grid.search
        headline = next(iter(plan.base.anomaly_datasets), "")
        if search and "validation_anomaly_auc" in search.objectives and images.validation_anomalies.get(headline) is None:
            raise InputError(
                f"validation_anomaly_auc: {headline} has no images for validation (a folder needs train/ and test/, each "
                "with class folders)"
            )
        address = cluster_address(options.address)
        if address is not None:  # whose nodes may be at fault: nothing is written before they are asked, but markers
            cluster.connect(address)
            make_folder(options.storage)
            if note := cluster.check(plan, self._job.gpus_per_trial, options.storage.resolve()):
                self._say(note)
        _ = self.tracker  # creates its tables while Ray starts
        cluster.connect(address)
        self._images = cluster.share(images)

    def _to_load(self, plan: Plan) -> list[Trial]:
        wanted = [plan.trials[key] for key in plan.trials if key in plan.wanted]
        if self._job.budget is not None or self._job.grid.search is not None:
            return wanted
        store = self._job.store
        return [trial for trial in wanted if not (store.is_done(trial) and store.is_drawn(trial))]

    def run(
        self, plan: Plan, source: Source | None = None, rungs: Rungs | None = None, points: int = 0, *, draw: bool = True
    ) -> None:
        """Brings the trials that a plan asks for to their end, and has their figures drawn.

        Args:
            plan: of the job's sweep.
            source: adds trials while others run.
            rungs: see :func:`sweeps.trial.run_trial`.
            points: how many trials the source will add.
            draw: whether figures are drawn now; else a later plan that asks for the same trials draws them.
        """
        job, store = self._job, self._job.store
        done = [key for key in plan.trials if key in plan.wanted and store.is_done(plan.trials[key])]
        open_keys = [key for key in plan.trials if key in plan.wanted and key not in done]
        undrawn = [key for key in done if draw and not store.is_drawn(plan.trials[key])]
        if not open_keys and not undrawn and source is None:
            return
        from sweeps import cluster, page, scheduler
        from sweeps.drawing import Drawings

        try:
            self._start(plan)
            slots = cluster.slots(plan, job.gpus_per_trial)
            estimate = cost.estimate(plan, store, done, gpu=job.gpus_per_trial > 0)
            trained = sum(store.is_trained(key) for key in open_keys)
            self._console.print(
                f"{plan.sweep}: {len(plan.wanted)} trials, {len(done)} done already, {len(open_keys)} to run"
                + (f" ({trained} of them trained already, to be evaluated)" if trained else "")
                + (f", {points} points to try" if points else "")
                + f", {slots} at once; about {duration(cost.wall_time(plan, estimate.seconds, slots))}, by {estimate.basis}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
            with Progress(plan, estimate.seconds, slots, self._console, points=points) as progress:
                storage = job.options.storage.resolve()
                drawings = Drawings(self._images, storage, store, [progress, self.tracker])
                for key in undrawn:
                    drawings.ended(store.record(plan.trials[key]))
                cut_short = False
                if open_keys or source is not None:
                    skipped, cut_short = scheduler.run(
                        plan,
                        cost.by_critical_path(plan, estimate.seconds),
                        self._images,
                        storage,
                        gpus_per_trial=job.gpus_per_trial,
                        deterministic=job.options.deterministic,
                        listeners=[progress, self.tracker, self._meter, *([drawings] if draw else [])],
                        source=source,
                        rungs=rungs,
                    )
                    self.outcome.skipped |= skipped
                # Tune ends cleanly at a Ctrl-C, so what is neither done, failed nor skipped tells of one.
                records = [store.record(plan.trials[key], skipped=self.outcome.skipped.get(key)) for key in open_keys]
                self.outcome.interrupted = cut_short or any(record.status == "open" for record in records)
                if not self.outcome.interrupted:
                    page.prepare()  # while the last figures are drawn
                    self.outcome.undrawn |= drawings.wait()
        except KeyboardInterrupt:
            self.outcome.interrupted = True

    def close(self) -> None:
        """Ends Ray; the tracker is closed before."""
        if self._images is not None:
            from sweeps import cluster

            self._images = None
            cluster.disconnect()


class _Meter:
    """A listener that adds up the seconds between a trial's start and its end."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._running: dict[str, float] = {}

    def added(self, trial: Trial) -> None:
        """Nothing spent yet."""

    def started(self, trial: Trial) -> None:
        """The clock starts."""
        self._running[trial.key] = time.monotonic()

    def epoch(self, trial: Trial, record: dict[str, float]) -> None:
        """Still running."""

    def waiting(self, trial: Trial, reason: str) -> None:
        """Waiting counts as well: the slot is held."""

    def ended(self, record: TrialRecord) -> None:
        """The clock stops."""
        if (began := self._running.pop(record.trial.key, None)) is not None:
            self.seconds += time.monotonic() - began

    def drawn(self, trial: Trial) -> None:
        """Figures are drawn outside the slots."""
