"""Figure B5 (5 of the paper): Adam next to the edge at sigma = 1."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from interp.config import RunConfig
from interp.papers.beck import PAPER
from interp.papers.beck.claims import median
from interp.papers.beck.picture import axis_titles, line, panel_grid
from interp.papers.beck.presets import SIZES
from interp.papers.beck.runs import ADAM, adam_config, adam_summary
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import COLOURS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]

REJECTED = "runs on inseparable points that fit them, and generalise"


def runs(preset: Preset) -> Sequence[RunConfig]:
    """Adam on several sets next to the edge."""
    n, lambda_ = (4000, 0.495) if preset == "paper" else (SIZES[preset].adam_n, 0.48)
    return [adam_config(preset, lambda_, seed, ADAM, n) for seed in range(SIZES[preset].seeds)]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Curves and numbers of each seed."""
    n, d = trajs[0].task.tokens.shape
    data = xr.concat([adam_summary(traj, traj.config.steps) for traj in trajs], "seed")
    return data.assign_attrs(points=n, dimensions=d)


def picture(data: xr.Dataset) -> "go.Figure":
    """Loss and accuracy over steps."""
    lambda_ = data.attrs["dimensions"] / data.attrs["points"]
    names = ("loss", "accuracy")
    fig = panel_grid(f"Adam at λ = {lambda_:g}, σ = 1, N = {data.attrs['points']}", 1, 2, names)
    for seed in range(data.sizes["seed"]):
        for word in ("train", "test"):
            for col, kind in ((1, "loss"), (2, "accuracy")):
                line(fig, data["step"], data[f"{word}_{kind}"][seed], word, COLOURS[word], (1, col), width=1.2)
    axis_titles(
        fig, (1, 1), "step (optimiser updates)", "cross-entropy (nats)", x_type="log", y_type="log", y_range=[-6, 1]
    )
    axis_titles(fig, (1, 2), "step (optimiser updates)", "accuracy", x_type="log", y_range=[-0.03, 1.04])
    return fig


FIGURE = Figure(
    paper=PAPER,
    label="B5",
    title="Adam next to the edge, sigma = 1: accuracy at chance level, then grokking",
    runs=runs,
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="The test accuracy is still at chance level when the training accuracy has reached 0.95",
            measure=lambda data: median(data["accuracy_when_fitted"]),
            at_most=0.6,
            needs=REJECTED,
        ),
        Claim(
            text="It reaches 0.95 much later: ratio of the steps",
            measure=lambda data: median(data["generalised"] / data["fitted"]),
            at_least=8.0,
            needs=REJECTED,
        ),
        Claim(
            text="In the end it generalises: last test accuracy",
            measure=lambda data: median(data["last_accuracy"]),
            at_least=0.95,
            needs=REJECTED,
        ),
        Claim(
            text="The test loss is not monotonic: its largest value (it begins at 0.69)",
            measure=lambda data: median(data["largest_loss"]),
            at_least=1.5,
            unit="nats",
            needs=REJECTED,
        ),
    ),
    notes=(
        "Medians over seeds; separable draws (one in ten at N = 1000, lambda = 0.48, one in four at N = 4000, 0.495) "
        "are left out. The paper does not give the learning rate: 0.01 here. Adam's epsilon is 1e-16 in double "
        "precision: with the usual 1e-8 the bias is slowed once gradients are smaller. laptop has three seeds of "
        "N = 1000 at 0.48, shared with figure B10."
    ),
    minutes={"toy": 0.05, "laptop": 0.6, "paper": 30},
)
