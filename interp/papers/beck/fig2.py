"""Figure B2 (2 of the paper): projections on the weights, conformal time, and the late ratio of bias and weight."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest, median, medians
from interp.papers.beck.picture import axis_titles, line, panel_grid
from interp.papers.beck.presets import LN10, SIZES, Sizes
from interp.papers.beck.sets import chosen_sets
from interp.papers.beck.theory import proportional_limit
from interp.papers.beck.theory.gradient_flow import conformal_time_bound, flow
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS, SERIES
from interp.theory.separability import asymptotic_weights, margin

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]

PROJECTED = (0.3, 0.45, 0.6)
"""lambda of the sets whose points are projected."""


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Histograms of projections and their limit, paths in conformal time, and the late ratio."""
    sizes = SIZES[preset]
    n = sizes.projections
    edges = np.linspace(-4, 2, 61)
    middle = (edges[1:] + edges[:-1]) / 2
    found: dict[str, list[Any]] = {"density": [], "limit": [], "population": [], "exact": [], "positive": []}
    for lambda_ in PROJECTED:
        d = round(lambda_ * n)
        points = chosen_sets(n, d, 1, separable=lambda_ > 0.5)[0]
        # without a limit, the weights of separable points are those after a long training
        S = (
            asymptotic_weights(points).S
            if lambda_ < 0.5
            else flow(points, np.array([min(sizes.clock, 1000.0)]), tolerance=1e-5).S[-1]
        )
        projections = points @ S / np.linalg.norm(S)
        found["density"].append(np.histogram(projections, edges)[0] / (n * (edges[1] - edges[0])))
        found["limit"].append(proportional_limit.projection_density(middle, lambda_))
        found["population"].append(kstest(projections, norm.cdf).statistic)
        found["exact"].append(
            kstest(projections, lambda v, x=lambda_: proportional_limit.projection_cdf(v, x)).statistic
        )
        found["positive"].append((projections > 0).mean())
    data = xr.Dataset(
        {
            "density": (("lambda", "projection"), np.stack(found["density"])),
            "density_limit": (("lambda", "projection"), np.stack(found["limit"])),
            "distance_population": ("lambda", found["population"]),
            "distance_limit": ("lambda", found["exact"]),
            "fraction_positive": ("lambda", found["positive"]),
        },
        coords={"lambda": list(PROJECTED), "projection": middle},
    )
    return xr.merge([data, _conformal_paths(sizes), _late_ratio(sizes)]).assign_attrs(points=n)


def _conformal_paths(sizes: Sizes) -> xr.Dataset:
    """S with its bias, at conformal times, and S of l(S) alone by another solver; and appendix C."""
    n = sizes.n // 2
    points = chosen_sets(n, round(0.45 * n), 1)[0]
    log_t = np.linspace(-4, 2.5 * LN10, 40)
    path = flow(points, log_t, loss="exponential", tolerance=1e-10)
    tau = np.exp(path.log_tau)
    free = solve_ivp(
        lambda _, S: -(np.exp(points @ S) @ points) / n,
        (0, tau[-1]), np.zeros(points.shape[1]), "DOP853", t_eval=tau, rtol=1e-11, atol=1e-12,
    ).y.T  # fmt: skip
    return xr.Dataset(
        {
            "path": ("tau", path.S_norm),
            "path_free": ("tau", np.linalg.norm(free, axis=1)),
            "path_difference": ("tau", np.abs(path.S - free).max(axis=1)),
            "tau_slack": ("tau", tau - conformal_time_bound(log_t)),
        },
        coords={"tau": tau},
    )


def _late_ratio(sizes: Sizes) -> xr.Dataset:
    """-b/|S| M of separable points over the bias clock, sigma = 1."""
    clock = np.geomspace(2, sizes.clock, 30)
    ratio, sizes_of_margin = [], []
    for lambda_ in (0.6, 0.8):
        d = round(lambda_ * sizes.n)
        points = chosen_sets(sizes.n, d, 1, separable=True)[0]
        M = float(margin(points).size)
        path = flow(points, clock * (1 + M**2), loss="exponential", tolerance=1e-5)
        ratio.append(-path.b / path.S_norm)
        sizes_of_margin.append(M)
    return xr.Dataset(
        {"bias_over_weight": (("separable", "clock"), np.stack(ratio)), "margin": ("separable", sizes_of_margin)},
        coords={"separable": [0.6, 0.8], "clock": clock},
    )


def picture(data: xr.Dataset) -> "go.Figure":
    """Projections, paths in conformal time, and the late ratio, each in a panel."""
    names = ("projections of the training points", "weights in conformal time", "separable: −b M/|S|")
    fig = panel_grid("What the weights make of the training set", 1, 3, names)
    for colour, lambda_ in zip(SERIES, data["lambda"].values):
        one = data.sel({"lambda": lambda_})
        line(fig, data["projection"], one["density"], f"λ = {lambda_:g}", colour, line_shape="hvh", width=1.3)
        line(fig, data["projection"], one["density_limit"], "N → ∞", COLOURS["other"], width=1.2, dash="dot")
    line(fig, data["tau"], data["path"], "with bias", COLOURS["norm"], (1, 2))
    line(
        fig, data["tau"], data["path_free"], "without", SERIES[0], (1, 2), mode="markers", size=5, symbol="circle-open"
    )
    for colour, i in zip((SERIES[2], SERIES[5]), range(data.sizes["separable"])):
        y = data["bias_over_weight"][i] * data["margin"][i]
        line(fig, data["clock"], y, f"λ = {data['separable'].values[i]:g}", colour if i else SERIES[2], (1, 3))
    fig.add_hline(y=1, line={"color": COLOURS["event"], "dash": "dot", "width": 1}, row=1, col=3)
    axis_titles(fig, (1, 1), "x·S/|S|", "density", y_range=[0, 2.2])
    axis_titles(fig, (1, 2), "conformal time τ", "|S|")
    axis_titles(fig, (1, 3), "log t / (1 + M²)", "", x_type="log")
    return fig


def _ratio_at_end(data: xr.Dataset, lambda_: float) -> float:
    if data["clock"][-1] < 2999:
        return math.nan
    end = data.isel(clock=-1)
    return median(end["bias_over_weight"] * end["margin"], separable=lambda_)


FIGURE = Figure(
    paper=PAPER,
    label="B2",
    title="Projections of the training points on the weights; conformal time; the late ratio of bias and weight",
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="Logits of training points are far from the Gaussian of new ones: Kolmogorov distance, lambda 0.45",
            measure=lambda data: median(data["distance_population"], lambda_=0.45),
            at_least=0.2,
        ),
        Claim(
            text="They follow the limit N to infinity (an extension): distance beyond 1.36/sqrt(N), lambda < 1/2",
            measure=lambda data: (
                largest(medians(data["distance_limit"], "lambda", 0.0, 0.45)) - 1.36 / math.sqrt(data.attrs["points"])
            ),
            at_most=0.02,
        ),
        Claim(
            text="At lambda = 0.45 the set is inseparable: share of positive projections (at least 0.1446 below 1/2)",
            measure=lambda data: median(data["fraction_positive"], lambda_=0.45),
            at_least=0.1446,
        ),
        Claim(
            text="That share is 0.20",
            measure=lambda data: median(data["fraction_positive"], lambda_=0.45),
            at_least=0.17,
            at_most=0.23,
        ),
        Claim(
            text="At lambda = 0.6 the set is separated by the trained weights: share of positive projections",
            measure=lambda data: median(data["fraction_positive"], lambda_=0.6),
            at_most=0.0,
        ),
        Claim(
            text="In conformal time S follows the same path as without bias: largest difference of a coordinate",
            measure=lambda data: largest(data["path_difference"].values),
            at_most=1e-6,
        ),
        Claim(
            text="Conformal time diverges, at least as the bound of appendix C: least distance from it",
            measure=lambda data: float(data["tau_slack"].min()),
            at_least=-1e-9,
        ),
        Claim(
            text="Late, -b/|S| of separable points is 1/M (eq. 13): ratio of the two at lambda = 0.6",
            measure=lambda data: _ratio_at_end(data, 0.6),
            at_least=0.98,
            at_most=1.02,
            needs="times until b = -3000",
        ),
        Claim(
            text="The same at lambda = 0.8",
            measure=lambda data: _ratio_at_end(data, 0.8),
            at_least=0.995,
            at_most=1.005,
            needs="times until b = -3000",
        ),
    ),
    notes=(
        "Projections are those on the unit vector along S, at S_inf for inseparable points and after log t = 1000 for "
        "separable ones; sigma = 1. The latter need log t far beyond 1/M^2, 92 here: at log t = 60 0.6 % are still "
        "positive. For N to infinity the share at lambda = 0.45 is 0.217, so that 0.20 is somewhat low. The ratio of "
        "eq. 13 is approached as 1/log t: only the bias clock, here until log t = 3000 (1 + M^2), sees it."
    ),
    minutes={"toy": 0.05, "laptop": 0.5, "paper": 1},
)
