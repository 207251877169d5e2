"""Figure B3 (3 of the paper): the hard margin of two points, and the time to generalise over sigma and lambda."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest, median
from interp.papers.beck.picture import axis_titles, line, panel_grid
from interp.papers.beck.presets import LEVEL, LN10, SIZES
from interp.papers.beck.theory import two_points
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS, colour_bar
from interp.theory.separability import hard_margin

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Hard margins of three cases, and log t over sigma and 1 - 2 lambda."""
    delta = np.array([0.5, 0.0, -0.5])
    cone = two_points.hard_margin(delta)
    # by the general solver for points, which knows nothing of the closed form
    nearest = hard_margin(np.stack([np.full(3, -1.0), delta], axis=1)[..., None])
    count = SIZES[preset].grid
    # denser than the published map needs: the values that claims name are on the grid
    sigma = np.unique(np.concatenate([np.geomspace(1, 100, count), [5.0, 10.0]]))
    edge = np.unique(np.concatenate([np.geomspace(1e-6, 1, count), [1e-5, 1e-2]]))
    log_t = two_points.accuracy_time(LEVEL, edge, sigma[:, None])
    return xr.Dataset(
        {
            "apex": (("case", "coordinate"), cone.apex),
            "rays": (("case", "ray", "coordinate"), cone.rays),
            "nearest": (("case", "coordinate"), np.stack([nearest.S[:, 0], nearest.b], axis=1)),
            "log_t": (("sigma", "delta"), np.maximum(log_t, 0.0)),
        },
        coords={"case": delta, "coordinate": ["S", "b"], "sigma": sigma, "delta": edge},
    )


def picture(data: xr.Dataset) -> "go.Figure":
    """Hard margin of three cases; map of the time to generalise."""
    names = [f"x₂ = {x:g} σ".replace("-", "−") for x in data["case"].values] + ["log₁₀ t at accuracy 0.95"]
    fig = panel_grid("Two points: the hard margin, and the time to generalise", 1, 4, names)
    for i in range(data.sizes["case"]):
        one = data.isel(case=i)
        apex = one["apex"].values
        left, right = (apex + 3 * ray for ray in one["rays"].values)
        x, y = zip(left, apex, right, (right[0], -9), (left[0], -9), left)  # filled to below the panel
        line(fig, x, y, "S·x + b = −1 for both", COLOURS["train"], (1, i + 1), fill="toself")
        S, b = one["nearest"].values
        line(fig, [S], [b], "next to 0", COLOURS["test"], (1, i + 1), mode="markers", size=8)
        line(fig, [0], [0], "origin", COLOURS["all"], (1, i + 1), mode="markers", size=6, symbol="cross")
        axis_titles(fig, (1, i + 1), "S", "b" if i == 0 else "", x_range=[-2, 2], y_range=[-3, 0.4])
    fig.add_heatmap(
        x=data["delta"].values, y=data["sigma"].values, z=(data["log_t"].values / LN10).astype(np.float32),
        autocolorscale=True, colorbar=colour_bar("decades"), row=1, col=4,
    )  # fmt: skip
    axis_titles(fig, (1, 4), "1 − 2λ", "σ", x_type="log", y_type="log", x_dtick=2)
    return fig


def _least_step(data: xr.Dataset) -> float:
    towards_edge = -np.diff(data["log_t"].values, axis=1)
    with_sigma = np.diff(data["log_t"].values, axis=0)
    return float(min(towards_edge.min(), with_sigma.min()))


def _log_t(data: xr.Dataset, sigma: float, delta: float) -> float:
    at = np.abs(np.log(data["delta"].values / delta)).argmin()  # a coordinate over decades
    return median(data["log_t"].isel(delta=at), sigma=sigma)


FIGURE = Figure(
    paper=PAPER,
    label="B3",
    title="The geometry of the hard margin in one dimension, and the time to generalise over sigma and lambda",
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="The hard margin is (0, -1) where the origin is between the points: largest |S|, x_2 >= 0",
            measure=lambda data: largest(abs(data["nearest"].sel(case=[0.5, 0.0], coordinate="S")).values),
            at_most=1e-9,
        ),
        Claim(
            text="Elsewhere it has weight M/(1 + M^2): S at x_2 = -0.5 (0.4)",
            measure=lambda data: float(data["nearest"].sel(case=-0.5, coordinate="S")),
            at_least=0.4 - 1e-9,
            at_most=0.4 + 1e-9,
        ),
        Claim(
            text="The time to generalise grows with sigma and towards the edge: its least step on the map, ln t",
            measure=_least_step,
            at_least=-0.02,
        ),
        Claim(
            text="It saturates towards the edge at sigma = 5: gain over the last decade of 1 - 2 lambda, ln t",
            measure=lambda data: _log_t(data, 5.0, 1e-6) - _log_t(data, 5.0, 1e-5),
            at_most=0.05,
        ),
        Claim(
            text="It saturates in sigma at 1 - 2 lambda = 0.01: gain from sigma = 10 to 100, ln t",
            measure=lambda data: _log_t(data, 100.0, 1e-2) - _log_t(data, 10.0, 1e-2),
            at_most=0.05,
        ),
        Claim(
            text="It diverges only if both do: gain from sigma = 5 to 100 at 1 - 2 lambda = 1e-6, ln t",
            measure=lambda data: _log_t(data, 100.0, 1e-6) - _log_t(data, 5.0, 1e-6),
            at_least=5.0,
        ),
    ),
    notes="Exponential loss, from zero. Times before t = 1 count as 1.",
    minutes={"toy": 0.02, "laptop": 0.1, "paper": 0.1},
)
