"""Every private name of Ray that is used, in one place. Tried on Ray 2.50 to 2.60.

Ray may change these without notice; ``tests/sweeps/execution/test_ray_private.py`` says which one broke.
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
    """Have this driver send the cluster's token where it has one.

    Uses ``ray._private.authentication``: Ray (2.60) does so by itself only for the address "auto".
    """
    try:
        from ray._private.authentication import authentication_token_setup as token
    except ImportError:  # before Ray 2.52 there were no tokens
        return
    logging.getLogger(token.__name__).setLevel(logging.ERROR)
    token.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def has_autoscaler() -> bool:
    """Whether an autoscaler may start further nodes: it names their types; without one each node is its own type.

    Uses ``ray.autoscaler.v2`` and, for the first autoscaler, the status that it leaves in Ray's internal key-value store.
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
    """Within the block a worker killed by Ray's memory monitor counts as one that died; else Tune (2.60) ends the driver.

    Replaces ``RayActorManager._actor_task_failed``: Tune knows RayActorError and RayTaskError, and raises at the monitor's
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
