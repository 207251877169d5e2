"""Parts of pictures: numbers in a plane, a line for each seed, the accuracy of commutativity alone."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.plots.style import COLOURS, CYCLIC
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["add_commutativity", "add_plane", "add_seeds", "commutative_accuracy"]


def add_plane(fig: "go.Figure", xy: np.ndarray, frequency: int, *, row: int, col: int, reach: float) -> None:
    """Add numbers in a plane, joined and coloured in the order of the circle of a frequency; a square without ticks.

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


def add_seeds(fig: "go.Figure", x: np.ndarray, table: np.ndarray, name: str, colour: str, **where: int | str) -> None:
    """Add a thin line for each seed, with one entry in the legend for all."""
    for i, values in enumerate(table):
        known = np.isfinite(values)
        fig.add_scatter(
            x=x[known], y=values[known].astype(np.float32), name=name, legendgroup=name, showlegend=i == 0,
            mode="lines", line={"color": colour, "width": 1.25}, opacity=0.85, **where,
        )  # fmt: skip


def add_commutativity(fig: "go.Figure", data: xr.Dataset, **where: int) -> None:
    """Add the accuracy on held-out pairs of a network that knows the training pairs and that a + b = b + a."""
    fig.add_hline(
        y=data.attrs["train_share"], line={"dash": "dot", "width": 1, "color": COLOURS["event"]},
        annotation_text="commutativity alone", annotation_position="top left", annotation_font_size=10, **where,
    )  # fmt: skip


def commutative_accuracy(traj: Trajectory) -> float:
    """Accuracy on held-out pairs by a + b = b + a alone: the share of the pairs that is trained on, nearly."""
    return float(traj.task.train.double().mean())
