"""Plans of tiny trials, and what the driver does with them, for tests of every room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from evaluation.evaluate import metric_ids
from evaluation.per_image import detail_ids
from sweeps.planning.grid import Grid
from sweeps.planning.planner import Planner
from sweeps.planning.trial import Plan, Trial
from sweeps.reporting.rendering import render
from sweeps.reporting.report_content import build_content
from sweeps.reporting.report_input import ReportInput
from sweeps.storage.image_sets import Images
from sweeps.storage.records import MetricResult, TrainingRecord, TrialRecord, TrialStatus
from sweeps.storage.snapshot import StoreSnapshot
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.parent_run import SweepSummary
from sweeps.tracking.queued_writer import QueuedWriter
from tests.conftest import TINY

#: Fields of trials that are run by whole commands.
BASE: dict[str, Any] = {**TINY, "train_subset": 200, "batch_size": 32, "epochs": 2}


def planner(data_dir: Path, profile: str = "digits-m", **changes: Any) -> Planner:
    """A planner for CPUs without special features."""
    given: dict[str, Any] = {"settings": {}, "gpu": False, "cpu_flags": frozenset()}
    return Planner(profile, data_dir=data_dir, **given | changes)


def tiny_plan(data_dir: Path, arms: dict[str, Any], seeds: tuple[int, ...] = (0,)) -> Plan:
    """A plan of arms laid over TINY."""
    grid = Grid(name="tiny", question="does it work?", arms=arms, base={**TINY, "augmentation": {"flip": 0.5}})
    return planner(data_dir).plan(grid, seeds=seeds)


def arm(plan: Plan, name: str) -> Trial:
    """The trial of an arm."""
    return next(trial for trial in plan.trials.values() if name in trial.arms)


def record_of(store: TrialStore, trial: Trial, **reasons: str | None) -> TrialRecord:
    """The trial's record, read now."""
    return store.read(trial.key).record(trial, **reasons)


def is_done(store: TrialStore, trial: Trial) -> bool:
    """Whether the trial is done, read now."""
    return store.read(trial.key).is_done(trial)


def is_drawn(store: TrialStore, trial: Trial) -> bool:
    """Whether the trial's figures are drawn, read now."""
    return store.read(trial.key).is_drawn(trial)


def snapshot(storage: Path) -> StoreSnapshot:
    """A snapshot of a storage, taken now."""
    return StoreSnapshot(TrialStore(storage))


def finish(store: TrialStore, trial: Trial) -> None:
    """Put a finished trial into the store without training one."""
    store.files(trial.key).write_bytes("encoder.safetensors", b"no weights")
    store.save_training(trial.key, TrainingRecord(({"images_per_second": 50.0},), None, 1.0, 1, "CPU, x", 1, {}, 0.0))
    results = {id_: MetricResult(0.5, None, 0.0) for id_ in metric_ids(trial.anomalies).values()}
    results |= {id_: MetricResult(None, None, 0.0) for id_ in detail_ids(trial.anomalies).values()}
    store.save_results(trial.key, results)


def tell(plan: Plan, storage: Path, uri: str, *, live: bool = False, skipped: dict[str, str] | None = None) -> None:
    """Do what the driver does: everything the store knows, to a tracker of its own."""
    store = TrialStore(storage)
    tracker = QueuedWriter(uri, plan, store, "python sweeps/run.py")
    for key, trial in plan.trials.items():
        found = record_of(store, trial, skipped=(skipped or {}).get(key))
        if live and found.training:
            tracker.on_trial_start(trial)
            for epoch in found.training.history:
                tracker.on_epoch_end(trial, epoch)
        if found.status != TrialStatus.PENDING:
            tracker.on_trial_end(found)
        if found.status == TrialStatus.DONE:
            tracker.on_figures_end(trial)
    tracker.close(SweepSummary("FAILED" if skipped else "FINISHED", {"trials_done": 1.0}, 7.0, ()))
    assert tracker.problem is None


def page_of(sweep: ReportInput, images: Images | None) -> str:
    """The report's HTML."""
    return render("report.html.j2", **vars(build_content(sweep, images)))


#: Trials that depend on one another: m on n, n on base.
CHAIN: dict[str, Any] = {
    "n": {"pairing": "neighbors"},
    "m": {"pairing": "neighbors", "parent": {"pairing": "neighbors", "parent": {}}},
    "z": {"mu": 0},
}


def runs(uri: str) -> tuple[Any, dict[str, Any]]:
    """The parent run of the only sweep of a tracking server, and its children by arm."""
    client = MlflowClient(uri)
    found = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    parents = [run for run in found if run.data.tags["role"] == "sweep"]
    assert len(parents) == 1
    children = {run.data.tags["arm"]: run for run in found if run.data.tags["role"] == "trial"}
    assert len(children) + 1 == len(found)
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in children.values())
    return parents[0], children


def children(storage: Path) -> dict[str, Any]:
    """The trials' runs in a storage's database, by sweep and arm."""
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    found = [r for e in client.search_experiments() for r in client.search_runs([e.experiment_id], "tags.role = 'trial'")]
    return {f"{r.data.tags['sweep']} {r.data.tags['arm']}": r for r in found}
