"""Figure B4 (4 of the paper): two points next to the full model, over lambda."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest
from interp.papers.beck.picture import axis_titles, line, panel_grid, shade
from interp.papers.beck.presets import LN10, SIGMA
from interp.papers.beck.ratios import SLOPE_CLAIM, add_ratios, ratios
from interp.papers.beck.sets import scan_over_lambda
from interp.papers.beck.theory import two_points
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.theory.separability import generalisation_accuracy, log_generalisation_loss

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Loss and accuracy of two points and of the full model over lambda, at decades of t, and ratios of times."""
    full = scan_over_lambda(preset)
    lambda_, decades = full["lambda"].values, full["log10_t"].values
    state = two_points.flow(decades * LN10, 1 - 2 * lambda_[:, None], SIGMA, loss="cross-entropy")
    log_loss = log_generalisation_loss(np.abs(state.S), state.b, SIGMA)
    data = (
        full[["test_loss", "test_accuracy"]].median("set").rename(test_loss="full_loss", test_accuracy="full_accuracy")
    )
    data["loss_two_points"] = (("lambda", "log10_t"), np.exp(log_loss))
    accuracy = generalisation_accuracy(np.abs(state.S), state.b, SIGMA)
    data["accuracy_two_points"] = (("lambda", "log10_t"), accuracy)
    return xr.merge([data, ratios(7 if preset != "toy" else 4)])


def picture(data: xr.Dataset) -> "go.Figure":
    """Loss and accuracy over lambda; ratio of the times."""
    fig = panel_grid("Two points next to the full model", 1, 3, ("test loss", "test accuracy", "ratio of the times"))
    shown = data["log10_t"].values[:: 2 if data.sizes["log10_t"] > 4 else 1]
    for colour, decade in zip(shade(shown), shown):
        one = data.sel(log10_t=decade)
        for col, kind in ((1, "loss"), (2, "accuracy")):
            x, name = data["lambda"], f"t = 10^{decade:g}"
            line(fig, x, one[f"{kind}_two_points"], name, colour, (1, col))
            line(fig, x, one[f"full_{kind}"], "full model", colour, (1, col), mode="markers", size=4)
    add_ratios(fig, data, (1, 3))
    axis_titles(fig, (1, 1), "λ", "cross-entropy (nats)")
    axis_titles(fig, (1, 2), "λ", "accuracy")
    return fig.update_layout(margin_b=130)


def _accuracy_distances(data: xr.Dataset) -> np.ndarray:
    near = (data["lambda"] > 0.3 - 1e-6) & (data["lambda"] < 0.6 + 1e-6)
    late = (data["log10_t"] > 0.5) & (data["log10_t"] < 4.5)
    if data["log10_t"].max() < 4:
        return np.array([])
    chosen = data.isel({"lambda": np.flatnonzero(near), "log10_t": np.flatnonzero(late)})
    return abs(chosen["accuracy_two_points"] - chosen["full_accuracy"]).values


FIGURE = Figure(
    paper=PAPER,
    label="B4",
    title="Loss and accuracy of the simplified model over lambda, against the full model",
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="Remarkably similar to the full model: largest difference of accuracies, t = 10-10^4, lambda 0.3-0.6",
            measure=lambda data: largest(_accuracy_distances(data)),
            at_most=0.12,
        ),
        Claim(
            text="The mean of these differences",
            measure=lambda data: float(np.mean(found)) if (found := _accuracy_distances(data)).size else math.nan,
            at_most=0.08,
        ),
        SLOPE_CLAIM,
    ),
    notes=(
        "Cross-entropy at sigma = 5. The full model's values are medians over the sets of figure B1, the same draws. "
        "The two part most early below the edge, at lambda = 0.4 and t = 10, and late above it, where the loss "
        "of the full model at lambda > 0.7 is larger."
    ),
    minutes={"toy": 0.05, "laptop": 1.5, "paper": 6},
)
