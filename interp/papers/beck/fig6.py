"""Figure B6 (6 of the paper): the share of positive projections, and the share of separable sets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest
from interp.papers.beck.picture import axis_titles, line, panel_grid
from interp.papers.beck.presets import SIZES
from interp.papers.beck.sets import limits_over_lambda, margins
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS
from interp.theory.separability import separation_probability

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Quartiles of the share of positive projections; share of separable sets and Wendel's probability, over lambda."""
    sizes = SIZES[preset]
    data = limits_over_lambda(sizes.n, sizes.below, sizes.many, "lambda_below")
    data = data[["fraction_positive", "fraction_positive_limit"]]
    n = sizes.n
    dims = [round(x * n) for x in (0.4, 0.45, 0.47, 0.48, 0.49, 0.5, 0.51, 0.52, 0.55, 0.6)]
    data["separable"] = ("lambda", [float((margins(n, d, sizes.many) > 0).mean()) for d in dims])
    data["separable_wendel"] = ("lambda", separation_probability(n, np.array(dims)))
    return data.assign_coords({"lambda": np.array(dims) / n}).assign_attrs(points=n, sets=sizes.many)


def picture(data: xr.Dataset) -> "go.Figure":
    """Both shares over lambda."""
    fig = panel_grid("Separability", 1, 2, ("share of positive projections", "share of separable sets"))
    name = f"sets, N = {data.attrs['points']}"
    y = data["fraction_positive"].sel(quantile=0.5)
    line(fig, data["lambda_below"], y, name, COLOURS["train"], mode="markers", size=6)
    line(fig, data["lambda_below"], data["fraction_positive_limit"], "N → ∞", COLOURS["other"])
    line(fig, data["lambda"], data["separable"], name, COLOURS["train"], (1, 2), mode="markers", size=6)
    line(fig, data["lambda"], data["separable_wendel"], "Wendel", COLOURS["key"], (1, 2))
    axis_titles(fig, (1, 1), "λ", "share of points", y_range=[0, 0.5])
    axis_titles(fig, (1, 2), "λ", "share of sets")
    return fig


def _wendel_error(data: xr.Dataset) -> float:
    """Largest distance from Wendel's probability, in binomial standard errors, where that is not next to 0 or 1."""
    p, share = data["separable_wendel"].values, data["separable"].values
    within = (p > 0.01) & (p < 0.99)
    return largest(np.abs(share - p)[within] / np.sqrt(p * (1 - p) / data.attrs["sets"])[within])


FIGURE = Figure(
    paper=PAPER,
    label="B6",
    title="The share of positive projections on S_inf, and the share of separable sets, over lambda",
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="The share of positive projections does not go to zero but to a constant: the least, lambda <= 0.47",
            measure=lambda data: (
                -largest(-data["fraction_positive"].sel(quantile=0.5)[data["lambda_below"].values < 0.47 + 1e-6].values)
            ),
            at_least=0.14,
        ),
        Claim(
            text="It is that of the limit N to infinity (an extension): largest difference, lambda <= 0.47",
            measure=lambda data: largest(
                abs(data["fraction_positive"].sel(quantile=0.5) - data["fraction_positive_limit"])[
                    data["lambda_below"].values < 0.47 + 1e-6
                ].values
            ),
            at_most=0.015,
        ),
        Claim(
            text="The share of separable sets is Wendel's: largest difference, where it is between 0.01 and 0.99",
            measure=_wendel_error,
            at_most=3.0,
            unit="standard errors",
        ),
    ),
    notes="Medians over inseparable sets (60 of N = 400 for laptop). The constant is 0.1446 for N to infinity.",
    minutes={"toy": 0.01, "laptop": 0.6, "paper": 2},
)
