"""The Ray cluster that a command runs on: this machine, or nodes that may come and go."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from core.errors import InputError
from sweeps import interrupts, storage
from sweeps.hardware import is_submitted
from sweeps.images import Images
from sweeps.plan import Plan

_ANSWER_SECONDS = 120.0  # for a node's first worker process to start, which imports torch
_CODE = ("core", "evaluation", "sweeps")


@dataclass(frozen=True)
class Node:
    """One node: its id, a name for people, and its resources (``CPU``, ``GPU``)."""

    id: str
    name: str
    resources: Mapping[str, float]


def connect(address: str | None) -> None:
    """Starts Ray on this machine, or joins the cluster at ``address`` and takes this code along to its nodes.

    Raises:
        InputError: if there is no cluster at the address.
    """
    if ray.is_initialized():
        return
    if address is None:
        with interrupts.deferred():
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        return
    _offer_token()
    root = Path(__file__).parents[1]
    if is_submitted():
        # Nodes of one machine that share a temporary folder each unpack a job's code anew, over the folder that its driver
        # stands in; and torch ends a process whose folder is gone ("oneMKL FATAL ERROR: Cannot load libtorch_cpu.so").
        os.chdir("/")
    # A job's nodes have the working directory that was submitted with it.
    environment = None if is_submitted() else {"py_modules": [str(root / name) for name in _CODE]}
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--address {address}: no Ray cluster answers there ({reason})") from None


def _offer_token() -> None:
    """Has this driver offer the cluster's token where it has one: Ray (2.60) does so by itself only for the address "auto"."""
    try:
        from ray._private.authentication import authentication_token_setup as token
    except ImportError:  # before Ray 2.52 there were none
        return
    logging.getLogger(token.__name__).setLevel(logging.ERROR)
    token.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def disconnect() -> None:
    """Ends what :func:`connect` started; a cluster that was joined lives on. To be called when no other thread is left.

    A thread whose garbage collection meets a reference of Ray's while Ray shuts down ends the whole process with code 1
    ("accesses the Ray's worker after it is shutdown"): so references go first, and other threads have ended.
    """
    gc.unfreeze()
    gc.collect()
    ray.shutdown()


def nodes() -> list[Node]:
    """The nodes that are there."""
    return [
        Node(node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, node {node['NodeID'][:8]})",
             node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]  # fmt: skip


def gpus() -> int:
    """GPUs of the connected cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def resources(plan: Plan, gpus_per_trial: float) -> dict[str, float]:
    """What a trial's slot takes: a share of a GPU and a CPU, or as many CPUs as the trial has threads."""
    if gpus_per_trial:
        return {"CPU": 1.0, "GPU": gpus_per_trial}
    wanted, found = max(trial.config.threads for trial in plan.trials.values()), nodes()
    if len(found) == 1 and 1 <= _of(found[0], "CPU") < wanted and not scales():
        wanted = int(_of(found[0], "CPU"))  # one machine of fewer cores than threads runs them all the same, one after another
    return {"CPU": float(wanted)}


def slots(plan: Plan, gpus_per_trial: float) -> int:
    """How many trials run at once on the nodes that are there; at least 1, for nodes may come."""
    slot = resources(plan, gpus_per_trial)
    return max(1, sum(_fit(node, slot) for node in nodes()))


def check(plan: Plan, gpus_per_trial: float, where: Path) -> str | None:
    """Checks that trials fit some node, and that every node reads and writes the storage.

    Returns:
        What is to be said before trials start, if anything.

    Raises:
        InputError: naming what fits nowhere, or each node that does not share the storage.
    """
    slot = resources(plan, gpus_per_trial)
    needs = " and ".join(f"{amount:g} {name}" for name, amount in slot.items())
    found, note = nodes(), None
    if not any(_fit(node, slot) for node in found):
        there = "; ".join(f"{node.name}: {_of(node, 'CPU'):g} CPU, {_of(node, 'GPU'):g} GPU" for node in found)
        if not scales():
            hint = "--gpus-per-trial" if gpus_per_trial else "--set threads=1"
            raise InputError(f"a trial takes {needs}, which no node of the cluster has ({there}); see {hint}")
        note = f"a trial takes {needs}, which no node has yet ({there}): waiting for the autoscaler to start one that has"
    _check_storage(found, where)
    return note


def _check_storage(found: list[Node], where: Path) -> None:
    ask = ray.remote(num_cpus=0, max_retries=0)(storage.answer)
    with storage.Marker(where) as marker:
        asked = {
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                where, marker.name, node.id
            ): node
            for node in found
        }
        ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
        faults, still = [], {node.id for node in nodes()}
        for reference, node in asked.items():
            if node.id not in still:
                continue  # it went meanwhile, as nodes may
            try:
                reason = ray.get(reference, timeout=0)
            except (ray.exceptions.RayError, TimeoutError) as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                reason = f"no answer: {lines[-1] if lines else type(error).__name__}"
            if reason is None and not marker.answered(node.id):
                reason = "what it writes there is not seen here"
            if reason is not None:
                faults.append(f"--storage {where}: node {node.name} does not share it ({reason})")
    if faults:
        raise InputError(faults)


def _fit(node: Node, slot: Mapping[str, float]) -> int:
    """How many slots fit a node; a share of a GPU lies on one GPU."""
    return min(
        int(_of(node, name)) * int(1 / amount + 1e-9) if amount < 1 else int(_of(node, name) / amount)
        for name, amount in slot.items()
    )


def _of(node: Node, resource: str) -> float:
    return float(node.resources.get(resource, 0))


def scales() -> bool:
    """Whether an autoscaler may start further nodes: it names their types, where without one each node is its own type."""
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        found = [*status.active_nodes, *status.idle_nodes, *status.pending_nodes]
        types = [node.ray_node_type_name for node in found]
    else:
        told = json.loads(_internal_kv_get(b"__autoscaling_status") or b"{}")
        types = list(((told.get("autoscaler_report") or {}).get("node_type_mapping") or {}).values())
    return any(kind and not kind.startswith("node_") for kind in types)


def share(images: Images) -> Any:
    """Puts the images into the connected cluster's object store; returns the reference."""
    return ray.put(images)


def shared(reference: Any) -> Images:
    """The images behind what :func:`share` returned, read-only and without a copy, as long as Ray is there."""
    images: Images = ray.get(reference)
    return images
