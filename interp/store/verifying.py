"""Checks of stored weights: against their digests, and for checkpoints that cannot be right."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from interp.errors import CorruptRunError
from interp.store.segments import SealedFile, digest

__all__ = ["VerifyReport", "WeightsReport", "check_weights"]

EXCHANGED = 0.8
"""Ratio of the distances around a pair of steps, exchanged to stored, below which it looks exchanged: with an exchanged
pair 0.5 on a straight path and 0.7 on a random walk, without 2 and 1.4."""


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

    Warnings name steps at which nothing changed; steps with the weights of an earlier step, whose neighbours differ;
    steps that are further from both neighbours than five times the distance between the neighbours; and pairs of steps
    that look exchanged.
    """
    errors: list[str] = []
    same: list[int] = []
    again: dict[int, int] = {}
    stray: list[int] = []
    exchanged: list[int] = []
    damaged: set[int] = set()
    steps = [int(step) for file in segments for step in file.steps]
    seen: dict[str, int] = {}
    window: deque[tuple[str, dict[str, np.ndarray]]] = deque(maxlen=3)
    near: deque[float] = deque([math.inf] * 3, maxlen=3)  # distances between neighbours, the last three
    across: deque[float] = deque([math.inf] * 2, maxlen=2)  # distances between steps two apart, the last two
    position = 0
    for file in segments:
        wrong: dict[str, list[int]] = {}
        data = open_map(file)
        for row in range(len(file.steps)):
            for name in file.spec:
                try:
                    file.check(data, name, row)
                except CorruptRunError:
                    wrong.setdefault(name, []).append(position)
            whole = digest("".join(file.digest(name, row) for name in file.spec).encode())
            window.append((whole, {name: file.view(data, name)[row, ...] for name in file.spec}))
            if len(window) > 1:
                near.append(_distance(window[-1][1], window[-2][1]))
                if len(window) == 3:
                    across.append(_distance(window[-1][1], window[0][1]))
                if window[-1][0] == window[-2][0]:
                    same.append(position)
                elif whole in seen:
                    again[position] = seen[whole]
                elif len(window) == 3 and min(near[1], near[2]) > 5 * across[1]:
                    stray.append(position - 1)
                if sum(across) < EXCHANGED * (near[0] + near[2]) < math.inf:
                    exchanged.append(position - 2)
            seen[whole] = position
            position += 1
        for name, positions in wrong.items():
            errors.append(f"{file.path}: `{name}` does not match its digest at step {_spans(steps, positions)}.")
            damaged |= set(positions)
    warnings: list[str] = []
    if same:
        warnings.append(f"The weights did not change at step {_spans(steps, same)}.")
    if again:
        words = ", ".join(f"{steps[late]} (those of {steps[early]})" for late, early in list(again.items())[:8])
        warnings.append(f"The weights are those of an earlier step at step {words}{', ...' if len(again) > 8 else ''}.")
    if stray:
        warnings.append(f"Far from both neighbours, which are near each other: step {_spans(steps, stray)}.")
    # where weights go back and forth, the steps in a row look exchanged
    alone = [at for at in exchanged if not {at - 1, at + 1} & set(exchanged) and not {at, at + 1} & {*same, *again}]
    if alone:
        pairs = ", ".join(f"{steps[at]} and {steps[at + 1]}" for at in alone[:8])
        warnings.append(f"Nearer to the neighbours if they were exchanged: steps {pairs}.")
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
