"""Figures 2, 6 and 7: projections on the weights and margins on either side of the edge, and conformal time."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm

from interp.papers.beck.panels import axis_titles, line, panel_grid
from interp.papers.beck.reading import largest, limit_error, median, medians
from interp.papers.beck.runs import no_runs
from interp.papers.beck.sets import chosen_sets, limits_over_lambda, one_set
from interp.papers.beck.sizes import LN10, PAPER, SIZES, Sizes
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS, SERIES
from interp.theory import proportional_limit
from interp.theory.gradient_flow import conformal_time_bound, flow
from interp.theory.separability import asymptotic_weights, margin, separation_probability

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["B2", "B6", "B7"]

# --- figure 2: projections, conformal time ----------------------------------------------------------------------------

PROJECTED = (0.3, 0.45, 0.6)


def _projections_compute(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
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


def _projections_plot(data: xr.Dataset) -> "go.Figure":
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


B2 = Figure(
    paper=PAPER,
    label="B2",
    title="Projections of the training points on the weights; conformal time; the late ratio of bias and weight",
    runs=no_runs,
    results=_projections_compute,
    picture=_projections_plot,
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


def _ratio_at_end(data: xr.Dataset, lambda_: float) -> float:
    if data["clock"][-1] < 2999:
        return math.nan
    end = data.isel(clock=-1)
    return median(end["bias_over_weight"] * end["margin"], separable=lambda_)


# --- figures 6 and 7: separability, projections and margins over lambda -----------------------------------------------


@lru_cache(maxsize=64)
def _margins(n: int, d: int, count: int) -> np.ndarray:
    """The margin of each set, 0 where it is not separable."""
    return np.array([float(margin(one_set(n, d, seed)).size) for seed in range(count)])


def _fractions_compute(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    sizes = SIZES[preset]
    data = limits_over_lambda(sizes.n, sizes.below, sizes.many, "lambda_below")
    data = data[["fraction_positive", "fraction_positive_limit"]]
    n = sizes.n
    dims = [round(x * n) for x in (0.4, 0.45, 0.47, 0.48, 0.49, 0.5, 0.51, 0.52, 0.55, 0.6)]
    data["separable"] = ("lambda", [float((_margins(n, d, sizes.many) > 0).mean()) for d in dims])
    data["separable_wendel"] = ("lambda", separation_probability(n, np.array(dims)))
    return data.assign_coords({"lambda": np.array(dims) / n}).assign_attrs(points=n, sets=sizes.many)


def _fractions_plot(data: xr.Dataset) -> "go.Figure":
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


B6 = Figure(
    paper=PAPER,
    label="B6",
    title="The share of positive projections on S_inf, and the share of separable sets, over lambda",
    runs=no_runs,
    results=_fractions_compute,
    picture=_fractions_plot,
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


def _margin_compute(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    sizes = SIZES[preset]
    data = limits_over_lambda(sizes.n, sizes.below, sizes.many, "lambda_below")[
        ["mean_positive", "mean_positive_limit"]
    ]
    n, dims, count = sizes.above
    found = [_margins(n, d, count) for d in dims]
    quartiles = [np.quantile(M[M > 0], [0.25, 0.5, 0.75]) if (M > 0).any() else np.full(3, np.nan) for M in found]
    data["margin"] = (("lambda_above", "quantile"), np.stack(quartiles))
    data = data.assign_coords(lambda_above=np.array(dims) / n)
    data["margin_limit"] = ("lambda_above", proportional_limit.separable(data["lambda_above"].values).margin)
    data["margin_two_points"] = ("lambda_above", 2 * data["lambda_above"].values - 1)
    return data.assign_attrs(points=sizes.n, points_above=n)


def _margin_plot(data: xr.Dataset) -> "go.Figure":
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


B7 = Figure(
    paper=PAPER,
    label="B7",
    title="The mean of the positive projections below the edge, and the margin above it",
    runs=no_runs,
    results=_margin_compute,
    picture=_margin_plot,
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
