"""Figure B7 (7 of the paper): the mean of the positive projections below the edge, and the margin above it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest, limit_error, median
from interp.papers.beck.picture import axis_titles, line, panel_grid
from interp.papers.beck.presets import SIZES
from interp.papers.beck.sets import limits_over_lambda, margins
from interp.papers.beck.theory import proportional_limit
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Quartiles of the mean of the positive projections and of the margin, with their limits, over lambda."""
    sizes = SIZES[preset]
    data = limits_over_lambda(sizes.n, sizes.below, sizes.many, "lambda_below")[
        ["mean_positive", "mean_positive_limit"]
    ]
    n, dims, count = sizes.above
    found = [margins(n, d, count) for d in dims]
    quartiles = [np.quantile(M[M > 0], [0.25, 0.5, 0.75]) if (M > 0).any() else np.full(3, np.nan) for M in found]
    data["margin"] = (("lambda_above", "quantile"), np.stack(quartiles))
    data = data.assign_coords(lambda_above=np.array(dims) / n)
    data["margin_limit"] = ("lambda_above", proportional_limit.separable(data["lambda_above"].values).margin)
    data["margin_two_points"] = ("lambda_above", 2 * data["lambda_above"].values - 1)
    return data.assign_attrs(points=sizes.n, points_above=n)


def picture(data: xr.Dataset) -> "go.Figure":
    """Mean of the positive projections; margin."""
    names = ("mean of the positive projections", "margin")
    fig = panel_grid("On either side of the edge", 1, 2, names)
    panels = ((1, "lambda_below", "mean_positive", "points"), (2, "lambda_above", "margin", "points_above"))
    for col, axis, kind, points in panels:
        low, middle, high = data[kind].transpose("quantile", axis).values
        error = {"type": "data", "array": high - middle, "arrayminus": middle - low, "width": 0, "thickness": 1}
        name, colour = f"sets, N = {data.attrs[points]}", COLOURS["train"]
        line(fig, data[axis], middle, name, colour, (1, col), mode="markers", size=6, error_y=error)
        line(fig, data[axis], data[f"{kind}_limit"], "N → ∞", COLOURS["other"], (1, col))
    line(fig, data["lambda_above"], data["margin_two_points"], "two points", COLOURS["other"], (1, 2), dash="dot")
    axis_titles(fig, (1, 1), "λ", "x·S/|S|, in units of σ")
    axis_titles(fig, (1, 2), "λ", "M, in units of σ")
    return fig


FIGURE = Figure(
    paper=PAPER,
    label="B7",
    title="The mean of the positive projections below the edge, and the margin above it",
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="The mean of the positive projections falls towards the edge: its largest step over lambda",
            measure=lambda data: largest(np.diff(data["mean_positive"].sel(quantile=0.5))),
            at_most=-0.001,
        ),
        Claim(
            text="It does not go exactly to zero in finite samples: the mean at lambda = 0.49",
            measure=lambda data: median(data["mean_positive"].sel(quantile=0.5), lambda_below=0.49),
            at_least=0.03,
            at_most=0.15,
        ),
        Claim(
            text="It is that of the limit N to infinity (an extension): largest relative error, lambda <= 0.42",
            measure=lambda data: limit_error(data, "mean_positive"),
            at_most=0.08,
        ),
        Claim(
            text="The margin grows with lambda: its least step",
            measure=lambda data: -largest(-np.diff(data["margin"].sel(quantile=0.5))),
            at_least=0.005,
        ),
        Claim(
            text="It is roughly linear next to the edge, 1.25 (lambda - 1/2): slope at lambda = 0.55",
            measure=lambda data: median(data["margin"].sel(quantile=0.5), lambda_above=0.55) / 0.05,
            at_least=1.0,
            at_most=1.5,
        ),
        Claim(
            text="It is that of the limit N to infinity (an extension): largest difference",
            measure=lambda data: largest(abs(data["margin"].sel(quantile=0.5) - data["margin_limit"]).values),
            at_most=0.03,
        ),
    ),
    notes=(
        "Projections on the unit vector along S_inf, sigma = 1; medians over inseparable and separable sets, 60 and 20 "
        "of N = 400 for laptop. The margin of two points, 2 lambda - 1, is 1.6 to 2 times as large."
    ),
    minutes={"toy": 0.01, "laptop": 0.2, "paper": 1500},
)
