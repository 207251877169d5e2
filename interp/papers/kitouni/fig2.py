"""Figure K2: the order of the numbers at initialisation, in the axes of the end, by width."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from interp.analysis.geometry import angular_order, angular_order_null, embedding_pca, plane_of_frequency
from interp.analysis.spectra import embedding_power
from interp.milestones import curve
from interp.papers.kit.curves import GENERALISED
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.papers.kitouni import LEARNED, PAPER
from interp.papers.kitouni.picture import add_plane
from interp.papers.kitouni.transformer import SEEDS, WIDTHS, median, number_embeddings, own_order, width_runs
from interp.plots.style import COLOURS, SERIES, figure
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["FIGURE"]


def results(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """Order at the first and the last step in the axes of the end, by width and seed."""
    p = trajs[0].task.p
    frequencies = np.arange(1, (p - 1) // 2 + 1)
    rows = []
    for traj in trajs:
        W_E = torch.cat([number_embeddings(traj, slice(0, 1)), number_embeddings(traj, slice(-1, None))])
        plane = embedding_pca(W_E, axes="last", components=2).coordinates
        final = angular_order(plane[1])
        order = angular_order(plane, frequency=int(final.frequency)).resultant
        power = embedding_power(W_E)[:, : len(frequencies)]
        k = int(power[1].argmax()) + 1
        of_k = angular_order(plane_of_frequency(W_E, k, reference=W_E[1]).coordinates, frequency=k).resultant
        own = [own_order(W_E[0], int(f)) for f in frequencies]
        rows.append(
            {
                "test_accuracy": ((), curve(traj, "test_accuracy")[1][-1]),
                "order_start": ((), float(order[0])),
                "order_end": ((), float(order[1])),
                "order_start_dominant": ((), float(of_k[0])),
                "order_end_dominant": ((), float(of_k[1])),
                "dominant": ((), k),
                "plane_frequency": ((), int(final.frequency)),
                "own_order": ("frequency", own),
                "power_start": ("frequency", power[0].numpy()),
                "coordinates": (("token", "component"), plane[0].float().numpy()),
            }
        )
    seeds, widths = SEEDS[preset], WIDTHS[preset]
    by_width = [
        xr.concat([xr.Dataset(row) for row in rows[i : i + len(seeds)]], "seed")
        for i in range(0, len(rows), len(seeds))
    ]
    data = xr.concat(by_width, "d_model")
    data = data.assign_coords(d_model=list(widths), seed=list(seeds), frequency=frequencies)
    data["coordinates"] = data["coordinates"].isel(seed=0, drop=True)
    chance = angular_order_null(p, generator=torch.Generator().manual_seed(0), frequency=1, probabilities=(0.95,))
    return data.assign_attrs(p=p, random_mean=chance.mean, random_upper=chance.quantiles[0].item())


def picture(data: xr.Dataset) -> "go.Figure":
    """The numbers at step 0 by width, and their order."""
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
        add_plane(fig, plane, frequency, row=1, col=column + 1, reach=1.1 * float(np.abs(plane).max()))
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


def _trained(data: xr.Dataset, name: str) -> xr.DataArray:
    """Variable of the runs that have generalised; NaN for the others."""
    return data[name].where(data["test_accuracy"] >= GENERALISED)


def _by_width(data: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Widths with runs that have generalised, and the medians of a variable over these runs."""
    medians = np.array([median(row.values) for row in _trained(data, name).transpose("d_model", "seed")])
    known = np.isfinite(medians)
    return data["d_model"].values[known], medians[known]


def _above_random(data: xr.Dataset) -> float:
    """Least order of step 0 over widths, less the order below which 95 % of random planes lie."""
    _, medians = _by_width(data, "order_start")
    return float(medians.min()) - data.attrs["random_upper"] if medians.size else math.nan


def _gain_per_doubling(name: str) -> Callable[[xr.Dataset], float]:
    """Slope of the medians against log2 of the width, by least squares."""

    def slope(data: xr.Dataset) -> float:
        widths, medians = _by_width(data, name)
        return float(np.polyfit(np.log2(widths), medians, 1)[0]) if widths.size >= 2 else math.nan

    return slope


def _rank_of_winner(data: xr.Dataset) -> float:
    """Share of the other frequencies that are less ordered at step 0 than the winner, each in its own plane."""
    winner = data["own_order"].sel(frequency=data["dominant"])
    below = (data["own_order"] < winner).sum("frequency") / (data.sizes["frequency"] - 1)
    return median(_trained(data.assign(below=below), "below").values)


FIGURE = Figure(
    paper=PAPER,
    label="K2",
    title="At initialisation the axes of the end already show the circle, the better the wider the model",
    runs=width_runs,
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="at every width the order of step 0 in PC 1-2 of the last step lies above that of 95 % of random "
            "planes (least margin)",
            measure=_above_random, at_least=0, needs=LEARNED,
        ),
        Claim(
            text="it rises with width",
            measure=_gain_per_doubling("order_start"), at_least=0.05, unit="per doubling",
            needs="runs of two widths that generalise",
        ),
        Claim(
            text="so it does in the last plane of the dominant frequency",
            measure=_gain_per_doubling("order_start_dominant"), at_least=0.05, unit="per doubling",
            needs="runs of two widths that generalise",
        ),
        Claim(
            text="the network picks a good representation at initialisation: the frequency that wins is more "
            "ordered at step 0, each in its own plane, than three quarters of the others",
            measure=_rank_of_winner, at_least=0.75, needs=LEARNED,
        ),
    ),
    notes="Three references. Random planes are chance for a frequency that is given. The grey band is the plane of "
    "a frequency in the initial embedding itself, for any frequency: it is ordered before training and better with "
    "width for elementary reasons (signal to noise sqrt(2 d_model/p)). So the first three claims may hold although "
    "nothing is found at initialisation; only the fourth tells a lottery ticket from the growth of whichever "
    "directions were there. Where PC 1-2 mixes two circles of equal strength the plane of the dominant frequency "
    "is the cleaner one. Runs that do not generalise are not judged, and are drawn pale; the planes above are of "
    "the first seed. Widths 32 to 256 on a laptop, to 512 in full; "
    "heads and neurons grow with the width (4 heads of d_model/4, 4 d_model neurons).",
    minutes={"toy": 0.1, "laptop": 7, "paper": 240},
)  # fmt: skip
