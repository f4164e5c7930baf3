"""What is written to a run, of a sweep or of a trial: each call may be repeated, and then changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.atomic_files import local_copy
from core.config import TrialConfig
from sweeps.tracking.child_run import ChildRun, config_params, metric_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000  # metrics a call, MLflow's limit
_NAME = "mlflow.runName"


def search_runs(client: MlflowClient, experiment: str, query: str) -> list[Any]:
    """Return all runs of an experiment that a query finds, the oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment], query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
        )  # fmt: skip
        found += page
        token = page.token
        if not token:
            return found


def log_params(client: MlflowClient, run_id: str, config: TrialConfig, present: frozenset[str]) -> None:
    """Log the params of a config that the run lacks."""
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in config_params(config).items() if key not in present]
    if params:
        client.log_batch(run_id, params=params)


def log_metrics(client: MlflowClient, child: ChildRun, points: Sequence[tuple[str, float, int, int]]) -> None:
    """Log the points (name, value, Unix time in milliseconds, step) that the run does not hold with the same value."""
    from mlflow.entities import Metric

    if child.known is None:
        names = client.get_run(child.run_id).data.metrics
        held = [point for name in names for point in client.get_metric_history(child.run_id, name)]
        child.known = {(point.key, point.step): point.value for point in sorted(held, key=lambda point: point.timestamp)}
    points = [(metric_name(name), value, moment, step) for name, value, moment, step in points]
    # A metric whose version or anomaly set changed has another value, which then is the latest.
    new = [point for point in points if child.known.get((point[0], point[3])) != point[1]]
    for start in range(0, len(new), _BATCH):
        batch = new[start : start + _BATCH]
        client.log_batch(child.run_id, metrics=[Metric(*point) for point in batch])
        child.known |= {(name, step): value for name, value, _, step in batch}


def set_tags(client: MlflowClient, child: ChildRun, tags: Mapping[str, str]) -> None:
    """Set tags in one transaction; a run's name takes another, and is set where it changed."""
    from mlflow.entities import RunTag

    if _NAME in tags and child.tags.get(_NAME) != tags[_NAME]:
        client.set_tag(child.run_id, _NAME, tags[_NAME])
    client.log_batch(child.run_id, tags=[RunTag(key, value) for key, value in tags.items() if key != _NAME])
    child.tags = {**child.tags, **tags}


def delete_tags(client: MlflowClient, child: ChildRun, names: Sequence[str]) -> None:
    """Delete tags; idempotent."""
    from mlflow.exceptions import MlflowException

    for name in names:
        try:
            client.delete_tag(child.run_id, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    child.tags = {name: value for name, value in child.tags.items() if name not in names}


def log_file(client: MlflowClient, run_id: str, path: Path) -> None:
    """Log a file, of this machine or behind a URL, as an artifact."""
    with local_copy(path) as file:
        client.log_artifact(run_id, str(file))
