"""Picture of every figure: a row of panels for each setting."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.papers.ahmed.results import where
from interp.papers.kit.curves import POINTS
from interp.plots.style import COLOURS, StepAxis, figure, plain, step_axis
from interp.plots.thinning import thinned

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["picture"]

COLUMNS: tuple[
    tuple[str, tuple[tuple[str, str, str, str], ...], dict[str, Any]], ...
] = (  # heading, curves as (variable, legend, colour, dash), layout of the axis
    (
        "cross-entropy (nats)",
        (("train_loss", "train", "train", "solid"), ("test_loss", "held out", "test", "solid")),
        {"type": "log", "exponentformat": "power", "nticks": 4},
    ),
    (
        "accuracy (share right)",
        (
            ("train_accuracy", "train", "train", "solid"),
            ("test_accuracy", "held out", "test", "solid"),
            ("test_accuracy_unmirrored", "(b, a) held out too", "test", "dot"),
        ),
        {"range": [-0.04, 1.06], "tickvals": [0, 0.5, 1]},
    ),
    ("weight norm (l2)", (("weight_norm", "weight norm", "norm", "solid"),), {"rangemode": "tozero", "nticks": 4}),
)
ROW, TOP, BOTTOM = 118, 112, 52
"""Heights in pixels of a row of panels and of the margins."""


def picture(data: xr.Dataset, *, title: str) -> "go.Figure":
    """Row for each panel: loss, accuracy and weight norm over steps; a line for each seed; events dotted."""
    drawn = data.isel(run=data["panel"].values != "")
    panels = list(dict.fromkeys(drawn["panel"].values.tolist()))
    axis = step_axis(data["step"].values)
    points = max(20, POINTS // (drawn.sizes["run"] * sum(len(curves) for _, curves, _ in COLUMNS)))
    heading = f"{title}<br><sup>{plain(data.attrs['scaling'])}</sup>"
    fig = figure(heading, y="", height=TOP + BOTTOM + ROW * len(panels))  # each column has its unit as its heading
    fig.update_layout(margin={"t": TOP, "b": BOTTOM}, showlegend=True)
    fig.update_layout(legend={"y": 1 + 40 / (ROW * len(panels))})
    for row, panel in enumerate(panels):
        runs = where(drawn, panel=panel)
        for column, (unit, curves, look) in enumerate(COLUMNS):
            suffix = _suffix(row, column)
            x, y = f"x{suffix}", f"y{suffix}"
            _lay_out(fig, axis, (row, len(panels)), column, look)
            for name, legend, colour, dash in curves:
                for i in range(runs.sizes["run"]):
                    series = runs[name].isel(run=i).dropna("step")
                    series = series.isel(step=thinned(series["step"].values, points))
                    positive = look.get("type") == "log"
                    fig.add_scatter(
                        x=axis.place(series["step"].values),
                        y=np.where(series.values > 0, series.values, np.nan) if positive else series.values,
                        xaxis=x, yaxis=y, mode="lines", name=legend, legendgroup=legend,
                        line={"color": COLOURS[colour], "width": 1.3, "dash": dash},
                        showlegend=row == i == 0 and name not in ("train_accuracy", "test_accuracy"),  # as the loss
                        hovertemplate="%{y:.3~g}",
                    )  # fmt: skip
            _mark_event(fig, runs, axis, suffix)
            if row == 0:
                fig.add_annotation(
                    text=unit, xref=f"{x} domain", x=0.5, yref="paper", y=1, yanchor="bottom", yshift=16,
                    showarrow=False,
                )  # fmt: skip
        fig.add_annotation(
            text=plain(panel), xref="paper", x=0, xanchor="left", yref=f"y{_suffix(row, 0)} domain", y=1,
            yanchor="bottom", yshift=0, showarrow=False, font={"size": 11},
        )  # fmt: skip
    return fig


def _suffix(row: int, column: int) -> str:
    """Suffix of the names of a panel's axes: its number, row by row; empty for the first panel."""
    number = 1 + row * len(COLUMNS) + column
    return "" if number == 1 else str(number)


def _lay_out(fig: "go.Figure", axis: StepAxis, row: tuple[int, int], column: int, look: dict[str, Any]) -> None:
    """Axes of a panel and their place on the paper; steps are numbered below the last row only."""
    (i, rows), suffix = row, _suffix(row[0], column)
    width, gap = 0.27, 0.095
    left, high, last = column * (width + gap), 1 - i / rows, i == rows - 1
    fig.update_layout(
        {
            f"xaxis{suffix}": {
                **axis.layout(),
                "domain": [left, left + width],
                "anchor": f"y{suffix}",
                "showticklabels": last,
                "title": {"text": "step (log scale; 0 set apart)" if last else ""},
            },
            f"yaxis{suffix}": {**look, "domain": [high - 0.74 / rows, high], "anchor": f"x{suffix}"},
        }
    )


def _mark_event(fig: "go.Figure", runs: xr.Dataset, axis: StepAxis, suffix: str) -> None:
    """Dotted line where the weight decay of a panel's runs changes; the panel's name says to which value."""
    step = float(runs["event_step"].values[0])
    if math.isnan(step):
        return
    x = float(axis.place(step))
    fig.add_shape(
        type="line", xref=f"x{suffix}", yref=f"y{suffix} domain", x0=x, x1=x, y0=0, y1=1, name="event", layer="above",
        line={"color": COLOURS["event"], "width": 1.2, "dash": "dot"},
    )  # fmt: skip
