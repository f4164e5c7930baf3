"""The parent run of a sweep in MLflow: found or created at the start, and ended with the sweep's summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import LOSS_CONVENTION, digest
from sweeps.planning.trial import Plan
from sweeps.provenance import git_commit
from sweeps.tracking import view
from sweeps.tracking.child_run import PUBLISHED_DIGEST, ChildRun
from sweeps.tracking.run_client import log_file, log_metrics, log_params, search_runs

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
    """The sweep's experiment and its parent run."""

    def __init__(self, client: MlflowClient, plan: Plan, command: str, artifact_location: str | None) -> None:
        """Find or create the experiment and the run, and mark the run as running.

        Args:
            client: of the tracking server or database.
            plan: the sweep.
            command: the command line.
            artifact_location: where a new experiment keeps its artifacts; None: the server's default.
        """
        self._client, self._plan = client, plan
        self.experiment = self._find_or_make_experiment(artifact_location)
        tags = shared_tags(plan)
        parents = search_runs(client, self.experiment, f"tags.sweep = '{plan.sweep_id}' and tags.role = 'sweep'")
        if parents:
            self.run_id = parents[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
        else:
            # Created with the tags that it is searched by. If this process dies here, the next one adds what is missing.
            first = {"role": "sweep", "mlflow.runName": plan.sweep_id, **tags}
            self.run_id = client.create_run(self.experiment, tags=first).info.run_id
        self._published = parents[0].data.tags.get(PUBLISHED_DIGEST, "") if parents else ""
        log_params(client, self.run_id, plan.base, frozenset(parents[0].data.params) if parents else frozenset())
        self._set_view()
        for key, value in {**tags, "grid": plan.grid.name, "question": plan.grid.question, "command": command}.items():
            client.set_tag(self.run_id, key, value)

    def _find_or_make_experiment(self, artifact_location: str | None) -> str:
        name = self._plan.grid.name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name, artifact_location=artifact_location))
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _set_view(self) -> None:
        """Store a prepared view of the sweep's runs in the experiment."""
        plan = self._plan
        metrics = list(dict.fromkeys((plan.grid.primary, "anomaly_auc", "silhouette")))
        created = int(self._client.get_run(self.run_id).info.start_time)
        value = view.view(plan.sweep_id, metrics, created)
        self._client.set_experiment_tag(self.experiment, view.view_tag(plan.sweep_id), value)

    def close(self, summary: SweepSummary) -> None:
        """Log the summary and end the run."""
        parent = ChildRun(self.run_id, "RUNNING", {}, frozenset())
        # The step is the number of finished trials, so a sweep that grows gets its next summary at a later step.
        step = int(summary.metrics.get("trials_done", 0))
        digest_now = digest([step, dict(summary.metrics)])
        if digest_now != self._published:  # else nothing is new, and reading the history costs a query a metric
            moment = int(summary.moment * 1000)
            log_metrics(self._client, parent, [(name, value, moment, step) for name, value in summary.metrics.items()])
            self._client.set_tag(self.run_id, PUBLISHED_DIGEST, digest_now)
        for path in summary.artifacts:
            log_file(self._client, self.run_id, path)
        if summary.description:
            self._client.set_tag(self.run_id, "mlflow.note.content", summary.description)
        self._client.set_terminated(self.run_id, status=summary.status)
