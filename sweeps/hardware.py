"""What this machine has, and whether it is part of a cluster, without starting anything."""

from __future__ import annotations

import os
from pathlib import Path


def cluster_address(asked: str | None) -> str | None:
    """The cluster that a command is to join: as asked, or the one that it was submitted to; None: this machine alone."""
    return asked or os.environ.get("RAY_ADDRESS")


def is_submitted() -> bool:
    """Whether this process was started by ``ray job submit``: in a copy of the working directory on a node."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def gpus_of_this_machine() -> int:
    """The GPUs that Ray would offer here (a test holds it against a started Ray)."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    visible = manager.get_current_process_visible_accelerator_ids()
    present = int(manager.get_current_node_num_accelerators())
    return present if visible is None else min(present, len(visible))


def cpu_flags() -> frozenset[str]:
    """The processor's features as Linux names them; none where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
