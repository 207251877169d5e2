"""What the figures of Kitouni have in common: thresholds, and what the presets differ in."""

from interp.papers.kit.figure import Preset

__all__ = [
    "COINCIDES",
    "MLP_SEEDS",
    "MODULI",
    "NEARLY",
    "ORDERED",
    "PAIRS",
    "PAPER",
    "SEEDS",
    "WIDTH",
    "WIDTHS",
]

PAPER = "Kitouni, Some thoughts on Grokking"
ORDERED = 0.9
"""Order from which the numbers count as lying on a circle."""
NEARLY = 0.8
"""Order up to local scrambling: the angles of neighbours on the circle are off by some 40 degrees."""
COINCIDES = 0.25
"""Share of the later of two steps up to which they count as one."""
PAIRS = 4
"""Of principal components, over which circles may be spread."""
MODULI: dict[Preset, tuple[int, int]] = {"toy": (11, 10), "laptop": (59, 58), "paper": (59, 58)}
"""The post's prime, and an even number, on whose circles two numbers may share a place."""
SEEDS: dict[Preset, tuple[int, ...]] = {"toy": (0, 1), "laptop": (0, 1, 2), "paper": (0, 1, 2, 3, 4)}
WIDTH: dict[Preset, int] = {"toy": 16, "laptop": 128, "paper": 128}
WIDTHS: dict[Preset, tuple[int, ...]] = {
    "toy": (8, 16), "laptop": (32, 64, 128, 256), "paper": (32, 64, 128, 256, 512),
}  # fmt: skip
MLP_SEEDS: dict[Preset, tuple[int, ...]] = {"toy": (2, 0), "laptop": (2, 0, 1), "paper": (2, 0, 1, 3, 4)}
"""2 is the seed of the published script."""
