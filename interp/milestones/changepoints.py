"""Change points of a curve with intervals, by segments; and the ends of the training phases of a run by them.

A curve y_1, ..., y_n at steps x_1 < ... < x_n is cut into K segments, on each of which it is a constant or a straight
line plus noise. The cuts minimise the sum of squared residuals over all cuts,

    S_K = min over 0 < t_1 < ... < t_{K-1} < n of sum_k rss(t_{k-1}, t_k),

which a dynamic programme finds exactly (Bai & Perron, 2003, "Computation and analysis of multiple structural change
models"). The lines need not join. K is given, or minimises n log(S_K / (n - q)) + 0.299 q (log n)^2.1 with q the
number of parameters and cuts (Liu, Wu & Zidek, 1997, "On segmented multivariate regression"; Schwarz' criterion, with
log n in place of the last factors, cuts pure noise too often).

The interval of the j-th cut inverts the likelihood ratio: with S_K(t) the least sum of squares whose j-th cut is t, the
others free, it reaches from the first to the last t with

    (S_K(t) - S_K) / omega <= -2 log(1 - sqrt(level)),                    7.35 at 95 %,

because for Gaussian noise of variance omega the left side, at the true t, tends to a variable with the distribution
(1 - exp(-x/2))^2 (Hansen, 2000, "Sample splitting and threshold estimation", Theorem 1). omega is S_K / n, times
(1 + r)/(1 - r) with r the correlation of neighbouring residuals where it is positive: curves of one run are not
independent from evaluation to evaluation, and as though they were the intervals would be too short.

Training curves are smooth: segments are a description of them, not a model. Where a curve bends slowly the choice of K
takes as many as it may, and an interval tells how well the best such description is fixed, no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from interp.analysis.curves import Curve, as_curve
from interp.errors import InvalidArgumentError
from interp.literals import as_count
from interp.milestones.phases import Phases

__all__ = ["Boundary", "ChangePoints", "change_points", "phase_boundaries"]

Shape = Literal["linear", "constant"]


@dataclass(frozen=True)
class ChangePoints:
    """Steps at which the segments of a curve begin, and the segments themselves.

    `steps`: the first step of every segment but the first; `intervals`: the steps (lower, upper] to which each of them
    is confined, from the evaluation before the first candidate to the last candidate. `fitted`: the segments at every
    step, in the units of the curve (of its logarithm, if that was cut); `slopes`: what they rise per step.
    """

    steps: tuple[int, ...]
    intervals: tuple[tuple[int, int], ...]
    slopes: tuple[float, ...]
    fitted: np.ndarray


@dataclass(frozen=True)
class Boundary:
    """The end of a training phase by two definitions: `step` by `phases`, `change` by a change point of the test loss.

    `interval`: the steps to which the change point is confined. None: there is no such change point, or no such phase.
    """

    step: int | None
    change: int | None
    interval: tuple[int, int] | None

    @property
    def agrees(self) -> bool | None:
        """Whether the step lies in the interval; None where one of them is missing."""
        if self.step is None or self.interval is None:
            return None
        return self.interval[0] <= self.step <= self.interval[1]


def change_points(
    steps: Curve,
    values: Curve,
    *,
    segments: int | None = None,
    log: bool = False,
    shape: Shape = "linear",
    shortest: int = 5,
    most: int = 6,
    level: float = 0.95,
) -> ChangePoints:
    """The steps at which a curve changes its line (or its level), each with an interval of steps.

    `segments`: their number; None chooses it, up to `most`. `log`: cut log(values) (values > 0; 0 counts as 1e-300).
    `shortest`: the evaluations that a segment has at least; with 2 a line fits everything, so that 3 is the least.
    `level` in (0, 1): the confidence of each interval by itself. n evaluations cost O(n^2) additions.

    Raises `InvalidArgumentError` for curves that are not finite, steps that do not increase, values below 0 if `log`,
    and fewer than `segments` times `shortest` evaluations.

    >>> found = change_points(range(0, 200, 10), [3.0] * 8 + [1.0] * 12, shape="constant", segments=2)
    >>> found.steps, found.intervals, found.slopes
    ((80,), ((70, 80),), (0.0, 0.0))
    >>> kink = [abs(step - 100) / 50 for step in range(0, 210, 10)]
    >>> [round(slope, 6) for slope in change_points(range(0, 210, 10), kink).slopes]
    [-0.02, 0.02]
    """
    step, value = as_curve(steps, values, "values")
    value = _logarithm(value, "values") if log else value
    n = len(step)
    as_count("shortest", shortest, minimum=3)
    as_count("most" if segments is None else "segments", most if segments is None else segments)
    if not 0 < level < 1:
        raise InvalidArgumentError(f"`level` must lie between 0 and 1; got {level!r}.")
    if shape not in ("linear", "constant"):
        raise InvalidArgumentError(f"`shape` must be 'linear' or 'constant'; got {shape!r}.")
    if n < shortest * (segments or 1):
        raise InvalidArgumentError(
            f"`values` must have at least `segments` times `shortest` = {shortest * (segments or 1)} evaluations; "
            f"got {n}. Ask for fewer or shorter segments."
        )
    scale = np.ptp(value) or 1.0  # sums of squares of numbers near 1 lose nothing
    x, y = (step - step[0]) / (np.ptp(step) or 1.0), (value - value.mean()) / scale
    count = segments or min(most, n // shortest)
    residual = _residuals(x, y, shape, shortest)
    before, after = _programme(residual, n, count)
    least = 1e-12 * max(float(y @ y), 1e-300)  # what rounding leaves of a perfect fit
    if segments is None:
        q = (2 if shape == "linear" else 1) * np.arange(1, count + 1) + np.arange(count)
        criterion = n * np.log(np.maximum(before[1:, n], least) / (n - q)) + 0.299 * q * np.log(n) ** 2.1
        count = 1 + int(criterion.argmin())

    cuts = [0]
    for left in range(count - 1, 0, -1):
        cuts.append(int((residual(cuts[-1]) + after[left]).argmin()))
    cuts.append(n)
    lines = [_line(step, value, a, b, shape) for a, b in pairwise(cuts)]
    fitted = np.concatenate([fit for fit, _ in lines])

    total = max(float(before[count, n]), least)
    allowed = -2 * np.log(1 - np.sqrt(level)) * total / n * _inflation((value - fitted) / scale)
    intervals = []
    for j in range(1, count):
        close = np.flatnonzero(before[j] + after[count - j] <= before[count, n] + allowed + least)
        intervals.append((int(step[close[0] - 1]), int(step[close[-1]])))
    return ChangePoints(
        steps=tuple(int(step[cut]) for cut in cuts[1:-1]),
        intervals=tuple(intervals),
        slopes=tuple(slope for _, slope in lines),
        fitted=fitted,
    )


def phase_boundaries(
    steps: Curve, test_loss: Curve, found: Phases, *, segments: int | None = 3, level: float = 0.95
) -> dict[str, Boundary]:
    """The ends of circuit formation and cleanup with intervals of steps; empty where no circuit formed.

    Arguments:
        steps, test_loss: as for `phases`.
        found: the training phases, with which the change points are compared.
        segments, level: as for `change_points`.

    The log test loss from the end of memorisation on is cut into `segments` lines (3: it climbs or stays, falls, stays
    down). The segment that falls most is the cleanup: circuit formation ends where it begins, cleanup where it ends. A
    fall too short to be a segment is a jump, where both phases end.

    The two definitions ask different questions, and need not agree: `phases` draws the line at the highest point above
    a chord and at 90 % of the fall, the cuts where a straight fall would begin and end. Where the interval does not
    contain the step of `phases` (`agrees`), say which of them is meant. On smooth curves another number of `segments`
    can move the lines by more than their intervals: these hold for the number that was asked for.

    Raises:
        InvalidArgumentError: fewer evaluations after memorisation than the segments need, or a negative loss.

    >>> from interp.milestones.phases import phases
    >>> steps = range(0, 4000, 100)
    >>> loss = [5.0, 10.0] + 14 * [20.0] + [20 * 10.0 ** (-k) for k in range(1, 8)] + 17 * [2e-6]
    >>> test = [float(value < 0.1) for value in loss]
    >>> found = phase_boundaries(steps, loss, phases(steps, [0.0] + 39 * [1.0], test, loss))["circuit_formation_end"]
    >>> found.step, found.agrees
    (1500, True)
    """
    if found.memorisation_end is None or found.circuit_formation_end is None:
        return {}
    step, loss = as_curve(steps, test_loss, "test_loss")
    late = step >= found.memorisation_end
    cuts = change_points(step[late], _logarithm(loss, "test_loss")[late], segments=segments, level=level)
    starts, ends = _fall(cuts, step[late])

    def boundary(point: int | None, cut: int | None) -> Boundary:
        return Boundary(point, None, None) if cut is None else Boundary(point, cuts.steps[cut], cuts.intervals[cut])

    return {
        "circuit_formation_end": boundary(found.circuit_formation_end, starts),
        "cleanup_end": boundary(found.cleanup_end, ends),
    }


def _programme(residual: Callable[[int], np.ndarray], n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Least sums of squares of the first t values in k segments, and of the values from t on in k segments: [k, t]."""
    before, after = np.full((2, count + 1, n + 1), np.inf)
    before[0, 0] = after[0, n] = 0
    for start in reversed(range(n)):
        after[1:, start] = (residual(start) + after[:-1]).min(axis=1)
    for start in range(n):
        np.minimum(before[1:], before[:-1, start, None] + residual(start), out=before[1:])
    return before, after


def _residuals(x: np.ndarray, y: np.ndarray, shape: Shape, shortest: int) -> Callable[[int], np.ndarray]:
    """A function of a start s: the residual sums of squares of the fits to [s, t), t = 0, ..., n; inf if too short."""
    n = len(x)

    def row(start: int) -> np.ndarray:
        u, v = x[start:] - x[start], y[start:] - y[start]  # sums from the start of each segment: nothing cancels
        size = np.arange(1, n - start + 1)
        rss = np.cumsum(v * v) - np.cumsum(v) ** 2 / size
        if shape == "linear":
            spread = np.cumsum(u * u) - np.cumsum(u) ** 2 / size
            common = np.cumsum(u * v) - np.cumsum(u) * np.cumsum(v) / size
            rss[1:] -= common[1:] ** 2 / spread[1:]
        rss[: shortest - 1] = np.inf
        return np.concatenate([np.full(start + 1, np.inf), np.maximum(rss, 0)])

    return row


def _line(step: np.ndarray, value: np.ndarray, a: int, b: int, shape: Shape) -> tuple[np.ndarray, float]:
    """The fit to the evaluations [a, b), and its slope."""
    u, mean = step[a:b] - step[a:b].mean(), value[a:b].mean()
    slope = float(u @ value[a:b] / (u @ u)) if shape == "linear" else 0.0
    return mean + slope * u, slope


def _inflation(residual: np.ndarray) -> float:
    """(1 + r)/(1 - r) for the correlation r of neighbours, if positive: long-run variance over variance of an AR(1)."""
    square = float(residual @ residual)
    r = float(residual[1:] @ residual[:-1]) / square if square > 0 else 0.0
    r = min(max(r, 0.0), 0.99)
    return (1 + r) / (1 - r)


def _fall(found: ChangePoints, step: np.ndarray) -> tuple[int | None, int | None]:
    """Indices of the change points at which the greatest fall begins and ends, a segment or a jump; None: not cut."""
    starts = [0, *np.searchsorted(step, found.steps).tolist(), len(step)]
    falls = [found.fitted[b - 1] - found.fitted[a] for a, b in pairwise(starts)]
    jumps = [found.fitted[cut] - found.fitted[cut - 1] for cut in starts[1:-1]]
    if jumps and min(jumps) < min(falls):
        return int(np.argmin(jumps)), int(np.argmin(jumps))
    k = int(np.argmin(falls))
    return k - 1 if k > 0 else None, k if k < len(found.steps) else None


def _logarithm(value: np.ndarray, name: str) -> np.ndarray:
    if (value < 0).any():
        raise InvalidArgumentError(f"`{name}` must be >= 0 to have a logarithm; got {value.min():.3g}.")
    return np.log(np.maximum(value, 1e-300))
