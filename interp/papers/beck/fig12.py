"""Figure B12 (12 of the paper): flow at lambda = 0.45 by initial bias."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest, median, medians
from interp.papers.beck.edge import edge_sets, series, series_picture, steps_of
from interp.papers.beck.presets import SIGMA, SIZES
from interp.papers.beck.sets import flow_of_sets, log_times, renamed
from interp.papers.kit.figure import Claim, Figure, Preset

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Flows from five biases at sigma = 5, and from three at sigma = 1."""
    points, times = edge_sets(preset), log_times(SIZES[preset])
    rows = {"wide": (SIGMA, (-3.0, -1.0, 0.0, 1.0, 3.0)), "unit": (1.0, (0.0, 3.0, 10.0))}
    found = []
    for name, (sigma, values) in rows.items():
        part = series([flow_of_sets(points, times, sigma, b=x) for x in values], f"value_{name}", values)
        found.append(renamed(part, f"{{}}_{name}"))
    return xr.merge(found)


FIGURE = Figure(
    paper=PAPER,
    label="B12",
    title="Initial bias: flow at lambda = 0.45 from five biases at sigma = 5, three at sigma = 1",
    results=results,
    picture=lambda data: series_picture(
        data, "Initial bias", {"value_wide": (", σ = 5", "b₀"), "value_unit": (", σ = 1", "b₀")}
    ),
    claims=(
        Claim(
            text="At sigma = 5 the rise of the test loss grows with b_0: least gain over b_0 = -3 ... 3",
            measure=lambda data: -largest(-steps_of(data["bump_wide"], "value_wide")),
            at_least=0.01,
            unit="nats",
        ),
        Claim(
            text="At sigma = 1 a larger b_0 delays generalisation: b_0 = 10 against 0",
            measure=lambda data: (
                median(data["generalised_unit"], value_unit=10.0) - median(data["generalised_unit"], value_unit=0.0)
            ),
            at_least=1.5,
            unit="decades",
            needs="times at which it generalises",
        ),
        Claim(
            text="There the test loss does not rise: largest rise",
            measure=lambda data: largest(medians(data["bump_unit"], "value_unit", -math.inf, math.inf)),
            at_most=0.005,
            unit="nats",
        ),
    ),
    notes="lambda = 0.45; medians over inseparable sets, 6 of N = 400 for laptop. Curves are means over the sets.",
    minutes={"toy": 0.02, "laptop": 0.2, "paper": 1},
)
