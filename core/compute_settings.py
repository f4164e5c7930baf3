"""A fixed number of threads, and reproducible kernels, for the length of a block.

Sums differ in their last bits between one thread and two, so a trial's thread count is part of what makes it repeatable.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

#: For glibc's mallopt: numbers of its parameters, and their values in bytes.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = (-3, 32 * 2**20), (-1, 2**30)

_held: ContextVar[tuple[int, bool] | None] = ContextVar("_held", default=None)  # the settings of the block around


@contextmanager
def compute_settings(threads: int, *, deterministic: bool = False) -> Iterator[None]:
    """Within the block torch, faiss and the BLAS libraries use ``threads`` threads; afterwards what they used before.

    Args:
        threads: at least 1.
        deterministic: on a GPU, use only kernels whose result does not depend on timing (slower). A CPU's always are so.
    """
    if _held.get() == (threads, deterministic):  # a block within the block: to look at all libraries again takes 20 ms
        yield
        return
    # Read by torch at its first allocation: tensors in huge pages where the system leaves that to programs (Linux: "madvise").
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _keep_freed_memory()
    import sklearn.cluster  # noqa: F401  (threadpool_limits reaches only the libraries that are loaded, OpenMP's among them)
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)
    if deterministic:
        # cuBLAS reads it when its first handle is made; without it torch refuses deterministic matrix products.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic
    token = _held.set((threads, deterministic))
    try:
        with threadpool_limits(threads):
            yield
    finally:
        _held.reset(token)
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(was_deterministic)
        torch.backends.cudnn.benchmark = benchmark


def _keep_freed_memory() -> None:
    """Has glibc keep the memory of freed tensors for the next ones, at most 1 GiB of it.

    Else it goes back to the system after each step of training, which clears every page before it is used again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    for parameter, value in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        mallopt(parameter, value)
