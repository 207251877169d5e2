"""Curves of a run over its steps: their values, and the step from which a level is sustained.

A run has memorised and generalised from the first evaluation at which its accuracy is 99 % on the training pairs and
95 % on the held-out ones, and stays there for `HOLD` more evaluations (`interp.analysis.curves.sustained_step`).
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.analysis.curves import sustained_step

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = [
    "GENERALISED",
    "HOLD",
    "MEMORISED",
    "POINTS",
    "curve_of",
    "last_evaluation",
    "step_of",
    "sustained",
    "tested",
]

MEMORISED, GENERALISED = 0.99, 0.95
HOLD = 5
"""Further evaluations for which a threshold must be held."""
POINTS = 2000
"""Maximum number of points per picture, about (keeps the file small)."""


def tested(traj: "Trajectory") -> xr.Dataset:
    """Losses and accuracies over the training set and the held-out pairs, at the steps of the test evaluations."""
    metrics = traj.metrics[["train_loss", "test_loss", "train_accuracy", "test_accuracy"]]
    return metrics.dropna("step", subset=["test_accuracy"])


def curve_of(run: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a curve where it was evaluated; empty where the run lacks it."""
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
