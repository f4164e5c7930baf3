"""Ray's private names that are used: each test says which one a new Ray changed."""

from __future__ import annotations

import inspect
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager

from sweeps.execution import ray_private

BROKEN = f"Ray {ray.__version__} changed a private name: mend sweeps/execution/ray_private.py"


def test_gpus_can_be_counted_without_starting_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    monkeypatch.setattr(manager, "get_current_node_num_accelerators", staticmethod(lambda: 4))
    monkeypatch.setattr(manager, "get_current_process_visible_accelerator_ids", staticmethod(lambda: ["0", "2"]))
    assert ray_private.count_gpus() == 2 and not ray.is_initialized(), BROKEN


def test_the_token_is_offered_by_a_function_that_is_there() -> None:
    if find_spec("ray._private.authentication") is None:
        pytest.skip("before Ray 2.52 there were no tokens")
    from ray._private.authentication import authentication_token_setup as token

    parameters = inspect.signature(token.maybe_enable_token_auth_if_token_available).parameters
    assert "warn_if_disabled" in parameters, BROKEN


def test_handlers_of_signals_are_set_where_they_are_looked_for() -> None:
    from ray import _raylet
    from ray._private import utils, worker

    source = inspect.getsource(worker)
    assert "ray._private.utils.set_sigterm_handler(" in source and "ray._raylet.CoreWorker(" in source, BROKEN
    before = utils.set_sigterm_handler, _raylet.CoreWorker
    with ray_private.without_signal_handlers(lambda: None):
        assert utils.set_sigterm_handler is not before[0] and _raylet.CoreWorker is not before[1]
    assert (utils.set_sigterm_handler, _raylet.CoreWorker) == before


def test_the_autoscalers_status_is_where_it_is_looked_for() -> None:
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    assert "fetch_from_server" in inspect.signature(is_autoscaler_v2).parameters, BROKEN
    assert next(iter(inspect.signature(get_cluster_status).parameters)).startswith("gcs_address"), BROKEN
    assert callable(_internal_kv_get), BROKEN


def test_a_worker_killed_for_memory_counts_as_one_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Exception] = []

    def original(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        seen.append(exception)

    assert list(inspect.signature(RayActorManager._actor_task_failed).parameters) == [
        "self", "tracked_actor_task", "exception",
    ], BROKEN  # fmt: skip
    monkeypatch.setattr(RayActorManager, "_actor_task_failed", original)
    error = ray.exceptions.OutOfMemoryError("Memory on the node was 20GB used / 24GB limit")
    with ray_private.treat_oom_kill_as_actor_death():
        RayActorManager._actor_task_failed(None, tracked_actor_task=None, exception=error)
        RayActorManager._actor_task_failed(None, tracked_actor_task=None, exception=ValueError("another"))
    assert isinstance(seen[0], ray.exceptions.RayActorError) and "killed for memory by Ray's monitor" in str(seen[0])
    assert isinstance(seen[1], ValueError) and RayActorManager._actor_task_failed is original


def test_a_ray_of_this_machine_alone_has_settings_of_its_own_which_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants

    clusters = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)  # as on Linux
    for users in ({}, {"RAY_AUTH_TOKEN_PATH": "mine", "RAY_USAGE_STATS_ENABLED": "1"}, {"RAY_AUTH_TOKEN": "my own"}):
        monkeypatch.setattr(os, "environ", dict(users))
        with ray_private.local_environment(Path("/private/token")):
            assert not ray_constants.ENABLE_RAY_CLUSTER and os.environ.pop(clusters) == "0", "else it listens everywhere"
            expected = {"RAY_USAGE_STATS_ENABLED": "0"}
            if "RAY_AUTH_TOKEN" not in users:
                expected["RAY_AUTH_TOKEN_PATH"] = "/private/token"  # else Ray writes ~/.ray/auth_token, for all to read
            assert os.environ == {**expected, **users}, "the user's settings stay"
        assert ray_constants.ENABLE_RAY_CLUSTER and os.environ == users, "with --address they must not be set"


def test_tune_copies_no_keys_of_aws_into_what_ray_logs() -> None:
    from ray.tune.execution import class_cache

    before = class_cache.ENV_VARS_TO_PROPAGATE
    assert {"AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN"} & set(before), BROKEN
    with ray_private.without_aws_variables():
        assert not [name for name in class_cache.ENV_VARS_TO_PROPAGATE if "AWS" in name]
    assert class_cache.ENV_VARS_TO_PROPAGATE is before


def test_the_last_lines_of_a_dead_raylet_are_not_shown_and_all_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import worker

    shown: list[list[str]] = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, *_, **__: shown.append(data["lines"]))
    before = worker.print_to_stdstream
    with ray_private.without_raylets_last_lines():
        for lines in (["Raylet is terminated. Termination is unexpected.", "..."], ["of a worker"]):
            worker.print_to_stdstream({"lines": lines}, ignore_prefix=False)
    assert shown == [["of a worker"]] and worker.print_to_stdstream is before
