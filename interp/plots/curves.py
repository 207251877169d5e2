"""Curves over training: loss, accuracy, norms, progress measures, circularity, and whatever else was measured.

Each function takes labelled results over `step`, draws those of its variables that are there, marks `events`
(pairs of step and label) with dotted lines and `phases` with soft bands, and computes nothing.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InvalidArgumentError
from interp.milestones.sources import curves as evaluated
from interp.milestones.sources import logged_loss
from interp.plots.style import (
    COLOURS,
    SERIES,
    Event,
    StepAxis,
    figure,
    inputs_of,
    mark_changes,
    mark_events,
    mark_phases,
    need,
    plain,
)
from interp.plots.style import step_axis as make_axis

__all__ = [
    "accuracy_curves",
    "angle_curves",
    "circularity_curves",
    "irrep_curves",
    "loss_curves",
    "measure_curves",
    "norm_curves",
    "parameter_curves",
    "progress_curves",
]

Phases = Mapping[str, int | None]
Changes = Mapping[str, tuple[int, int, int]]
Curve = tuple[str, xr.DataArray, dict[str, Any]]
BY_PARAMETER = {  # variable -> title, unit
    "gradient_norm_by_parameter": ("Gradient of the training loss, by parameter", "l2 norm of the gradient"),
    "update_norm_by_parameter": ("Change per optimiser step, by parameter", "l2 norm of the change"),
}
BY_IRREP = {
    "logit_similarity_by_irrep": ("Irreducible representations in the logits", "cosine similarity"),
    "embedding_share_by_irrep": ("Irreducible representations in the embedding", "share of squared norm"),
    "unembedding_share_by_irrep": ("Irreducible representations in W_L", "share of squared norm"),
    "hidden_share_by_irrep": ("Irreducible representations in the neurons", "share of variance"),
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def loss_curves(
    data: xr.Dataset,
    metrics: xr.Dataset | None = None,
    *,
    before: xr.Dataset | None = None,
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    changes: Changes | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Cross-entropy in nats on train, test and all inputs, on a log scale.

    `metrics` (NaN where nothing was evaluated) is drawn instead of `data`, unless that has more than twice as many
    values (`interp.milestones.sources`); and alone, where its losses are others than those that are measured
    (`metrics.attrs["loss"]`). `before`, of the run from which this one branched, is drawn dashed.
    `changes`: the change points behind the ends of phases, named as in `phases`: the step, and the interval around it.

    >>> data = xr.Dataset({"train_loss": ("step", [4.7, 0.1]), "test_loss": ("step", [4.7, 6.0])}, {"step": [0, 100]})
    >>> [trace.name for trace in loss_curves(data).data]
    ['train', 'test']
    """
    names = ("train_loss", "test_loss", "all_loss")
    own = logged_loss(metrics)
    if own is not None:
        data = data.drop_vars([name for name in names if name in data])
    fig = figure(f"Loss on train and test {inputs_of(data)}", y=(own or "cross-entropy (nats)").partition(",")[0])
    fig.update_yaxes(type="log", exponentformat="power", nticks=5)
    return _measured(fig, data, metrics, names, events, phases, axis, changes, before)


def accuracy_curves(
    data: xr.Dataset,
    metrics: xr.Dataset | None = None,
    *,
    before: xr.Dataset | None = None,
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Share of correct answers, 0 to 1, on train and test inputs; `metrics` and `before` as for `loss_curves`.

    >>> data = xr.Dataset({"test_accuracy": ("step", [0.01, 0.99])}, {"step": [0, 100]})
    >>> accuracy_curves(data).layout.yaxis.title.text
    'accuracy (share right)'
    """
    title = f"Accuracy on train and test {inputs_of(data)}"
    fig = figure(title, y="accuracy (share right)", yaxis_range=[-0.03, 1.04])
    return _measured(fig, data, metrics, ("train_accuracy", "test_accuracy"), events, phases, axis, before=before)


def norm_curves(
    data: xr.Dataset,
    *,
    by: str = "total",
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """The weight norm (`by="total"`: l2 norm of all weights), or the sum of squared weights `by="parameter"`.

    >>> data = xr.Dataset({"weight_norm": ("step", [30.0, 29.0])}, {"step": [0, 100]})
    >>> norm_curves(data).data[0].name
    'weight norm'
    """
    if by == "total":
        need(data, "weight_norm", dims=["step"])
        fig = figure("Weight norm: how large the solution is", y="l2 norm of all weights", showlegend=False)
        curves: list[Curve] = [("weight norm", data["weight_norm"], {"color": COLOURS["norm"], "width": 2})]
    elif by == "parameter":
        need(data, "sum_of_squares_by_parameter", dims=["step", "parameter"])
        fig = figure("Sum of squared weights, by parameter", y="sum of squared weights")
        table = data["sum_of_squares_by_parameter"]
        curves = [
            (_brief(str(name)), table.isel(parameter=i), {"color": SERIES[i % len(SERIES)], "width": 1.5})
            for i, name in enumerate(table["parameter"].values)
        ]
    else:
        raise InvalidArgumentError(f'`by` must be "total" or "parameter"; got {by!r}.')
    fig.update_yaxes(rangemode="tozero")
    return _draw(fig, curves, events, phases, axis)


def progress_curves(
    data: xr.Dataset,
    *,
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Restricted losses (only key frequencies kept), excluded losses (only they removed); train and test loss dotted.

    "Progress measures for grokking via mechanistic interpretability" (Nanda et al., 2023,
    https://arxiv.org/abs/2301.05217), section 5.1. The variants are inequivalent; each is drawn under its own name.

    >>> data = xr.Dataset({"excluded_loss_2d": ("step", [4.7, 3.0])}, {"step": [0, 100]})
    >>> progress_curves(data).data[0].name
    'excluded 2d'
    """
    kinds = ("restricted_loss", "excluded_loss")
    names = [str(n) for n in data.data_vars if str(n).startswith(kinds) and data[n].dims == ("step",)]
    need(data, sorted(names, reverse=True) or ["restricted_loss_logit", "excluded_loss_2d"], dims=["step"])
    curves: list[Curve] = []
    for name in ("train_loss", "test_loss"):
        if name in data:
            colour = COLOURS[name.split("_")[0]]
            curves.append((name.split("_")[0], data[name], {"color": colour, "width": 1, "dash": "dot"}))
    for kind in ("restricted", "excluded"):
        for i, name in enumerate(sorted(n for n in names if n.startswith(kind))):
            style = {"color": COLOURS[kind], "width": 2 if i == 0 else 1.5, "dash": DASHES[i % len(DASHES)]}
            curves.append((name.replace("_loss", "").replace("_", " "), data[name], style))
    fig = figure("Progress measures: with and without key frequencies", y="cross-entropy (nats)", yaxis_type="log")
    fig.update_yaxes(exponentformat="power")
    return _draw(fig, curves, events, phases, axis, unlisted=("train", "test"))


def circularity_curves(
    data: xr.Dataset,
    *,
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """How much of a circle the embedding is, 0 to 1: circularity, resultant and order correlation; components faint.

    >>> data = xr.Dataset({"circularity": ("step", [0.1, 0.97])}, {"step": [0, 100]})
    >>> circularity_curves(data).data[0].name
    'circularity, PC 1–4'
    """
    known = {
        "circularity": ("circularity, PC 1–4", {"color": COLOURS["restricted"], "width": 2.5}),
        "circle_resultant": ("resultant, PC 1–2", {"color": COLOURS["excluded"], "width": 1.5}),
        "circle_order_correlation": ("order correlation, PC 1–2", {"color": COLOURS["norm"], "width": 1.5}),
    }
    curves: list[Curve] = []
    if "circularity_by_component" in data:
        need(data, "circularity_by_component", dims=["step", "component"])
        table = data["circularity_by_component"]
        for i, component in enumerate(table["component"].values[:4]):
            faint = {"color": "rgba(27,158,119,0.35)", "width": 1, "dash": DASHES[1 + i % 4]}
            curves.append((f"PC {component} alone", table.isel(component=i), faint))
    if any(name in data for name in known) or not curves:
        found = need(data, list(known), dims=["step"])
        curves = [(known[name][0], data[name], known[name][1]) for name in found] + curves
    fig = figure("The circle: how round and how well ordered", y="score (0 to 1)", yaxis_range=[-0.03, 1.04])
    alone = [name for name, _, _ in curves if name.endswith("alone")]
    return _draw(fig, curves, events, phases, axis, unlisted=alone)


def angle_curves(
    data: xr.Dataset,
    *,
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Principal angles, 0 to pi/2, between the plane of components 1 and 2 and that of the last step.

    >>> table = xr.DataArray([[0.5, 1.2], [0.0, 0.0]], dims=("step", "angle"))
    >>> [trace.name for trace in angle_curves(xr.Dataset({"subspace_angle": table}, {"step": [0, 10]})).data]
    ['smaller', 'larger']
    """
    need(data, "subspace_angle", dims=["step", "angle"])
    angles = data["subspace_angle"].transpose("angle", "step")
    curves: list[Curve] = [
        (name, angle, {"color": SERIES[i], "width": 2})
        for i, (name, angle) in enumerate(zip(("smaller", "larger"), angles))
    ]
    turns = {
        "tickvals": [0, np.pi / 8, np.pi / 4, 3 * np.pi / 8, np.pi / 2],
        "ticktext": ["0", "π/8", "π/4", "3π/8", "π/2"],
    }
    fig = figure("Angles to the plane of the last step", y="principal angle (rad)", yaxis_range=[-0.05, 1.65])
    fig.update_yaxes(turns)
    return _draw(fig, curves, events, phases, axis)


def measure_curves(
    data: xr.Dataset,
    names: Sequence[str] | Mapping[str, str],
    *,
    title: str,
    y: str,
    logarithmic: bool = False,
    bounds: tuple[float, float] | None = None,
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Any variables over `step`, under a title and a y-axis title of your own.

    `names` maps variables to what the legend calls them, or lists them; `logarithmic` and `bounds` are of the y axis.

    >>> data = xr.Dataset({"gini_embedding": ("step", [0.3, 0.9])}, {"step": [0, 100]})
    >>> measure_curves(data, ["gini_embedding"], title="Sparsity", y="Gini coefficient").data[0].name
    'gini embedding'
    """
    called = names if isinstance(names, Mapping) else {name: name.replace("_", " ") for name in names}
    found = need(data, list(called), dims=["step"])
    curves: list[Curve] = [
        (called[name], data[name], {"color": SERIES[i % len(SERIES)], "width": 2}) for i, name in enumerate(found)
    ]
    fig = figure(plain(title), y=plain(y))
    if logarithmic:
        fig.update_yaxes(type="log", exponentformat="power", nticks=5)
    if bounds is not None:
        fig.update_yaxes(range=bounds)
    return _draw(fig, curves, events, phases, axis)


def parameter_curves(
    data: xr.Dataset,
    variable: str,
    *,
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """A norm of each parameter, on a log scale: one colour for each layer, one dash for each of its parameters.

    `variable`: `gradient_norm_by_parameter`, `update_norm_by_parameter`, or another one over (step, parameter).

    >>> table = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("step", "parameter"))
    >>> names = ["blocks.0.attn.W_Q", "blocks.0.attn.W_K"]
    >>> data = xr.Dataset({"update_norm_by_parameter": table}, {"step": [0, 9], "parameter": names})
    >>> [trace.line.dash for trace in parameter_curves(data, "update_norm_by_parameter").data]
    ['solid', 'dash']
    """
    need(data, variable, dims=["step", "parameter"])
    table = data[variable]
    title, unit = BY_PARAMETER.get(variable, (variable.replace("_", " "), variable.replace("_", " ")))
    names = [str(name) for name in table["parameter"].values]
    layers = [name.rpartition(".")[0] for name in names]
    known = list(dict.fromkeys(layers))
    curves: list[Curve] = []
    for i, (name, layer) in enumerate(zip(names, layers)):
        line = {"color": SERIES[known.index(layer) % len(SERIES)], "width": 1.5}
        dash = DASHES[layers[:i].count(layer) % len(DASHES)]
        curves.append((_brief(name), table.isel(parameter=i), line | {"dash": dash}))
    fig = figure(title, y=unit, yaxis_type="log")
    fig.update_yaxes(exponentformat="power", nticks=5)
    return _draw(fig, curves, events, phases, axis)


def irrep_curves(
    data: xr.Dataset,
    variable: str,
    *,
    events: Iterable[Event] = (),
    phases: Phases | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Curves by irreducible representation of the group: similarity of the logits, or a share, 0 to 1.

    `variable`: `logit_similarity_by_irrep`, `embedding_share_by_irrep`, or another one over (step, irrep).

    >>> table = xr.DataArray([[0.0, 1.0]], dims=("step", "irrep"))
    >>> data = xr.Dataset({"hidden_share_by_irrep": table}, {"step": [0], "irrep": ["trivial", "sign"]})
    >>> [trace.name for trace in irrep_curves(data, "hidden_share_by_irrep").data]
    ['trivial', 'sign']
    """
    need(data, variable, dims=["step", "irrep"])
    table = data[variable]
    title, unit = BY_IRREP.get(variable, (variable.replace("_", " "), variable.replace("_", " ")))
    curves: list[Curve] = [
        (str(name), table.isel(irrep=i), {"color": SERIES[i % len(SERIES)], "width": 1.5})
        for i, name in enumerate(table["irrep"].values)
    ]
    return _draw(figure(title, y=unit), curves, events, phases, axis)


def _measured(
    fig: go.Figure,
    data: xr.Dataset,
    metrics: xr.Dataset | None,
    names: Sequence[str],
    events: Iterable[Event],
    phases: Phases | None,
    axis: str | StepAxis,
    changes: Changes | None = None,
    before: xr.Dataset | None = None,
) -> go.Figure:
    """Train, test and all, each from the log or from checkpoints (`interp.milestones.sources`)."""
    dense = metrics if metrics is not None else xr.Dataset()
    if not any(name in dense for name in names):
        need(data, names, dims=["step"])
    curves: list[Curve] = []
    for name in names:
        for source, argument in ((dense, "metrics"), (data, "data")):
            if name in source:
                need(source, name, dims=["step"], argument=argument)
        if name in dense or name in data:
            series = evaluated((data, dense), [name])[name]
            if not series.size:  # nothing finite: an empty frame, with its legend
                series = (data if name in data else dense)[name]
            who = name.split("_")[0]
            style = {
                "color": COLOURS[who],
                "width": 2 if who != "all" else 1,
                "dash": "dot" if who == "all" else "solid",
            }
            curves.append((who, series, style))
            if before is not None and name in before:
                dashed = {"color": COLOURS[who], "width": 1, "dash": "dash"}
                curves.append((f"{who}, before the fork", before[name].dropna("step"), dashed))
    return _draw(fig, curves, events, phases, axis, changes=changes)


def _draw(
    fig: go.Figure,
    curves: Sequence[Curve],
    events: Iterable[Event],
    phases: Phases | None,
    axis: str | StepAxis,
    unlisted: Collection[str] = (),
    changes: Changes | None = None,
) -> go.Figure:
    """The curves (name, series, line) on a step axis; those `unlisted` have no entry in the legend."""
    steps = [np.asarray(series["step"].values) for _, series, _ in curves]
    place = make_axis(np.concatenate(steps), axis)
    logarithmic = fig.layout.yaxis.type == "log"
    for (name, series, line), step in zip(curves, steps):
        y = np.asarray(series.values, dtype=np.float32)
        y = np.where(np.isfinite(y) & ((y > 0) | (not logarithmic)), y, np.float32(np.nan))
        fig.add_scatter(
            x=place.place(step),
            y=y,
            name=plain(name),
            mode="lines",
            line=line,
            hovertemplate="%{y:.2e}" if logarithmic else "%{y:.4~g}",
            showlegend=name not in unlisted,
        )
    fig.update_layout(xaxis=place.layout(), hovermode="x unified", hoverdistance=-1)
    named = [trace for trace in fig.data if trace.showlegend is not False]
    if len(named) > 5:
        fig.update_layout(legend={"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"})
    mark_phases(fig, phases, place)
    mark_changes(fig, changes, place)
    return mark_events(fig, events, place)


def _brief(parameter: str) -> str:
    """`blocks.0.mlp.W_in` without the part that every name shares."""
    return parameter.removeprefix("blocks.0.")
