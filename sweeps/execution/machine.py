"""What this machine has, and whether it is part of a cluster, without starting anything."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

#: Where Linux shows graphics processors of other makers than NVIDIA.
_GPU_PATHS = ("/sys/class/kfd", "/dev/dri", "/dev/mxcd")


def cluster_address(requested: str | None) -> str | None:
    """Return the cluster that a command is to join: as requested, or the one it was submitted to; None: this machine alone."""
    return requested or os.environ.get("RAY_ADDRESS")


def is_submitted() -> bool:
    """Whether this process was started by ``ray job submit``: in a copy of the working directory on a node."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def gpus_of_this_machine() -> int:
    """Return how many GPUs Ray would offer here (a test compares it with a started Ray).

    Ray takes a second to import, so it is asked only where there may be a GPU at all.
    """
    if not _may_have_gpus():
        return 0
    from sweeps.execution import ray_private

    return ray_private.count_gpus()


def _may_have_gpus() -> bool:
    if sys.platform != "linux" or any(Path(path).exists() for path in _GPU_PATHS):
        return True
    try:
        ctypes.CDLL("libnvidia-ml.so.1")  # which Ray, too, counts NVIDIA's GPUs by
    except OSError:
        return False
    return True


def cpu_flags() -> frozenset[str]:
    """Return the processor's features as Linux names them; none where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
