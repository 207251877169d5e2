"""Curves over training: the increasing steps of a run's evaluations and the values there, checked on entry.

"Passing" a threshold means reaching it: >= for curves that rise, <= for curves that fall. A crossing counts once it is
*sustained*: the evaluation and the next `hold` ones pass (see `interp.milestones.criterion`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp.errors import InvalidArgumentError
from interp.literals import as_count

__all__ = ["Curve", "as_curve", "as_generator", "as_numbers", "first_step", "sustained_step"]

Curve = Tensor | np.ndarray | Sequence[float] | Sequence[int]
"""Numbers along the evaluations of a run: a tensor, an array or a sequence, one-dimensional."""


def first_step(steps: Curve, values: Curve, threshold: float, *, above: bool = True) -> int | None:
    """The first logged step at which the value passes the threshold, even if only once; None where it never does.

    >>> first_step([0, 10, 20, 30], [0.1, 0.99, 0.2, 0.99], 0.95)
    10
    """
    return sustained_step(steps, values, threshold, hold=0, above=above)


def sustained_step(
    steps: Curve,
    values: Curve,
    threshold: float,
    *,
    hold: int | None = 5,
    above: bool = True,
    open_end: bool = False,
) -> int | None:
    """The first logged step at which the value passes the threshold and at each of the next `hold` evaluations as well.

    Later evaluations (one at 0.989, a collapse) do not matter, and a run that ends before `hold` further evaluations
    have no such step yet (it is censored): a step, once found, does not change as the run grows.
    `hold=None` asks for every later evaluation up to the end of the run (the step can then change). `hold` = 0 is
    `first_step`. `above=False`: for values that fall, at or below the threshold. `open_end=True` counts evaluations
    beyond the end of the run as equal to the last one (the step can then change as the run grows).

    Raises `InvalidArgumentError` for curves that are empty, not finite or of different lengths, and for steps that do
    not increase.

    >>> accuracy = [0.1, 0.99, 0.2, 0.97, 0.99, 0.98, 0.99]
    >>> sustained_step(range(0, 70, 10), accuracy, 0.95, hold=2)
    30
    >>> sustained_step(range(0, 70, 10), accuracy, 0.95) is None                 # only 3 evaluations after step 30
    True
    """
    step, value = as_curve(steps, values, "values")
    if hold is not None:
        as_count("hold", hold, minimum=0)
    if not np.isfinite(threshold):
        raise InvalidArgumentError(f"`threshold` must be finite; got {threshold!r}.")
    passes = value >= threshold if above else value <= threshold
    if hold is None:
        failures = np.flatnonzero(~passes)
        start = failures[-1] + 1 if len(failures) else 0
        return int(step[start]) if start < len(step) else None
    if open_end:
        passes = np.concatenate([passes, np.repeat(passes[-1:], hold)])
    if len(passes) <= hold:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(passes, hold + 1).all(axis=-1)
    return int(step[windows.argmax()]) if windows.any() else None


def as_curve(steps: Curve, values: Curve, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values as one-dimensional float64 arrays of one length, finite, the steps increasing.

    Raises `InvalidArgumentError`, with the `name` of the values, where they are not.

    >>> as_curve([0, 10], [1, 2], "loss")[1]
    array([1., 2.])
    """
    step, value = as_numbers("steps", steps), as_numbers(name, values)
    if step.shape != value.shape:
        raise InvalidArgumentError(
            f"`{name}` must have one value for each of the {len(step)} steps; got {len(value)}. "
            f"Select the evaluations that both have."
        )
    if (np.diff(step) <= 0).any():
        at = int(np.flatnonzero(np.diff(step) <= 0)[0])
        raise InvalidArgumentError(
            f"`steps` must increase; got {step[at]:g} before {step[at + 1]:g}. Sort both curves."
        )
    return step, value


def as_generator(generator: np.random.Generator) -> np.random.Generator:
    """A numpy generator; otherwise `InvalidArgumentError`, since a seed would hide that two calls share their draws."""
    if not isinstance(generator, np.random.Generator):
        raise InvalidArgumentError(
            f"`generator` must be a numpy Generator; got {generator!r}. Pass np.random.default_rng(seed)."
        )
    return generator


def as_numbers(name: str, values: Curve) -> np.ndarray:
    """A curve as a one-dimensional, finite float64 array; otherwise `InvalidArgumentError` with its `name`."""
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiub":
        raise InvalidArgumentError(
            f"`{name}` must be a non-empty sequence of numbers; got {array.dtype} of shape {list(array.shape)}."
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InvalidArgumentError(
            f"`{name}` must be finite; got {bad} values that are NaN or infinite. "
            f"Leave out the steps at which nothing was measured or the run had diverged."
        )
    return array
