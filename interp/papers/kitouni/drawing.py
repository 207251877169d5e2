"""The pictures of the figures of Kitouni."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.kit.curves import GENERALISED
from interp.papers.kitouni.numbers import shares_places
from interp.papers.kitouni.sizes import PAIRS
from interp.plots.style import COLOURS, CYCLIC, SERIES, figure, step_axis

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["plot_accuracies", "plot_circle", "plot_spread", "plot_widths"]


def plot_circle(data: xr.Dataset) -> "go.Figure":
    """K1: the numbers at four steps, and accuracy and order over steps."""
    steps = data["frame_step"].values
    titles = [f"step {int(step):,}" for step in steps]
    fig = figure("The numbers on the first two principal components of the last step", y="").set_subplots(
        rows=2, cols=4, specs=[[{}] * 4, [{"colspan": 4}, None, None, None]], subplot_titles=titles,
        row_heights=[0.45, 0.55], vertical_spacing=0.16, horizontal_spacing=0.02,
    )  # fmt: skip
    reach = 1.1 * float(np.abs(data["coordinates"]).max())
    for column, plane in enumerate(data["coordinates"].values, start=1):
        _add_plane(fig, plane, int(data["frequency"][0]), row=1, col=column, reach=reach)
    place = step_axis(np.union1d(data["step"].values, data["evaluation"].values))
    for name, dim, legend, colour in (
        ("test_accuracy", "evaluation", "test accuracy", COLOURS["test"]),
        ("order_own_axes", "step", "order, PC 1–2 of each step", SERIES[9]),
        ("order_last_axes", "step", "order, PC 1–2 of the last step", SERIES[8]),
    ):
        _add_seeds(fig, place.place(data[dim].values), data[name].values, legend, colour, row=2, col=1)
    fig.update_annotations(font_size=12)
    _add_commutativity(fig, data, row=2, col=1)
    fig.update_xaxes(place.layout(), row=2, col=1)
    fig.update_yaxes(title_text="0 to 1", range=[-0.03, 1.04], row=2, col=1)
    return fig.update_layout(height=560, legend={"y": -0.16, "yanchor": "top"})


def plot_widths(data: xr.Dataset) -> "go.Figure":
    """K2: the numbers at step 0 by width, and their order."""
    widths = data["d_model"].values
    count = len(widths)
    learned = (data["test_accuracy"] >= GENERALISED).transpose("seed", "d_model").values
    fig = figure("Step 0 in the axes of the last step, by width", y="").set_subplots(
        rows=2, cols=count, specs=[[{}] * count, [{"colspan": count}, *[None] * (count - 1)]],
        subplot_titles=[f"width {width}{'' if ok else ', not learned'}" for width, ok in zip(widths, learned[0])],
        row_heights=[0.42, 0.58], vertical_spacing=0.14,
        horizontal_spacing=0.02,
    )  # fmt: skip
    fig.update_annotations(font_size=12)
    for column in range(count):
        plane = data["coordinates"].values[column]
        frequency = int(data["plane_frequency"][column, 0])
        _add_plane(fig, plane, frequency, row=1, col=column + 1, reach=1.1 * float(np.abs(plane).max()))
    low, middle, high = data["own_order"].quantile([0.05, 0.5, 0.95], dim=["seed", "frequency"]).values
    band = "rgba(123,135,148,0.18)"
    edge = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip", "row": 2, "col": 1}
    fig.add_scatter(x=widths, y=high, **edge)
    fig.add_scatter(x=widths, y=low, fill="tonexty", fillcolor=band, **edge)
    fig.add_scatter(
        x=widths, y=middle, name="own plane of any frequency (90 % band)", mode="lines",
        line={"color": COLOURS["all"], "width": 1.5}, row=2, col=1,
    )  # fmt: skip
    for name, legend, colour, symbol in (
        ("order_start", "PC 1–2 of the last step", COLOURS["key"], "circle"),
        ("order_start_dominant", "last plane of the dominant frequency", SERIES[9], "diamond-open"),
    ):
        marker = {"color": colour, "symbol": symbol, "size": 8}
        for i, values in enumerate(data[name].transpose("seed", "d_model").values):
            pale = np.where(learned[i], 1.0, 0.25)
            fig.add_scatter(
                x=widths, y=values, name=legend, legendgroup=legend, showlegend=i == 0, mode="markers",
                marker={**marker, "opacity": pale}, row=2, col=1,
            )  # fmt: skip
    fig.add_hline(
        y=data.attrs["random_upper"], line={"dash": "dot", "width": 1, "color": COLOURS["event"]}, row=2, col=1,
        annotation_text="95 % of random planes lie below", annotation_position="bottom right", annotation_font_size=10,
    )  # fmt: skip
    fig.update_xaxes(title_text="d_model (log scale)", type="log", tickvals=list(widths), row=2, col=1)
    fig.update_yaxes(title_text="order at step 0 (0 to 1)", range=[-0.03, 1.04], row=2, col=1)
    return fig.update_layout(height=580, legend={"y": -0.16, "yanchor": "top"})


def plot_spread(data: xr.Dataset) -> "go.Figure":
    """K3: the pairs of components of two runs, and the order in those of all runs."""
    first = data.isel(pair=0)
    prime = (data["p"] == data["p"][0]).values
    learned = (data["test_accuracy"] >= GENERALISED).values
    fallback = learned if (learned & prime).any() and (learned & ~prime).any() else np.full(len(prime), True)
    least = int(np.where(prime & fallback, first["order"].values, np.inf).argmin())
    doubled = int(np.where(~prime & fallback, shares_places(data)[:, 0] + first["order"].values, -np.inf).argmax())
    titles = [
        f"PC {pair} · k = {int(k)} · order {float(order):.2f}"
        for run in (least, doubled)
        for pair, k, order in zip(data["pair"].values, data["frequency"].values[run], data["order"].values[run])
    ]
    fig = figure("Which pair of components carries which circle, at the last step", y="").set_subplots(
        rows=3, cols=PAIRS, specs=[[{}] * PAIRS] * 2 + [[{"colspan": PAIRS}, *[None] * (PAIRS - 1)]],
        subplot_titles=titles, row_heights=[0.32, 0.32, 0.36], vertical_spacing=0.1, horizontal_spacing=0.02,
    )  # fmt: skip
    fig.update_annotations(font_size=11)
    for row, run in enumerate((least, doubled), start=1):
        table = data["coordinates"].values[run]
        for i in range(PAIRS):
            plane, k = table[:, 2 * i : 2 * i + 2], int(data["frequency"][run, i])
            _add_plane(fig, plane, k, row=row, col=i + 1, reach=1.1 * float(np.nanmax(np.abs(plane))))
        fig.update_yaxes(title_text=f"p = {int(data['p'][run])}", row=row, col=1)
    for shown, legend, colour in (
        (prime, f"p = {int(data['p'][0])}", SERIES[0]),
        (~prime, f"p = {int(data['p'][-1])}", COLOURS["key"]),
    ):
        for shared, place, symbol in ((False, "a place for each", "circle"), (True, "shared places", "circle-open")):
            chosen = shown[:, None] & learned[:, None] & (shares_places(data) == shared)
            if not chosen.any():
                continue
            runs, pairs = np.nonzero(chosen)
            fig.add_scatter(
                x=pairs + 0.5 * (runs / len(learned) - 0.5), y=data["order"].values[chosen], mode="markers",
                name=f"{legend}, {place}", row=3, col=1,
                marker={"color": colour, "symbol": symbol, "size": 7},
            )  # fmt: skip
    fig.update_xaxes(
        title_text="pair of principal components (all runs that generalised)", tickvals=list(range(PAIRS)),
        ticktext=[str(pair) for pair in data["pair"].values], range=[-0.5, PAIRS - 0.5], row=3, col=1,
    )  # fmt: skip
    fig.update_yaxes(title_text="order (0 to 1)", range=[-0.03, 1.06], row=3, col=1)
    return fig.update_layout(height=760, legend={"y": -0.12, "yanchor": "top"})


def plot_accuracies(data: xr.Dataset) -> "go.Figure":
    """K4 and K5: accuracies over steps; in K5 next to those of the lower weight decay."""
    shown = data.isel(weight_decay=-1)
    decay = float(shown["weight_decay"])
    fig = figure(f"An MLP that adds mod {data.attrs['p']}, weight decay {decay:g}", y="accuracy (share right)")
    place = step_axis(np.union1d(data["train_step"].values, data["test_step"].values))
    for side in ("train", "test"):
        x = place.place(data[f"{side}_step"].values)
        _add_seeds(fig, x, shown[f"{side}_accuracy"].transpose("seed", ...).values, side, COLOURS[side])
    if data.sizes["weight_decay"] > 1:
        before = data.isel(weight_decay=0)
        legend = f"test, weight decay {float(before['weight_decay']):g}"
        x = place.place(data["test_step"].values)
        _add_seeds(fig, x, before["test_accuracy"].transpose("seed", ...).values, legend, COLOURS["other"])
    _add_commutativity(fig, data)
    return fig.update_layout(xaxis=place.layout(), yaxis_range=[-0.03, 1.04], height=380)


def _add_plane(fig: "go.Figure", xy: np.ndarray, frequency: int, *, row: int, col: int, reach: float) -> None:
    """Numbers in a plane, joined and coloured in the order of the circle of that frequency, in a square without ticks.

    Of numbers that share a place (frequency and p have a common factor) the smaller comes first.
    """
    xy = xy[np.isfinite(xy).all(-1)]
    p = len(xy)
    place = frequency * np.arange(p) % p
    round_ = np.argsort(place, kind="stable")
    round_ = np.append(round_, round_[0])
    line, quiet = {"color": COLOURS["join"], "width": 1}, {"showlegend": False}
    fig.add_scatter(
        x=xy[round_, 0], y=xy[round_, 1], mode="lines", line=line, hoverinfo="skip", **quiet, row=row, col=col
    )
    fig.add_scatter(
        x=xy[:, 0], y=xy[:, 1], mode="markers", text=[str(t) for t in range(p)], **quiet, row=row, col=col,
        marker={"color": place / p, "cmin": 0, "cmax": 1, "colorscale": list(CYCLIC), "size": 5},
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    bare = {"range": [-reach, reach], "showticklabels": False, "ticks": "", "showgrid": False, "constrain": "domain"}
    fig.update_xaxes(bare, row=row, col=col)
    fig.update_yaxes(bare | {"scaleanchor": fig.data[-1].xaxis or "x", "title": {"text": ""}}, row=row, col=col)


def _add_seeds(fig: "go.Figure", x: np.ndarray, table: np.ndarray, name: str, colour: str, **where: int | str) -> None:
    """A thin line for each seed, one entry in the legend for all."""
    for i, values in enumerate(table):
        known = np.isfinite(values)
        fig.add_scatter(
            x=x[known], y=values[known].astype(np.float32), name=name, legendgroup=name, showlegend=i == 0,
            mode="lines", line={"color": colour, "width": 1.25}, opacity=0.85, **where,
        )  # fmt: skip


def _add_commutativity(fig: "go.Figure", data: xr.Dataset, **where: int) -> None:
    """What a network has on held-out pairs that knows the training pairs and that a + b = b + a."""
    fig.add_hline(
        y=data.attrs["train_share"], line={"dash": "dot", "width": 1, "color": COLOURS["event"]},
        annotation_text="commutativity alone", annotation_position="top left", annotation_font_size=10, **where,
    )  # fmt: skip
