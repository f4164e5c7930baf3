"""All uses of Ray's private names, in one place. Tested with Ray 2.50 to 2.60.

Ray may change these without notice; ``tests/sweeps/execution/test_ray_private.py`` shows which one broke.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any


def count_gpus() -> int:
    """Return how many GPUs Ray would offer on this machine, without starting it.

    Uses ``ray._private.accelerators``: there is no public function that counts before ``ray.init``.
    """
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    visible = manager.get_current_process_visible_accelerator_ids()
    present = int(manager.get_current_node_num_accelerators())
    return present if visible is None else min(present, len(visible))


@contextmanager
def local_environment(token_file: Path) -> Iterator[None]:
    """Within the block, Ray started here listens on loopback only, takes its token from the file, and sends no usage reports.

    Ray asks for a token by default since 2.60. Settings of the user's are kept, but for the addresses. The processes that Ray
    starts take these variables over.

    Changes ``ray_constants.ENABLE_RAY_CLUSTER``, which Ray reads from the environment when it is imported: without clusters,
    as by default on Windows and macOS, its processes bind to loopback. ``_node_ip_address="127.0.0.1"`` would be replaced by
    the machine's outer address.
    """
    from ray._private import ray_constants

    before, variables = ray_constants.ENABLE_RAY_CLUSTER, dict(os.environ)
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_TOKEN" not in os.environ:
        os.environ.setdefault(
            "RAY_AUTH_TOKEN_PATH", str(token_file)
        )  # without it Ray writes ~/.ray/auth_token, for all to read
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        for name in (
            ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR,
            "RAY_USAGE_STATS_ENABLED",
            "RAY_AUTH_MODE",
            "RAY_AUTH_TOKEN_PATH",
        ):
            if name in variables:
                os.environ[name] = variables[name]
            else:
                os.environ.pop(name, None)


@contextmanager
def without_signal_handlers(restore: Callable[[], None]) -> Iterator[None]:
    """Within the block, in which Ray is started, a SIGTERM does not end the process in the middle of something.

    Ray's Python code has a handler that ends it with exit code 15, and its C++ code one that ends it by SIGABRT.

    Args:
        restore: sets this process's own handlers again, after C++ has set its.

    Replaces ``ray._private.utils.set_sigterm_handler`` and ``ray._raylet.CoreWorker``.
    """
    from ray._private import utils

    _raylet: Any = importlib.import_module("ray._raylet")  # compiled, so mypy does not know what it holds
    set_handler, make_worker = utils.set_sigterm_handler, _raylet.CoreWorker

    def make(*arguments: Any, **named: Any) -> Any:
        worker = make_worker(*arguments, **named)
        restore()
        return worker

    utils.set_sigterm_handler, _raylet.CoreWorker = (lambda _: None), make
    try:
        yield
    finally:
        utils.set_sigterm_handler, _raylet.CoreWorker = set_handler, make_worker


def resolve_address(address: str) -> str:
    """Return ``HOST:PORT`` for an address, also for "auto".

    Raises:
        ConnectionError: if "auto" finds no cluster.
        ValueError: if it is no address.

    Uses ``ray._private.services``, as ``ray.init`` does.
    """
    from ray._private import services

    resolved = services.canonicalize_bootstrap_address(address)
    if resolved is None:
        raise ConnectionError("none is running on this machine")
    return str(resolved)


def check_answer(address: str) -> None:
    """Ask a cluster for its id, and make this driver send its token, if it has one, with this and all further requests.

    Raises:
        ray.exceptions.AuthenticationError: if the cluster does not accept the token. ``ray.init`` would try for 20 s.

    Uses ``ray._raylet.GcsClient`` and ``ray._private.authentication``: Ray (2.60) sends the token by itself only for the
    address "auto".
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    with suppress(ImportError):  # before Ray 2.52 there were no tokens
        from ray._private.authentication import authentication_token_setup as token

        logging.getLogger(token.__name__).setLevel(logging.ERROR)
        token.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        token.ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    GcsClient(address=address)


@contextmanager
def without_raylets_last_lines() -> Iterator[None]:
    """Within the block, Ray does not print the last lines of a dead raylet's log; :class:`sweeps.execution.watch.Watch` tells.

    Replaces ``ray._private.worker.print_to_stdstream``.
    """
    from ray._private import worker

    original = worker.print_to_stdstream

    def show(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        if not any(str(line).startswith("Raylet is terminated") for line in data["lines"]):
            original(data, *arguments, **options)

    worker.print_to_stdstream = show
    try:
        yield
    finally:
        worker.print_to_stdstream = original


def authentication_errors() -> tuple[type[Exception], ...]:
    """Return the class of errors that a wrong token raises; none before Ray 2.52."""
    import ray

    found = getattr(ray.exceptions, "AuthenticationError", None)
    return () if found is None else (found,)


def own_processes() -> dict[str, Popen[bytes]]:
    """Return the processes without which Ray, started by this process, does not work, by name.

    Uses ``ray._private.worker._global_node``: there is no public way to learn what ``ray.init`` started.
    """
    from ray._private import ray_constants
    from ray._private.worker import _global_node as node

    types = {"raylet": ray_constants.PROCESS_TYPE_RAYLET, "GCS": ray_constants.PROCESS_TYPE_GCS_SERVER}
    return {name: node.all_processes[type_][0].process for name, type_ in types.items()}


def kill_own_processes() -> None:
    """Kill what ``ray.init`` started; its workers end when they notice it."""
    from ray._private.worker import _global_node as node

    with suppress(Exception):
        node.kill_all_processes(check_alive=False, allow_graceful=False)


def raylet_socket() -> Path:
    """Return the socket of the raylet that this process is connected to."""
    from ray._private.worker import _global_node as node

    return Path(str(node.raylet_socket_name).removeprefix("unix://"))


@contextmanager
def without_aws_variables() -> Iterator[None]:
    """Within the block, Tune does not copy AWS's keys from the driver's environment into a runtime environment.

    Ray logs runtime environments. Workers on this machine inherit the driver's variables anyway; other nodes have their own.

    Replaces ``ENV_VARS_TO_PROPAGATE`` of ``ray.tune.execution.class_cache``.
    """
    from ray.tune.execution import class_cache

    original = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in original if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = original


def has_autoscaler() -> bool:
    """Return True if an autoscaler may start further nodes.

    An autoscaler gives its nodes named types; without one, the type of each node is its own ("node_...").

    Uses ``ray.autoscaler.v2`` and, for version 1 of the autoscaler, the status that it writes to Ray's internal KV store.
    """
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        found = [*status.active_nodes, *status.idle_nodes, *status.pending_nodes]
        types = [node.ray_node_type_name for node in found]
    else:
        told = json.loads(_internal_kv_get(b"__autoscaling_status") or b"{}")
        types = list(((told.get("autoscaler_report") or {}).get("node_type_mapping") or {}).values())
    return any(kind and not kind.startswith("node_") for kind in types)


@contextmanager
def treat_oom_kill_as_actor_death() -> Iterator[None]:
    """Within the block, treat a worker that Ray's memory monitor killed as one that died; else Tune (2.60) ends the driver.

    Replaces ``RayActorManager._actor_task_failed``: Tune handles RayActorError and RayTaskError only, and raises the monitor's
    OutOfMemoryError, which is neither.
    """
    import ray
    from ray.air.execution._internal.actor_manager import RayActorManager

    original = RayActorManager._actor_task_failed

    def failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            used = re.search(r"was (\S+ used / \S+) limit", str(exception))
            exception = ray.exceptions.RayActorError(
                error_msg=f"killed for memory by Ray's monitor{f', {used[1]} on its machine' if used else ''}"
            )
        original(manager, tracked_actor_task=tracked_actor_task, exception=exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = original
