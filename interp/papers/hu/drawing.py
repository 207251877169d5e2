"""The pictures of the figures of Hu et al."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.papers.hu.sizes import POINTS
from interp.papers.kit.curves import curve_of
from interp.plots.style import COLOURS, SERIES, figure, step_axis

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["plot_of", "plot_optimisers", "plot_steps"]


def _panels(title: str, names: Sequence[str], columns: int, *, y: str, x: str, **axis: Any) -> "go.Figure":
    """Panels side by side and below each other, each under its name, with one scale for all."""
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


def _thinned(x: np.ndarray, n: int) -> np.ndarray:
    """Places of about `n` values, evenly spaced on a logarithmic axis, the first and the last among them."""
    if len(x) <= n:
        return np.arange(len(x))
    wanted = np.append(x[0], np.geomspace(max(x[1], 1), x[-1], n - 1))
    return np.unique([np.abs(x - value).argmin() for value in wanted])


def _drawn(data: xr.Dataset, kind: str, title: str, columns: int) -> "go.Figure":
    """Train and test curves of `kind`, accuracy or loss: a panel for each fraction (and kind of inputs), thin lines."""
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
    fig = _panels(title, names, columns, y=unit, x="step (updates, log scale; 0 set apart)", **axis)
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
            kept = _thinned(steps, points)
            word, line = curves[name]
            fig.add_scatter(
                x=place.place(steps[kept]), y=values[kept].astype(np.float32), name=word,
                legendgroup=word, showlegend=number == 0 and seed == 0, mode="lines",
                line={"width": 1.5, **line}, hovertemplate="%{y:.3~g}", **where,
            )  # fmt: skip
        if kind == "accuracy":
            ends = place.place([place.first, place.last])
            _commutativity(fig, ends, [cell["fraction"]] * 2, showlegend=number == 0, **where)
    if kind == "loss":
        fig.update_yaxes(type="log", exponentformat="power", nticks=5)
        return fig
    return fig.update_yaxes(range=[-0.03, 1.04])


def _commutativity(fig: "go.Figure", x: Sequence[float] | np.ndarray, fraction: Sequence[float], **where: Any) -> None:
    """The test accuracy of a network that knows no more than a + b = b + a: about the training fraction."""
    fig.add_scatter(
        x=x, y=fraction, mode="lines", name="commutativity alone", legendgroup="commutativity", hoverinfo="skip",
        line={"color": COLOURS["event"], "width": 1, "dash": "dot"}, **where,
    )  # fmt: skip


def plot_of(kind: str, title: str, columns: int = 3) -> Callable[[xr.Dataset], "go.Figure"]:
    """What draws the accuracies, or the losses, of each training fraction in a panel."""
    return lambda data: _drawn(data, kind, title, columns)


def plot_steps(data: xr.Dataset) -> "go.Figure":
    """H7: a point for each run, a line through the medians over seeds; runs that ended before as open triangles."""
    fig = figure("Steps until generalisation", y="updates until test accuracy is 95 %", x="training fraction")
    for colour, name in zip((SERIES[0], SERIES[2]), data["encoding"].values):
        of = data.sel(encoding=name).dropna("fraction", how="all", subset=["last_step"])
        marker = {"color": colour, "size": 7}
        words = f"{name} encoding, p = {int(of['p'])}"
        middle = of["generalised_step"].median("seed", skipna=False).dropna("fraction")
        fig.add_scatter(x=middle["fraction"].values, y=middle.values, mode="lines", line={"color": colour, "width": 2},
                        legendgroup=words, showlegend=False, hoverinfo="skip")  # fmt: skip
        runs = of.stack(run=("fraction", "seed"))
        came = runs["generalised_step"].notnull().values
        for chosen, y, symbol, said in (
            (came, "generalised_step", "circle", words),
            (~came, "last_step", "triangle-up-open", f"{name}: not by then, the run's end"),
        ):
            fig.add_scatter(
                x=runs["fraction"].values[chosen], y=runs[y].values[chosen], mode="markers", name=said,
                legendgroup=said if symbol != "circle" else words, marker={**marker, "symbol": symbol},
                hovertemplate="%{x:.0%}: %{y:,.0f} updates",
            )  # fmt: skip
    fig.update_xaxes(range=[0, 1], tickformat=".0%")
    fig.update_yaxes(type="log", dtick=1, exponentformat="power")
    return fig.update_layout(width=640, height=440, margin={"t": 110})


def plot_optimisers(data: xr.Dataset) -> "go.Figure":
    """H5: all held-out pairs, and those whose mirror is held out; a colour for each optimiser."""
    columns = {"best_test_accuracy": "all held-out pairs", "best_test_accuracy_unmirrored": "mirror held out too"}
    there = {name: words for name, words in columns.items() if name in data}
    fig = _panels(
        f"Best accuracy within {int(data['last_step'].max()):,} updates", list(there.values()), len(there),
        y="best test accuracy (share right)", x="training fraction",
        range=[0, 1], tickformat=".0%", tickvals=[0.25, 0.5, 0.75],
    )  # fmt: skip
    for column, name in enumerate(there, start=1):
        for i, optimiser in enumerate(data["optimiser"].values):
            runs = data[name].sel(optimiser=optimiser)
            middle = runs.median("seed", skipna=False).dropna("fraction")
            fig.add_scatter(
                x=middle["fraction"].values, y=middle.values, name=str(optimiser), legendgroup=str(optimiser),
                showlegend=column == 1, mode="lines+markers", row=1, col=column,
                line={"color": SERIES[i], "width": 1.5, "dash": "dash" if "AdamW" in str(optimiser) else "solid"},
                hovertemplate="%{x:.0%}: %{y:.3~g}",
            )  # fmt: skip
    _commutativity(fig, [0, 1], [0, 1], row=1, col=1)
    fig.update_xaxes(title_text="training fraction")
    fig.update_yaxes(range=[-0.03, 1.04])
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    return fig.update_layout(legend=legend, height=440, width=900, margin={"t": 80})
