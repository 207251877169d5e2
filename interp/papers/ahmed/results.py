"""Results of every figure: the curves of all runs in one dataset, and the settings of each run."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.analysis.measures import measure
from interp.config import RunConfig
from interp.config.events import parse_event
from interp.milestones.sources import CURVES, curves
from interp.papers.ahmed.runs import TIMES, decay_after, net_of, task_of
from interp.papers.kit.figure import Preset

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = [
    "STORED",
    "over_training",
    "panel_of_fraction",
    "panel_of_regularisation",
    "panel_of_schedule",
    "panel_without_decay",
    "scaling",
    "where",
]

STORED = ("weight_norm", "test_accuracy_unmirrored")
"""Measures of every run, taken at the stored steps."""
ESSAY_DECAY = 0.01
"""Weight decay of the essay."""


def over_training(trajs: Sequence["Trajectory"], preset: Preset, *, panel: Callable[[RunConfig], str]) -> xr.Dataset:
    """Curves over (run, step), NaN where nothing was evaluated or stored, and the settings of each run.

    Arguments:
        panel: name of the row in which a run is drawn, "" for a control; claims take medians over the seeds of a
            panel.

    Returns:
        Losses, accuracies and `STORED`; coordinates over `run`: panel, phase, cell, seed, train_fraction, init_scale,
        dropout, weight_decay (at the start), event_step and decay_after, from then on (NaN without an event).
    """
    configs = [traj.config for traj in trajs]
    data = xr.concat(
        [_curves(traj) for traj in trajs], dim="run", join="outer", data_vars="all", coords="different",
        compat="equals", combine_attrs="drop",
    )  # fmt: skip
    nets = [net_of(config) for config in configs]
    columns: dict[str, list[Any]] = {
        "panel": [panel(config) for config in configs],
        "phase": [TIMES[preset].phase_of(config) for config in configs],
        "cell": [net.cell for net in nets],
        "seed": [config.seed for config in configs],
        "train_fraction": [task_of(config).train_fraction for config in configs],
        "init_scale": [net.init_scale for net in nets],
        "dropout": [net.dropout for net in nets],
        "weight_decay": [config.optimizer.weight_decay for config in configs],
        "event_step": [float(traj.events[0][0]) if traj.events else math.nan for traj in trajs],
        "decay_after": [math.nan if (after := decay_after(config)) is None else after for config in configs],
    }
    data = data.assign_coords({name: ("run", np.array(column)) for name, column in columns.items()})
    return data.assign_attrs(preset=preset, scaling=scaling(configs))


def _curves(traj: "Trajectory") -> xr.Dataset:
    """Four logged curves at the steps of the test evaluations, and two measures at the stored ones."""
    return curves(traj, CURVES).merge(measure(traj, STORED), join="outer", combine_attrs="drop").astype(np.float32)


def scaling(configs: Sequence[RunConfig]) -> str:
    """Meaning of the weight decays of a preset; empty where they are the essay's.

    >>> from interp.papers.ahmed.fig4 import runs
    >>> scaling(runs("laptop"))
    "weight decay 0.1 stands for the essay's 0.01, time divided by 10"
    """
    units: dict[str, float] = {}
    for config in configs:
        for decay in filter(None, (config.optimizer.weight_decay, decay_after(config))):
            units[config.model.slug] = min(decay, units.get(config.model.slug, math.inf))
    found = {unit: [slug for slug in units if units[slug] == unit] for unit in units.values() if unit != ESSAY_DECAY}
    return "; ".join(
        f"weight decay {unit:g}{f' ({slugs[0].upper()})' if len(found) > 1 else ''} stands for the essay's "
        f"{ESSAY_DECAY:g}, time divided by {unit / ESSAY_DECAY:.0f}"
        for unit, slugs in found.items()
    )


def panel_of_fraction(config: RunConfig) -> str:
    """Panel of A2 and A3: the training fraction."""
    return f"{task_of(config).train_fraction:.0%} trained on"


def panel_of_schedule(config: RunConfig) -> str:
    """Panel of A4 to A7: the weight decay, and when it changes."""
    before = config.optimizer.weight_decay
    if not config.events:
        return f"weight decay {before:g} throughout, {config.steps:,} steps"
    unit, number = str(parse_event(config.events[0]).when).split()
    return f"weight decay {before:g} until {unit} {int(number):,}, then {decay_after(config):g}"


def panel_of_regularisation(config: RunConfig) -> str:
    """Panel of A72 and A74: optimiser, dropout and training fraction."""
    dropped = f"dropout {net_of(config).dropout:g}" if net_of(config).dropout else "no dropout"
    kind = f"AdamW, weight decay {config.optimizer.weight_decay:g}" if config.optimizer.weight_decay else "Adam"
    return f"{kind}, {dropped}, {task_of(config).train_fraction:.0%} trained on"


def panel_without_decay(config: RunConfig) -> str:
    """Panel of A71 and A73: optimiser, dropout and training fraction; runs with weight decay are controls."""
    return "" if config.optimizer.weight_decay else panel_of_regularisation(config)


def where(data: xr.Dataset, **wanted: object) -> xr.Dataset:
    """Runs whose coordinates have these values."""
    return data.isel(run=np.logical_and.reduce([data[name].values == value for name, value in wanted.items()]))
