"""Parts of pictures: panels, curves, axes and shades."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.plots.style import figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["axis_titles", "line", "panel_grid", "shade"]


def panel_grid(title: str, rows: int, cols: int, names: Sequence[str] = (), height: int = 380) -> "go.Figure":
    """Figure of panels, with its legend below."""
    fig = figure(title, y="", height=height).set_subplots(
        rows,
        cols,
        subplot_titles=list(names) or None,
        horizontal_spacing=0.3 / (cols + 1),
        vertical_spacing=0.32 / (rows + 1),
    )
    fig.update_annotations(font_size=12)
    return fig.update_layout(
        legend={"y": -70 / (height - 170), "yanchor": "top"}, margin={"b": 100, "t": 70}, yaxis_title_text=None
    )


def line(
    fig: "go.Figure",
    x: Any,
    y: Any,
    name: str,
    colour: str,
    at: tuple[int, int] = (1, 1),
    *,
    mode: str = "lines",
    **style: Any,
) -> None:
    """Add a curve; curves of one name share an entry in the legend."""
    known = any(trace.name == name for trace in fig.data)
    look = {"line": {"color": colour, "width": style.pop("width", 1.8), "dash": style.pop("dash", "solid")}}
    if "markers" in mode:
        look["marker"] = {"color": colour, "size": style.pop("size", 5), "symbol": style.pop("symbol", "circle")}
    fig.add_scatter(
        x=np.asarray(x, dtype=np.float32), y=np.asarray(y, dtype=np.float32), name=name, legendgroup=name,
        showlegend=not known, mode=mode, row=at[0], col=at[1], **look, **style,
    )  # fmt: skip


def axis_titles(fig: "go.Figure", at: tuple[int, int], x: str, y: str, **options: Any) -> None:
    """Titles of the axes of a panel; options begin with `x_` or `y_`."""
    for prefix, update, text in (("x_", fig.update_xaxes, x), ("y_", fig.update_yaxes, y)):
        chosen = {name[2:]: value for name, value in options.items() if name.startswith(prefix)}
        if chosen.get("type") == "log":
            chosen |= {"exponentformat": "power", "dtick": chosen.get("dtick", 1)}
        update(title_text=text, row=at[0], col=at[1], **chosen)


def shade(values: Sequence[float] | np.ndarray) -> list[str]:
    """Colours from light to dark blue for an ordered series."""
    light, dark = np.array([168, 200, 221]), np.array([18, 58, 94])
    steps = np.linspace(0, 1, max(len(values), 2))[: len(values)]
    return ["#{:02x}{:02x}{:02x}".format(*(light + (dark - light) * x).astype(int)) for x in steps]
