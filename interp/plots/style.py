"""Look of every figure: the template, colours that carry meaning, the step axis, events and phases.

Colour means the same thing everywhere: train is blue, test is vermilion, restricted (key frequencies only) green,
excluded (key frequencies removed) purple. The hues are those of "Color Universal Design" (Okabe and Ito, 2008,
https://jfly.uni-koeln.de/color/), moved to a lightness that reads on white and on black.

Residues live on a circle, so their colour map is cyclic. `CYCLIC` is the curve L = 0.65 - 0.13 cos h, C = 0.12
over all hues h in OKLCh ("A perceptual color space for image processing", Ottosson, 2020,
https://bottosson.github.io/posts/oklab/): red is dark where green is light, so that
somebody who cannot tell the two hues apart still sees which side of the circle a residue is on.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InvalidArgumentError, did_you_mean
from interp.milestones.phases import PHASES

__all__ = [
    "COLOURS",
    "CYCLIC",
    "PHASE_FILLS",
    "SERIES",
    "StepAxis",
    "colour_bar",
    "figure",
    "frequency_title",
    "inputs_of",
    "mark_changes",
    "mark_events",
    "mark_phases",
    "need",
    "plain",
    "step_axis",
    "step_index",
    "template",
    "tokens_of",
]

COLOURS = {
    "train": "#2b7bba",
    "test": "#d5622a",
    "all": "#7b8794",
    "restricted": "#1b9e77",
    "excluded": "#a65aa0",
    "norm": "#b08413",
    "key": "#d5622a",
    "other": "#8fa3b5",
    "join": "rgba(128,140,155,0.45)",
    "event": "rgba(120,130,145,0.9)",
}
CYCLIC = (
    "#9e4766", "#a64c4b", "#ac5a32", "#af7020", "#ac8b26", "#a0a646", "#8abc6e", "#6ccb96", "#4ad0ba",
    "#35cad5", "#42bbe4", "#5ca4e5", "#738ad8", "#8371c1", "#8e5ca4", "#974e84", "#9e4766",
)  # fmt: skip
SERIES = ("#2b7bba", "#d5622a", "#1b9e77", "#a65aa0", "#b08413", "#5bb4d8", "#c2517a", "#7b8794", "#6a8f3c", "#7a6fd0")
PHASE_FILLS = {
    "memorisation_end": "rgba(43,123,186,0.07)",
    "circuit_formation_end": "rgba(27,158,119,0.10)",
    "cleanup_end": "rgba(176,132,19,0.10)",
}
"""Soft fills of the training phases, by their names in `interp.milestones.phases.PHASES`."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"

Event = tuple[int, str]
Numbers = npt.ArrayLike | int | float  # beartype does not take an int for a complex


@cache
def template(dark: bool = False) -> go.layout.Template:
    """The shared template, for light or for dark paper; backgrounds are transparent.

    >>> template().layout.font.color, template(dark=True).layout.font.color
    ('#2a3340', '#d5dbe3')
    """
    ink, muted, line = ("#d5dbe3", "#97a2b0", "#2b333e") if dark else ("#2a3340", "#66717f", "#e6e4df")
    ramp = (
        ["#181d25", "#1d3b57", "#2a6a94", "#55a8c0", "#c9ecdf"]
        if dark
        else ["#f7f6f3", "#cfe0e8", "#7fb3cc", "#2f77a5", "#123a5e"]
    )
    scale = [[i / 4, colour] for i, colour in enumerate(ramp)]
    axis = {
        "gridcolor": line,
        "linecolor": line,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": line,
        "tickfont": {"color": muted, "size": 11},
        "title": {"font": {"color": muted, "size": 12}, "standoff": 8},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12, "color": ink},
            "title": {
                "font": {"size": 15, "color": ink},
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": 1,  # at the top of the figure, clear of a legend of two lines
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 12},
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(SERIES),
            "colorscale": {"sequential": scale, "diverging": scale},  # one ramp, whatever the sign of the least value
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 20, "t": 80, "b": 48},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "bgcolor": "rgba(0,0,0,0)",
                "font": {"size": 11, "color": muted},
            },
            "hoverlabel": {
                "font": {"family": FONT, "size": 12, "color": ink},
                "bgcolor": "#1f2630" if dark else "#ffffff",
                "bordercolor": line,
                "align": "left",
            },
            "shapedefaults": {"label": {"font": {"color": muted, "size": 10}}},
            "annotationdefaults": {"font": {"color": muted, "size": 11}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": muted, "activecolor": ink},
            "dragmode": "zoom",
        }
    )


def figure(title: str, *, y: str, x: str | None = None, **layout: object) -> go.Figure:
    """An empty figure in the shared template, with its title and the titles of its axes."""
    fig = go.Figure(layout={"template": template(), "title": {"text": title}, "yaxis": {"title": {"text": y}}})
    if x is not None:
        fig.update_xaxes(title_text=x)
    return fig.update_layout(**layout)


# --- the step axis ---


@dataclass(frozen=True)
class StepAxis:
    """Axis of steps: a positive step stands at its own value, step 0 at `zero_at`, left of all others.

    A logarithm has no place for 0, and initialisation is the most telling step; so it is set apart and labelled `0`.
    """

    scale: str  # "log" or "linear"
    first: int
    last: int
    zero_at: float

    def place(self, step: Numbers) -> npt.NDArray[np.float32]:
        """The x value of each step."""
        x = np.asarray(step, dtype=np.float32)
        return np.where(x > 0, x, np.float32(self.zero_at)).astype(np.float32)

    def edges(self, step: Numbers) -> npt.NDArray[np.float32]:
        """The n + 1 borders between n steps, half-way on this scale (for heat maps)."""
        x = self.place(step).astype(float)
        if x.size == 1:
            return np.array([0.8 * x[0] - 0.1, 1.2 * x[0] + 0.1], dtype=np.float32)
        y = np.log(x) if self.scale == "log" else x
        middle = (y[1:] + y[:-1]) / 2
        y = np.concatenate([[y[0]], middle, [y[-1]]])
        return (np.exp(y) if self.scale == "log" else y).astype(np.float32)

    def layout(self) -> dict[str, object]:
        """The `xaxis` properties: type, range, ticks, and a title that says what was done with step 0."""
        low, high = float(self.place(self.first)), float(max(self.last, 1))
        if self.scale == "linear":
            pad = 0.015 * (high - low) or 1.0
            return {
                "type": "linear",
                "range": [low - pad, high + pad],
                "hoverformat": ",.0f",
                "title": {"text": "step (optimiser updates)"},
            }
        ticks = [0] if self.first == 0 else []
        decades = range(math.floor(math.log10(self._first_positive())), math.ceil(math.log10(high)) + 1)
        wide = len(decades) > 3
        ticks += [m * 10**d for d in decades for m in ((1,) if wide else (1, 2, 5))]
        ticks = [t for t in ticks if t == 0 or low <= t <= high * 1.05]
        if len(ticks) < 3 and self.first > 0 and high > low + 3:  # a short stretch far from 0, as of a replay
            unit = 10 ** math.floor(math.log10((high - low) / 3))
            apart_by = next(m * unit for m in (10, 5, 2, 1) if (high - low) / (m * unit) >= 3)
            ticks = list(range(math.ceil(low / apart_by) * apart_by, int(high) + 1, apart_by))
        pad = 0.015 * math.log10(high / low) or 0.1
        apart = ", log scale; 0 set apart" if self.first == 0 else ", log scale"
        return {
            "type": "log",
            "hoverformat": ",.0f",
            "range": [math.log10(low) - pad, math.log10(high) + pad],
            "tickvals": [float(v) for v in self.place(ticks)],
            "ticktext": [_short(t) for t in ticks],
            "title": {"text": f"step (optimiser updates{apart})"},
        }

    def _first_positive(self) -> float:
        return 2 * self.zero_at if self.first == 0 else float(self.first)


def step_axis(steps: Numbers, scale: str | StepAxis = "log") -> StepAxis:
    """The axis that holds `steps`; an axis that is already made passes through, so that figures can share one.

    >>> axis = step_axis([0, 100, 200, 1000])
    >>> axis.place([0, 100]).tolist(), axis.layout()["ticktext"]
    ([50.0, 100.0], ['0', '100', '200', '500', '1k'])
    >>> step_axis(range(250, 301)).layout()["ticktext"]
    ['250', '260', '270', '280', '290', '300']
    """
    if isinstance(scale, StepAxis):
        return scale
    if scale not in ("log", "linear"):
        raise InvalidArgumentError(f'`axis` must be "log", "linear" or a StepAxis; got {scale!r}.')
    known = np.unique(np.asarray(steps))
    if known.size == 0 or known[0] < 0:
        raise InvalidArgumentError(f"`steps` must hold at least one step, none negative; got {known.tolist()[:5]}.")
    positive = known[known > 0]
    zero_at = (float(positive[0]) if positive.size else 1.0) / 2 if scale == "log" else 0.0
    return StepAxis(scale, int(known[0]), int(known[-1]), zero_at)


def _short(step: int) -> str:
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if step >= unit:
            return f"{step / unit:g}{letter}"
    return str(step)


# --- events and phases ---


def mark_events(fig: go.Figure, events: Iterable[Event], axis: StepAxis) -> go.Figure:
    """A dotted line per event (step, label); a label of one or two letters stands above it, others run along it."""
    for step, label in events:
        if not axis.first <= step <= axis.last:
            continue
        x, brief = float(axis.place(step)), len(label) <= 2
        fig.add_shape(
            type="line", xref="x", yref="y domain", x0=x, x1=x, y0=0, y1=1, name="event", layer="above",
            line={"color": COLOURS["event"], "width": 1, "dash": "dot"},
            label={
                "text": plain(label),
                "textposition": "end",
                "textangle": 0 if brief else -90,
                "xanchor": "center" if brief else "right",
                "yanchor": "bottom",
                "padding": 2,
                "font": {"size": 10},
            },
        )  # fmt: skip
    return fig


def mark_phases(fig: go.Figure, phases: Mapping[str, int | None] | None, axis: StepAxis) -> go.Figure:
    """Soft bands behind the curves, one per phase that has an end, with the word for each in the legend."""
    start = axis.first
    for key, word in PHASES.items():
        end = (phases or {}).get(key)
        if end is None:
            break
        x0, x1 = (float(axis.place(min(max(s, axis.first), axis.last))) for s in (start, end))
        if x1 > x0:
            fig.add_shape(
                type="rect", xref="x", yref="y domain", x0=x0, x1=x1, y0=0, y1=1, layer="below", name=word,
                fillcolor=PHASE_FILLS[key], line={"width": 0}, showlegend=True,
            )  # fmt: skip
        start = end
    return fig


def mark_changes(fig: go.Figure, changes: Mapping[str, tuple[int, int, int]] | None, axis: StepAxis) -> go.Figure:
    """A dashed line per change point (step, lower, upper) in the colour of the phase it ends, its interval as a bar."""
    for key, found in (changes or {}).items():
        word, ink = PHASES[key], PHASE_FILLS[key].rpartition(",")[0] + ",0.75)"
        at, low, high = (float(axis.place(min(max(step, axis.first), axis.last))) for step in found)
        common = {"xref": "x", "yref": "y domain", "name": f"change: {word}", "layer": "above"}
        fig.add_shape(**common, type="rect", x0=low, x1=high, y0=0, y1=0.045, fillcolor=ink, line={"width": 0})
        line = {"color": ink, "width": 1.5, "dash": "dash"}
        fig.add_shape(**common, type="line", x0=at, x1=at, y0=0, y1=1, line=line)
    return fig


# --- what callers gave ---


def need(data: xr.Dataset, names: str | Sequence[str], *, dims: Sequence[str], argument: str = "data") -> list[str]:
    """Names among `names` that `data` holds, each over `dims`; an error says what was needed where there is none."""
    if not isinstance(data, xr.Dataset):
        raise InvalidArgumentError(
            f"`{argument}` must be a dataset, as from `interp.measure(traj)`; got {type(data).__name__}."
        )
    names = [names] if isinstance(names, str) else list(names)
    found = [name for name in names if name in data]
    if not found:
        listed = " or ".join(f"`{name}`" for name in names)
        offer = did_you_mean(names[0], [str(v) for v in data.data_vars]) if data.data_vars else "It holds nothing."
        raise InvalidArgumentError(f"`{argument}` must hold {listed} over {', '.join(dims)}. {offer}")
    for name in found:
        if set(data[name].dims) != set(dims):
            got = ", ".join(str(d) for d in data[name].dims) or "no dimension"
            raise InvalidArgumentError(f"`{argument}[{name!r}]` must have the dimensions {', '.join(dims)}; got {got}.")
    return found


def step_index(data: xr.Dataset, step: int | None) -> int:
    """The position of `step` in `data.step`; None is the last one.

    >>> step_index(xr.Dataset(coords={"step": [0, 10, 20]}), 10)
    1
    """
    steps = np.asarray(data["step"].values)
    if step is None:
        return len(steps) - 1
    (where,) = np.nonzero(steps == step)
    if where.size == 0:
        near = int(steps[np.abs(steps - step).argmin()])
        raise InvalidArgumentError(f"`step` must be one of the steps of `data`; got {step}, the nearest is {near}.")
    return int(where[0])


def colour_bar(title: str) -> dict[str, object]:
    """The colour bar of a heat map."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 12}}, "tickfont": {"size": 11},
        "thickness": 10, "outlinewidth": 0, "nticks": 5,
    }  # fmt: skip


def frequency_title(data: xr.Dataset) -> str:
    """Title of an axis of frequencies: cycles over the residues, or the basis that `data.attrs["basis"]` names.

    >>> frequency_title(xr.Dataset(attrs={"basis": "characters of the products mod 7, discrete logarithms to base 3"}))
    'frequency k (characters of the products mod 7, discrete logarithms to base 3)'
    """
    basis = str(data.attrs.get("basis", ""))
    return f"frequency k ({plain(basis)})" if "products" in basis else "frequency k (cycles over the p residues)"


def tokens_of(data: xr.Dataset) -> list[str]:
    """Names of the tokens: the numbers that the coordinate `token` gives, or their places where there is none.

    >>> tokens_of(xr.Dataset(coords={"token": [1, 3, 2, 6, 4, 5]}))
    ['1', '3', '2', '6', '4', '5']
    """
    return [str(token) for token in data["token"].values]  # xarray counts from 0 where there is no coordinate


def inputs_of(data: xr.Dataset) -> str:
    """Word for the inputs in titles: pairs, or the kind that `data.attrs["inputs"]` names.

    >>> inputs_of(xr.Dataset(attrs={"inputs": "words of 10 bits"})), inputs_of(xr.Dataset())
    ('words', 'pairs')
    """
    return plain(str(data.attrs.get("inputs", "pairs")).partition(" of ")[0])


def plain(text: object) -> str:
    """Text that Plotly shows as it is written: its pseudo-HTML (`<b>`, `<a href>`) and entities are neutralised.

    >>> plain("<b>a & b</b>")
    '&lt;b&gt;a &amp; b&lt;/b&gt;'
    """
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
