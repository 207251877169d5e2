"""The structure of the embedding at one step: the circle in a plane of two components, and the Fourier spectrum.

A network that adds mod p places token t at the angle 2 pi k t / p on a circle of frequency k. Its neighbours there
are t + s and t - s with s = 1/k mod p (the stride); joined in that order the tokens make a ring, and coloured by
k t mod p the colours run once round it. Both are layout: they change no point. Products mod p are such sums of the
exponents t of a primitive root, mod p - 1; `token` then names the powers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.analysis.keys import named_key_frequencies
from interp.errors import InvalidArgumentError
from interp.plots.style import (
    COLOURS,
    CYCLIC,
    Event,
    Numbers,
    StepAxis,
    colour_bar,
    figure,
    frequency_title,
    mark_events,
    mark_phases,
    need,
    step_axis,
    step_index,
    template,
    tokens_of,
)

__all__ = [
    "Ring",
    "circle_animation",
    "component_grid",
    "component_pairs",
    "embedding_circle",
    "ring",
    "spectrum_bars",
    "spectrum_heatmap",
]

Join = str | int
MAX_NUMBERED_TOKENS = 67
"""Maximum number of tokens that are shown with their number: more would overlap."""
SPECTRA = {  # variable -> title, unit
    "embedding_power": ("Fourier spectrum of the embedding", "squared norm"),
    "logit_similarity": ("Frequencies in the logits", "cosine similarity"),
    "neuron_cluster_size": ("Neurons tuned to each frequency", "neurons"),
}


@dataclass(frozen=True)
class Ring:
    """Line and colours of the p tokens of a plane: frequency k and stride s, with k s = gcd(k, p) (mod p).

    Where k and p have a divisor in common, so many tokens share each place, and the line goes round so many times.
    Elements of a group that is not cyclic have no order round a circle: with stride 0 no line joins them.
    """

    p: int
    frequency: int
    stride: int

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """The tokens in the order of the line, closed: 0, s, 2s, ..., 0 (mod p)."""
        return np.arange(self.p + 1 if self.stride else 0) * self.stride % self.p

    @property
    def colour(self) -> npt.NDArray[np.int64]:
        """The place of each token round the circle: k t mod p."""
        return np.arange(self.p) * max(self.frequency, 1) % self.p


def ring(x: Numbers, y: Numbers, *, cyclic: bool = True) -> Ring:
    """The ring that suits the points (x_t, y_t): that of the strongest frequency of x + iy over t.

    None joins them where the tokens are not `cyclic`, the residues mod p.

    >>> t = np.arange(7)
    >>> ring(np.cos(2 * np.pi * 3 * t / 7), np.sin(2 * np.pi * 3 * t / 7))
    Ring(p=7, frequency=3, stride=5)
    >>> t = np.arange(12)                                # t and t + 6 share a place; the line goes round twice
    >>> ring(np.cos(2 * np.pi * 2 * t / 12), np.sin(2 * np.pi * 2 * t / 12))
    Ring(p=12, frequency=2, stride=1)
    """
    z = np.nan_to_num(np.asarray(x, dtype=float)) + 1j * np.nan_to_num(np.asarray(y, dtype=float))
    p = z.shape[-1]
    if not cyclic:
        return Ring(p, 0, 0)
    spectrum = np.abs(np.fft.fft(z))
    half = np.arange(1, p // 2 + 1)
    power = spectrum[half] ** 2 + spectrum[-half] ** 2  # either direction round the circle
    power[2 * half == p] /= 2  # which are the same one
    if power.size == 0 or power.max() == 0:
        return Ring(p, 1, 1)
    k = int(half[power.argmax()])
    shared = math.gcd(k, p)
    stride = pow(k // shared, -1, p // shared)
    while math.gcd(stride, p) > 1:  # so that the line reaches every token
        stride += p // shared
    return Ring(p, k, stride)


def component_pairs(data: xr.Dataset) -> list[tuple[int, int]]:
    """The pairs of components (1, 2), (3, 4), ... that `data.embedding_coordinates` holds, as it names them."""
    need(data, "embedding_coordinates", dims=["step", "token", "component"])
    names = [int(c) for c in data["embedding_coordinates"]["component"].values]
    return list(zip(names[::2], names[1::2]))


def embedding_circle(
    data: xr.Dataset,
    step: int | None = None,
    *,
    components: tuple[int, int] = (1, 2),
    join: Join = "ring",
    colour: str = "ring",
    numbers: bool | None = None,
) -> go.Figure:
    """The token embeddings at one step (None: the last) on two principal components, in axes that never move.

    `join="ring"` joins the tokens in the order of the circle that the *last* step shows, an integer s joins t to t + s;
    `colour="ring"` lets the cyclic colours run round that circle, `"token"` round the residues. `numbers` writes each
    residue in its marker (None: where there are few).

    >>> t = 2 * np.pi * np.arange(5) / 5
    >>> plane = xr.DataArray([np.stack([np.cos(t), np.sin(t)], 1)], dims=("step", "token", "component"))
    >>> data = xr.Dataset({"embedding_coordinates": plane}, {"step": [7], "token": range(5), "component": [1, 2]})
    >>> embedding_circle(data).layout.title.text
    'Token embeddings on PC 1–2, step 7'
    """
    xy, rim = _plane(data, components, join)
    i = step_index(data, step)
    now = int(data["step"].values[i])
    lines, points = _ring_traces(xy[i], rim, colour, numbers, tokens_of(data))
    first, second = components
    fig = figure(f"Token embeddings on PC {first}–{second}, step {now:,}", x=f"PC {first}", y=f"PC {second}")
    fig.add_traces([lines, points])
    reach = _reach(xy)
    fig.update_xaxes(range=[-reach, reach], constrain="domain", nticks=6)
    fig.update_yaxes(range=[-reach, reach], constrain="domain", nticks=6, scaleanchor="x", scaleratio=1)
    return fig.update_layout(showlegend=False, width=560, height=580, hovermode="closest")


def circle_animation(
    data: xr.Dataset,
    *,
    components: tuple[int, int] = (1, 2),
    join: Join = "ring",
    colour: str = "ring",
    max_frames: int = 120,
) -> go.Figure:
    """`embedding_circle` with a slider and a play button over at most `max_frames` of the steps, for notebooks.

    >>> t = 2 * np.pi * np.arange(5) / 5
    >>> plane = np.stack([np.cos(t), np.sin(t)], 1)
    >>> plane = xr.DataArray([0 * plane, plane], dims=("step", "token", "component"))
    >>> data = xr.Dataset({"embedding_coordinates": plane}, {"step": [0, 7], "token": range(5), "component": [1, 2]})
    >>> len(circle_animation(data).frames)
    2
    """
    if max_frames < 2:
        raise InvalidArgumentError(f"`max_frames` must be at least 2; got {max_frames}.")
    xy, rim = _plane(data, components, join)
    steps = np.asarray(data["step"].values)
    shown = np.unique(np.linspace(0, len(steps) - 1, min(max_frames, len(steps))).round().astype(int))
    fig = embedding_circle(data, int(steps[shown[-1]]), components=components, join=join, colour=colour)
    fig.frames = [
        go.Frame(
            name=str(steps[i]),
            data=[{"x": xy[i, rim.order, 0], "y": xy[i, rim.order, 1]}, {"x": xy[i, :, 0], "y": xy[i, :, 1]}],
            traces=[0, 1],
        )
        for i in shown
    ]
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}, "transition": {"duration": 0}}
    moving = {"frame": {"duration": 60, "redraw": False}, "transition": {"duration": 0}, "fromcurrent": True}
    stops = [{"label": f"{steps[i]:,}", "method": "animate", "args": [[str(steps[i])], still]} for i in shown]
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, moving]},
        {"label": "Pause", "method": "animate", "args": [[None], still]},
    ]
    first, second = components
    return fig.update_layout(
        title_text=f"Token embeddings on PC {first}–{second}",
        height=680,
        sliders=[{"steps": stops, "active": len(stops) - 1, "currentvalue": {"prefix": "step "}, "pad": {"t": 40}}],
        updatemenus=[
            {"type": "buttons", "direction": "left", "buttons": buttons, "x": 1, "y": 1.1, "xanchor": "right"}
        ],
    )


def component_grid(
    data: xr.Dataset, step: int | None = None, *, pairs: Sequence[tuple[int, int]] | None = None
) -> go.Figure:
    """Small planes of pairs of components (None: (1, 2), (3, 4), ... up to four) at one step, each with its ring.

    >>> plane = xr.DataArray(np.ones((1, 5, 4)), dims=("step", "token", "component"))
    >>> data = xr.Dataset({"embedding_coordinates": plane}, {"step": [7], "component": [1, 2, 3, 4]})
    >>> [note.text for note in component_grid(data).layout.annotations]
    ['PC 1–2 · frequency 1', 'PC 3–4 · frequency 1']
    """
    chosen = list(pairs) if pairs is not None else component_pairs(data)[:4]
    if not chosen:
        raise InvalidArgumentError("`pairs` must name at least one pair of components; got none.")
    i = step_index(data, step)
    planes = [_plane(data, pair, "ring") for pair in chosen]
    titles = [f"PC {a}–{b} · frequency {rim.frequency}" for (a, b), (_, rim) in zip(chosen, planes)]
    fig = make_subplots(1, len(chosen), subplot_titles=titles, horizontal_spacing=0.035)
    fig.update_annotations(font_size=12)
    for column, (xy, rim) in enumerate(planes, start=1):
        lines, points = _ring_traces(xy[i], rim, "ring", False, tokens_of(data))
        fig.add_traces([lines, points.update(marker_size=6)], rows=1, cols=column)
        reach = _reach(xy)
        bare = {"range": [-reach, reach], "constrain": "domain", "nticks": 4, "showticklabels": False, "ticks": ""}
        fig.update_xaxes(bare, col=column)
        fig.update_yaxes(bare | {"scaleanchor": fig.data[-1].xaxis or "x", "scaleratio": 1}, col=column)
    now = int(data["step"].values[i])
    return fig.update_layout(
        template=template(),
        title_text=f"Lower components, step {now:,}",
        showlegend=False,
        height=340,
        hovermode="closest",
        margin={"l": 16, "r": 16, "t": 76, "b": 16},
    )


def spectrum_bars(
    data: xr.Dataset, step: int | None = None, *, variable: str = "embedding_power", keys: Sequence[int] | None = None
) -> go.Figure:
    """Bars of a spectrum at one step (None: the last), in a range that fits all steps; key frequencies stand out.

    `keys` None reads them from the `key_frequency_...` variables at the last step.

    >>> power = xr.DataArray([[1.0, 9.0, 1.0]], dims=("step", "frequency"))
    >>> data = xr.Dataset({"embedding_power": power}, {"step": [7], "frequency": [1, 2, 3]})
    >>> spectrum_bars(data, keys=[2]).layout.annotations[0].text
    '2'
    """
    need(data, variable, dims=["step", "frequency"])
    title, unit = SPECTRA.get(variable, (variable.replace("_", " "), variable.replace("_", " ")))
    i = step_index(data, step)
    frequency = np.asarray(data["frequency"].values)
    values = np.asarray(data[variable].transpose("step", "frequency").values, dtype=np.float32)
    shown = list(keys) if keys is not None else named_key_frequencies(data)[0]
    colours = [COLOURS["key"] if k in shown else COLOURS["other"] for k in frequency]
    top = _greatest(values)
    fig = figure(f"{title}, step {int(data['step'].values[i]):,}", x=frequency_title(data), y=unit)
    fig.add_bar(
        x=frequency, y=values[i], marker={"color": colours, "line": {"width": 0}},
        hovertemplate="frequency %{x}: %{y:.4~g}<extra></extra>",
    )  # fmt: skip
    last, high = -math.inf, False
    for k in sorted(shown):  # the numbers of the key frequencies, on two levels where they would touch
        high = k - last < max(2, 0.03 * len(frequency)) and not high
        last = k
        fig.add_annotation(
            x=k, y=1, yref="y domain", yshift=12 if high else 0, text=str(k), showarrow=False, yanchor="bottom",
            font={"color": COLOURS["key"], "size": 11},
        )  # fmt: skip
    low = min(0.0, float(np.nanmin(values)) * 1.05) if np.isfinite(values).any() else 0.0
    fig.update_yaxes(range=[low, top * 1.05], nticks=5)
    fig.update_xaxes(range=[frequency.min() - 0.8, frequency.max() + 0.8])
    return fig.update_layout(showlegend=False, bargap=0.25, hovermode="closest")


def spectrum_heatmap(
    data: xr.Dataset,
    variable: str = "embedding_power",
    *,
    events: Iterable[Event] = (),
    phases: Mapping[str, int | None] | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Frequency against step: dark rows are the frequencies that the network comes to use.

    >>> power = xr.DataArray([[1.0, 9.0, 1.0]] * 2, dims=("step", "frequency"))
    >>> data = xr.Dataset({"embedding_power": power}, {"step": [0, 10], "frequency": [1, 2, 3]})
    >>> spectrum_heatmap(data).data[0].z.shape
    (3, 2)
    """
    need(data, variable, dims=["step", "frequency"])
    title, unit = SPECTRA.get(variable, (variable.replace("_", " "), variable.replace("_", " ")))
    values = np.asarray(data[variable].transpose("frequency", "step").values, dtype=np.float32)
    steps = np.asarray(data["step"].values)
    place = step_axis(steps, axis)
    fig = figure(f"{title} over training", y="frequency k")
    fig.add_heatmap(
        x=place.edges(steps), y=np.asarray(data["frequency"].values, dtype=np.float32),
        z=np.where(np.isfinite(values), values, np.float32(np.nan)),
        zmin=min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0, zmax=_greatest(values),
        hovertemplate="frequency %{y} near step %{x:.0f}: %{z:.3~g}<extra></extra>",
        autocolorscale=True,
        colorbar=colour_bar(unit),
    )  # fmt: skip
    fig.update_layout(xaxis=place.layout(), hovermode="closest")
    fig.update_xaxes(showgrid=False)
    fig.update_yaxes(showgrid=False)
    mark_phases(fig, phases, place)
    return mark_events(fig, events, place)


def _plane(data: xr.Dataset, components: tuple[int, int], join: Join) -> tuple[npt.NDArray[np.float32], Ring]:
    """The coordinates [step, token, 2] of one pair of components, and the ring of its last step."""
    need(data, "embedding_coordinates", dims=["step", "token", "component"])
    names = [int(c) for c in data["embedding_coordinates"]["component"].values]
    if len(components) != 2 or any(c not in names for c in components):
        raise InvalidArgumentError(f"`components` must be two of {names}; got {components}.")
    table = data["embedding_coordinates"].transpose("step", "token", "component")
    xy = np.asarray(table.isel(component=[names.index(c) for c in components]).values, dtype=np.float32)
    xy = np.where(np.isfinite(xy), xy, np.float32(np.nan))
    p = xy.shape[1]
    if join == "ring":
        return xy, ring(xy[-1, :, 0], xy[-1, :, 1], cyclic=bool(data.attrs.get("cyclic", True)))
    if isinstance(join, bool) or not isinstance(join, int) or math.gcd(join, p) != 1:
        raise InvalidArgumentError(f'`join` must be "ring" or an integer that has an inverse mod {p}; got {join!r}.')
    return xy, Ring(p, pow(join, -1, p), join % p)


def _ring_traces(
    xy: npt.NDArray[np.float32], rim: Ring, colour: str, numbers: bool | None, tokens: list[str]
) -> tuple[go.Scatter, go.Scatter]:
    """The line that joins the tokens, and the tokens."""
    if colour not in ("ring", "token"):
        raise InvalidArgumentError(f'`colour` must be "ring" or "token"; got {colour!r}.')
    token = np.arange(rim.p)
    written = rim.p <= MAX_NUMBERED_TOKENS if numbers is None else numbers
    lines = go.Scatter(
        x=xy[rim.order, 0], y=xy[rim.order, 1], mode="lines", hoverinfo="skip",
        line={"color": COLOURS["join"], "width": 1.25},
    )  # fmt: skip
    points = go.Scatter(
        x=xy[:, 0], y=xy[:, 1], mode="markers+text" if written else "markers", text=tokens,
        textfont={"size": 8, "color": "#ffffff"},
        marker={
            "color": rim.colour if colour == "ring" else token, "cmin": 0, "cmax": rim.p,
            "colorscale": [[i / (len(CYCLIC) - 1), c] for i, c in enumerate(CYCLIC)],
            "size": 17 if written else 10, "line": {"width": 0},
        },
        hovertemplate="token %{text}<br>(%{x:.3f}, %{y:.3f})<extra></extra>",
    )  # fmt: skip
    return lines, points


def _reach(xy: npt.NDArray[np.float32]) -> float:
    """The half-width of a square that holds every step, with a margin."""
    return 1.08 * _greatest(np.abs(xy))


def _greatest(values: npt.NDArray[np.float32]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0
