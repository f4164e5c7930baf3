"""Functions that write to one run, a sweep's or a trial's. All are idempotent: repeating a call changes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import TrialConfig
from sweeps.storage.checked_folder import CheckedFolder
from sweeps.tracking.child_run import ChildRun, config_params
from sweeps.tracking.names import legal_name
from sweeps.tracking.user_texts import RUN_NAME, name_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000  # metrics per call, MLflow's limit


def search_runs(client: MlflowClient, experiment: str, query: str, *, deleted: bool = False) -> list[Any]:
    """Return all runs of an experiment that match a query, the oldest first: those that are not deleted, or those that are."""
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment], query, view, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
        )  # fmt: skip
        found += page
        token = page.token
        if not token:
            return found


def log_params(client: MlflowClient, run_id: str, config: TrialConfig, present: frozenset[str]) -> None:
    """Log those params of a config that are not among the ``present`` ones."""
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in config_params(config).items() if key not in present]
    if params:
        client.log_batch(run_id, params=params)


def log_metrics(client: MlflowClient, child: ChildRun, points: Sequence[tuple[str, float, int, int]]) -> None:
    """Log the points (name, value, Unix time in milliseconds, step), except those that the run has with the same value."""
    from mlflow.entities import Metric

    if child.known is None:
        names = client.get_run(child.run_id).data.metrics
        held = [point for name in names for point in client.get_metric_history(child.run_id, name)]
        child.known = {(point.key, point.step): point.value for point in sorted(held, key=lambda point: point.timestamp)}
    points = [(legal_name(name), value, moment, step) for name, value, moment, step in points]
    # After a change of its version or anomaly set a metric has another value; it is logged and becomes the latest.
    new = [point for point in points if child.known.get((point[0], point[3])) != point[1]]
    for start in range(0, len(new), _BATCH):
        batch = new[start : start + _BATCH]
        client.log_batch(child.run_id, metrics=[Metric(*point) for point in batch])
        child.known |= {(name, step): value for name, value, _, step in batch}


def set_tags(client: MlflowClient, child: ChildRun, tags: Mapping[str, str]) -> None:
    """Set tags in one transaction; a changed run name takes a second one. A name that the user gave the run stays."""
    from mlflow.entities import RunTag

    if RUN_NAME in tags:
        if child.tags.get(RUN_NAME) != tags[RUN_NAME]:  # the user may have named it since it was read
            child.tags = {**child.tags, **client.get_run(child.run_id).data.tags}
        named = name_tags(child.tags, tags[RUN_NAME])
        tags = {name: value for name, value in tags.items() if name != RUN_NAME} | named
        if RUN_NAME in named:
            client.set_tag(child.run_id, RUN_NAME, named[RUN_NAME])
    client.log_batch(child.run_id, tags=[RunTag(key, value) for key, value in tags.items() if key != RUN_NAME])
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


def log_files(client: MlflowClient, run_id: str, files: CheckedFolder, names: Sequence[str]) -> None:
    """Log files as artifacts, those of them that exist.

    Raises:
        DamagedFileError: if one is not what was written; then none is logged.
    """
    contents = {name: content for name in names if (content := files.read(name)) is not None}
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in contents.items():
            (Path(scratch) / name).write_bytes(content)
        if contents:
            client.log_artifacts(run_id, scratch)
