"""Figure K4: simple grokking."""

import xarray as xr

from interp.config import RunConfig
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.papers.kitouni import PAPER
from interp.papers.kitouni.perceptron import SEEDS, middle, mlp, picture, results

__all__ = ["FIGURE"]


def runs(preset: Preset) -> list[RunConfig]:
    """The recipe with several seeds."""
    return [mlp(preset, "simple-grokking", seed) for seed in SEEDS[preset]]


def _delay_ratio(data: xr.Dataset) -> float:
    """Steps to generalise over steps to memorise, at the lower weight decay."""
    return middle(data, "generalised_step", 0) / max(middle(data, "memorised_step", 0), 1.0)


FIGURE = Figure(
    paper=PAPER,
    label="K4",
    title="Simple grokking: an MLP on two embeddings generalises long after it has memorised",
    runs=runs,
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="a clear delay: test accuracy stays above 95 % after at least ten times the steps after which "
            "train accuracy stays above 99 %",
            measure=_delay_ratio, at_least=10, unit="x", needs="runs that memorise and generalise",
        ),
    ),
    notes="The published script with its seed, 2, rebuilt exactly, and other seeds. 'Clear' is read as a factor "
    "of ten. Medians over seeds; a run that has not generalised counts as later than all others.",
    minutes={"toy": 0.1, "laptop": 1, "paper": 2},
)  # fmt: skip
