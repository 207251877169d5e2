"""Timing, here and in a process that has nothing of ours."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

from interp.config import RunConfig
from interp.training.state import TrainState

__all__ = ["Elsewhere", "seconds", "turns"]


def seconds(run: Callable[[], object]) -> float:
    """What one turn takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def turns(run: Callable[[], object], block: int) -> float:
    """Seconds of one of `block` turns in a row."""
    return seconds(lambda: [run() for _ in range(block)]) / block


class Elsewhere:
    """A rival in a process of its own, with torch's settings there: our trainer keeps the memory that torch gives back.

    `make` builds the rival from a session of `config`; its turns are timed where they are made.
    """

    def __init__(self, make: Callable[[TrainState], Callable[[], None]], config: RunConfig) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _settle, (make, config))

    def turns(self, block: int) -> float:
        """Seconds of one of `block` turns in a row, while the threads of both processes sleep between theirs."""
        time.sleep(0.05)
        taken = self._pool.submit(_turns, block).result()
        time.sleep(0.05)
        return taken

    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


_settled: dict[str, Callable[[], None]] = {}


def _settle(make: Callable[[TrainState], Callable[[], None]], config: RunConfig) -> None:
    _settled["rival"] = make(TrainState(config, torch.device("cpu")))


def _turns(block: int) -> float:
    return turns(_settled["rival"], block)
