"""Figures 9, 11, 12 and 13: the flow at lambda = 0.45 by sigma, initial weights, initial bias and loss."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.beck.panels import axis_titles, line, panel_grid, shade
from interp.papers.beck.reading import largest, median, medians, renamed
from interp.papers.beck.runs import no_runs
from interp.papers.beck.sets import chosen_sets, flow_of_sets, log_times
from interp.papers.beck.sizes import PAPER, SIGMA, SIZES
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS
from interp.theory.separability import Loss, asymptotic_weights

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["B9", "B11", "B12", "B13"]

EDGE = 0.45


def _edge_sets(preset: Preset) -> np.ndarray:
    sizes = SIZES[preset]
    return chosen_sets(sizes.n, round(EDGE * sizes.n), sizes.few)


def _series(paths: Sequence[xr.Dataset], axis: str, values: Sequence[float]) -> xr.Dataset:
    """Flows along an axis, for a figure: the test curves as means over sets, the numbers of each set."""
    data = xr.concat(paths, xr.DataArray(list(values), dims=axis, name=axis))
    curves = data[["test_loss", "test_accuracy"]].mean("set")
    return xr.merge([curves, data[["bump", "generalised", "delay"]]])


def _series_plot(data: xr.Dataset, title: str, axes: dict[str, tuple[str, str]]) -> "go.Figure":
    """A row for each axis: `axes` has the suffix of its variables and what a value is called."""
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


def _steps_of(array: xr.DataArray, axis: str, low: float = -math.inf) -> np.ndarray:
    """Differences between the medians of neighbours along the axis, from the value `low` on."""
    return np.diff(medians(array, axis, low, math.inf))


def _sigma_compute(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    points, times, sigmas = _edge_sets(preset), log_times(SIZES[preset]), (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
    found = _series([flow_of_sets(points, times, sigma) for sigma in sigmas], "value_sigma", sigmas)
    return renamed(found, "{}_sigma")


B9 = Figure(
    paper=PAPER,
    label="B9",
    title="The variance scale: flow at lambda = 0.45 for six sigmas",
    runs=no_runs,
    results=_sigma_compute,
    picture=lambda data: _series_plot(data, "The larger σ, the faster the weights", {"value_sigma": ("", "σ")}),
    claims=(
        Claim(
            text="Larger sigma makes grokking more apparent: least gain of the rise of the test loss, sigma = 3 ... 20",
            measure=lambda data: -largest(-_steps_of(data["bump_sigma"], "value_sigma", 3.0)),
            at_least=0.05,
            unit="nats",
        ),
        Claim(
            text="Only up to a point: time to generalise at sigma = 20 over that at 10",
            measure=lambda data: (
                10
                ** (
                    median(data["generalised_sigma"], value_sigma=20.0)
                    - median(data["generalised_sigma"], value_sigma=10.0)
                )
            ),
            at_least=0.9,
            at_most=1.1,
            needs="times at which both generalise",
        ),
        Claim(
            text="At sigma = 1 the test loss does not rise",
            measure=lambda data: median(data["bump_sigma"], value_sigma=1.0),
            at_most=0.005,
            unit="nats",
        ),
    ),
    notes="lambda = 0.45, from zero; medians over inseparable sets, 6 of N = 400 for laptop. Curves are means over the "
    "sets.",
    minutes={"toy": 0.05, "laptop": 1.5, "paper": 6},
)


def _weights_compute(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    points, times = _edge_sets(preset), log_times(SIZES[preset])
    direction = np.random.default_rng(0).standard_normal((len(points), points.shape[2]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    S_inf = asymptotic_weights(points).S
    norms, shares = (0.0, 0.3, 1.0, 3.0, 10.0), (0.0, 0.5, 1.0)
    rows = {
        "wide": (SIGMA, norms, direction),
        "unit": (1.0, norms, direction),
        "warm": (1.0, shares, S_inf),
    }
    found = []
    for name, (sigma, values, S) in rows.items():
        part = _series([flow_of_sets(points, times, sigma, S=x * S) for x in values], f"value_{name}", values)
        found.append(renamed(part, f"{{}}_{name}"))
    return xr.merge(found)


_WEIGHT_ROWS = {
    "value_wide": (", σ = 5", "σ|S₀|"),
    "value_unit": (", σ = 1", "σ|S₀|"),
    "value_warm": (", σ = 1, from a share of S_inf", "S₀/S_inf"),
}


B11 = Figure(
    paper=PAPER,
    label="B11",
    title="Initial weights: flow at lambda = 0.45 from random weights, and from shares of S_inf",
    runs=no_runs,
    results=_weights_compute,
    picture=lambda data: _series_plot(data, "Initial weights", _WEIGHT_ROWS),
    claims=(
        Claim(
            text="At sigma = 5 the rise of the test loss falls with |S_0|: largest step, sigma |S_0| = 0 ... 10",
            measure=lambda data: largest(_steps_of(data["bump_wide"], "value_wide")),
            at_most=-0.002,
            unit="nats",
        ),
        Claim(
            text="The delay hardly changes with it: largest difference from the delay at |S_0| = 0, sigma |S_0| <= 3",
            measure=lambda data: largest(
                np.abs(
                    [
                        median(data["delay_wide"], value_wide=x) - median(data["delay_wide"], value_wide=0.0)
                        for x in (0.3, 1.0, 3.0)
                    ]
                )
            ),
            at_most=0.3,
            unit="decades",
            needs="times at which it generalises",
        ),
        Claim(
            text="At sigma = 1 initial weights act as a large sigma does: later generalisation, |S_0| = 10 against 0",
            measure=lambda data: (
                median(data["generalised_unit"], value_unit=10.0) - median(data["generalised_unit"], value_unit=0.0)
            ),
            at_least=1.5,
            unit="decades",
            needs="times at which it generalises",
        ),
        Claim(
            text="So do weights that begin at S_inf, against those from zero",
            measure=lambda data: (
                median(data["generalised_warm"], value_warm=1.0) - median(data["generalised_warm"], value_warm=0.0)
            ),
            at_least=2.0,
            unit="decades",
            needs="times at which it generalises",
        ),
    ),
    notes=(
        "lambda = 0.45; medians over inseparable sets, 6 of N = 400 for laptop; one random direction for each set. "
        "Curves are means over the sets."
    ),
    minutes={"toy": 0.02, "laptop": 0.3, "paper": 1},
)


def _bias_compute(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    points, times = _edge_sets(preset), log_times(SIZES[preset])
    rows = {"wide": (SIGMA, (-3.0, -1.0, 0.0, 1.0, 3.0)), "unit": (1.0, (0.0, 3.0, 10.0))}
    found = []
    for name, (sigma, values) in rows.items():
        part = _series([flow_of_sets(points, times, sigma, b=x) for x in values], f"value_{name}", values)
        found.append(renamed(part, f"{{}}_{name}"))
    return xr.merge(found)


B12 = Figure(
    paper=PAPER,
    label="B12",
    title="Initial bias: flow at lambda = 0.45 from five biases at sigma = 5, three at sigma = 1",
    runs=no_runs,
    results=_bias_compute,
    picture=lambda data: _series_plot(
        data, "Initial bias", {"value_wide": (", σ = 5", "b₀"), "value_unit": (", σ = 1", "b₀")}
    ),
    claims=(
        Claim(
            text="At sigma = 5 the rise of the test loss grows with b_0: least gain over b_0 = -3 ... 3",
            measure=lambda data: -largest(-_steps_of(data["bump_wide"], "value_wide")),
            at_least=0.01,
            unit="nats",
        ),
        Claim(
            text="At sigma = 1 a larger b_0 delays generalisation: b_0 = 10 against 0",
            measure=lambda data: (
                median(data["generalised_unit"], value_unit=10.0) - median(data["generalised_unit"], value_unit=0.0)
            ),
            at_least=1.5,
            unit="decades",
            needs="times at which it generalises",
        ),
        Claim(
            text="There the test loss does not rise: largest rise",
            measure=lambda data: largest(medians(data["bump_unit"], "value_unit", -math.inf, math.inf)),
            at_most=0.005,
            unit="nats",
        ),
    ),
    notes="lambda = 0.45; medians over inseparable sets, 6 of N = 400 for laptop. Curves are means over the sets.",
    minutes={"toy": 0.02, "laptop": 0.2, "paper": 1},
)


def _loss_compute(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    points, times = _edge_sets(preset), log_times(SIZES[preset])
    losses: tuple[Loss, ...] = ("cross-entropy", "exponential")
    paths = [flow_of_sets(points, times, SIGMA, loss=loss) for loss in losses]
    data = xr.concat(paths, xr.DataArray(list(losses), dims="loss", name="loss"))
    curves = data[["train_loss", "test_loss", "train_accuracy", "test_accuracy"]].mean("set")
    return xr.merge([curves, data[["bump", "generalised"]]])


def _loss_plot(data: xr.Dataset) -> "go.Figure":
    fig = panel_grid("The exponential loss from the start", 1, 2, ("loss", "accuracy"))
    t = 10 ** data["log10_t"].values[::2]
    for dash, loss in (("dot", "cross-entropy"), ("solid", "exponential")):
        for word in ("train", "test"):
            for col, kind in ((1, "loss"), (2, "accuracy")):
                y = data[f"{word}_{kind}"].sel(loss=loss)[::2]
                line(fig, t, y, f"{word}, by {loss}", COLOURS[word], (1, col), dash=dash)
    axis_titles(fig, (1, 1), "time t", "cross-entropy (nats)", x_type="log", y_type="log", y_range=[-4, 1])
    axis_titles(fig, (1, 2), "time t", "accuracy", x_type="log")
    return fig


B13 = Figure(
    paper=PAPER,
    label="B13",
    title="Flow of the exponential loss from the start, at lambda = 0.45",
    runs=no_runs,
    results=_loss_compute,
    picture=_loss_plot,
    claims=(
        Claim(
            text="Grokking is seen with the exponential loss too: rise of the test loss",
            measure=lambda data: median(data["bump"].sel(loss="exponential")),
            at_least=0.1,
            unit="nats",
        ),
        Claim(
            text="It generalises at about the same time: ratio to that of the cross-entropy",
            measure=lambda data: (
                10
                ** (
                    median(data["generalised"].sel(loss="exponential"))
                    - median(data["generalised"].sel(loss="cross-entropy"))
                )
            ),
            at_least=1 / 1.5,
            at_most=1.5,
            needs="times at which both generalise",
        ),
    ),
    notes="sigma = 5; trained on either loss, drawn and measured by the cross-entropy; medians over inseparable sets. "
    "Curves are means over the sets.",
    minutes={"toy": 0.01, "laptop": 0.1, "paper": 0.5},
)
