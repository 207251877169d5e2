"""Two landmarks of the field that the seeds build on: progress measures (N1), and the clock and the pizza (N2).

N1: "Progress measures for grokking via mechanistic interpretability" (Nanda et al., 2023, arXiv:2301.05217). A network
that adds mod 113 memorises, forms a circuit on a few key frequencies while neither loss shows it, and cleans up what it
had memorised. The restricted loss (key frequencies only) and the excluded loss (without them) tell the phases apart.

N2: "The Clock and the Pizza" (Zhong et al., 2023, arXiv:2306.17844). Networks that add mod 59 by multiplying the two
operands' places on a circle are clocks, those that take the midpoint are pizzas; attention decides which is learned.
Formulas and definitions: `interp.analysis.algorithms`.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from interp.analysis.algorithms import (
    circle_fit,
    circles,
    clock_variance_explained,
    isolate_components,
    pizza_variance_explained,
)
from interp.analysis.curves import sustained_step
from interp.analysis.measures import key_frequencies, measure
from interp.config import RunConfig, recipes
from interp.milestones.phases import phases
from interp.papers.figures import Claim, Figure, Preset
from interp.plots.style import COLOURS, PHASES, SERIES, figure, mark_phases, step_axis
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["FIGURES"]


# --- N1: progress measures --------------------------------------------------------------------------------------------

_OVER_STEPS = (
    "train_loss",
    "test_loss",
    "all_loss",
    "restricted_loss_logit",
    "restricted_loss_neuron",
    "restricted_loss_hidden",
    "excluded_loss_2d",
    "excluded_loss_3d",
    "excluded_loss_neuron",
    "excluded_loss_hidden",
    "trig_loss_ratio",
    "gini_embedding",
    "gini_neuron_logit",
    "sum_of_squares",
    "sum_explained_variance",
    "logit_variance_explained",
)
_AT_THE_END = ("embedding_power", "neuron_logit_rank", "neuron_logit_key_share", "neuron_frequency_share")
_TUNED = 0.85
"""Share of its variance at one frequency from which a neuron counts as tuned to it (Nanda et al.)."""


def _nanda_runs(preset: Preset) -> list[RunConfig]:
    config = recipes.get("nanda")
    if preset != "toy":
        return [config]
    toy = {
        "task.p": 11, "task.train_fraction": 0.6, "model.d_model": 16, "model.d_head": 4, "model.d_mlp": 32,
        "steps": 150, "save.weights": "log(10) | every(10)", "save.state": "every(100000)",
    }  # fmt: skip
    return [config.replace(toy)]


def _progress(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    (traj,) = trajs
    data = measure(traj, _OVER_STEPS, steps=_spread_steps(traj.steps).tolist())
    last = measure(traj, _AT_THE_END, steps=[int(traj.steps[-1])]).isel(step=0, drop=True)
    keys = key_frequencies(traj)
    logged = traj.metrics[["train_accuracy", "test_accuracy", "test_loss"]].dropna("step")
    curves = [logged[str(name)].values for name in logged]
    found = phases(logged["step"].values, *curves)
    generalised = sustained_step(logged["step"].values, logged["test_accuracy"].values, 0.99)
    of_the_end = {
        "embedding_norm": ("frequency", np.sqrt(last["embedding_power"].values)),
        "key": ("frequency", np.isin(last["frequency"].values, keys)),
        "neuron_logit_rank": float(last["neuron_logit_rank"]),
        "neuron_logit_key_share": float(last["neuron_logit_key_share"]),
        "tuned_neurons": float((last["neuron_frequency_share"] > _TUNED).mean()),
        "generalised_step": _or_nan(generalised),
    }
    ends = {name: _or_nan(getattr(found, name)) for name in PHASES}
    data = data.assign(of_the_end).assign(ends).assign_coords(frequency=last["frequency"].values)
    return data.drop_attrs().assign_attrs(p=traj.task.p)


def _or_nan(step: int | None) -> float:
    return math.nan if step is None else float(step)


def _spread_steps(steps: np.ndarray, count: int = 60) -> np.ndarray:
    """Stored steps next to `count` that are evenly spaced on a logarithmic axis, and to `count` on a linear one."""
    last = steps[-1]
    wanted = np.concatenate([np.geomspace(1, last, count), np.linspace(0, last, count)])
    return np.unique(steps[np.abs(steps[:, None] - wanted).argmin(axis=0)])


def _value(name: str) -> Callable[[xr.Dataset], float]:
    return lambda data: float(data[name])


def _excluded_rise(data: xr.Dataset) -> float:
    """Decades from the least excluded loss after memorisation to that at the end of circuit formation."""
    start, end = float(data["memorisation_end"]), float(data["circuit_formation_end"])
    if math.isnan(end):
        return math.nan
    forming = data["excluded_loss_2d"].sel(step=slice(start, end))
    if not forming.sizes["step"]:
        return math.nan
    return float(np.log10(forming[-1] / forming.min()))


def _restricted_lead(data: xr.Dataset) -> float:
    """Steps from the halving of the restricted loss to that of the test loss, each from its peak after memorisation."""
    if data["generalised_step"].isnull():
        return math.nan
    restricted, test = (_halved(data, name) for name in ("restricted_loss_logit", "test_loss"))
    last = float(data["step"][-1])
    return test - (last if math.isnan(restricted) else restricted)


def _halved(data: xr.Dataset, name: str) -> float:
    curve = data[name].sel(step=slice(float(data["memorisation_end"]), None))
    after = curve[int(np.argmax(curve.values)) :]
    return _or_nan(sustained_step(after["step"].values, after.values, float(after[0]) / 2, above=False, hold=None))


def _faster_in_cleanup(data: xr.Dataset) -> float:
    """The fall of the sum of squares in cleanup less that in circuit formation, each in % of its start per 1,000."""
    ends = [float(data[name]) for name in PHASES]
    if any(map(math.isnan, ends)):
        return math.nan
    size = np.interp(ends, data["step"].values, data["sum_of_squares"].values)
    formation, cleanup = -np.diff(size) / np.maximum(np.diff(ends), 1) / size[0] * 1e5
    return float(cleanup - formation)


def _key_count(data: xr.Dataset) -> float:
    return math.nan if data["generalised_step"].isnull() else float(data["key"].sum())


def _rank_per_direction(data: xr.Dataset) -> float:
    keys = float(data["key"].sum())
    return float(data["neuron_logit_rank"]) / (2 * keys) if keys else math.nan


def _if_generalised(name: str) -> Callable[[xr.Dataset], float]:
    """A number of the last step; NaN where the run has not generalised."""
    return lambda data: math.nan if data["generalised_step"].isnull() else float(data[name].values.flat[-1])


def _plot_progress(data: xr.Dataset) -> "go.Figure":
    fig = figure("Progress measures: hidden progress before the loss falls", y="").set_subplots(
        rows=3, cols=1, row_heights=[0.5, 0.25, 0.25], vertical_spacing=0.11
    )
    place = step_axis(data["step"].values)
    x = place.place(data["step"].values)
    for name, legend, colour, dash in (
        ("train_loss", "train", COLOURS["train"], "solid"),
        ("test_loss", "test", COLOURS["test"], "solid"),
        ("restricted_loss_logit", "restricted: key frequencies only", COLOURS["restricted"], "solid"),
        ("excluded_loss_2d", "excluded: without them", COLOURS["excluded"], "solid"),
        ("excluded_loss_3d", "excluded, 3d", COLOURS["excluded"], "dot"),
    ):
        y = np.where(data[name].values > 0, data[name].values, np.nan).astype(np.float32)
        line = {"color": colour, "width": 1.75, "dash": dash}
        fig.add_scatter(x=x, y=y, name=legend, mode="lines", line=line, row=1, col=1)
    squares = data["sum_of_squares"].values / float(data["sum_of_squares"].max())
    for values, legend, colour in (
        (squares, "sum of squared weights, share of its peak", COLOURS["norm"]),
        (data["gini_embedding"].values, "Gini coefficient, embedding", SERIES[5]),
        (data["gini_neuron_logit"].values, "Gini coefficient, W_L", SERIES[9]),
    ):
        line = {"color": colour, "width": 1.75}
        fig.add_scatter(x=x, y=values.astype(np.float32), name=legend, mode="lines", line=line, row=2, col=1)
    colours = [COLOURS["key"] if key else COLOURS["other"] for key in data["key"].values]
    fig.add_bar(
        x=data["frequency"].values, y=data["embedding_norm"].values.astype(np.float32), showlegend=False,
        marker={"color": colours, "line": {"width": 0}}, row=3, col=1,
    )  # fmt: skip
    for k, norm in zip(data["frequency"].values[data["key"].values], data["embedding_norm"].values[data["key"].values]):
        fig.add_annotation(x=int(k), y=float(norm), text=str(int(k)), yshift=8, showarrow=False, row=3, col=1)
    for row in (1, 2):
        fig.update_xaxes(place.layout(), row=row, col=1)
    fig.update_xaxes(title_text="", row=1, col=1)
    fig.update_yaxes(title_text="cross-entropy (nats)", type="log", exponentformat="power", nticks=6, row=1, col=1)
    fig.update_yaxes(title_text="0 to 1", range=[0, 1.04], row=2, col=1)
    fig.update_xaxes(title_text="frequency k (key frequencies of the last step in colour)", row=3, col=1)
    fig.update_yaxes(title_text="norm in W_E", row=3, col=1)
    ends = {name: None if data[name].isnull() else int(data[name]) for name in PHASES}
    mark_phases(fig, ends, place)
    return fig.update_layout(height=900, bargap=0.25, legend={"y": -0.08, "yanchor": "top"})


# --- N2: the clock and the pizza --------------------------------------------------------------------------------------

_ALGORITHMS = ("pizza", "clock")
_SEEDS: dict[Preset, tuple[int, ...]] = {"toy": (0, 1), "laptop": (0, 1), "paper": (0, 1, 2, 3, 4)}
_STEPS: dict[Preset, int] = {"toy": 60, "laptop": 3000, "paper": 20_000}
_SYMMETRICITY = {"pizza": 0.99, "clock": 0.33}
_IRRELEVANCE = {"pizza": 0.17, "clock": 0.85}
"""What Zhong et al. print of one network of each kind."""
_HALF_WAY = sum(_SYMMETRICITY.values()) / 2, sum(_IRRELEVANCE.values()) / 2


def _algorithm_runs(preset: Preset) -> list[RunConfig]:
    return [_algorithm(preset, name, seed) for name in _ALGORITHMS for seed in _SEEDS[preset]]


def _algorithm(preset: Preset, name: str, seed: int) -> RunConfig:
    config = recipes.get(name).replace(
        {
            "task.seed": seed, "seed": seed, "steps": _STEPS[preset], "save.weights": "log(24)",
            "save.state": "every(100000)", "log.train": "every(10)", "log.test": "every(50)",
        }
    )  # fmt: skip
    if preset != "toy":
        return config
    return config.replace({"task.p": 11, "model.d_model": 16, "model.d_head": 4, "model.d_mlp": 32})


def _contrast(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    over_steps = ("test_accuracy", "gradient_symmetricity", "distance_irrelevance")
    rows = []
    for traj in trajs:
        logits = _pair_logits(traj)
        keys = [k for k in key_frequencies(traj) if 2 * k != traj.task.p]
        explained = {
            "clock_variance": clock_variance_explained(logits, keys).item(),
            "pizza_variance": pizza_variance_explained(logits, keys, accompanying=False).item(),
        }
        rows.append(measure(traj, over_steps).assign(explained).assign(_isolated_fits(traj, keys)).drop_attrs())
    seeds = _SEEDS[preset]
    by_algorithm = [xr.concat(rows[i : i + len(seeds)], "seed") for i in range(0, len(rows), len(seeds))]
    data = xr.concat(by_algorithm, "algorithm")
    return data.assign_coords(algorithm=list(_ALGORITHMS), seed=list(seeds)).assign_attrs(p=trajs[0].task.p)


def _pair_logits(traj: Trajectory, W_E: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of the last step, [p, p, answer], if need be with another embedding of the numbers."""
    model, p = traj.model(), traj.task.p
    with torch.no_grad():
        if W_E is not None:
            model.get_parameter("embed.W_E")[:p] = W_E
        return model(traj.task.tokens)[:, -1, :p].reshape(p, p, p)


def _isolated_fits(traj: Trajectory, keys: Sequence[int]) -> dict[str, float]:
    """How well each formula fits the logits of one circle alone: medians over the main circles of key frequencies."""
    W_E = traj.state()["embed.W_E"][: traj.task.p]
    fits = [
        circle_fit(_pair_logits(traj, isolate_components(W_E, circle.components).to(W_E.dtype)), circle.frequency)
        for circle in circles(W_E)
        if circle.accompanies is None and circle.frequency in keys
    ]
    return {
        "circles": float(len(fits)),
        "clock_fit": float(np.median([fit.clock for fit in fits])) if fits else math.nan,
        "pizza_fit": float(np.median([fit.pizza for fit in fits])) if fits else math.nan,
    }


def _of_kind(algorithm: str, value: Callable[[xr.Dataset], xr.DataArray]) -> Callable[[xr.Dataset], float]:
    """The median over the seeds of one kind that have generalised, at the last step."""

    def median(data: xr.Dataset) -> float:
        last = data.sel(algorithm=algorithm).isel(step=-1)
        known = value(last).values[(last["test_accuracy"] >= 0.95).values]
        known = known[np.isfinite(known)]
        return float(np.median(known)) if known.size else math.nan

    return median


def _symmetricity(data: xr.Dataset) -> xr.DataArray:
    return data["gradient_symmetricity"]


def _irrelevance(data: xr.Dataset) -> xr.DataArray:
    return data["distance_irrelevance"]


def _margin_of_pizza(data: xr.Dataset) -> xr.DataArray:
    return data["pizza_fit"] - data["clock_fit"]


def _plot_contrast(data: xr.Dataset) -> "go.Figure":
    fig = figure("The clock and the pizza", y="").set_subplots(
        rows=1, cols=2, column_widths=[0.58, 0.42], horizontal_spacing=0.12,
        subplot_titles=["over training, to the last step", "one circle alone, at the last step"],
    )  # fmt: skip
    fig.update_annotations(font_size=12)
    colour = dict(zip(_ALGORITHMS, (SERIES[1], SERIES[0])))
    for name in _ALGORITHMS:
        of_kind = data.sel(algorithm=name)
        for i in range(data.sizes["seed"]):
            run = of_kind.isel(seed=i)
            x, y = (run[v].values.astype(np.float32) for v in ("distance_irrelevance", "gradient_symmetricity"))
            sizes = [0] * (len(x) - 1) + [9]
            fig.add_scatter(
                x=x, y=y, name=f"{name} recipe", legendgroup=name, showlegend=i == 0, mode="lines+markers",
                line={"color": colour[name], "width": 1.25}, marker={"size": sizes, "color": colour[name]},
                text=[f"step {int(step):,}" for step in data["step"].values], row=1, col=1,
            )  # fmt: skip
        fig.add_scatter(
            x=[_IRRELEVANCE[name]], y=[_SYMMETRICITY[name]], name=f"{name} of Zhong et al.", mode="markers",
            marker={"symbol": "x-thin", "size": 11, "line": {"width": 2, "color": colour[name]}}, row=1, col=1,
        )  # fmt: skip
        fits = [of_kind["clock_fit"], of_kind["pizza_fit"]]
        for i in range(data.sizes["seed"]):
            fig.add_scatter(
                x=["clock", "pizza"], y=[float(fit[i]) for fit in fits], mode="lines+markers", legendgroup=name,
                showlegend=False, line={"color": colour[name], "width": 1.25}, marker_size=8, row=1, col=2,
            )  # fmt: skip
    fig.update_xaxes(title_text="distance irrelevance (0 to 1)", range=[-0.03, 1.04], row=1, col=1)
    fig.update_yaxes(title_text="gradient symmetricity (−1 to 1)", row=1, col=1)
    fig.update_xaxes(title_text="formula", row=1, col=2)
    fig.update_yaxes(title_text="fit (1: all of the variance)", range=[-1.05, 1.05], row=1, col=2)
    return fig.update_layout(height=440, legend={"y": -0.2, "yanchor": "top"})


# --- the figures ------------------------------------------------------------------------------------------------------

_PHASED = "a run that memorises, and generalises with a delay"
_BOTH = "runs that generalise"
_CIRCLES = "runs that generalise and show circles of key frequencies"

FIGURES: tuple[Figure, ...] = (
    Figure(
        paper="Nanda et al., Progress measures for grokking via mechanistic interpretability",
        label="N1",
        title="Three phases of grokking mod 113: memorisation, circuit formation, cleanup",
        runs=_nanda_runs,
        compute=_progress,
        plot=_plot_progress,
        claims=(
            Claim(
                text="memorisation (train accuracy stays above 99 %) is done by the paper's first line, 1,400",
                measure=_value("memorisation_end"), at_most=1400, unit="steps", needs="a run that memorises",
            ),
            Claim(
                text="test accuracy stays above 99 % from a step between the paper's lines of cleanup, 9,400 to 14,000",
                measure=_value("generalised_step"), at_least=9400, at_most=14_000, unit="steps",
                needs="a run that generalises",
            ),
            Claim(
                text="during circuit formation the excluded loss rises: at least twofold from its least after "
                "memorisation",
                measure=_excluded_rise, at_least=math.log10(2), unit="decades", needs=_PHASED,
            ),
            Claim(
                text="the restricted loss falls before the test loss: it is halved for good earlier",
                measure=_restricted_lead, at_least=1, unit="steps", needs=_PHASED,
            ),
            Claim(
                text="the sum of squared weights falls faster in cleanup than in circuit formation",
                measure=_faster_in_cleanup, at_least=0, unit="% per 1,000 steps", needs=_PHASED,
            ),
            Claim(
                text="few key frequencies are used (five of 56 in the paper's run): one to ten",
                measure=_key_count, at_least=1, at_most=10, unit="frequencies", needs="a run that generalises",
            ),
            Claim(
                text="cos(w_k(a + b - c)) of the key frequencies explain 95 % of the variance of the logits",
                measure=_if_generalised("logit_variance_explained"), at_least=0.95, needs="a run that generalises",
            ),
            Claim(
                text="W_L has two directions for each key frequency (ten for five): those that hold 95 % of its "
                "squared norm, over twice the key frequencies",
                measure=_rank_per_direction, at_least=0.8, at_most=1.2, needs="key frequencies",
            ),
            Claim(
                text="433 of 512 neurons have more than 85 % of their variance at one frequency",
                measure=_if_generalised("tuned_neurons"), at_least=433 / 512, needs="a run that generalises",
            ),
        ),
        notes="One run, that of the recipe: split and sizes of the paper's main run, other initial weights, so that "
        "its key frequencies are others and their number may be. The paper drew the lines of the phases by eye; here "
        "they are the definitions of `interp.milestones.phases`. Restricted and excluded losses exist in several "
        "versions: the claims are about the paper's restricted loss (logits, all pairs) and its 2d excluded loss; the "
        "results hold the others. Key frequencies are those of the last step, on which two of three criteria agree.",
        minutes={"toy": 0.1, "laptop": 40, "paper": 40},
    ),
    Figure(
        paper="Zhong et al., The Clock and the Pizza",
        label="N2",
        title="Without attention a network adds mod 59 by a pizza, with attention by a clock",
        runs=_algorithm_runs,
        compute=_contrast,
        plot=_plot_contrast,
        claims=(
            Claim(
                text="without attention the gradients of a logit by the two embeddings agree: symmetricity nearer to "
                "the paper's 0.99 than to 0.33",
                measure=_of_kind("pizza", _symmetricity), at_least=_HALF_WAY[0], needs=_BOTH,
            ),
            Claim(
                text="with attention they do not: symmetricity nearer to 0.33 than to 0.99",
                measure=_of_kind("clock", _symmetricity), at_most=_HALF_WAY[0], needs=_BOTH,
            ),
            Claim(
                text="without attention the right logit depends on the distance a - b: irrelevance nearer to the "
                "paper's 0.17 than to 0.85",
                measure=_of_kind("pizza", _irrelevance), at_most=_HALF_WAY[1], needs=_BOTH,
            ),
            Claim(
                text="with attention it hardly does: irrelevance nearer to 0.85 than to 0.17",
                measure=_of_kind("clock", _irrelevance), at_least=_HALF_WAY[1], needs=_BOTH,
            ),
            Claim(
                text="without attention the formula of the pizza fits the logits of one circle better than that of the "
                "clock (99 % against 75 % in the paper): margin of the pizza",
                measure=_of_kind("pizza", _margin_of_pizza), at_least=0.12, needs=_CIRCLES,
            ),
            Claim(
                text="with attention it is the other way round: margin of the pizza",
                measure=_of_kind("clock", _margin_of_pizza), at_most=-0.12, needs=_CIRCLES,
            ),
        ),
        notes="The paper's numbers are those of two networks; half-way between them is the line here, and half of its "
        "margin between the two fits (0.24). Fits are of the main circles of key frequencies with all else taken out "
        "of the embedding, after Zhong et al.'s circle isolation; the variance that the two formulas explain of the "
        "whole network's logits is in the results (without accompanying circles: with them a pizza fits a clock too). "
        "3,000 steps on a laptop, 20,000 in the paper; medians over the seeds that generalise. The pizza's distance "
        "irrelevance varies from run to run: that of the recipe `pizza` is 0.55 after 20,000 steps, above the line.",
        minutes={"toy": 0.1, "laptop": 7, "paper": 110},
    ),
)  # fmt: skip
