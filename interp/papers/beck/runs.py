"""Discrete steps where the paper shows them: configs of logistic regression, and when a run fits or generalises."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from interp.analysis.curves import sustained_step
from interp.config import SGD, Adam, Gaussian, Log, Logistic, RunConfig, Save
from interp.config.schedule import Every, LogSpaced
from interp.papers.beck.sizes import LEVEL
from interp.papers.kit.figure import Preset

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = ["descent_config", "logged", "no_runs", "step_of"]


def no_runs(preset: Preset) -> Sequence[RunConfig]:
    """Of figures that are computed without training."""
    return ()


def descent_config(n: int, d: int, sigma: float, seed: int, optimizer: SGD | Adam, steps: int) -> RunConfig:
    """Logistic regression on one set, logged more densely with Adam."""
    adam = isinstance(optimizer, Adam)
    log = LogSpaced(60) | Every(2, until=2000) | Every(50) if adam else LogSpaced(80)
    return RunConfig(
        task=Gaussian(n=n, d=d, sigma=sigma, seed=seed),
        model=Logistic(),
        optimizer=optimizer,
        steps=steps,
        save=Save(weights=LogSpaced(80), state=Every(steps)),
        log=Log(train=log, test=log),
    )


def logged(traj: "Trajectory") -> xr.Dataset:
    """Losses and accuracies at the steps that have all four."""
    names = ["train_loss", "test_loss", "train_accuracy", "test_accuracy"]
    return traj.metrics[names].dropna("step")


def step_of(curve: xr.DataArray) -> float:
    """The step from which an accuracy stays above `LEVEL` to the end of the run; NaN where it does not."""
    step = sustained_step(curve["step"].values, curve.values, LEVEL, hold=None)
    return math.nan if step is None else max(float(step), 1.0)
