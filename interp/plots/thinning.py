"""Fewer points of a long curve, by one of two rules.

Figures of many small panels take points evenly spaced on the axis of steps (`thinned`): a line of twenty points has no
room for spikes. The report takes the least and the greatest value of every stretch (`keep_extremes`): no spike is lost.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["keep_extremes", "nearest", "thinned"]

FIRST_POINTS = 200
"""Points at the beginning that `keep_extremes` keeps: the first steps are wide on a logarithmic axis."""


def thinned(steps: np.ndarray, count: int) -> np.ndarray:
    """Indices of about `count` steps, evenly spaced on a logarithmic axis, the first and the last among them.

    >>> thinned(np.arange(0, 1001, 10), 5)
    array([  0,   1,   5,  22, 100])
    """
    if len(steps) <= count:
        return np.arange(len(steps))
    return nearest(steps, np.append(steps[0], np.geomspace(max(steps[1], 1), steps[-1], count - 1)))


def nearest(steps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Indices of the steps next to the wanted ones, increasing, each once.

    >>> nearest(np.array([0, 10, 20]), np.array([1, 2, 18]))
    array([0, 2])
    """
    return np.unique(np.abs(steps[:, None] - wanted).argmin(axis=0))


def keep_extremes(curves: Sequence[npt.NDArray[np.floating]], most: int) -> npt.NDArray[np.int64]:
    """Positions, about `most` of them, at which each curve has the least and the greatest value of its stretches.

    The curves have one length; each is cut into stretches of equal numbers of finite values. The first
    `FIRST_POINTS` and the last point are kept in any case, and all where there are no more than `most`.

    >>> spike = np.zeros(10_000)
    >>> spike[4321] = 1
    >>> kept = keep_extremes([spike], 1000)
    >>> 4321 in kept, len(kept) <= 1200
    (True, True)
    """
    count = len(curves[0]) if curves else 0
    if count <= most:
        return np.arange(count)
    stretches = most // (2 * len(curves))
    kept = {*range(min(count, FIRST_POINTS)), count - 1}
    for values in curves:
        (finite,) = np.nonzero(np.isfinite(values))
        for part in np.array_split(finite, min(stretches, max(finite.size, 1))):
            if part.size:
                kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    return np.array(sorted(kept))
