"""Figure H8: loss of an MLP by training fraction."""

import math

import numpy as np
import xarray as xr

from interp.papers.hu import PAPER
from interp.papers.hu.claims import SCALARS, OneRun, at_fractions, steady
from interp.papers.hu.curves import curves_picture, over_training
from interp.papers.hu.runs import FRACTIONS, configs, mlp_cases
from interp.papers.kit.curves import last_evaluation
from interp.papers.kit.figure import Claim, Figure

__all__ = ["FIGURE"]


def _late_rise(budget: int, least: float) -> OneRun:
    """Test loss at the end over its minimum; below `least` it is known only of runs of the published length."""

    def rise(run: xr.Dataset) -> float:
        _, loss = steady(run, "test_loss")
        found = float(loss[-1] / loss.min()) if len(loss) else math.nan
        return found if found >= least or last_evaluation(run) >= budget else math.nan

    return rise


FIGURE = Figure(
    paper=PAPER,
    label="H8",
    title="Loss of the MLP, 15, 30, 45 %",
    runs=configs(mlp_cases),
    results=over_training(mlp_cases),
    picture=curves_picture("loss", "MLP: loss by training fraction"),
    claims=(
        Claim(
            text="The test loss rises late: at the end it is at least a tenth above its minimum, at each fraction",
            measure=at_fractions(_late_rise(20_000, 1.1), *FRACTIONS, of=np.min, inputs="numbers"),
            at_least=1.1,
            unit="x",
            needs="20,000 steps",
        ),
    ),
    notes="The runs are those of H3. " + SCALARS + "Losses that are judged are running medians over five tests.",
    minutes={"toy": 0.1, "laptop": 5, "paper": 240},
)
