"""CUDA graphs of repeated work: captured once, then replayed on the same memory every time.

A step of a small model is hundreds of kernels of a few microseconds each; launching them one by one takes ten times as
long as launching all at once, as a replay of the graph does.
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

WARM_UP_CALLS = 3
"""Calls before the capture, in which libraries choose their kernels and optimisers make their state."""


def captured(
    work: Callable[[], T], before_capture: Callable[[], None] = lambda: None, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, T]:
    """Graph of `work` on the current device, and the result of `work`, which every replay of the graph overwrites.

    The capture itself computes nothing. The caller must undo the changes of the warm-up calls before it. Graphs that
    share a `pool` of memory must not be replayed at the same time.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    before_capture()
    graph = torch.cuda.CUDAGraph()
    with _no_garbage_collection(), torch.cuda.graph(graph, pool=pool):
        result = work()
    return graph, result


class CapturedEvaluations:
    """Evaluations of the splits, each captured at its first call and replayed after that.

    Results lie in the same memory every time. The graphs share their memory with that of the `update`.
    """

    def __init__(self, update: torch.cuda.CUDAGraph) -> None:
        self._pool = update.pool()
        self._graphs: dict[Split, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, evaluate: Callable[[Split], Tensor], split: Split) -> Tensor:
        """Result of `evaluate` for a split, with the current weights."""
        if split not in self._graphs:
            self._graphs[split] = captured(lambda: evaluate(split), pool=self._pool)
        graph, numbers = self._graphs[split]
        graph.replay()
        return numbers


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Context without garbage collection, which could destroy an older graph, and so break a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
