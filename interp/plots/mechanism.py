"""Figures of the mechanism: phases of the neurons, frequencies of the heads, circles of the components.

A neuron of a network that adds is a wave in each operand, cos(w_k a + phi_a) and cos(w_k b + phi_b). Where both phases
are equal it is a wave in a + b times one in a - b, and the neurons lie on the diagonal of the plane of the two phases.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.plots.style import (
    COLOURS,
    SERIES,
    Event,
    StepAxis,
    colour_bar,
    figure,
    mark_events,
    mark_phases,
    need,
    step_axis,
    step_index,
)

__all__ = ["component_circles", "head_spectra", "neuron_phases"]

TUNED = 0.85
"""Share of its variance that a neuron of a frequency has there (Nanda et al., 2023, arXiv:2301.05217)."""
SEEN = 0.5
"""Circularity of two components from which their frequency is written down."""


def neuron_phases(data: xr.Dataset, step: int | None = None) -> go.Figure:
    """The phase of each neuron in the second operand against that in the first, one colour for each frequency.

    At one step (None: the last). Neurons without a frequency, that have less than 85 % of their variance at any, are
    left out where `neuron_frequency_share` is there to tell. Dotted lines: both phases are equal (mod 2 pi).

    >>> data = xr.Dataset({
    ...     "neuron_phase_first": (("step", "neuron"), [[0.5, 1.0]]),
    ...     "neuron_phase_second": (("step", "neuron"), [[0.5, 1.1]]),
    ...     "neuron_frequency": (("step", "neuron"), [[3, 5]]),
    ... }, {"step": [10]})
    >>> [trace.name for trace in neuron_phases(data).data]
    ['k = 3', 'k = 5']
    """
    names = ("neuron_phase_first", "neuron_phase_second", "neuron_frequency")
    for name in names:
        need(data, name, dims=["step", "neuron"])
    i = step_index(data, step)
    first, second, frequency = (np.asarray(data[name].isel(step=i).values) for name in names)
    told = np.ones(first.shape, dtype=bool)
    if "neuron_frequency_share" in data:
        need(data, "neuron_frequency_share", dims=["step", "neuron"])
        told = np.asarray(data["neuron_frequency_share"].isel(step=i).values) > TUNED
    now = int(data["step"].values[i])
    fig = figure(f"Phases of the neurons, step {now:,}", x="phase in the first operand (rad)", y="in the second (rad)")
    for shift in (-2 * np.pi, 0.0, 2 * np.pi):
        line = {"color": COLOURS["event"], "width": 1, "dash": "dot"}
        low, high = max(-np.pi, -np.pi - shift), min(np.pi, np.pi - shift)
        fig.add_shape(type="line", x0=low, x1=high, y0=low + shift, y1=high + shift, line=line, layer="below")
    counted = {int(k): int((told & (frequency == k)).sum()) for k in np.unique(frequency[told])}
    for place, k in enumerate(sorted(counted)):
        chosen = told & (frequency == k)
        fig.add_scatter(
            x=first[chosen].astype(np.float32), y=second[chosen].astype(np.float32), name=f"k = {k}", mode="markers",
            marker={"color": SERIES[place % len(SERIES)], "size": 5, "opacity": 0.75},
            text=[str(n) for n in np.flatnonzero(chosen)], hovertemplate="neuron %{text}: %{x:.2f}, %{y:.2f}",
        )  # fmt: skip
    turns = {"tickvals": [-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], "ticktext": ["−π", "−π/2", "0", "π/2", "π"]}
    fig.update_xaxes(range=[-3.3, 3.3], constrain="domain", **turns)
    fig.update_yaxes(range=[-3.3, 3.3], constrain="domain", scaleanchor="x", scaleratio=1, **turns)
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    return fig.update_layout(hovermode="closest", legend=legend, showlegend=True)


def head_spectra(
    data: xr.Dataset,
    variable: str = "attention_score_power",
    *,
    events: Iterable[Event] = (),
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Frequency against step for each head, one above the other over one axis of steps and in one scale of colours.

    >>> table = xr.DataArray(np.ones((2, 4, 3)), dims=("step", "head", "frequency"))
    >>> fig = head_spectra(xr.Dataset({"attention_score_power": table}, {"step": [0, 10], "frequency": [1, 2, 3]}))
    >>> [trace.yaxis for trace in fig.data]
    ['y', 'y2', 'y3', 'y4']
    """
    need(data, variable, dims=["step", "head", "frequency"])
    table = data[variable].transpose("head", "frequency", "step")
    values = np.asarray(table.values, dtype=np.float32)
    values = np.where(np.isfinite(values), values, np.float32(np.nan))
    steps, frequency = np.asarray(data["step"].values), np.asarray(data["frequency"].values, dtype=np.float32)
    place = step_axis(steps, axis)
    heads = table["head"].values
    fig = figure("Frequencies that each head attends by", y=f"head {heads[0]}", xaxis=place.layout())
    borders = np.linspace(1, 0, len(heads) + 1)
    gap = 0.02 if len(heads) > 1 else 0.0
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    for i, head in enumerate(heads):
        name = "" if i == 0 else str(i + 1)
        fig.add_heatmap(
            x=place.edges(steps), y=frequency, z=values[i], yaxis=f"y{name}", zmin=0, zmax=top or 1.0,
            autocolorscale=True, showscale=i == 0, colorbar=colour_bar("power"),
            hovertemplate=f"head {head}, frequency %{{y}} near step %{{x:.0f}}: %{{z:.3~g}}<extra></extra>",
        )  # fmt: skip
        domain = [float(borders[i + 1]) + (gap if i + 1 < len(heads) else 0), float(borders[i])]
        fig.update_layout({f"yaxis{name}": {"domain": domain, "title": {"text": f"head {head}"}, "nticks": 4}})
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(showgrid=False, anchor=f"y{len(heads)}" if len(heads) > 1 else "y")
    fig.update_yaxes(showgrid=False)
    mark_events(fig, events, place)
    return fig.update_shapes(yref="paper")


def component_circles(
    data: xr.Dataset,
    *,
    events: Iterable[Event] = (),
    phases: Mapping[str, int | None] | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Circularity of each principal component with its partner, over steps; written in it, the frequency of the circle.

    The frequency stands once in each stretch of steps over which it stays the same, where the circularity of the two
    exceeds 1/2 and the stretch is wide enough to read it.

    >>> def over(values): return ("step", "component"), [[value] for value in values]
    >>> data = xr.Dataset(
    ...     {"component_pair_circularity": over([0.9, 0.9]), "component_frequency": over([5, 5])},
    ...     {"step": [0, 10], "component": [1]},
    ... )
    >>> [note.text for note in component_circles(data).layout.annotations]
    ['5']
    """
    names = ("component_pair_circularity", "component_frequency")
    for name in names:
        need(data, name, dims=["step", "component"])
    roundness, frequency = (np.asarray(data[name].transpose("component", "step").values) for name in names)
    steps, component = np.asarray(data["step"].values), np.asarray(data["component"].values)
    place = step_axis(steps, axis)
    edges = place.edges(steps)
    fig = figure("Circles among the principal components", y="component")
    fig.add_heatmap(
        x=edges, y=component, z=np.where(np.isfinite(roundness), roundness, np.nan).astype(np.float32),
        customdata=frequency.astype(np.int16), zmin=0, zmax=1, autocolorscale=True,
        hovertemplate="PC %{y} near step %{x:.0f}: circularity %{z:.2f}, frequency %{customdata}<extra></extra>",
        colorbar=colour_bar("circularity"),
    )  # fmt: skip
    fig.update_layout(xaxis=place.layout(), hovermode="closest")
    fig.update_xaxes(showgrid=False)
    fig.update_yaxes(showgrid=False, autorange="reversed", tickvals=component)

    across = np.log10(edges) if place.scale == "log" else edges.astype(float)
    for row, name in enumerate(component):
        shown = np.where(roundness[row] > SEEN, frequency[row], 0)
        starts = [0, *(np.flatnonzero(np.diff(shown)) + 1), len(shown)]
        for low, high in pairwise(starts):
            wide = across[high] - across[low] > 0.05 * (across[-1] - across[0])
            if shown[low] and wide:
                fig.add_annotation(
                    x=(across[low] + across[high]) / 2, y=name, text=str(int(shown[low])), showarrow=False,
                    font={"size": 11, "color": "#ffffff"}, bgcolor="rgba(20,32,48,0.6)", borderpad=0,  # on any ramp
                )  # fmt: skip
    mark_phases(fig, phases, place)
    return mark_events(fig, events, place)
