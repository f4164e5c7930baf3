"""All uses of Ray's private names, in one place. Tested with Ray 2.50 to 2.60.

Ray may change these without notice; ``tests/sweeps/execution/test_ray_private.py`` shows which one broke.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
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


def offer_token() -> None:
    """Make this driver send its cluster token, if it has one.

    Uses ``ray._private.authentication``: Ray (2.60) sends the token by itself only for the address "auto".
    """
    try:
        from ray._private.authentication import authentication_token_setup as token
    except ImportError:  # before Ray 2.52 there were no tokens
        return
    logging.getLogger(token.__name__).setLevel(logging.ERROR)
    token.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


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
