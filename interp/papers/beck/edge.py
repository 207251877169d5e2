"""Flows at lambda = 0.45 along an axis, which figures 9, 11 and 12 share (13 their sets)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.beck.claims import medians
from interp.papers.beck.picture import axis_titles, line, panel_grid, shade
from interp.papers.beck.presets import SIZES
from interp.papers.beck.sets import chosen_sets
from interp.papers.kit.figure import Preset

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["edge_sets", "series", "series_picture", "steps_of"]

EDGE = 0.45
"""lambda of figures 9 and 11 to 13."""


def edge_sets(preset: Preset) -> np.ndarray:
    """Inseparable sets at lambda = 0.45, [set, N, d]."""
    sizes = SIZES[preset]
    return chosen_sets(sizes.n, round(EDGE * sizes.n), sizes.few)


def series(paths: Sequence[xr.Dataset], axis: str, values: Sequence[float]) -> xr.Dataset:
    """Results of flows along an axis: test curves as means over sets, and the numbers of each set."""
    data = xr.concat(paths, xr.DataArray(list(values), dims=axis, name=axis))
    curves = data[["test_loss", "test_accuracy"]].mean("set")
    return xr.merge([curves, data[["bump", "generalised", "delay"]]])


def series_picture(data: xr.Dataset, title: str, axes: dict[str, tuple[str, str]]) -> "go.Figure":
    """Picture with a row for each axis; `axes` has the suffix of its title and the name of its values."""
    names = [f"{kind}{where}" for where, _ in axes.values() for kind in ("test loss", "test accuracy")]
    fig = panel_grid(title, len(axes), 2, names, 180 + 220 * len(axes))
    t = 10 ** data["log10_t"].values[::2]
    for row, (axis, (_, word)) in enumerate(axes.items(), 1):
        suffix = axis.removeprefix("value")
        for colour, value in zip(shade(data[axis].values), data[axis].values):
            for col, kind in ((1, "test_loss"), (2, "test_accuracy")):
                y = data[f"{kind}{suffix}"].sel({axis: value})[::2]
                line(fig, t, y, f"{word} = {value:g}", colour, (row, col))
        bottom = "time t" if row == len(axes) else ""
        axis_titles(fig, (row, 1), bottom, "cross-entropy (nats)", x_type="log")
        axis_titles(fig, (row, 2), bottom, "accuracy", x_type="log")
    return fig


def steps_of(array: xr.DataArray, axis: str, low: float = -math.inf) -> np.ndarray:
    """Differences between the medians of neighbours along the axis, from the value `low` on."""
    return np.diff(medians(array, axis, low, math.inf))
