"""Steps from which curves of results are sustained at a level, as numbers for claims: NaN or infinite where never.

Levels of runs that have memorised and generalised, and the number of evaluations for which they must be held, are the
defaults of `interp.milestones`; another one stands in the file of its figure. Where the curves of a run come from is
decided by `interp.milestones.curve`.
"""

import math

import numpy as np
import xarray as xr

from interp.analysis.curves import sustained_step
from interp.milestones import criterion

__all__ = ["GENERALISED", "HOLD", "MEMORISED", "POINTS", "curve_of", "last_evaluation", "step_of", "sustained"]

HOLD = criterion.HOLD
"""Further evaluations for which a level must be held."""
MEMORISED = criterion.MEMORISED.level
"""Train accuracy of a run that has memorised."""
GENERALISED = criterion.GENERALISED.level
"""Test accuracy of a run that has generalised."""
POINTS = 2000
"""Maximum number of points per picture, about (keeps the file small)."""


def curve_of(run: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a curve of results, NaN left out; empty where the results lack it."""
    series = run[name].dropna("step") if name in run else xr.DataArray([], {"step": []}, "step")
    return series["step"].values, series.values


def last_evaluation(run: xr.Dataset) -> float:
    """Step of the last test evaluation; NaN without any."""
    steps, _ = curve_of(run, "test_accuracy")
    return float(steps[-1]) if len(steps) else math.nan


def step_of(
    run: xr.Dataset, name: str, threshold: float, *, hold: int = HOLD, above: bool = True, limit: float = math.inf
) -> float:
    """Step from which a curve is sustained at the threshold; if it never is, infinite if the run lasted to `limit`.

    >>> run = xr.Dataset({"test_accuracy": ("step", [0.1, 0.9, 0.2, 0.6, 0.9, 0.9])}, {"step": range(0, 60, 10)})
    >>> [step_of(run, "test_accuracy", level, hold=2, limit=50) for level in (0.5, 0.95)]
    [30.0, inf]
    """
    found = sustained(*curve_of(run, name), threshold, hold=hold, above=above)
    return math.inf if math.isnan(found) and last_evaluation(run) >= limit else found


def sustained(
    steps: np.ndarray, values: np.ndarray, threshold: float, *, hold: int | None = HOLD, above: bool = True
) -> float:
    """Step from which values are sustained at the threshold; NaN where they never are."""
    found = sustained_step(steps, values, threshold, hold=hold, above=above) if len(steps) else None
    return math.nan if found is None else float(found)
