"""One step of training on a GPU as a CUDA graph: the same kernels on the same values, launched together.

A step of ResNet-18 is some 1,400 kernels of a few microseconds each, which Python launches more slowly than the GPU runs them.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from core.draws import Batch

#: Steps taken one kernel at a time before: the optimiser makes its state, cuDNN and cuBLAS choose and allocate.
_WARM_UP = 3


class CudaGraphStep:
    """Takes steps on the GPU: the first as they are, the others as a graph that was recorded once."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """The step's results; the next call overwrites them.

        Args:
            step: the same at every call. It must not wait for the GPU.
            batch: of the same shapes at every call.
        """
        if self._warm < _WARM_UP:
            self._warm += 1
            return self._plain(step, batch)
        if self._graph is None:
            self._input = batch.clone()
            self._graph = torch.cuda.CUDAGraph()
            gc.collect()  # a graph of an earlier run that is destroyed while this one is recorded would spoil it
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._output = step(self._input)
        self._input.copy_(batch)
        self._graph.replay()
        return self._output

    def _plain(self, step: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            output = step(batch)
        current.wait_stream(self._stream)
        return output
