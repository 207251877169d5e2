"""Figure B10 (10 of the paper): Adam against gradient descent, at three lambdas."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from interp.config import SGD, RunConfig
from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest, median, medians
from interp.papers.beck.picture import axis_titles, line, panel_grid
from interp.papers.beck.presets import SIZES
from interp.papers.beck.runs import ADAM, adam_config, adam_summary
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import SERIES

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]

LAMBDAS = (0.4, 0.48, 0.6)


def runs(preset: Preset) -> Sequence[RunConfig]:
    """Both optimisers on several sets for each lambda."""
    return [
        adam_config(preset, lambda_, seed, optimizer)
        for optimizer in (ADAM, SGD(lr=0.5))
        for lambda_ in LAMBDAS
        for seed in range(SIZES[preset].seeds)
    ]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Curves and numbers by optimiser, lambda and seed."""
    sizes = SIZES[preset]
    found = iter([adam_summary(traj, sizes.adam_late) for traj in trajs])
    optimizer = xr.DataArray(["Adam", "gradient descent"], dims="optimizer", name="optimizer")
    lambda_ = xr.DataArray(list(LAMBDAS), dims="lambda", name="lambda")
    rows = [
        xr.concat([xr.concat([next(found) for _ in range(sizes.seeds)], "seed") for _ in LAMBDAS], lambda_)
        for _ in range(2)
    ]
    return xr.concat(rows, optimizer).assign_attrs(steps=sizes.adam_late, points=sizes.adam_n)


def picture(data: xr.Dataset) -> "go.Figure":
    """Test loss and accuracy over steps, a column for each lambda."""
    names = [f"λ = {x:g}" for x in data["lambda"].values]
    fig = panel_grid("Adam and gradient descent, σ = 1", 2, 3, names, 560)
    for colour, optimizer in zip((SERIES[3], SERIES[2]), data["optimizer"].values):
        for i in range(data.sizes["lambda"]):
            one = data.isel({"lambda": i}).sel(optimizer=optimizer)
            for row, kind in ((1, "test_loss"), (2, "test_accuracy")):
                for seed in range(data.sizes["seed"]):
                    line(fig, data["step"], one[kind][seed], f"test, {optimizer}", colour, (row, i + 1), width=1.2)
                axis_titles(fig, (row, i + 1), "step (optimiser updates)" if row == 2 else "", "", x_type="log")
    fig.update_yaxes(title_text="cross-entropy (nats)", row=1, col=1)
    return fig.update_yaxes(title_text="accuracy", row=2, col=1)


FIGURE = Figure(
    paper=PAPER,
    label="B10",
    title="Adam against gradient descent, sigma = 1, at three lambdas",
    runs=runs,
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="With Adam there is grokking even at sigma = 1: least rise of the test loss, lambda = 0.4 and 0.48",
            measure=lambda data: -largest(-medians(data["bump"].sel(optimizer="Adam"), "lambda", 0.0, 0.49)),
            at_least=0.3,
            unit="nats",
            needs="inseparable points",
        ),
        Claim(
            text="With gradient descent there is none: largest rise, lambda = 0.4 and 0.48",
            measure=lambda data: largest(medians(data["bump"].sel(optimizer="gradient descent"), "lambda", 0.0, 0.49)),
            at_most=0.01,
            unit="nats",
            needs="inseparable points",
        ),
        Claim(
            text="Adam overfits separable points: test accuracy at its last step, lambda = 0.6",
            measure=lambda data: (
                median(data["last_accuracy"].sel(optimizer="Adam"), lambda_=0.6)
                if data.attrs["steps"] >= 20_000
                else math.nan
            ),
            at_most=0.65,
            needs="20,000 steps",
        ),
    ),
    notes=(
        "Medians over seeds; draws on the other side of the edge are left out. Adam's direction on separable points is "
        "not the hard margin of the Euclidean norm, of which the accuracy would be nearly 1 here: with sigma = 1 "
        "gradient descent shows no overfitting either. Learning rates: 0.01 and 0.5."
    ),
    minutes={"toy": 0.1, "laptop": 4, "paper": 8},
)
