"""Checks of stored weights: against their digests, and for checkpoints that cannot be right."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from interp.errors import CorruptRunError
from interp.store.segments import SealedFile

__all__ = ["VerifyReport", "WeightsReport", "check_weights"]


@dataclass(frozen=True)
class VerifyReport:
    """Result of `RunReader.verify`: `errors` are damage, `warnings` deserve a look, step ranges are closed."""

    steps: int
    segments: int
    states: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    unreadable_steps: tuple[tuple[int, int], ...]

    @property
    def ok(self) -> bool:
        """Whether every byte is as it was written."""
        return not self.errors

    def __str__(self) -> str:
        head = f"{self.steps} steps in {self.segments} segments, {self.states} full states"
        lines = [f"error: {text}" for text in self.errors] + [f"warning: {text}" for text in self.warnings]
        return "\n".join([f"{head}: {'ok' if self.ok else 'DAMAGED'}", *lines])


@dataclass(frozen=True)
class WeightsReport:
    """Result of `check_weights`: sentences, and the steps that do not match their digests."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    damaged: tuple[int, ...]


def check_weights(segments: Sequence[SealedFile], open_map: Callable[[SealedFile], np.ndarray]) -> WeightsReport:
    """Check every digest of `segments`, the files of one run in order; `open_map` gives their bytes.

    Warnings name steps at which nothing changed, and steps that are further from both neighbours than five times the
    distance between the neighbours.
    """
    errors: list[str] = []
    same: list[int] = []
    stray: list[int] = []
    damaged: set[int] = set()
    steps = [int(step) for file in segments for step in file.steps]
    window: deque[tuple[str, dict[str, np.ndarray]]] = deque(maxlen=3)
    near, position = math.inf, 0
    for file in segments:
        wrong: dict[str, list[int]] = {}
        data = open_map(file)
        for row in range(len(file.steps)):
            for name in file.spec:
                try:
                    file.check(data, name, row)
                except CorruptRunError:
                    wrong.setdefault(name, []).append(position)
            whole = "".join(file.digest(name, row) for name in file.spec)
            window.append((whole, {name: file.view(data, name)[row, ...] for name in file.spec}))
            if len(window) > 1:
                before, near = near, _distance(window[-1][1], window[-2][1])
                if window[-1][0] == window[-2][0]:
                    same.append(position)
                elif len(window) == 3 and min(before, near) > 5 * _distance(window[-1][1], window[0][1]):
                    stray.append(position - 1)
            position += 1
        for name, positions in wrong.items():
            errors.append(f"{file.path}: `{name}` does not match its digest at step {_spans(steps, positions)}.")
            damaged |= set(positions)
    warnings: list[str] = []
    if same:
        warnings.append(f"The weights did not change at step {_spans(steps, same)}.")
    if stray:
        warnings.append(f"Far from both neighbours, which are near each other: step {_spans(steps, stray)}.")
    return WeightsReport(tuple(errors), tuple(warnings), tuple(steps[i] for i in sorted(damaged)))


def _spans(steps: Sequence[int], positions: Sequence[int]) -> str:
    """Steps at sorted positions, as text with ranges.

    >>> _spans([1, 3, 4, 5, 9], [1, 2, 3]), _spans([1, 3, 4, 5, 9], [0, 4])
    ('3-5', '1, 9')
    """
    breaks = np.flatnonzero(np.diff(positions) > 1) + 1
    groups = np.split(np.asarray(positions), breaks)
    return ", ".join("-".join(str(steps[i]) for i in dict.fromkeys((g[0], g[-1]))) for g in groups)


def _distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Euclidean distance of the floating-point arrays of two steps."""
    with np.errstate(all="ignore"):
        differences = [(a[name] - b[name]).ravel() for name in a if a[name].dtype.kind == "f"]
        return math.sqrt(sum(float(np.vdot(d, d)) for d in differences))
