"""Figure H6: loss of transformers on tokens (x, y, p) by training fraction."""

import math

import xarray as xr

from interp.papers.hu import PAPER
from interp.papers.hu.claims import GROKKED, LONGER, at_fractions, lasted
from interp.papers.hu.curves import curves_picture, over_training
from interp.papers.hu.runs import configs, three_fractions
from interp.papers.kit.curves import GENERALISED, curve_of, step_of
from interp.papers.kit.figure import Claim, Figure

__all__ = ["FIGURE"]


def _loss_ratio(run: xr.Dataset) -> float:
    """Test loss at the end over that at initialisation."""
    _, loss = curve_of(run, "test_loss")
    ratio = float(loss[-1] / loss[0])
    return ratio if ratio < 1 or lasted(run) else math.nan


def _synchrony(run: xr.Dataset) -> float:
    """Steps until the test loss is below half of its peak for good, over steps to generalise."""
    steps, loss = curve_of(run, "test_loss")
    generalised = step_of(run, "test_accuracy", GENERALISED)
    fallen = step_of(
        run.sel(step=slice(steps[loss.argmax()], None)), "test_loss", loss.max() / 2, above=False, limit=2 * generalised
    )
    return fallen / generalised


FIGURE = Figure(
    paper=PAPER,
    label="H6",
    title="Loss of the one-layer transformer on tokens (x, y, p), 15, 30, 45 %",
    runs=configs(three_fractions),
    results=over_training(three_fractions),
    picture=curves_picture("loss", "Direct encoding: loss by training fraction"),
    claims=(
        Claim(
            text="15 %: the test loss never improves; at the end it is at least that of the initialisation",
            measure=at_fractions(_loss_ratio, 0.15),
            at_least=1,
            unit="x",
            needs=LONGER,
        ),
        Claim(
            text="30 %: loss and accuracy change together; the test loss halves as the test accuracy reaches 95 %, "
            "within half as many steps again",
            measure=at_fractions(_synchrony, 0.3),
            at_least=2 / 3,
            at_most=1.5,
            unit="x",
            needs=GROKKED,
        ),
    ),
    notes="The runs are those of H2; the test loss is to fall below half of its peak for good.",
    minutes={"toy": 0.1, "laptop": 14, "paper": 80},
)
