"""Figure B11 (11 of the paper): flow at lambda = 0.45 by initial weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.papers.beck import PAPER
from interp.papers.beck.claims import largest, median
from interp.papers.beck.edge import edge_sets, series, series_picture, steps_of
from interp.papers.beck.presets import SIGMA, SIZES
from interp.papers.beck.sets import flow_of_sets, log_times, renamed
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.theory.separability import asymptotic_weights

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = ["FIGURE"]

ROWS = {
    "value_wide": (", σ = 5", "σ|S₀|"),
    "value_unit": (", σ = 1", "σ|S₀|"),
    "value_warm": (", σ = 1, from a share of S_inf", "S₀/S_inf"),
}
"""Suffix of the title and name of the values of each axis."""


def results(trajs: Sequence["Trajectory"], preset: Preset) -> xr.Dataset:
    """Flows from random weights at two sigmas, and from shares of S_inf."""
    points, times = edge_sets(preset), log_times(SIZES[preset])
    direction = np.random.default_rng(0).standard_normal((len(points), points.shape[2]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    S_inf = asymptotic_weights(points).S
    norms, shares = (0.0, 0.3, 1.0, 3.0, 10.0), (0.0, 0.5, 1.0)
    rows = {
        "wide": (SIGMA, norms, direction),
        "unit": (1.0, norms, direction),
        "warm": (1.0, shares, S_inf),
    }
    found = []
    for name, (sigma, values, S) in rows.items():
        part = series([flow_of_sets(points, times, sigma, S=x * S) for x in values], f"value_{name}", values)
        found.append(renamed(part, f"{{}}_{name}"))
    return xr.merge(found)


FIGURE = Figure(
    paper=PAPER,
    label="B11",
    title="Initial weights: flow at lambda = 0.45 from random weights, and from shares of S_inf",
    results=results,
    picture=lambda data: series_picture(data, "Initial weights", ROWS),
    claims=(
        Claim(
            text="At sigma = 5 the rise of the test loss falls with |S_0|: largest step, sigma |S_0| = 0 ... 10",
            measure=lambda data: largest(steps_of(data["bump_wide"], "value_wide")),
            at_most=-0.002,
            unit="nats",
        ),
        Claim(
            text="The delay hardly changes with it: largest difference from the delay at |S_0| = 0, sigma |S_0| <= 3",
            measure=lambda data: largest(
                np.abs(
                    [
                        median(data["delay_wide"], value_wide=x) - median(data["delay_wide"], value_wide=0.0)
                        for x in (0.3, 1.0, 3.0)
                    ]
                )
            ),
            at_most=0.3,
            unit="decades",
            needs="times at which it generalises",
        ),
        Claim(
            text="At sigma = 1 initial weights act as a large sigma does: later generalisation, |S_0| = 10 against 0",
            measure=lambda data: (
                median(data["generalised_unit"], value_unit=10.0) - median(data["generalised_unit"], value_unit=0.0)
            ),
            at_least=1.5,
            unit="decades",
            needs="times at which it generalises",
        ),
        Claim(
            text="So do weights that begin at S_inf, against those from zero",
            measure=lambda data: (
                median(data["generalised_warm"], value_warm=1.0) - median(data["generalised_warm"], value_warm=0.0)
            ),
            at_least=2.0,
            unit="decades",
            needs="times at which it generalises",
        ),
    ),
    notes=(
        "lambda = 0.45; medians over inseparable sets, 6 of N = 400 for laptop; one random direction for each set. "
        "Curves are means over the sets."
    ),
    minutes={"toy": 0.02, "laptop": 0.3, "paper": 1},
)
