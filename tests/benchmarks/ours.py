"""A step as the trainer makes it."""

import itertools
from collections.abc import Callable, Sequence

from interp.training.environment import run_environment
from interp.training.loop import build_step
from interp.training.state import MetricsBuffer, TrainState

__all__ = ["stepping"]


def stepping(sessions: Sequence[TrainState]) -> Callable[[bool], None]:
    """`step(with_test)` of one run or of several at once, whose numbers are fetched when their buffer is full.

    On CUDA it is captured here, in the trainer's settings, which are put back.
    """
    device = sessions[0].device
    numbers, steps = MetricsBuffer(device, len(sessions)), itertools.count()
    with run_environment(device, None):
        update = build_step(sessions)

    def step(with_test: bool) -> None:
        now = next(steps)
        if with_test:
            numbers.add(now, "test", update.evaluate("test"))
        numbers.add(now, "train", update(now))
        if numbers.full:
            numbers.fetch()

    return step
