"""The parent run of a sweep in MLflow: found or created at the start, and ended with the sweep's summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import LOSS_CONVENTION, digest
from sweeps.planning.trial import Plan
from sweeps.provenance import git_commit
from sweeps.storage.checked_folder import CheckedFolder
from sweeps.tracking import view
from sweeps.tracking.child_run import PUBLISHED_DIGEST, ChildRun
from sweeps.tracking.failures import ended_if_refused
from sweeps.tracking.names import matches
from sweeps.tracking.run_client import log_files, log_metrics, log_params, search_runs
from sweeps.tracking.user_texts import note_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class SweepSummary:
    """What a command writes to the parent run at its end.

    Attributes:
        status: the run's final status, as MLflow spells it.
        metrics: name -> value.
        moment: Unix time of the metrics, in seconds.
        artifacts: files to log.
        description: shown with the run, in Markdown.
    """

    status: str
    metrics: Mapping[str, float]
    moment: float
    artifacts: Sequence[Path]
    description: str = ""


def shared_tags(plan: Plan) -> dict[str, str]:
    """Return the tags that the parent run and all child runs share."""
    tags = {"sweep": plan.sweep_id, "profile": plan.profile, "loss_convention": LOSS_CONVENTION}
    return tags | ({"git_commit": commit} if (commit := git_commit()) else {})


class ParentRun:
    """The sweep's parent run, in the grid's experiment."""

    def __init__(self, client: MlflowClient, plan: Plan, command: str, experiment: str, say: Callable[[str], None]) -> None:
        """Find or create the run, and mark it as running.

        Args:
            client: of the tracking server or database.
            plan: the sweep.
            command: the command line.
            experiment: id of the experiment.
            say: called with what the user must know.
        """
        self._client, self._plan, self.experiment = client, plan, experiment
        tags = shared_tags(plan)
        query = f"{matches('sweep', plan.sweep_id)} and tags.role = 'sweep'"
        parents = [run for run in search_runs(client, experiment, query) if run.data.tags["sweep"] == plan.sweep_id]
        if parents:
            self.run_id = parents[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
            for other in parents[1:]:  # made at the same time on another machine, or deleted and restored by the user
                client.set_tag(other.info.run_id, "role", "former sweep")
        else:
            deleted = search_runs(client, experiment, query, deleted=True)
            # Created with the tags that it is searched by. If this process dies here, the next one adds what is missing.
            first = {"role": "sweep", "mlflow.runName": plan.sweep_id, **tags}
            self.run_id = client.create_run(experiment, tags=first).info.run_id
            if deleted:
                say(f"MLflow: the run of {plan.sweep_id} was deleted there, and stays so; a new one takes its trials' runs")
        self._published = parents[0].data.tags.get(PUBLISHED_DIGEST, "") if parents else ""
        log_params(client, self.run_id, plan.base, frozenset(parents[0].data.params) if parents else frozenset())
        self._set_view()
        for key, value in {**tags, "grid": plan.grid.name, "question": plan.grid.question, "command": command}.items():
            client.set_tag(self.run_id, key, value)

    def _set_view(self) -> None:
        """Store a prepared view of the sweep's runs in the experiment."""
        plan = self._plan
        metrics = list(dict.fromkeys((plan.grid.primary, "anomaly_auc", "silhouette")))
        created = int(self._client.get_run(self.run_id).info.start_time)
        value = view.view(plan.sweep_id, metrics, created)
        self._client.set_experiment_tag(self.experiment, view.view_tag(plan.sweep_id), value)

    def close(self, summary: SweepSummary) -> None:
        """Log the summary and end the run; what the user changed in its description stays."""
        with ended_if_refused(lambda: self._client.set_terminated(self.run_id, status=summary.status)):
            self._log(summary)
        self._client.set_terminated(self.run_id, status=summary.status)

    def _log(self, summary: SweepSummary) -> None:
        from mlflow.entities import RunTag

        parent = ChildRun(self.run_id, "RUNNING", {}, frozenset())
        # The step is the number of finished trials, so a sweep that grows gets its next summary at a later step.
        step = int(summary.metrics.get("trials_done", 0))
        digest_now = digest([step, dict(summary.metrics)])
        if digest_now != self._published:  # else nothing is new, and reading the history costs a query a metric
            moment = int(summary.moment * 1000)
            log_metrics(self._client, parent, [(name, value, moment, step) for name, value in summary.metrics.items()])
            self._client.set_tag(self.run_id, PUBLISHED_DIGEST, digest_now)
        for path in summary.artifacts:
            log_files(self._client, self.run_id, CheckedFolder(path.parent), [path.name])
        if summary.description:
            noted = note_tags(self._client.get_run(self.run_id).data.tags, summary.description)
            if noted:
                self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in noted.items()])
