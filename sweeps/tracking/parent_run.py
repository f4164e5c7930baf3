"""The run of a sweep, parent of its trials' runs: found again or made, and ended with the sweep's summary."""

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
    """What a command leaves on the parent run at its end.

    Attributes:
        status: MLflow's status.
        metrics: name -> value.
        moment: the metrics' Unix time.
        artifacts: files.
        description: Markdown.
    """

    status: str
    metrics: Mapping[str, float]
    moment: float
    artifacts: Sequence[Path]
    description: str = ""


def shared_tags(plan: Plan) -> dict[str, str]:
    """Return the tags that parent and children have in common."""
    tags = {"sweep": plan.sweep_id, "profile": plan.profile, "loss_convention": LOSS_CONVENTION}
    return tags | ({"git_commit": commit} if (commit := git_commit()) else {})


class ParentRun:
    """The sweep's experiment and parent run."""

    def __init__(self, client: MlflowClient, plan: Plan, command: str, artifact_location: str | None) -> None:
        """Find or make both, and mark the sweep as running.

        Args:
            client: of the tracking server or database.
            plan: the sweep.
            command: what was typed.
            artifact_location: of a new experiment; None: where the server keeps artifacts.
        """
        self._client, self._plan = client, plan
        self.experiment = self._find_or_make_experiment(artifact_location)
        tags = shared_tags(plan)
        parents = search_runs(client, self.experiment, f"tags.sweep = '{plan.sweep_id}' and tags.role = 'sweep'")
        if parents:
            self.run_id = parents[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
        else:
            # With the tags that it is found by; whatever else it lacks, should this process die here, the next one adds.
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
        """Store the ready view of the sweep's runs."""
        plan = self._plan
        metrics = list(dict.fromkeys((plan.grid.primary, "anomaly_auc", "silhouette")))
        created = int(self._client.get_run(self.run_id).info.start_time)
        value = view.view(plan.sweep_id, metrics, created)
        self._client.set_experiment_tag(self.experiment, view.view_tag(plan.sweep_id), value)

    def close(self, summary: SweepSummary) -> None:
        """Write the summary and end the run."""
        parent = ChildRun(self.run_id, "RUNNING", {}, frozenset())
        # A sweep that grows gets a new summary, at the step of so many trials done.
        step = int(summary.metrics.get("trials_done", 0))
        digest_now = digest([step, dict(summary.metrics)])
        if digest_now != self._published:  # else its metrics' histories, a query each, would be read in vain
            moment = int(summary.moment * 1000)
            log_metrics(self._client, parent, [(name, value, moment, step) for name, value in summary.metrics.items()])
            self._client.set_tag(self.run_id, PUBLISHED_DIGEST, digest_now)
        for path in summary.artifacts:
            log_file(self._client, self.run_id, path)
        if summary.description:
            self._client.set_tag(self.run_id, "mlflow.note.content", summary.description)
        self._client.set_terminated(self.run_id, status=summary.status)
