"""Fewer points of a long curve: by spacing, or by what must not be lost.

`spread` chooses points evenly along an axis of steps, for small figures of smooth curves. `keep_extremes` keeps the
least and the greatest value of every stretch, so that no spike is lost on a screen that could show it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["keep_extremes", "spread"]

FIRST_POINTS = 200
"""Points at the beginning that `keep_extremes` keeps: the first steps are wide on a logarithmic axis."""


def spread(
    steps: npt.ArrayLike, count: int, *, scale: str = "log", start: float | None = None
) -> npt.NDArray[np.int64]:
    """Positions of at most `count` + 1 of the increasing `steps`: nearest to an even spacing, and the first one.

    On the `scale` "log" the spacing is even in the logarithm of the step and begins at `start` (None: the first
    positive step); on "linear" it begins at `start` (None: 0). It ends at the last step.

    >>> spread([0, 10, 20, 30, 40, 80], 3).tolist()
    [0, 1, 3, 5]
    >>> spread([0, 10, 20, 30, 40, 80], 3, scale="linear").tolist()
    [0, 4, 5]
    """
    step = np.asarray(steps)
    positive = step[step > 0]
    if len(step) <= count or not len(positive):
        return np.arange(len(step))
    if scale == "log":
        wanted = np.geomspace(positive[0] if start is None else start, step[-1], count)
    else:
        wanted = np.linspace(start or 0.0, step[-1], count)
    after = np.clip(np.searchsorted(step, wanted), 1, len(step) - 1)
    nearest = after - (wanted - step[after - 1] <= step[after] - wanted)
    return np.unique(np.append(nearest, 0))


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
