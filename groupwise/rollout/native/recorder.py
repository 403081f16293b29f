"""Records work on a GPU (CUDA graphs): a replay starts the same operations on the same memory all at once.

A decode step is hundreds of small operations; started one by one they take longer than they run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

Work = Callable[[], None]


class Recorder:
    """Makes recordings and counts them. This one calls the work again: for devices without recordings."""

    WARM_UPS = 2
    """Runs before a recording, in which libraries choose their kernels and take their memory."""

    def __init__(self) -> None:
        self.num_recorded = 0

    def record(self, work: Work) -> Work:
        """A callable that repeats `work` on the tensors that it used. `work` runs `WARM_UPS` times before."""
        for _ in range(self.WARM_UPS):
            work()
        self.num_recorded += 1
        return work


class GraphRecorder(Recorder):
    """Records CUDA graphs. They share their temporary memory, for one ends before the next begins."""

    def __init__(self) -> None:
        super().__init__()
        self.why_not: str | None = None
        """Why nothing more is recorded: the error of the first recording that failed."""
        self._pool: Any = None

    def record(self, work: Work) -> Work:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work = super().record(work)
        torch.cuda.current_stream().wait_stream(side)
        return work if self.why_not is not None else self._graph(work)

    def _graph(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            self.why_not = str(error).strip().split("\n")[0]
            warnings.warn(
                f"Decode steps cannot be recorded as CUDA graphs ({self.why_not}); they run slower.", stacklevel=2
            )
            return work
        self._pool = graph.pool()
        return graph.replay


def make_recorder(device: torch.device) -> Recorder:
    """The recorder for this device."""
    return GraphRecorder() if device.type == "cuda" else Recorder()
