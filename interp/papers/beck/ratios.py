"""Ratio of the times of two points to generalise and to fit, and its slope, which figures 4 and 8 share."""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.beck.picture import axis_titles, line
from interp.papers.beck.theory import two_points
from interp.papers.kit.figure import Claim
from interp.plots.style import COLOURS, SERIES
from interp.theory.separability import Loss

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["SLOPE_CLAIM", "add_ratios", "ratios"]


@lru_cache(maxsize=1)
def ratios(count: int) -> xr.Dataset:
    """sqrt(ln(t_gen/t_train)) of two points at sigma = 300 by two thresholds and both losses, and its formula."""
    delta = np.geomspace(1e-1, 1e-4, count)
    epsilon = np.array([1e-3, 1e-30])
    losses: tuple[Loss, ...] = ("exponential", "cross-entropy")
    found = [two_points.grokking_times(epsilon[:, None], delta, 300.0, loss=loss).log_ratio for loss in losses]
    return xr.Dataset(
        {
            "root": (("loss", "epsilon", "delta"), np.sqrt(found)),
            "root_formula": ("delta", np.sqrt(two_points.log_grokking_ratio(delta))),
        },
        coords={"loss": list(losses), "epsilon": epsilon, "delta": delta},
    )


def add_ratios(fig: "go.Figure", data: xr.Dataset, at: tuple[int, int]) -> None:
    """Add the ratios and their formula to a panel."""
    x = data["delta"].values
    for colour, loss in zip((SERIES[0], SERIES[1]), data["loss"].values):
        for symbol, epsilon in zip(("circle", "x"), data["epsilon"].values):
            y = data["root"].sel(loss=loss, epsilon=epsilon)
            line(fig, x, y, f"{loss}, ε = {epsilon:.0e}", colour, at, mode="markers", size=7, symbol=symbol)
    line(fig, x, data["root_formula"], "formula", COLOURS["other"], at)
    y = float(data["root_formula"][-1]) - np.log(x / x[-1]) / math.sqrt(2)
    line(fig, x, y, "slope 1/√2", COLOURS["all"], at, dash="dot")
    axis_titles(fig, at, "1 − 2λ", "√ ln(t_gen/t_train)", x_type="log")


def _slope(data: xr.Dataset, loss: str = "exponential") -> float:
    """d root/d ln(1 - 2 lambda) of the values at or below 10^-2, at the smallest threshold."""
    near = data["root"].sel(loss=loss, epsilon=1e-30)[data["delta"].values < 1.1e-2]
    return -float(np.polyfit(np.log(near["delta"]), near, 1)[0])


SLOPE_CLAIM = Claim(
    text="sqrt(ln(t_gen/t_train)) grows as |ln(1 - 2 lambda)|/sqrt(2) (eq. 16): slope, 1 - 2 lambda = 1e-2 ... 1e-4",
    measure=_slope,
    at_least=0.69,
    at_most=0.715,
)
