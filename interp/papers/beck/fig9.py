"""Figure B9 (9 of the paper): flow at lambda = 0.45 by sigma."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest, median
from interp.papers.beck.edge import edge_sets, series, series_picture, steps_of
from interp.papers.beck.presets import SIZES
from interp.papers.beck.sets import flow_of_sets, log_times, renamed
from interp.papers.kit.figure import Claim, Figure, Preset

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Flows for six sigmas."""
    points, times, sigmas = edge_sets(preset), log_times(SIZES[preset]), (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
    found = series([flow_of_sets(points, times, sigma) for sigma in sigmas], "value_sigma", sigmas)
    return renamed(found, "{}_sigma")


FIGURE = Figure(
    paper=PAPER,
    label="B9",
    title="The variance scale: flow at lambda = 0.45 for six sigmas",
    results=results,
    picture=lambda data: series_picture(data, "The larger σ, the faster the weights", {"value_sigma": ("", "σ")}),
    claims=(
        Claim(
            text="Larger sigma makes grokking more apparent: least gain of the rise of the test loss, sigma = 3 ... 20",
            measure=lambda data: -largest(-steps_of(data["bump_sigma"], "value_sigma", 3.0)),
            at_least=0.05,
            unit="nats",
        ),
        Claim(
            text="Only up to a point: time to generalise at sigma = 20 over that at 10",
            measure=lambda data: (
                10
                ** (
                    median(data["generalised_sigma"], value_sigma=20.0)
                    - median(data["generalised_sigma"], value_sigma=10.0)
                )
            ),
            at_least=0.9,
            at_most=1.1,
            needs="times at which both generalise",
        ),
        Claim(
            text="At sigma = 1 the test loss does not rise",
            measure=lambda data: median(data["bump_sigma"], value_sigma=1.0),
            at_most=0.005,
            unit="nats",
        ),
    ),
    notes="lambda = 0.45, from zero; medians over inseparable sets, 6 of N = 400 for laptop. Curves are means over the "
    "sets.",
    minutes={"toy": 0.05, "laptop": 1.5, "paper": 6},
)
