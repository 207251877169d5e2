"""Sources of a run's curves: its log, or the measures of its checkpoints.

Losses and accuracies can be had from both: logged while training, at the steps of the config's `log`, or measured
later at the stored checkpoints. One rule decides for every table, headline, band and figure:

    The log counts, unless checkpoints have more than twice as many finite values.

Measuring costs a pass through the network at each checkpoint, which less than twice the resolution is not worth.
Losses that the log defines otherwise than the measures (`logged_loss`) come from the log alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr

from interp.analysis.catalogue import MEASURES
from interp.analysis.context import RunContext
from interp.analysis.measures import measure
from interp.trajectory import Trajectory, as_trajectory

__all__ = ["CURVES", "Evaluations", "Run", "curve", "curves", "defined", "evaluations", "logged_loss"]

Run = Trajectory | str | Path | tuple[xr.Dataset, xr.Dataset | None]
"""A run, its folder, or the pair of what was measured (`interp.measure`) and what was logged (`traj.metrics`)."""
CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
"""The variables that are both logged and measured."""


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of a run: its log, and its checkpoints, which are measured when they are asked for."""

    logged: xr.Dataset
    measured: Callable[[], xr.Dataset]
    """Measures the `CURVES` that are defined for the run, at its checkpoints."""
    checkpoints: int
    """Number of checkpoints."""
    held_out: bool
    """Whether inputs are known to have been held out; if not, test numbers are over all inputs."""
    operands: bool
    """Whether inputs are tuples of operands, so that a circuit can form."""
    last_layer: xr.Dataset = field(default_factory=xr.Dataset)
    """Variable `norm`: L2 norm of the unembedding, where it has been measured; no variable otherwise."""

    @property
    def diverged(self) -> int | None:
        """The step at which a number was not finite; None: all were."""
        return self.logged.attrs.get("diverged")


def evaluations(run: Run | Evaluations) -> Evaluations:
    """The evaluations of a run; those that are already at hand pass through."""
    if isinstance(run, Evaluations):
        return run
    if isinstance(run, tuple):
        data, metrics = run
        logged = xr.Dataset() if metrics is None else metrics
        return Evaluations(
            logged=logged.assign_attrs({**data.attrs, **logged.attrs}),
            measured=lambda: data,
            checkpoints=data.sizes.get("step", 0),
            held_out=bool(data.attrs.get("held_out", 1)),
            operands=data.attrs.get("p") != 0,
            last_layer=_last_layer(data),
        )
    traj = as_trajectory(run)
    return Evaluations(
        logged=traj.metrics,
        measured=cache(lambda: measure(traj, names) if (names := defined(traj, CURVES)) else xr.Dataset()),
        checkpoints=len(traj.steps),
        held_out=traj.task.held_out,
        operands=traj.task.arity > 0,
    )


def curve(run: Run | Evaluations, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one of `CURVES`, by the rule of this module; both empty where it was not evaluated.

    >>> data = xr.Dataset({"test_accuracy": ("step", [0.1, 0.9])}, {"step": [0, 100]})
    >>> log = xr.Dataset({"test_accuracy": ("step", [0.1, np.nan, 0.5])}, {"step": [0, 10, 20]})
    >>> curve((data, log), "test_accuracy")[0], curve((data, None), "test_accuracy")[0]
    (array([ 0, 20]), array([  0, 100]))
    """
    found = curves(run, [name])
    return found["step"].values, found[name].values


def curves(run: Run | Evaluations, names: Sequence[str]) -> xr.Dataset:
    """Several of `CURVES` at the steps at which all of them are finite, from one source by the rule of this module."""
    source = evaluations(run)
    logged = _finite(source.logged, names)
    own = logged_loss(source.logged) is not None and any(name.endswith("loss") for name in names)
    if own or 2 * logged.sizes["step"] >= source.checkpoints:
        return logged
    measured = _finite(source.measured(), names)
    return measured if measured.sizes["step"] > 2 * logged.sizes["step"] else logged


def logged_loss(metrics: xr.Dataset | None) -> str | None:
    """The kind of loss that a log holds, in words, where it is not the cross-entropy of the answers alone.

    >>> logged_loss(xr.Dataset({"test_loss": ("step", [1.0])}, {"step": [0]}, {"loss": "mean squared error"}))
    'mean squared error'
    """
    if metrics is None or not any(name in metrics for name in ("train_loss", "test_loss")):
        return None
    return metrics.attrs.get("loss")


def defined(traj: Trajectory, names: Sequence[str]) -> list[str]:
    """The measures among `names` that are defined for a run."""
    context = RunContext(traj)
    return [name for name in names if context.unmet(MEASURES[name].requires) is None]


def _last_layer(data: xr.Dataset) -> xr.Dataset:
    """L2 norm of the unembedding from the sums of squares of each parameter."""
    if "sum_of_squares_by_parameter" not in data:
        return xr.Dataset()
    own = [name for name in data["parameter"].values if str(name).startswith("unembed.")]
    squares = data["sum_of_squares_by_parameter"].sel(parameter=own)
    return xr.Dataset({"norm": squares.sum("parameter") ** 0.5}) if own else xr.Dataset()


def _finite(data: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Variables at the steps at which all are finite; empty where one of them is not there."""
    if not all(name in data for name in names):
        return xr.Dataset({name: ("step", np.empty(0)) for name in names}, {"step": np.empty(0, dtype=int)})
    kept = np.all([np.isfinite(data[name].values) for name in names], axis=0)
    return data[list(names)].isel(step=kept)
