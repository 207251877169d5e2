"""Figure B8 (8 of the paper): the ratio of the times at which the losses of two points pass a threshold."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.optimize import brentq

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest
from interp.papers.beck.picture import axis_titles, line, panel_grid
from interp.papers.beck.ratios import SLOPE_CLAIM, add_ratios, ratios
from interp.papers.beck.theory import two_points
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS
from interp.theory.separability import log_generalisation_loss

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Ratios of the times, and both losses over time at one lambda."""
    data = ratios(7 if preset != "toy" else 4)
    delta, log_t = 1e-3, np.linspace(-2, 50, 80)
    state = two_points.flow(log_t, delta, 300.0)
    data["train_curve"] = ("log_t", two_points.log_train_loss(state.S, state.b, delta, 300.0))
    data["test_curve"] = ("log_t", log_generalisation_loss(np.abs(state.S), state.b, 300.0, loss="exponential"))
    times = two_points.grokking_times(1e-3, delta, 300.0)
    data["crossings"] = ("curve", [float(times.log_train), float(times.log_generalisation)])
    tau_train, tau_test = (_conformal_time(float(x), delta, 300.0) for x in data["crossings"])
    data["conformal_delay"] = tau_test - tau_train
    return data.assign_coords(log_t=log_t, curve=["train", "test"]).assign_attrs(delta=delta, epsilon=1e-3)


def _conformal_time(log_t: float, delta: float, sigma: float) -> float:
    """Conformal time tau that belongs to t: the bias is equal at both."""
    b = float(two_points.flow(log_t, delta, sigma).b)
    # l lies between l* and 1, so that tau does between -b and -b/l*
    end = -b / float(two_points.asymptotic_loss(delta))
    return brentq(lambda tau: float(two_points.conformal_flow(tau, delta, sigma).b) - b, 0.0, 1.001 * end, xtol=1e-10)


def picture(data: xr.Dataset) -> "go.Figure":
    """Losses over time and their crossings; ratio of the times."""
    names = (f"losses at 1 − 2λ = {data.attrs['delta']:g}", "ratio of the times")
    fig = panel_grid("When the losses of two points pass a threshold", 1, 2, names)
    for word in ("train", "test"):
        line(fig, data["log_t"], data[f"{word}_curve"], word, COLOURS[word])
    level = math.log(data.attrs["epsilon"])
    fig.add_hline(y=level, line={"color": COLOURS["event"], "dash": "dot", "width": 1}, row=1, col=1)
    line(fig, data["crossings"], [level, level], "crossings", COLOURS["all"], mode="markers", size=8)
    axis_titles(fig, (1, 1), "ln t", "ln loss")
    add_ratios(fig, data, (1, 2))
    return fig


def _threshold_change(data: xr.Dataset, loss: str) -> float:
    root = data["root"].sel(loss=loss)
    return largest(abs(root.sel(epsilon=1e-3) / root.sel(epsilon=1e-30) - 1).values)


FIGURE = Figure(
    paper=PAPER,
    label="B8",
    title="The ratio of the times at which generalisation and training loss pass a threshold",
    results=results,
    picture=picture,
    claims=(
        SLOPE_CLAIM,
        Claim(
            text="The ratio is (sigma S_inf)^2/2 - ln l*: largest relative error of its root, exponential loss",
            measure=lambda data: largest(
                abs(data["root"].sel(loss="exponential") / data["root_formula"] - 1).values.ravel()
            ),
            at_most=1e-3,
        ),
        Claim(
            text="The ratio does not depend on the threshold, 1e-3 or 1e-30: largest relative change, exponential loss",
            measure=lambda data: _threshold_change(data, "exponential"),
            at_most=1e-3,
        ),
        Claim(
            text="The same with the cross-entropy",
            measure=lambda data: _threshold_change(data, "cross-entropy"),
            at_most=1e-3,
        ),
        Claim(
            text="In conformal time the difference is half of ln(1 - 2 lambda)^2: ratio of the two at 1e-3",
            measure=lambda data: float(data["conformal_delay"]) / (0.5 * math.log(data.attrs["delta"]) ** 2),
            at_least=0.9,
            at_most=1.1,
        ),
    ),
    notes=(
        "sigma = 300, from zero. With the cross-entropy of the population the ratio is that of the formula only for "
        "thresholds far below e^(-S^2/2), S = sigma S_inf: at 1e-3 its slope is about half. All thresholds need "
        "sigma^2 (1 - 2 lambda) ln(1/epsilon) >> 1: at sigma = 1 even 1e-300 is not enough. The half in the conformal "
        "difference is that of the later version of the article, the present one's prefactor being unknown; with the "
        "loss as defined, a mean over two points, b = -tau/2 and the difference is ln(1 - 2 lambda)^2 + 2 ln 2."
    ),
    minutes={"toy": 0.05, "laptop": 0.1, "paper": 0.1},
)
