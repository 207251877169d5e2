"""Figures of sweeps: which phase of learning is where, and how many steps it takes to generalise.

They take what `interp.execution.sweeps.Sweep.results` returns and compute nothing. The phase diagram is in the manner
of Towards Understanding Grokking (Liu et al., 2022, arXiv:2205.10343, section 4), the curves against the train fraction
in that of Grokking (Power et al., 2022, arXiv:2201.02177, figure 1).
"""

from collections.abc import Hashable

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InvalidArgumentError, did_you_mean
from interp.plots.style import SERIES, figure, need, plain

__all__ = ["phase_diagram", "steps_against"]

PHASE_COLOURS = {
    "comprehension": "#1b9e77",
    "grokking": "#d5622a",
    "memorisation": "#2b7bba",
    "confusion": "#7b8794",
}
NO_RUN = "rgba(0,0,0,0)"


def phase_diagram(results: xr.Dataset, x: str, y: str) -> go.Figure:
    """The phase of learning in which most runs of a cell are, over two axes of a grid; a cell without a run is empty.

    Where runs of several seeds disagree, the share of the phase is written into the cell; of equal shares the first in
    the order of the legend is shown.

    >>> share = xr.DataArray([[[1.0, 0, 0, 0], [0, 1, 0, 0]]], dims=("a", "b", "phase"))
    >>> results = xr.Dataset({"phase_share": share}, {"a": [1], "b": [1, 2], "phase": list(PHASE_COLOURS)})
    >>> phase_diagram(results, "a", "b").data[0].z.tolist()
    [[0.0], [1.0]]
    """
    share = _over(results, "phase_share", (x, y), also=("phase",)).transpose(y, x, "phase")
    phases = [str(phase) for phase in share["phase"].values]
    values = share.values
    empty = np.isnan(values).all(axis=-1)
    most = np.where(empty, np.nan, np.nan_to_num(values).argmax(axis=-1))
    largest = np.nan_to_num(values).max(axis=-1)
    text = np.where(empty | (largest == 1), "", np.char.mod("%.0f %%", 100 * largest))
    said = [
        [
            "no run" if gone else "<br>".join(f"{plain(name)} {part:.0%}" for name, part in zip(phases, cell) if part)
            for gone, cell in zip(row_gone, row)
        ]
        for row_gone, row in zip(empty, values)
    ]
    # of the four phases each has a quarter of the scale, whichever occur
    ends = [(i + side) / len(phases) for i in range(len(phases)) for side in (0, 1)]
    scale = [[end, PHASE_COLOURS.get(phases[i // 2], NO_RUN)] for i, end in enumerate(ends)]
    fig = figure("Phases of learning", x=plain(x), y=plain(y))
    fig.add_heatmap(
        x=_ticks(share[x]), y=_ticks(share[y]), z=most, zmin=-0.5, zmax=len(phases) - 0.5,
        colorscale=scale, showscale=False, xgap=2, ygap=2, text=text, texttemplate="%{text}", customdata=said,
        hoverongaps=False, hovertemplate=f"{plain(x)} %{{x}}<br>{plain(y)} %{{y}}<br>%{{customdata}}<extra></extra>",
    )  # fmt: skip
    for name in phases:
        marker = {"symbol": "square", "size": 11, "color": PHASE_COLOURS.get(name, NO_RUN)}
        fig.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=plain(name), hoverinfo="skip")
    # cells are of one size, whatever the distances of the values
    return fig.update_xaxes(type="category").update_yaxes(type="category")


def steps_against(
    results: xr.Dataset, x: str, *, by: str | None = None, quantile: float = 0.5, logarithmic: bool = False
) -> go.Figure:
    """Steps to generalise against an axis of a grid: each run, and a quantile over seeds with its interval as a band.

    Arguments:
        results: of a sweep; any axis other than `x`, `by` and `seed` must be of length 1 (select it with `.sel`).
        x: the axis along which it is drawn, such as `task.train_fraction`.
        by: an axis of which each value has a curve of its own.
        quantile: one of those of `results`.
        logarithmic: of the x axis; the y axis is.

    A run that had not generalised when it ended is a triangle at its last step, and the curve has a gap where the
    quantile lies beyond the runs; where only its upper end does, the band ends at the last step.

    >>> steps = xr.DataArray([[[100.0]], [[50.0]]], dims=("fraction", "seed", "quantile"))
    >>> table = {f"steps_to_generalise{side}": steps.isel(seed=0) for side in ("", "_lower", "_upper")}
    >>> table |= {"generalised_step": steps.isel(quantile=0), "last_step": steps.isel(quantile=0) * 0 + 200}
    >>> results = xr.Dataset({**table, "generalised_censored": table["last_step"] < 0})
    >>> results = results.assign_coords(fraction=[0.3, 0.5], quantile=[0.5], seed=[0])
    >>> steps_against(results, "fraction").data[1].y.tolist()
    [100.0, 50.0]
    """
    dims = (x,) if by is None else (x, by)
    names = [f"steps_to_generalise{side}" for side in ("", "_lower", "_upper")]
    bands = {name: _over(results, name, dims, also=("quantile",)) for name in names}
    known = bands[names[0]]["quantile"].values.tolist()
    if quantile not in known:
        raise InvalidArgumentError(
            f"`quantile` must be one of those of `results`, {', '.join(map(str, known))}; got {quantile}."
        )
    runs = {
        name: _over(results, name, dims, also=("seed",))
        for name in ("generalised_step", "last_step", "generalised_censored")
    }
    fig = figure("Steps to generalise", x=plain(x), y="steps (optimiser updates)", hovermode="closest")
    fig.update_yaxes(type="log", exponentformat="none", nticks=6)
    places = _ticks(results[x])
    if isinstance(places[0], str):
        fig.update_xaxes(type="category")
    elif logarithmic:
        fig.update_xaxes(type="log")
    for i, value in enumerate([None] if by is None else results[by].values):
        at = {} if by is None else {by: value}
        colour = SERIES[i % len(SERIES)]
        name = "median" if quantile == 0.5 else f"quantile {quantile:g}"
        name = name if by is None else f"{by} = {value}"
        middle, lower, upper = (bands[key].sel(at).sel(quantile=quantile).values.astype(float) for key in names)
        last = runs["last_step"].sel(at).max("seed").values
        top = np.where(np.isfinite(upper), upper, last)
        inside = np.isfinite(lower) & np.isfinite(top)
        _band(fig, [place for place, keep in zip(places, inside) if keep], lower[inside], top[inside], colour)
        fig.add_scatter(
            x=places, y=np.where(np.isfinite(middle), middle, np.nan), name=plain(name), mode="lines+markers",
            line={"color": colour, "width": 2}, legendgroup=str(i), hovertemplate="%{x}: %{y:,.0f} steps",
        )  # fmt: skip
        one = {key: runs[key].sel(at).transpose(x, "seed").values for key in runs}
        censored = one["generalised_censored"].astype(bool)
        for kind, steps, symbol in (
            ("one run", np.where(censored, np.nan, one["generalised_step"]), "circle-open"),
            ("not by the end of the run", np.where(censored, one["last_step"], np.nan), "triangle-up-open"),
        ):
            there = np.isfinite(steps)
            if there.any():
                fig.add_scatter(
                    x=[places[row] for row, _ in np.argwhere(there)], y=steps[there], name=kind, mode="markers",
                    marker={"symbol": symbol, "color": colour, "size": 7}, legendgroup=kind, showlegend=i == 0,
                    hovertemplate=f"{kind}<br>%{{x}}: %{{y:,.0f}} steps<extra></extra>",
                )  # fmt: skip
    return fig


def _band(fig: go.Figure, places: list[float | str], lower: np.ndarray, upper: np.ndarray, colour: str) -> None:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    fig.add_scatter(
        x=[*places, *reversed(places)], y=[*upper, *lower[::-1]], fill="toself", mode="lines", line={"width": 0},
        fillcolor=f"rgba({red},{green},{blue},0.18)", hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _over(results: xr.Dataset, name: str, axes: tuple[str, ...], also: tuple[str, ...]) -> xr.DataArray:
    """A variable over some axes of the grid, of which the others must have one value."""
    if name not in results:
        need(results, name, dims=[*axes, *also], argument="results")
    table = results[name]
    grid = [str(dim) for dim in table.dims if dim not in also]
    for axis in axes:
        if axis not in grid:
            raise InvalidArgumentError(f"`results` must have an axis `{axis}`. {did_you_mean(axis, grid)}")
    if len(set(axes)) < len(axes):
        raise InvalidArgumentError(f"The axes of a figure must be different ones; got `{axes[0]}` twice.")
    others: list[Hashable] = [dim for dim in grid if dim not in axes]
    many = [str(dim) for dim in others if table.sizes[dim] > 1]
    if many:
        raise InvalidArgumentError(
            f"`results` must have one value of `{many[0]}`; got {table.sizes[many[0]]}. Select one: "
            f"results.sel({{{many[0]!r}: ...}})."
        )
    return table.isel(dict.fromkeys(others, 0), drop=True)


def _ticks(values: xr.DataArray) -> list[float | str]:
    return [plain(value) if isinstance(value, str) else float(value) for value in values.values.tolist()]
