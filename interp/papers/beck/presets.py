"""Constants of all figures, and the sizes of each preset."""

import math
from dataclasses import dataclass

from interp.papers.kit.figure import Preset

__all__ = ["LEVEL", "LN10", "SIGMA", "SIZES", "Sizes"]

SIGMA = 5.0
"""Standard deviation of the points, unless a figure says otherwise."""
LEVEL = 0.95
"""Accuracy of a set that is fitted or generalised: the paper has one level for both."""
LN10 = math.log(10)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a preset."""

    n: int
    """Points of a set, except in figures 2, 5, 10 and the limits below."""
    d: tuple[int, ...]
    """Dimensions of the scan over lambda: those of appendix H, (3), for `laptop` and `paper`."""
    sets: int
    """Sets for each of them."""
    few: int
    """Sets of the scans over sigma, S_0 and b_0."""
    decades: int
    """Decades of t at which the flow ends."""
    below: tuple[int, ...]
    """Dimensions below n/2 of which S_inf is computed, for `many` sets of n points."""
    many: int
    large: tuple[int, tuple[int, ...], int]
    """Points, dimensions and sets of S_inf of large samples: appendix H, (1)."""
    above: tuple[int, tuple[int, ...], int]
    """Points, dimensions above n/2 and sets of the margin: appendix H, (2)."""
    projections: int
    """Points in figure 2."""
    clock: float
    """Last -b in the inset of figure 2, and log t at which its separable points are projected."""
    grid: int
    """Points on a side of the map in figure 3."""
    descent: int
    """Steps of gradient descent in figure 1."""
    adam_n: int
    """Points in figure 10, and in figure 5 except for `paper`."""
    adam_steps: int
    adam_late: int
    """Steps of Adam above lambda = 1/2."""
    seeds: int
    """Sets that Adam is run on."""


SIZES: dict[Preset, Sizes] = {
    "toy": Sizes(
        n=40, d=(4, 8, 12, 18, 24), sets=3, few=2, decades=2, below=(8, 12, 18), many=4, large=(80, (24, 36), 2),
        above=(40, (24, 32), 3), projections=60, clock=30.0, grid=5, descent=200, adam_n=50, adam_steps=60,
        adam_late=80, seeds=1,
    ),
    "laptop": Sizes(
        n=400,
        d=(20, 40, 80, 100, 120, 140, 160, 168, 180, 188, 192, 196, 200, 208, 220, 228, 240, 260, 280, 300, 320, 360),
        sets=20, few=6, decades=6, below=(40, 80, 120, 140, 160, 168, 180, 188, 192, 196), many=60,
        large=(2400, (930, 1086, 1152, 1170, 1182), 5), above=(400, (208, 220, 240, 280, 320, 360), 20),
        projections=1200, clock=3000.0, grid=30, descent=40_000, adam_n=1000, adam_steps=4000, adam_late=20_000,
        seeds=3,
    ),
    "paper": Sizes(
        n=400,
        d=(20, 40, 80, 100, 120, 140, 160, 168, 180, 188, 192, 196, 200, 208, 220, 228, 240, 260, 280, 300, 320, 360),
        sets=100, few=20, decades=6, below=(40, 80, 120, 140, 160, 168, 180, 188, 192, 196), many=300,
        large=(
            2400,
            (930, 990, 1050, 1086, 1110, 1134, 1152, 1158, 1164, 1170, 1173, 1176, 1179, 1182, 1185, 1188, 1191),
            15_000,
        ),
        above=(2400, tuple(range(1230, 1561, 30)), 1000),
        projections=2400, clock=3000.0, grid=30, descent=400_000, adam_n=1000, adam_steps=4000, adam_late=20_000,
        seeds=5,
    ),
}  # fmt: skip
