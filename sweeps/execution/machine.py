"""What hardware this machine has, and whether it is part of a cluster, found out without starting Ray."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from core.locks import marked_folder, remove_marked

#: Where Linux lists GPUs of makers other than NVIDIA.
_GPU_PATHS = ("/sys/class/kfd", "/dev/dri", "/dev/mxcd")
_CACHES = "vicreg-sweeps-caches-"  # begins the name of a folder of caches


def cluster_address(requested: str | None) -> str | None:
    """Return the address of the cluster to join: the requested one, else ``RAY_ADDRESS``; None: only this machine."""
    address = requested or os.environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def name_of_address(address: str) -> str:
    """Return an address of :func:`cluster_address` with the place that it comes from, for messages."""
    if os.environ.get("RAY_ADDRESS") != address:
        return f"--address {address}"
    return f"RAY_ADDRESS={address}, which Ray gave to this job" if is_submitted() else f"RAY_ADDRESS={address} (environment)"


def is_submitted() -> bool:
    """Return True if ``ray job submit`` started this process, on a node and in a copy of the working directory."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@contextmanager
def usable_home() -> Iterator[None]:
    """Within the block libraries find a home folder, and matplotlib a place for its caches, here and in the workers.

    For a user without a home, as containers have them, ``HOME`` becomes ``/``: without one neither Ray Tune nor MLflow can be
    imported. Where the home cannot be written to, matplotlib gets a scratch folder; else it prints warnings.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"
    if os.environ.get("MPLCONFIGDIR") or os.access(Path.home(), os.W_OK):
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):  # no folder for temporary files either: the warnings come
            parent = Path(tempfile.gettempdir())
            remove_marked(parent, _CACHES)
            os.environ["MPLCONFIGDIR"] = str(stack.enter_context(marked_folder(parent, _CACHES)))
            stack.callback(os.environ.pop, "MPLCONFIGDIR")
        yield


def gpus_of_this_machine() -> int:
    """Return how many GPUs Ray would offer on this machine (a test compares the number with that of a started Ray).

    Importing Ray takes a second, so this is done only if there may be a GPU at all.
    """
    if not _may_have_gpus():
        return 0
    from sweeps.execution import ray_private

    return ray_private.count_gpus()


def _may_have_gpus() -> bool:
    if sys.platform != "linux" or any(Path(path).exists() for path in _GPU_PATHS):
        return True
    try:
        ctypes.CDLL("libnvidia-ml.so.1")  # the library with which Ray counts NVIDIA's GPUs
    except OSError:
        return False
    return True


def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags as Linux names them; an empty set if they are not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
