"""Numbers that claims of several figures share: of the curves of one run, and of all runs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import median_filter

from interp.papers.hu import P
from interp.papers.hu.runs import Label
from interp.papers.kit.curves import GENERALISED, HOLD, MEMORISED, curve_of, last_evaluation, step_of
from interp.papers.kit.figure import Bounds, bounds

__all__ = [
    "CHANCE",
    "GROKKED",
    "LASTING",
    "LONGER",
    "MEMORY",
    "MODULUS",
    "ONE_SEED",
    "SCALARS",
    "THREE_SEEDS",
    "Measured",
    "OneRun",
    "at_fractions",
    "best_unmirrored",
    "delayed_gain",
    "lasted",
    "lateness",
    "over_seeds",
    "ratio_of",
    "reaches",
    "steady",
]

OneRun = Callable[[xr.Dataset], float]
"""Number from the curves of one run, over `step`; NaN where they cannot tell."""
Measured = Callable[[xr.Dataset], float | Bounds]
"""Number from all runs, or its lower and upper bound."""
LASTING = 10
"""Length of a run that is to show that something never comes, in multiples of the steps to memorise."""
CHANCE = 0.1
"""Accuracy on pairs whose mirror is held out, up to which a network has not generalised at all."""

# what claims need, and parts of notes
MEMORY = "runs that memorise their training set"
LONGER = f"runs that memorise, and last {LASTING} times as long as that takes, at p = 20 or more"
GROKKED = "runs that last until they generalise"
MODULUS = f"p = {P}, as published, and a run that gets that far"
SCALARS = (
    "The paper's direct encoding is the integers x, y and p. Its curves are those of networks that read them as "
    "numbers (here divided by p), not of networks that look them up in a table of embeddings, which memorise and do "
    "not generalise: the claims are tested on the former, the latter are shown beside. "
)
THREE_SEEDS = "Each has three seeds, that of split and weights alike. "
ONE_SEED = "The laptop preset has one seed, that of split and weights alike; the paper preset three. "


def at_fractions(
    number: OneRun, *fractions: float, of: Callable[[list[float]], Any] = np.max, inputs: str | None = None
) -> Measured:
    """Median over seeds of a number of the runs at these fractions: their largest, or `of` them."""
    where: Label = {} if inputs is None else {"inputs": inputs}
    return over_seeds(lambda data: _combined(of, [number(data.sel({"fraction": f, **where})) for f in fractions]))


def over_seeds(number: Measured) -> Measured:
    """Median over seeds; undecided seeds widen it to the interval that the others allow."""
    return lambda data: _combined(np.median, [number(data.isel(seed=i)) for i in range(data.sizes["seed"])])


def _combined(of: Callable[[list[float]], Any], numbers: Sequence[float | Bounds]) -> Bounds:
    """Bounds of `of` the numbers, which must not fall when one of them grows; a number that is NaN has no bounds."""
    lows, highs = zip(*map(bounds, numbers))
    low, high = float(of(list(lows))), float(of(list(highs)))
    return -math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high


def ratio_of(above: Measured, below: Measured) -> Measured:
    """Quotient of two positive numbers."""

    def ratio(data: xr.Dataset) -> Bounds:
        (least, most), (smallest, largest) = (bounds(number(data)) for number in (above, below))
        low = max(least, 0.0) / largest if largest < math.inf else 0.0
        high = most / smallest if 0 < smallest < math.inf else math.inf if smallest <= 0 or most == math.inf else 0.0
        return low, high

    return ratio


def lateness(run: xr.Dataset) -> float:
    """Steps to generalise over steps to memorise."""
    return step_of(run, "test_accuracy", GENERALISED) / step_of(run, "train_accuracy", MEMORISED)


def reaches(name: str, threshold: float, limit: float) -> OneRun:
    """Steps to an accuracy, at the paper's modulus; infinite where a run has not reached it by step `limit`."""

    def steps(run: xr.Dataset) -> float:
        return step_of(run, name, threshold, limit=limit) if int(run["p"]) == P else math.nan

    return steps


def best_unmirrored(run: xr.Dataset) -> float:
    """Best accuracy on pairs whose mirror is held out too; NaN where the level of failure is that of chance, 1/p."""
    if 2 / int(run["p"]) > CHANCE:
        return math.nan
    _, values = curve_of(run, "test_accuracy_unmirrored")
    best = float(values.max()) if len(values) else math.nan
    return best if best > CHANCE or lasted(run) else math.nan


def lasted(run: xr.Dataset) -> bool:
    """Whether the run has memorised, and gone on for `LASTING` times as long."""
    return last_evaluation(run) >= LASTING * step_of(run, "train_accuracy", MEMORISED)


def delayed_gain(run: xr.Dataset) -> float:
    """Gain of the test accuracy after twice the steps that brought the train accuracy within 5 % of its best.

    NaN of runs that have not learned nine tenths of the training set, or end before.
    """
    _, train = steady(run, "train_accuracy")
    steps, test = steady(run, "test_accuracy")
    if not len(train) or train.max() < 0.9:
        return math.nan
    after = test[steps >= 2 * step_of(run, "train_accuracy", 0.95 * train.max())]
    return float(after.max() - after[0]) if len(after) else math.nan


def steady(run: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Curve without its spikes: running medians over five evaluations."""
    steps, values = curve_of(run, name)
    return steps, median_filter(values, size=HOLD, mode="nearest") if len(values) else values
