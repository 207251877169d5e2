"""Figure B13 (13 of the paper): flow of the exponential loss at lambda = 0.45."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from interp.papers.beck import PAPER
from interp.papers.beck.claims import median
from interp.papers.beck.edge import edge_sets
from interp.papers.beck.picture import axis_titles, line, panel_grid
from interp.papers.beck.presets import SIGMA, SIZES
from interp.papers.beck.sets import flow_of_sets, log_times
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS
from interp.theory.separability import Loss

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Flows of either loss."""
    points, times = edge_sets(preset), log_times(SIZES[preset])
    losses: tuple[Loss, ...] = ("cross-entropy", "exponential")
    paths = [flow_of_sets(points, times, SIGMA, loss=loss) for loss in losses]
    data = xr.concat(paths, xr.DataArray(list(losses), dims="loss", name="loss"))
    curves = data[["train_loss", "test_loss", "train_accuracy", "test_accuracy"]].mean("set")
    return xr.merge([curves, data[["bump", "generalised"]]])


def picture(data: xr.Dataset) -> "go.Figure":
    """Loss and accuracy over time."""
    fig = panel_grid("The exponential loss from the start", 1, 2, ("loss", "accuracy"))
    t = 10 ** data["log10_t"].values[::2]
    for dash, loss in (("dot", "cross-entropy"), ("solid", "exponential")):
        for word in ("train", "test"):
            for col, kind in ((1, "loss"), (2, "accuracy")):
                y = data[f"{word}_{kind}"].sel(loss=loss)[::2]
                line(fig, t, y, f"{word}, by {loss}", COLOURS[word], (1, col), dash=dash)
    axis_titles(fig, (1, 1), "time t", "cross-entropy (nats)", x_type="log", y_type="log", y_range=[-4, 1])
    axis_titles(fig, (1, 2), "time t", "accuracy", x_type="log")
    return fig


FIGURE = Figure(
    paper=PAPER,
    label="B13",
    title="Flow of the exponential loss from the start, at lambda = 0.45",
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="Grokking is seen with the exponential loss too: rise of the test loss",
            measure=lambda data: median(data["bump"].sel(loss="exponential")),
            at_least=0.1,
            unit="nats",
        ),
        Claim(
            text="It generalises at about the same time: ratio to that of the cross-entropy",
            measure=lambda data: (
                10
                ** (
                    median(data["generalised"].sel(loss="exponential"))
                    - median(data["generalised"].sel(loss="cross-entropy"))
                )
            ),
            at_least=1 / 1.5,
            at_most=1.5,
            needs="times at which both generalise",
        ),
    ),
    notes="sigma = 5; trained on either loss, drawn and measured by the cross-entropy; medians over inseparable sets. "
    "Curves are means over the sets.",
    minutes={"toy": 0.01, "laptop": 0.1, "paper": 0.5},
)
