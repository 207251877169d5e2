"""Runs of logistic regression that several figures share, and the steps at which they fit and generalise."""

import math
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.config import SGD, Adam, Gaussian, Log, Logistic, RunConfig, Save
from interp.config.schedule import Every, LogSpaced
from interp.milestones.sources import CURVES, curves
from interp.papers.beck.presets import LEVEL, SIZES
from interp.papers.beck.theory.gradient_flow import bump
from interp.papers.kit.curves import sustained
from interp.papers.kit.figure import Preset
from interp.theory.separability import margin

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = ["ADAM", "adam_config", "adam_summary", "descent_config", "step_of"]

ADAM = Adam(lr=0.01, betas=(0.8, 0.9), eps=1e-16)
"""Adam of figures 5 and 10."""


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


def adam_config(preset: Preset, lambda_: float, seed: int, optimizer: SGD | Adam, n: int | None = None) -> RunConfig:
    """Run at sigma = 1; Adam is given more steps above lambda = 1/2."""
    sizes = SIZES[preset]
    n = sizes.adam_n if n is None else n
    late = lambda_ > 0.5 and isinstance(optimizer, Adam)
    steps = sizes.adam_late if late else sizes.adam_steps
    return descent_config(n, round(lambda_ * n), 1.0, seed, optimizer, steps)


def adam_summary(traj: "Trajectory", last: int) -> xr.Dataset:
    """Curves of a run on a logarithmic grid, and its numbers; NaN if its points are on the wrong side of the edge."""
    run = curves(traj, CURVES)
    data = run.interp(step=np.unique(np.geomspace(1, last, 50).astype(int)))
    fitted = step_of(run["train_accuracy"])
    then = run["test_accuracy"].sel(step=fitted, method="nearest") if fitted > 0 else math.nan
    data["fitted"], data["generalised"] = fitted, step_of(run["test_accuracy"])
    data["accuracy_when_fitted"] = then.item() if isinstance(then, xr.DataArray) else then
    data["largest_loss"] = run["test_loss"].max().item()
    data["bump"] = bump(run["test_loss"].values).item()
    data["last_accuracy"] = run["test_accuracy"][-1].item()
    points = traj.task.tokens.numpy()
    n, d = points.shape
    return data if bool(margin(points).separable) == (2 * d > n) else data * math.nan


def step_of(curve: xr.DataArray) -> float:
    """Step from which an accuracy stays above `LEVEL` to the end of the run, at least 1; NaN where it does not.

    The paper's times are last ones, not those of a level that is held for a while.
    """
    return float(np.maximum(sustained(curve["step"].values, curve.values, LEVEL, hold=None), 1.0))
