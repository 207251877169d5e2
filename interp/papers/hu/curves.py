"""Curves over training: results of all runs in one dataset, and their picture."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.analysis.measures import measure
from interp.errors import NotAvailableError
from interp.milestones.sources import CURVES, curves
from interp.papers.hu.runs import Cases, Label
from interp.papers.kit.curves import POINTS, curve_of
from interp.papers.kit.figure import Preset
from interp.plots.style import COLOURS, figure, step_axis
from interp.plots.thinning import thinned
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["accuracy_by_mirror", "add_commutativity", "curves_picture", "labelled", "over_training", "panels"]


def over_training(
    cases: Callable[[Preset], Cases], *, mirrors: bool = False
) -> Callable[[Sequence[Trajectory], Preset], xr.Dataset]:
    """Function that computes the curves of every run, over its labels and `step`, and the modulus `p`.

    `mirrors`: also the test accuracies of pairs with and without their mirror in the training set.
    """

    def compute(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
        runs = [curves(traj, CURVES) for traj in trajs]
        if mirrors:
            runs = [xr.merge([run, accuracy_by_mirror(traj)], join="outer") for run, traj in zip(runs, trajs)]
        return labelled([label for label, _ in cases(preset)], runs).assign(p=trajs[0].task.p)

    return compute


def accuracy_by_mirror(traj: Trajectory) -> xr.Dataset:
    """Test accuracies of pairs with and without their mirror in the training set, at the stored steps."""
    try:
        data = measure(traj, ["test_accuracy_mirrored", "test_accuracy_unmirrored"])
    except NotAvailableError:  # too few pairs
        return xr.Dataset(coords={"step": traj.steps})
    return data.drop_attrs()


def labelled(labels: Sequence[Label], runs: Sequence[xr.Dataset]) -> xr.Dataset:
    """All runs in one dataset over their labels and, if they have it, the union of their steps; NaN without a run.

    >>> runs = [xr.Dataset({"best": value}) for value in (0.5, 0.7)]
    >>> labelled([{"fraction": 0.3, "seed": 0}, {"fraction": 0.6, "seed": 0}], runs)["best"].values.tolist()
    [[0.5], [0.7]]
    """
    coords = {dim: list(dict.fromkeys(label[dim] for label in labels)) for dim in labels[0]}
    steps = [run["step"].values for run in runs if "step" in run.coords]
    grid = {"step": np.unique(np.concatenate(steps))} if steps else {}
    shape = [len(values) for values in coords.values()]
    data = xr.Dataset(coords={**coords, **grid})
    for name in dict.fromkeys(str(name) for run in runs for name in run.data_vars):
        values = np.full([*shape, *(len(step) for step in grid.values())], np.nan)
        for label, run in zip(labels, runs):
            if name in run:
                at = tuple(coords[dim].index(value) for dim, value in label.items())
                values[at] = run[name].reindex(grid).values if grid else run[name].values
        data[name] = ([*coords, *grid], values)
    return data


def curves_picture(kind: str, title: str, columns: int = 3) -> Callable[[xr.Dataset], "go.Figure"]:
    """Function that draws train and test curves of a `kind`, accuracy or loss, a panel for each training fraction."""
    return lambda data: _drawn(data, kind, title, columns)


def _drawn(data: xr.Dataset, kind: str, title: str, columns: int) -> "go.Figure":
    """Picture of train and test curves: a panel for each fraction and kind of inputs, a thin line for each seed."""
    cells = [
        {dim: data[dim].values[i] for dim, i in zip(dims, place)}
        for dims in [[dim for dim in ("inputs", "fraction") if dim in data.dims]]
        for place in np.ndindex(*(data.sizes[dim] for dim in dims))
    ]
    names = [", ".join(filter(None, [f"{cell['fraction']:.0%}", str(cell.get("inputs", ""))])) for cell in cells]
    unit = {"accuracy": "accuracy (share right)", "loss": "cross-entropy (nats)"}[kind]
    place = step_axis(data["step"].values)
    axis = place.layout()
    axis.pop("title")
    fig = panels(title, names, columns, y=unit, x="step (updates, log scale; 0 set apart)", **axis)
    curves = {
        f"train_{kind}": ("train", {"color": COLOURS["train"]}),
        f"test_{kind}": ("test", {"color": COLOURS["test"]}),
        f"test_{kind}_mirrored": ("test, mirror trained on", {"color": COLOURS["test"], "dash": "dash"}),
        f"test_{kind}_unmirrored": ("test, mirror held out", {"color": COLOURS["test"], "dash": "dot"}),
    }
    there = [name for name in curves if name in data]
    points = max(12, POINTS // (len(cells) * len(there) * data.sizes["seed"]) - 2)
    for number, cell in enumerate(cells):
        where = {"row": number // columns + 1, "col": number % columns + 1}
        for name, seed in product(there, range(data.sizes["seed"])):
            steps, values = curve_of(data.sel(cell).isel(seed=seed), name)
            kept = thinned(steps, points)
            word, line = curves[name]
            fig.add_scatter(
                x=place.place(steps[kept]), y=values[kept].astype(np.float32), name=word,
                legendgroup=word, showlegend=number == 0 and seed == 0, mode="lines",
                line={"width": 1.5, **line}, hovertemplate="%{y:.3~g}", **where,
            )  # fmt: skip
        if kind == "accuracy":
            ends = place.place([place.first, place.last])
            add_commutativity(fig, ends, [cell["fraction"]] * 2, showlegend=number == 0, **where)
    if kind == "loss":
        fig.update_yaxes(type="log", exponentformat="power", nticks=5)
        return fig
    return fig.update_yaxes(range=[-0.03, 1.04])


def panels(title: str, names: Sequence[str], columns: int, *, y: str, x: str, **axis: Any) -> "go.Figure":
    """Figure of panels in rows, each under its name, with one scale for all."""
    rows = math.ceil(len(names) / columns)
    fig = figure(title, y=y)
    fig.set_subplots(rows, columns, shared_xaxes=True, shared_yaxes=True, subplot_titles=names,
                     horizontal_spacing=0.03, vertical_spacing=0.12)  # fmt: skip
    fig.update_annotations(font_size=12)
    fig.update_xaxes(axis)
    fig.update_xaxes(title_text="")
    fig.update_xaxes(title_text=x, row=rows, col=(columns + 1) // 2)
    for row in range(2, rows + 1):
        fig.update_yaxes(title_text=y, row=row, col=1)
    height = 220 * rows
    fig.update_layout(height=height + 160, width=800, margin={"t": 110, "b": 50}, legend={"y": 1 + 24 / height})
    return fig  # with room for the panels' names below the legend


def add_commutativity(
    fig: "go.Figure", x: Sequence[float] | np.ndarray, fraction: Sequence[float], **where: Any
) -> None:
    """Add the test accuracy of a network that knows no more than a + b = b + a: about the training fraction."""
    fig.add_scatter(
        x=x, y=fraction, mode="lines", name="commutativity alone", legendgroup="commutativity", hoverinfo="skip",
        line={"color": COLOURS["event"], "width": 1, "dash": "dot"}, **where,
    )  # fmt: skip
