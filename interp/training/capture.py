"""Work on CUDA that is repeated without a change of shape: captured once as a graph, and replayed.

A step of a small model is hundreds of kernels of a few microseconds each, and launching them one by one takes ten times
as long. A replay launches them all at once, on the same memory every time.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

__all__ = ["CapturedEvaluations", "Split", "captured"]

Split = Literal["train", "test"]
T = TypeVar("T")

WARM_UPS = 3
"""Runs before the capture, in which libraries choose their kernels and optimisers make their state."""


def captured(
    work: Callable[[], T], before_capture: Callable[[], None] = lambda: None, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, T]:
    """`work` on the current device as a graph, and what it returned: every replay of the graph writes that anew.

    The capture itself computes nothing; what the warm-ups before it have changed is for the caller to undo. Graphs that
    share a `pool` of memory must not be replayed at the same time.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    before_capture()
    graph = torch.cuda.CUDAGraph()
    with _no_garbage_collection(), torch.cuda.graph(graph, pool=pool):
        result = work()
    return graph, result


class CapturedEvaluations:
    """Losses and accuracies of the splits, each captured when it is first asked for, and replayed.

    They lie in the same place every time. Memory is shared with the graph of the `update` between them.
    """

    def __init__(self, update: torch.cuda.CUDAGraph) -> None:
        self._pool = update.pool()
        self._graphs: dict[Split, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, evaluate: Callable[[Split], Tensor], split: Split) -> Tensor:
        """What `evaluate` returns for a split, by the weights as they are now."""
        if split not in self._graphs:
            self._graphs[split] = captured(lambda: evaluate(split), pool=self._pool)
        graph, numbers = self._graphs[split]
        graph.replay()
        return numbers


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Destroying an older graph, which only a cycle of references still holds, would break a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
