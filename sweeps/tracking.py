"""MLflow, written by the driver alone, from a thread of its own; the only file that imports mlflow.

A sweep is one parent run, and each of its trials is one child, found again by its tags ``sweep`` and ``trial_key`` however
often the sweep is continued. Every point carries the time at which it was stored, and what a child already holds is not said
again, so saying everything twice changes nothing. A server that is away for a while is told later.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import queue
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import LOSS_CONVENTION, digest
from core.errors import InputError
from core.files import local_copy, locked, readable, remove_scratch, scratch_folder, whole_file
from core.models import IMAGE_SIZE, build_encoder, portable
from sweeps import charts, heap, tracking_uri
from sweeps.origin import git_commit
from sweeps.plan import Plan, Trial
from sweeps.store import Store, TrialRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000  # metrics a call, MLflow's limit
#: At the end of a sweep a server that is away is waited for so long, in seconds; while trials run, for ever.
PATIENCE = 120.0
_PAUSE = 2.0  # seconds between two questions for its health
_ATTEMPTS = 5  # of saying one thing to a server that answers when it is asked for its health
#: Raised when a finished child gets something that older ones lack; they then get it too.
_CHILD = 2
#: What an epoch's record holds beside its metrics.
_NO_METRICS = ("epoch", "time", "seconds")
#: What of it was seen on test images, beside ``test/...``: kept back while a search is choosing.
_OF_TEST = ("projection_std", "dead_dimensions")


@dataclass
class _Child:
    run_id: str
    status: str
    tags: Mapping[str, str]
    params: frozenset[str]
    known: dict[tuple[str, int], float] | None = None  # (metric, step) -> the value that the run holds; None: not asked yet
    fresh: bool = False  # made here, and no model logged since


def _found(run: Any) -> _Child:
    """A child that is there already."""
    return _Child(run.info.run_id, run.info.status, run.data.tags, frozenset(run.data.params))


class Tracker:
    """A listener that keeps MLflow's runs in step with the store."""

    def __init__(
        self, uri: str, storage: Path, plan: Plan, store: Store, command: str, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Args:
        uri: MLflow's database or server.
        storage: the sweep's storage.
        plan: the sweep.
        store: where trials are.
        command: the command line.
        say: told when a server goes away, and when it is back.
        """
        self._say, self._closing, self._patience = say, 0.0, PATIENCE
        self._uri, self._storage, self._plan, self._store, self._command = uri, storage, plan, store, command
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._children: dict[str, _Child] = {}
        self._client: MlflowClient
        self._experiment = ""
        self._parent = ""
        self._parent_said = ""
        self._commit = git_commit()
        self._settled = False
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._queue.put(self._open)

    # -- called from the driver ------------------------------------------------------------------------------------------

    def started(self, trial: Trial) -> None:
        """A worker took the trial."""
        self._queue.put(lambda: self._start(trial))

    def epoch(self, trial: Trial, record: dict[str, float]) -> None:
        """An epoch ended and is in the store."""
        self._queue.put(lambda: self._log_history(trial, [record]))

    def waiting(self, trial: Trial, reason: str) -> None:
        """Nothing for MLflow."""

    def ended(self, record: TrialRecord) -> None:
        """The trial is done, failed or skipped; also said of trials that the store held already."""
        self._queue.put(lambda: self._end(record))

    def drawn(self, trial: Trial) -> None:
        """The trial's figures are in the store, save those that could not be drawn."""
        self._queue.put(lambda: self._figures(trial))

    def added(self, trial: Trial) -> None:
        """Its run is made when it starts."""

    def marked(self, trial: Trial, tags: Mapping[str, str]) -> None:
        """Something that can be said of a trial in the end: tags of its run."""
        self._queue.put(lambda: self._mark(trial, tags))

    @property
    def view(self) -> str:
        """Address of the sweep's charts behind the UI's; "" where nothing could be written."""
        if self.problem is not None or not self._experiment:
            return ""
        server = self._uri.rstrip("/") if self._uri.startswith("http") else "http://127.0.0.1:5000"
        return server + charts.view_path(self._experiment, self._plan.sweep)

    def close(
        self, *, status: str, metrics: Mapping[str, float], moment: float, artifacts: list[Path], summary: str = "",
        patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        """Writes what is left, ends the parent run, and waits; once.

        Args:
            status: MLflow's status of the parent run.
            metrics: of the parent run.
            moment: the metrics' Unix time.
            artifacts: files for the parent run.
            summary: the parent run's description, in Markdown.
            patience: for how many seconds a server that is away is waited for.
        """
        if self._closing:
            return
        self._closing, self._patience = time.monotonic(), patience
        self._queue.put(lambda: self._close(status, metrics, moment, artifacts, summary))
        self._queue.put(None)
        self._thread.join()

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            if self.problem is None:  # else the store holds everything, and the next run of the same command says it
                self._do(task)

    def _do(self, task: Callable[[], None]) -> None:
        """Says something, again where the server went away meanwhile: it may have heard it, which changes nothing."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                task()
            except Exception as error:  # a tracking server may fail in any way, and must not take the sweep with it
                problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            else:
                return
            if not self._uri.startswith("http") or attempt == _ATTEMPTS or not self._wait_for_server():
                self.problem = problem
                return
            time.sleep(_PAUSE)  # one that has just come back may not do all yet

    def _wait_for_server(self) -> bool:
        """Whether the server answers, at once or later; not if it is still away PATIENCE after nothing else is to be done."""
        began = time.monotonic()
        said = waits = False
        while True:
            try:
                tracking_uri.check(self._uri)
            except InputError as error:
                if not said:
                    self._say(f"MLflow is away, and is told later: {error}")
                    said = True
                if self._closing and not waits:
                    self._say(f"all else is done; MLflow is waited for, {self._patience:.0f} s at most")
                    waits = True
            else:
                if said:
                    self._say(f"MLflow is back after {time.monotonic() - began:.0f} s")
                return True
            if self._closing and time.monotonic() - max(began, self._closing) > self._patience:
                return False
            time.sleep(_PAUSE)

    def _open(self) -> None:
        # Without these, MLflow's client retries a dead server for over a minute, reports its own use over the network, and
        # prints a server's addresses of every run and of its experiment.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        # Says of every model that pickles can do harm; ours are the user's own.
        logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
        from mlflow import MlflowClient

        # One process at a time: several that first meet an absent database fail creating it, and would all make a parent run.
        with self._turn():
            if self._uri.startswith("sqlite:///"):
                _create_database(Path(self._uri.removeprefix("sqlite:///").partition("?")[0]))
            self._client = MlflowClient(self._uri)
            self._open_sweep()

    def _turn(self) -> AbstractContextManager[None]:
        """One process of this machine after another; of several machines, the tracking server's own order."""
        if self._uri.startswith("sqlite:///"):
            return locked(Path(self._uri.removeprefix("sqlite:///") + ".lock"))
        return locked(self._storage / "mlflow.lock")

    def _open_sweep(self) -> None:
        name = self._plan.grid.name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        if experiment is not None:
            self._experiment = experiment.experiment_id
        else:
            # A server keeps artifacts itself; without one they lie beside the database.
            location = None if self._uri.startswith("http") else (self._storage / "artifacts").resolve().as_uri()
            self._experiment = self._client.create_experiment(name, artifact_location=location)
        parents = self._search(f"tags.sweep = '{self._plan.sweep}' and tags.role = 'sweep'")
        if parents:
            self._parent, self._parent_said = parents[0].info.run_id, parents[0].data.tags.get("said", "")
            self._client.update_run(self._parent, status="RUNNING")
        else:
            # With the tags that it is found by; whatever else it lacks, should this process die here, the next one adds.
            tags = {"role": "sweep", "mlflow.runName": self._plan.sweep, **self._shared_tags()}
            self._parent = self._client.create_run(self._experiment, tags=tags).info.run_id
        self._log_params(self._parent, self._plan.base, frozenset(parents[0].data.params) if parents else frozenset())
        tag = charts.view_tag(self._plan.sweep)
        shown = list(dict.fromkeys((self._plan.grid.primary, "anomaly_auc", "silhouette")))
        created = int(self._client.get_run(self._parent).info.start_time)
        self._client.set_experiment_tag(self._experiment, tag, charts.view(self._plan.sweep, shown, created))
        for key, value in {
            **self._shared_tags(), "grid": name, "question": self._plan.grid.question, "command": self._command,
        }.items():  # fmt: skip
            self._client.set_tag(self._parent, key, value)
        for run in self._search(f"tags.sweep = '{self._plan.sweep}' and tags.role = 'trial'"):
            self._children[run.data.tags["trial_key"]] = _found(run)

    def _search(self, query: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def _shared_tags(self) -> dict[str, str]:
        tags = {"sweep": self._plan.sweep, "profile": self._plan.profile, "loss_convention": LOSS_CONVENTION}
        return tags | ({"git_commit": self._commit} if self._commit else {})

    def _child(self, trial: Trial) -> _Child:
        if trial.key not in self._children:
            self._children[trial.key] = self._find_or_make(trial)
        child = self._children[trial.key]
        self._log_params(child.run_id, trial.config, child.params)
        child.params = child.params.union(_params(trial.config))
        return child

    def _find_or_make(self, trial: Trial) -> _Child:
        tags = self._shared_tags() | self._arm_tags(trial) | {"role": "trial", "trial_key": trial.key}
        tags["mlflow.parentRunId"] = self._parent
        if trial.parent:
            tags["parent_trial_key"] = trial.parent
        with self._turn():  # another driver of the same sweep may have made it meanwhile
            made = self._search(f"tags.sweep = '{self._plan.sweep}' and tags.trial_key = '{trial.key}'")
            if made:
                return _found(made[0])
            run = self._client.create_run(self._experiment, tags=tags)
            return _Child(run.info.run_id, "RUNNING", tags, frozenset(), {}, fresh=True)

    @staticmethod
    def _arm_tags(trial: Trial) -> dict[str, str]:
        """What a child is called; may change when the grid gets other arms."""
        tags = {"arm": ", ".join((trial.arm, *trial.aliases)), "mlflow.runName": trial.title}
        # A tag, for a param could not change when a further set is evaluated.
        tags["anomaly_datasets"] = json.dumps(list(trial.anomalies))
        return tags | ({"added_for": ", ".join(trial.added_for)} if trial.added_for else {})

    def _log_params(self, run_id: str, config: Any, present: frozenset[str]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in _params(config).items() if key not in present]
        if params:
            self._client.log_batch(run_id, params=params)

    def _start(self, trial: Trial) -> None:
        child = self._child(trial)
        if child.status != "RUNNING":
            self._client.update_run(child.run_id, status="RUNNING")
            child.status = "RUNNING"

    def _log_history(self, trial: Trial, history: list[dict[str, float]]) -> None:
        self._log(self._child(trial), [
            (name, value, int(record["time"] * 1000), int(record["epoch"]))
            for record in history
            for name, value in record.items()
            if name not in _NO_METRICS and not (trial.choosing and (name.startswith("test/") or name in _OF_TEST))
        ])  # fmt: skip

    def _log(self, child: _Child, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        if child.known is None:
            names = self._client.get_run(child.run_id).data.metrics
            held = [point for name in names for point in self._client.get_metric_history(child.run_id, name)]
            child.known = {(point.key, point.step): point.value for point in sorted(held, key=lambda point: point.timestamp)}
        points = [(metric_name(name), value, moment, step) for name, value, moment, step in points]
        # A metric whose version or anomaly set changed has another value, which then is the latest.
        new = [point for point in points if child.known.get((point[0], point[3])) != point[1]]
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            self._client.log_batch(child.run_id, metrics=[Metric(*point) for point in batch])
            child.known |= {(name, step): value for name, value, _, step in batch}

    def _end(self, record: TrialRecord) -> None:
        trial = record.trial
        child = self._child(trial)
        identity = self._arm_tags(trial)
        said = digest([
            _CHILD, record.status, record.reason, dict(record.metrics), dict(record.problems), identity,
            *(["choosing"] if trial.choosing else []),
        ])  # fmt: skip
        if child.tags.get("said") == said and child.status == _STATUS[record.status]:
            return
        tags = {"status": record.status, **identity}
        if record.reason:
            tags["reason"] = record.reason[:5000]
        if record.training is not None:
            history = list(record.training.history)
            self._log_history(trial, history)
            per_epoch = set(history[-1]) if history else set()
            step, moment = len(history), int(record.evaluated * 1000)
            final = [(name, value, moment, step) for name, value in record.metrics.items() if name not in per_epoch]
            self._log(child, final)
            tags["device"] = record.training.device
            tags["epochs_trained"] = str(record.training.epochs_trained)
        if record.problems:
            tags["problems"] = json.dumps(dict(record.problems))[:5000]
        if record.status == "done":
            for name in ("config.json",) if trial.choosing else ("config.json", "encoder.pt"):
                file = self._store.folder(trial.key) / name
                if file.is_file():
                    self._log_artifact(child.run_id, file)
            self._log_data(child, trial)
            if trial.config.has_encoder and not trial.choosing:
                with self._turn():
                    self._log_model(child, trial)
        self._tag(child, tags | {"said": said})
        gone = [name for name in ("reason", "problems", "added_for") if name in child.tags and name not in tags]
        for name in gone:
            self._delete_tag(child.run_id, name)
        child.tags = {n: value for n, value in child.tags.items() if n not in gone}
        self._client.set_terminated(child.run_id, status=_STATUS[record.status])
        child.status = _STATUS[record.status]
        if not self._settled:  # by now MLflow has loaded all that it needs
            heap.settle()
            self._settled = True

    def _delete_tag(self, run_id: str, name: str) -> None:
        """Deletes a tag; said again, where the answer was lost, it changes nothing."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.delete_tag(run_id, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _tag(self, child: _Child, tags: Mapping[str, str]) -> None:
        """Sets tags in one transaction; a run's name takes another, and is set where it changed."""
        from mlflow.entities import RunTag

        name = "mlflow.runName"
        if name in tags and child.tags.get(name) != tags[name]:
            self._client.set_tag(child.run_id, name, tags[name])
        self._client.log_batch(child.run_id, tags=[RunTag(key, value) for key, value in tags.items() if key != name])
        child.tags = {**child.tags, **tags}

    def _log_data(self, child: _Child, trial: Trial) -> None:
        """The data sets as the run's inputs; said again, they change nothing."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        def entry(context: str, dataset: str, split: str, identity: str) -> DatasetInput:
            source = {"uri": dataset.removeprefix("folder:")} if dataset.startswith("folder:") else {"name": dataset}
            kind = "local" if dataset.startswith("folder:") else "code"
            about = Dataset(f"{dataset} {split}", digest([identity, split]), kind, json.dumps(source | {"identity": identity}))
            return DatasetInput(about, [InputTag("mlflow.data.context", context)])

        config = trial.config
        subset = f"train, {config.train_subset} images" if config.train_subset else "train"
        inputs = [entry("training", config.dataset, subset, trial.data)]
        if not trial.choosing:
            inputs.append(entry("evaluation", config.dataset, "test", trial.data))
            inputs += [entry("anomalies", name, "anomalies", identity) for name, identity in trial.anomalies.items()]
        self._client.log_inputs(child.run_id, inputs)

    def _log_model(self, child: _Child, trial: Trial) -> None:
        """The encoder as an MLflow model ``encoder`` of the run, once; MLflow's fluent calls would end the run."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        fresh, child.fresh = child.fresh, False  # should the server go away in between, the next attempt looks
        of_run = f"name = 'encoder' AND source_run_id = '{child.run_id}'"
        known = [] if fresh else self._client.search_logged_models([self._experiment], filter_string=of_run)
        ready = [model.model_id for model in known if model.status == LoggedModelStatus.READY]
        for model in known:  # others' drivers were killed half-way
            if model.model_id not in ready:
                self._client.delete_logged_model(model.model_id)
        model_id = ready[0] if ready else self._make_model(child, trial)
        outputs = None if fresh else self._client.get_run(child.run_id).outputs
        if outputs is None or all(output.model_id != model_id for output in outputs.model_outputs):
            self._client.log_outputs(child.run_id, [LoggedModelOutput(model_id, step=0)])

    def _make_model(self, child: _Child, trial: Trial) -> str:
        import mlflow.pytorch
        import numpy as np
        import torch
        from mlflow.entities import LoggedModelStatus
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        with readable(self._store.folder(trial.key) / "encoder.pt") as file:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        config = trial.config
        encoder = build_encoder(config.encoder, config.representation_dim, config.seed, torch.zeros(3), torch.ones(3))
        encoder.load_state_dict(weights)
        floats = np.dtype("float32")
        signature = ModelSignature(
            Schema([TensorSpec(floats, (-1, 3, IMAGE_SIZE, IMAGE_SIZE))]),
            Schema([TensorSpec(floats, (-1, config.representation_dim))]),
        )
        versions = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "torchvision")]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            card = Model(run_id=child.run_id)
            mlflow.pytorch.save_model(
                portable(encoder), folder, mlflow_model=card, signature=signature, serialization_format="pickle",
                pip_requirements=versions,
            )  # fmt: skip
            logged = self._client.create_logged_model(
                self._experiment, "encoder", child.run_id, tags={"arm": trial.arm, "trial_key": trial.key}, model_type="encoder"
            )
            card.model_id = card.model_uuid = logged.model_id
            card.artifact_path = logged.artifact_location
            card.save(folder / "MLmodel")
            self._client.log_model_artifacts(logged.model_id, str(folder))
        self._client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        return str(logged.model_id)

    def _mark(self, trial: Trial, tags: Mapping[str, str]) -> None:
        child = self._child(trial)
        for name, value in tags.items():
            if child.tags.get(name) != value:
                self._client.set_tag(child.run_id, name, value)
        child.tags = {**child.tags, **tags}

    def _figures(self, trial: Trial) -> None:
        child, files = self._child(trial), self._store.figures(trial)
        said = digest([path.name for path in files.values()])
        if not files or child.tags.get("figures") == said:
            return
        with tempfile.TemporaryDirectory() as scratch:  # under names for people, without what identifies them
            for name, path in files.items():
                plain = re.sub(r"[^-.A-Za-z0-9]", "_", name)
                # Other names may come to the same plain one.
                unlike = "" if plain == name.replace("/", "_", 1) else f"-{digest(name)[:6]}"
                (Path(scratch) / f"{plain}{unlike}.png").write_bytes(path.read_bytes())
            self._client.log_artifacts(child.run_id, scratch, "figures")
        self._tag(child, {"figures": said})

    def _log_artifact(self, run_id: str, path: Path) -> None:
        with local_copy(path) as file:
            self._client.log_artifact(run_id, str(file))

    def _close(self, status: str, metrics: Mapping[str, float], moment: float, artifacts: list[Path], summary: str) -> None:
        parent = _Child(self._parent, "RUNNING", {}, frozenset())
        # A sweep that grows says its summary anew, at the step of so many trials done.
        step = int(metrics.get("trials_done", 0))
        said = digest([step, dict(metrics)])
        if said != self._parent_said:  # else its metrics' histories, a query each, would be read in vain
            self._log(parent, [(name, value, int(moment * 1000), step) for name, value in metrics.items()])
            self._client.set_tag(self._parent, "said", said)
        for path in artifacts:
            self._log_artifact(self._parent, path)
        if summary:
            self._client.set_tag(self._parent, "mlflow.note.content", summary)
        self._client.set_terminated(self._parent, status=status)


_STATUS = {"done": "FINISHED", "failed": "FAILED", "skipped": "KILLED", "stopped": "KILLED", "open": "RUNNING"}


def _create_database(path: Path) -> None:
    """MLflow's tables in a new SQLite file, whole or not at all: MLflow cannot use what a killed process left half-made."""
    from mlflow import MlflowClient

    remove_scratch(path.parent, ".mlflow-")
    if path.exists():
        return
    with scratch_folder(path.parent, ".mlflow-") as folder:
        MlflowClient(f"sqlite:///{folder / path.name}").search_experiments()
        with whole_file(path) as temporary:
            shutil.copyfile(folder / path.name, temporary)


def metric_name(name: str) -> str:
    """A name that MLflow takes: other characters become underscores, and as a path it is in its shortest form."""
    return posixpath.normpath(re.sub(r"[^\w.\-:/ ]", "_", name))


def _params(config: Any) -> dict[str, str]:
    """The fields that apply, dotted, as texts; lists and the parent as JSON.

    Where there is no VICReg loss its weights are 0: MLflow's plots would draw a run that lacks a param just above the highest.
    """
    fields = dict.fromkeys(charts.WEIGHTS, 0.0) | config.outcome_fields() | {"threads": config.threads}
    if config.needs_parent and config.parent is not None:
        own = config.parent.outcome_fields()
        fields["parent"] = {name: value for name, value in own.items() if fields.get(name) != value}
    params: dict[str, str] = {}
    for name, value in fields.items():
        if name == "augmentation":
            params |= {f"augmentation.{inner}": json.dumps(given) for inner, given in value.items()}
        else:
            params[name] = value if isinstance(value, str) else json.dumps(value)
    return params
