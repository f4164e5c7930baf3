"""One step of training on a GPU as a CUDA graph: the same kernels on the same values, launched together.

A step of ResNet-18 is some 1,400 kernels of a few microseconds each, which Python launches more slowly than the GPU runs them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from core.augment import Batch

#: Steps taken one kernel at a time before: the optimiser makes its state, cuDNN and cuBLAS choose and allocate.
_WARM_UP = 3


class GraphedStep:
    """Calls a step on the GPU: the first times as it is, then as a graph that was recorded once.

    Args:
        step: a batch -> a tensor of results. It must not wait for the GPU, and every batch has the same shapes.
    """

    def __init__(self, step: Callable[[Batch], Tensor]) -> None:
        self._step = step
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """The step's results; the next call overwrites them."""
        if self._warm < _WARM_UP:
            self._warm += 1
            return self._plain(batch)
        if self._graph is None:
            self._input = batch.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._output = self._step(self._input)
        self._input.copy_(batch)
        self._graph.replay()
        return self._output

    def _plain(self, batch: Batch) -> Tensor:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            output = self._step(batch)
        current.wait_stream(self._stream)
        return output
