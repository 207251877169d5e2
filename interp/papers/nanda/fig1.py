"""Figure N1: progress measures of the three phases, after figure 7 of the paper."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.analysis.measures import key_frequencies, measure
from interp.config import RunConfig, recipes
from interp.milestones.phases import PHASES, phases
from interp.milestones.sources import curves
from interp.papers.kit.curves import curve_of, sustained
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.papers.nanda import PAPER
from interp.plots.style import COLOURS, SERIES, figure, mark_phases, step_axis
from interp.plots.thinning import nearest
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["FIGURE"]

OVER_STEPS = (
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
"""Measures over training."""
AT_THE_END = ("embedding_power", "neuron_logit_rank", "neuron_logit_key_share", "neuron_frequency_share")
"""Measures of the last step."""
GENERALISED = 0.99
"""Test accuracy of a run that has generalised: cleanup ends there in the paper, not at the 95 % of other figures."""
TUNED = 0.85
"""Share of its variance at one frequency from which a neuron counts as tuned to it (the paper's threshold)."""


def runs(preset: Preset) -> list[RunConfig]:
    """The recipe `nanda`, as published."""
    config = recipes.get("nanda")
    if preset != "toy":
        return [config]
    toy = {
        "task.p": 11, "task.train_fraction": 0.6, "model.d_model": 16, "model.d_head": 4, "model.d_mlp": 32,
        "steps": 150, "save.weights": "log(10) | every(10)", "save.state": "every(100000)",
    }  # fmt: skip
    return [config.replace(toy)]


def results(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """Measures over training at about 120 steps, measures of the last step, and the ends of the three phases."""
    (traj,) = trajs
    data = measure(traj, OVER_STEPS, steps=_chosen_steps(traj.steps).tolist())
    last = measure(traj, AT_THE_END, steps=[int(traj.steps[-1])]).isel(step=0, drop=True)
    keys = key_frequencies(traj)
    evaluated = curves(traj, ["train_accuracy", "test_accuracy", "test_loss"])
    found = phases(evaluated["step"].values, *(evaluated[str(name)].values for name in evaluated))
    of_the_end = {
        "embedding_norm": ("frequency", np.sqrt(last["embedding_power"].values)),
        "key": ("frequency", np.isin(last["frequency"].values, keys)),
        "neuron_logit_rank": float(last["neuron_logit_rank"]),
        "neuron_logit_key_share": float(last["neuron_logit_key_share"]),
        "tuned_neurons": float((last["neuron_frequency_share"] > TUNED).mean()),
        "generalised_step": sustained(*curve_of(evaluated, "test_accuracy"), GENERALISED),
    }
    ends = {name: math.nan if (end := getattr(found, name)) is None else float(end) for name in PHASES}
    data = data.assign(of_the_end).assign(ends).assign_coords(frequency=last["frequency"].values)
    return data.drop_attrs().assign_attrs(p=traj.task.p)


def _chosen_steps(steps: np.ndarray, count: int = 60) -> np.ndarray:
    """Stored steps next to `count` values evenly spaced on a logarithmic axis, and to `count` on a linear one."""
    last = steps[-1]
    return steps[nearest(steps, np.concatenate([np.geomspace(1, last, count), np.linspace(0, last, count)]))]


def _value(name: str) -> Callable[[xr.Dataset], float]:
    return lambda data: float(data[name])


def _excluded_rise(data: xr.Dataset) -> float:
    """Decades by which the excluded loss rises from its least value in circuit formation to the end of that phase."""
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
    """Step from which a loss stays below half of its peak after memorisation, to the end of the run."""
    curve = data[name].sel(step=slice(float(data["memorisation_end"]), None))
    after = curve[int(np.argmax(curve.values)) :]
    return sustained(after["step"].values, after.values, float(after[0]) / 2, above=False, hold=None)


def _faster_in_cleanup(data: xr.Dataset) -> float:
    """Fall of the sum of squares in cleanup less its fall in circuit formation, in % of its start per 1,000 steps."""
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
    """Value of a variable at the last step; NaN where the run has not generalised."""
    return lambda data: math.nan if data["generalised_step"].isnull() else float(data[name].values.flat[-1])


def picture(data: xr.Dataset) -> "go.Figure":
    """Losses; sum of squares and Gini coefficients; norm of each frequency in the embedding."""
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


PHASED = "a run that memorises, and generalises with a delay"
LEARNED = "a run that generalises"

FIGURE = Figure(
    paper=PAPER,
    label="N1",
    title="Three phases of grokking mod 113: memorisation, circuit formation, cleanup",
    runs=runs,
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="memorisation (train accuracy stays above 99 %) is done by the paper's first line, 1,400",
            measure=_value("memorisation_end"), at_most=1400, unit="steps", needs="a run that memorises",
        ),
        Claim(
            text="test accuracy stays above 99 % from a step between the paper's lines of cleanup, 9,400 to 14,000",
            measure=_value("generalised_step"), at_least=9400, at_most=14_000, unit="steps",
            needs=LEARNED,
        ),
        Claim(
            text="during circuit formation the excluded loss rises: at least twofold from its least after "
            "memorisation",
            measure=_excluded_rise, at_least=math.log10(2), unit="decades", needs=PHASED,
        ),
        Claim(
            text="the restricted loss falls before the test loss: it is halved for good earlier",
            measure=_restricted_lead, at_least=1, unit="steps", needs=PHASED,
        ),
        Claim(
            text="the sum of squared weights falls faster in cleanup than in circuit formation",
            measure=_faster_in_cleanup, at_least=0, unit="% per 1,000 steps", needs=PHASED,
        ),
        Claim(
            text="few key frequencies are used (five of 56 in the paper's run): one to ten",
            measure=_key_count, at_least=1, at_most=10, unit="frequencies", needs=LEARNED,
        ),
        Claim(
            text="cos(w_k(a + b - c)) of the key frequencies explain 95 % of the variance of the logits",
            measure=_if_generalised("logit_variance_explained"), at_least=0.95, needs=LEARNED,
        ),
        Claim(
            text="W_L has two directions for each key frequency (ten for five): those that hold 95 % of its "
            "squared norm, over twice the key frequencies",
            measure=_rank_per_direction, at_least=0.8, at_most=1.2, needs="key frequencies",
        ),
        Claim(
            text="433 of 512 neurons have more than 85 % of their variance at one frequency",
            measure=_if_generalised("tuned_neurons"), at_least=433 / 512, needs=LEARNED,
        ),
    ),
    notes="One run, that of the recipe: split and sizes of the paper's main run, other initial weights, so that "
    "its key frequencies are others and their number may be. The paper drew the lines of the phases by eye; here "
    "they are the definitions of `interp.milestones.phases`. Restricted and excluded losses exist in several "
    "versions: the claims are about the paper's restricted loss (logits, all pairs) and its 2d excluded loss; the "
    "results hold the others. Key frequencies are those of the last step, on which two of three criteria agree.",
    minutes={"toy": 0.1, "laptop": 40, "paper": 40},
)  # fmt: skip
