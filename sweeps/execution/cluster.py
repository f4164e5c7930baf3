"""The Ray cluster that a command runs on: this machine, or nodes that may come and go."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from core.errors import InputError
from core.locks import keep
from sweeps import process
from sweeps.execution import private_folder, ray_private, watch
from sweeps.execution.machine import is_submitted, name_of_address
from sweeps.planning.trial import Plan
from sweeps.storage import location
from sweeps.storage.image_sets import Images

_CONNECT_SECONDS = 25.0  # for a cluster to answer; one that is gone is waited for by Ray without end
_START_SECONDS = 120.0  # for Ray to start, or for a cluster that answers to take this driver; four seconds are usual
_ANSWER_SECONDS = 120.0  # for a node's first worker process to start, which imports torch
_CODE = ("core", "evaluation", "sweeps")


@dataclass(frozen=True)
class Node:
    """One node: its id, its name as shown in messages, and its resources (``CPU``, ``GPU``)."""

    id: str
    name: str
    resources: Mapping[str, float]


@contextmanager
def running_here(folder: Path) -> Iterator[None]:
    """Run Ray on this machine alone for the length of the block, with its files in a private folder.

    Nothing of it can be reached from another machine, and it asks everyone who connects for a token of its own. If one of its
    processes dies, the command ends. For the end of the block see :func:`_disconnect`.

    Raises:
        InputError: if Ray does not start.
    """
    logs = private_folder.logs(folder)
    failed = f"Ray does not start on this machine, see its logs in {logs}"
    token = private_folder.make_token(folder)
    with ray_private.local_environment(token), ray_private.without_raylets_last_lines():
        with watch.limit(_START_SECONDS, f"{failed} (no end in {_START_SECONDS:.0f} s)"):
            try:
                with watch.silenced():
                    _init_ray(
                        address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                        _temp_dir=str(private_folder.ray_folder(folder)),
                    )  # fmt: skip
            except Exception as error:  # Ray raises AssertionError and Exception, too
                keep(folder)
                raise InputError(f"{failed} ({_on_one_line(error)}); a busy machine may need a second try") from None
        checks = [watch.process_check(f"Ray's {name}", started) for name, started in ray_private.own_processes().items()]
        watcher = watch.Watch(checks, ray.is_initialized, ray_private.kill_own_processes, f"; Ray's logs until then: {logs}")
        try:
            yield
        finally:
            watcher.stop()
            _disconnect()


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Stay connected to the cluster at ``address`` for the length of the block; if it is gone, the command ends.

    Raises:
        InputError: see :func:`join`.
    """
    join(address)
    gcs = ray.get_runtime_context().gcs_address
    checks = [
        watch.socket_check("the raylet of this machine", ray_private.raylet_socket()),
        watch.address_check(f"the Ray cluster at {gcs}", gcs),
    ]
    with ray_private.without_raylets_last_lines():
        watcher = watch.Watch(checks, lambda: True, lambda: None)
        try:
            yield
        finally:
            watcher.stop()
            _disconnect()


def join(address: str) -> None:
    """Join the cluster at ``address``, and send this code to its nodes; if it is joined already, do nothing.

    Raises:
        InputError: if no cluster answers at the address, or it does not accept this command.
    """
    if ray.is_initialized():
        return
    named, nobody = name_of_address(address), f"{name_of_address(address)}: no Ray cluster answers there"
    if "://" in address:
        raise InputError(f"{named}: HOST:PORT of a cluster's head is needed (a URL is for `ray job submit`)")
    try:
        with watch.limit(_CONNECT_SECONDS, f"{nobody} (nothing in {_CONNECT_SECONDS:.0f} s)"), watch.silenced():
            resolved = ray_private.resolve_address(address)
            if (problem := watch.connect_problem(resolved)) is not None:
                raise InputError(f"{nobody} ({problem})")
            ray_private.check_answer(resolved)
        with watch.limit(_START_SECONDS, f"{named}: the cluster did not take this command in {_START_SECONDS:.0f} s"):
            _init(address)
    except InputError:
        raise
    except ray_private.authentication_errors():
        raise InputError(
            f"{named}: the cluster asks for a token, and this command has none or another; Ray takes it from RAY_AUTH_TOKEN, "
            "from the file that RAY_AUTH_TOKEN_PATH names, or from ~/.ray/auth_token, unless RAY_AUTH_MODE is disabled"
        ) from None
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        text = _on_one_line(error)
        raise InputError(f"{named}: {text}" if "ersion mismatch" in text else f"{nobody} ({text})") from None


def _init(address: str) -> None:
    root = Path(__file__).parents[2]
    if is_submitted():
        # Nodes of one machine that share a temporary folder each unpack a job's code again, over the folder in which its driver
        # stands. While they do, a module that is not imported yet is not found, and torch ends a process whose folder is gone
        # ("oneMKL FATAL ERROR: Cannot load libtorch_cpu.so").
        _import_all_code()
        os.chdir("/")
    environment = None if is_submitted() else {"py_modules": [str(root / name) for name in _CODE]}
    _init_ray(address=address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")


def _init_ray(**options: Any) -> None:
    try:
        with process.defer_signals() as defer_again, ray_private.without_signal_handlers(defer_again):
            ray.init(**options)
    except BaseException:  # it did not start, or a signal came meanwhile
        ray.shutdown()
        raise


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def _import_all_code() -> None:
    """Import every module of this project."""
    for name in _CODE:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)


def _disconnect() -> None:
    """Disconnect from Ray, and end it if :func:`running_here` started it; a cluster that was joined keeps running.

    No other thread may be left. If a thread's garbage collection frees a Ray reference while Ray shuts down, the whole
    process ends with code 1 ("accesses the Ray's worker after it is shutdown"). Hence unused references are collected first.
    """
    gc.unfreeze()
    gc.collect()
    ray.shutdown()


def nodes() -> list[Node]:
    """Return the nodes that are alive."""
    return [
        Node(node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, node {node['NodeID'][:8]})",
             node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]  # fmt: skip


def gpus() -> int:
    """Return the number of GPUs of the connected cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def resources(plan: Plan, gpus_per_trial: float) -> dict[str, float]:
    """Return the resources of a trial's slot: a share of a GPU and one CPU, or as many CPUs as the trial has threads."""
    if gpus_per_trial:
        return {"CPU": 1.0, "GPU": gpus_per_trial}
    threads, found = max(trial.config.threads for trial in plan.trials.values()), nodes()
    if len(found) == 1 and 1 <= _of(found[0], "CPU") < threads and not ray_private.has_autoscaler():
        threads = int(_of(found[0], "CPU"))  # a single machine with fewer cores than threads still runs the trials
    return {"CPU": float(threads)}


def slots(plan: Plan, gpus_per_trial: float) -> int:
    """Return how many trials the present nodes run at once; at least 1, because nodes may join later."""
    slot = resources(plan, gpus_per_trial)
    return max(1, sum(_fit(node, slot) for node in nodes()))


def check_nodes(plan: Plan, gpus_per_trial: float, where: Path) -> str | None:
    """Check that a trial fits on some node, and that every node can read and write the storage.

    Returns:
        A note to print before trials start, or None.

    Raises:
        InputError: if a trial fits on no node, or naming each node that does not share the storage.
    """
    slot = resources(plan, gpus_per_trial)
    needs = " and ".join(f"{amount:g} {name}" for name, amount in slot.items())
    found, note = nodes(), None
    if not any(_fit(node, slot) for node in found):
        there = "; ".join(f"{node.name}: {_of(node, 'CPU'):g} CPU, {_of(node, 'GPU'):g} GPU" for node in found)
        if not ray_private.has_autoscaler():
            hint = "--gpus-per-trial" if gpus_per_trial else "--set threads=1"
            raise InputError(f"a trial takes {needs}, which no node of the cluster has ({there}); see {hint}")
        note = f"a trial takes {needs}, which no node has yet ({there}): waiting for the autoscaler to start one that has"
    _check_storage(found, where)
    return note


def _check_storage(found: list[Node], where: Path) -> None:
    ask = ray.remote(num_cpus=0, max_retries=0)(location.reply_to_probe)
    with location.StorageProbe(where) as probe:
        asked = {
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                where, probe.name, node.id
            ): node
            for node in found
        }
        ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
        errors, still = [], {node.id for node in nodes()}
        for reference, node in asked.items():
            if node.id not in still:
                continue  # the node left meanwhile, which is allowed
            try:
                reason = ray.get(reference, timeout=0)
            except (ray.exceptions.RayError, TimeoutError) as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                reason = f"no answer: {lines[-1] if lines else type(error).__name__}"
            if reason is None and not probe.answered(node.id):
                reason = "the driver does not see the file that the node wrote"
            if reason is not None:
                errors.append(f"--storage {where}: node {node.name} does not share it ({reason})")
    if errors:
        raise InputError(errors)


def _fit(node: Node, slot: Mapping[str, float]) -> int:
    """How many slots fit on a node; a share below 1 of a GPU is taken from a single GPU."""
    return min(
        int(_of(node, name)) * int(1 / amount + 1e-9) if amount < 1 else int(_of(node, name) / amount)
        for name, amount in slot.items()
    )


def _of(node: Node, resource: str) -> float:
    return float(node.resources.get(resource, 0))


def put_images(images: Images) -> Any:
    """Put the images into the connected cluster's object store; return the reference."""
    return ray.put(images)


def get_images(reference: Any) -> Images:
    """Return the images for a reference from :func:`put_images`: read-only, without a copy, usable while Ray is connected."""
    images: Images = ray.get(reference)
    return images
