"""The runs of a sweep in MLflow: one parent, and one child for each trial. A continued sweep uses the same runs again."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import digest
from core.paths import is_remote
from sweeps.planning.trial import Plan, Trial
from sweeps.storage.checked_folder import DamagedFileError
from sweeps.storage.records import TrialRecord, TrialStatus
from sweeps.storage.trial_store import TrialStore
from sweeps.tracking.child_run import PUBLISHED_DIGEST, RUN_STATUS, ChildRun, config_params
from sweeps.tracking.database import create_database, database_file, writer_lock
from sweeps.tracking.encoder_model import log_encoder
from sweeps.tracking.experiment import find_or_make
from sweeps.tracking.failures import ended_if_refused
from sweeps.tracking.membership import Membership
from sweeps.tracking.moved_storage import follow_storage
from sweeps.tracking.names import shortened
from sweeps.tracking.parent_run import ParentRun, SweepSummary, shared_tags
from sweeps.tracking.run_client import delete_tags, log_files, log_metrics, log_params, set_tags
from sweeps.tracking.uri import is_server
from sweeps.tracking.user_texts import NAME_MARK

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Schema version of a finished child run; bump it to re-publish old ones.
_CHILD_SCHEMA = 2
#: Characters that MLflow takes as the name of a data set.
_LONGEST_DATASET = 500
#: Entries of an epoch's record that are not metrics.
_NO_METRICS = ("epoch", "time", "seconds")
#: Metrics that are measured on test images, beside ``test/...``; not logged while a search selects points.
_ON_TEST_IMAGES = ("projection_std", "dead_dimensions")
#: Environment variables that MLflow's client reads when it is imported or called. Without them it retries a dead server for
#: over a minute, sends telemetry over the network, and prints the addresses of every run and of its experiment.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class RunWriter:
    """Writes a sweep's runs. Every method is idempotent: repeating it with the same arguments changes nothing."""

    def __init__(
        self, uri: str, plan: Plan, store: TrialStore, command: str, say: Callable[[str], None] = lambda _: None
    ) -> None:  # fmt: skip
        """Keep the settings; :meth:`open` connects.

        Args:
            uri: MLflow's database or server.
            plan: the sweep.
            store: where its trials are.
            command: the command line.
            say: called with what the user must know.
        """
        self._uri, self._plan, self._store, self._command, self._say = uri, plan, store, command, say
        self._client: MlflowClient
        self._parent: ParentRun | None = None
        self._members: Membership | None = None

    @property
    def experiment(self) -> str:
        """Id of the sweep's experiment; "" before :meth:`open`."""
        return "" if self._parent is None else self._parent.experiment

    def open(self) -> None:
        """Connect; find or create the database, the experiment and the parent run; look up the child runs, and correct them."""
        _quiet_mlflow()
        from mlflow import MlflowClient

        storage = self._store.storage
        # A server stores artifacts itself; without one they are stored beside the database.
        artifacts = None if is_server(self._uri) else (storage / "artifacts").resolve().as_uri()
        # One process at a time: if several find no database they fail to create it, and each would create a parent run.
        with writer_lock(self._uri, storage):
            if (database := database_file(self._uri)) is not None:
                create_database(database)
            moved = None if artifacts is None or is_remote(storage) else follow_storage(self._uri, storage.resolve())
            if moved is not None:
                self._say(moved)
            self._client = MlflowClient(self._uri)
            experiment = find_or_make(self._client, self._plan, artifacts, self._say)
            self._parent = ParentRun(self._client, self._plan, self._command, experiment, self._say)
            self._members = Membership(self._client, experiment, self._plan, self._parent.run_id, self._say)
            self._members.correct(self._plan, complete=self._plan.grid.search is None)

    def correct_members(self, plan: Plan) -> None:
        """Correct which runs belong to the sweep, now that all of its trials are known."""
        assert self._members is not None
        with writer_lock(self._uri, self._store.storage):
            self._members.correct(plan, complete=True)

    # -- a trial's run ---------------------------------------------------------------------------------------------------

    def start_trial(self, trial: Trial) -> None:
        """Mark a trial's run as running."""
        child = self._child(trial)
        if child.status != "RUNNING":
            self._client.update_run(child.run_id, status="RUNNING")
            child.status = "RUNNING"

    def log_epochs(self, trial: Trial, history: Sequence[Mapping[str, float]]) -> None:
        """Log the metrics of epochs; the step is the epoch, from 1."""
        withheld = _ON_TEST_IMAGES if trial.validation_only else ()
        log_metrics(self._client, self._child(trial), [
            (name, value, int(record["time"] * 1000), int(record["epoch"]))
            for record in history
            for name, value in record.items()
            if name not in (*_NO_METRICS, *withheld) and not (trial.validation_only and name.startswith("test/"))
        ])  # fmt: skip

    def end_trial(self, record: TrialRecord) -> None:
        """Log everything that is known of a trial, and end its run, unless the run shows all of it already."""
        trial, child = record.trial, self._child(record.trial)
        names = _arm_tags(trial)
        published = digest([
            _CHILD_SCHEMA, record.status, record.reason, dict(record.metrics), dict(record.problems), names,
            *(["choosing"] if trial.validation_only else []),
        ])  # fmt: skip
        if child.tags.get(PUBLISHED_DIGEST) == published and child.status == RUN_STATUS[record.status]:
            return
        with ended_if_refused(lambda: self._client.set_terminated(child.run_id, status=RUN_STATUS[record.status])):
            self._log_numbers(child, record)
            if record.status == TrialStatus.DONE:
                self._log_artifacts(child, trial)
            tags = _result_tags(record) | names
            set_tags(self._client, child, tags | {PUBLISHED_DIGEST: published})
            outdated = [name for name in ("reason", "problems", "added_for") if name in child.tags and name not in tags]
            delete_tags(self._client, child, outdated)
        self._client.set_terminated(child.run_id, status=RUN_STATUS[record.status])
        child.status = RUN_STATUS[record.status]

    def _log_numbers(self, child: ChildRun, record: TrialRecord) -> None:
        if record.training is None:
            return
        history = list(record.training.history)
        self.log_epochs(record.trial, history)
        per_epoch = set(history[-1]) if history else set()
        step, moment = len(history), int(record.evaluated * 1000)
        final = [(name, value, moment, step) for name, value in record.metrics.items() if name not in per_epoch]
        log_metrics(self._client, child, final)

    def _log_artifacts(self, child: ChildRun, trial: Trial) -> None:
        files = self._store.files(trial.key)
        encoder = None if trial.validation_only else self._store.read(trial.key).encoder_file
        log_files(self._client, child.run_id, files, ["config.json", *([] if encoder is None else [encoder])])
        self._client.log_inputs(child.run_id, _dataset_inputs(trial))
        if trial.config.has_encoder and not trial.validation_only:
            with writer_lock(self._uri, self._store.storage):
                log_encoder(self._client, self.experiment, child, trial, files)

    def tag_trial(self, trial: Trial, tags: Mapping[str, str]) -> None:
        """Set final tags on the trial's run."""
        child = self._child(trial)
        for name, value in tags.items():
            if child.tags.get(name) != value:
                self._client.set_tag(child.run_id, name, value)
        child.tags = {**child.tags, **tags}

    def log_late_metrics(self, trial: Trial) -> None:
        """Log the metrics that were computed after the trial's run ended."""
        if (record := self._store.read(trial.key).record(trial)).status == TrialStatus.DONE:
            self.end_trial(record)

    def log_figures(self, trial: Trial) -> None:
        """Log the trial's figures, under plain names without the ids that their files have in the store."""
        child, figures = self._child(trial), self._store.read(trial.key).figures(trial)
        files, published = self._store.files(trial.key), digest([path.name for path in figures.values()])
        if not figures or child.tags.get("figures") == published:
            return
        with tempfile.TemporaryDirectory() as scratch:
            for name, path in figures.items():
                if (content := files.read(f"{path.parent.name}/{path.name}")) is None:
                    raise DamagedFileError(path, "it is gone")
                plain = re.sub(r"[^-.A-Za-z0-9]", "_", name)
                # Two names may have the same plain form; the suffix keeps their files apart.
                suffix = "" if plain == name.replace("/", "_", 1) else f"-{digest(name)[:6]}"
                (Path(scratch) / f"{plain}{suffix}.png").write_bytes(content)
            self._client.log_artifacts(child.run_id, scratch, "figures")
        set_tags(self._client, child, {"figures": published})

    def close(self, summary: SweepSummary) -> None:
        """End the parent run with the sweep's summary."""
        assert self._parent is not None and self._members is not None
        self._members.say_remade()
        self._parent.close(summary)

    # -- finding the run -------------------------------------------------------------------------------------------------

    def _child(self, trial: Trial) -> ChildRun:
        assert self._members is not None
        child = self._members.known(trial) or self._find_or_make(trial)
        log_params(self._client, child.run_id, trial.config, child.params)
        child.params = child.params.union(config_params(trial.config))
        return child

    def _find_or_make(self, trial: Trial) -> ChildRun:
        assert self._members is not None
        tags = shared_tags(self._plan) | _arm_tags(trial) | {NAME_MARK: shortened(trial.title)}
        if trial.parent_key:
            tags["parent_trial_key"] = trial.parent_key
        with writer_lock(self._uri, self._store.storage):
            return self._members.find(trial) or self._members.make(trial, tags)


def _quiet_mlflow() -> None:
    for name, value in _MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints a traceback for every statement that finds the database locked, which is waited for.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # It warns for every model that loading a pickle can run code; these models are the user's own.
    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)


def _arm_tags(trial: Trial) -> dict[str, str]:
    """The tags with a child run's names, which may change when the grid gets other arms."""
    tags = {"arm": ", ".join(trial.arms), "mlflow.runName": shortened(trial.title)}
    # A tag rather than a param: params cannot change, but further anomaly sets may be evaluated.
    tags["anomaly_datasets"] = json.dumps(list(trial.anomalies))
    return tags | ({"added_for": ", ".join(trial.required_by)} if trial.required_by else {})


def _result_tags(record: TrialRecord) -> dict[str, str]:
    tags = {"status": str(record.status)}
    if record.reason:
        tags["reason"] = record.reason[:5000]
    if record.training is not None:
        tags |= {"device": record.training.device, "epochs_trained": str(record.training.epochs_trained)}
    if record.problems:
        tags["problems"] = json.dumps(dict(record.problems))[:5000]
    return tags


def _dataset_inputs(trial: Trial) -> list[Any]:
    """The trial's data sets, as dataset inputs of its run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def entry(context: str, dataset: str, split: str, identity: str) -> DatasetInput:
        source = {"uri": dataset.removeprefix("folder:")} if dataset.startswith("folder:") else {"name": dataset}
        kind = "local" if dataset.startswith("folder:") else "code"
        about = Dataset(
            shortened(f"{dataset} {split}", _LONGEST_DATASET),
            digest([identity, split]),
            kind,
            json.dumps(source | {"identity": identity}),
        )
        return DatasetInput(about, [InputTag("mlflow.data.context", context)])

    config = trial.config
    subset = f"train, {config.train_subset} images" if config.train_subset else "train"
    subset += f", drawn with seed {config.seed}" if config.split == "seed" else ""
    inputs = [entry("training", config.dataset, subset, trial.data)]
    if not trial.validation_only:
        inputs.append(entry("evaluation", config.dataset, "test", trial.data))
        inputs += [entry("anomalies", name, "anomalies", identity) for name, identity in trial.anomalies.items()]
    return inputs
