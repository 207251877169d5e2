"""Figure A5 (5.5 of the essay): the LSTM, weight decay removed early."""

import math
from functools import partial

import xarray as xr

from interp.config import RunConfig
from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import CONTROL, POOR, SCHEDULED, highest, level, smallest
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_of_schedule
from interp.papers.ahmed.runs import constant, removed
from interp.papers.kit.curves import curve_of
from interp.papers.kit.figure import Claim, Figure, Preset

__all__ = ["FIGURE"]


def runs(preset: Preset) -> list[RunConfig]:
    """Weight decay never removed, removed early, and removed in between."""
    return [constant(preset), *removed(preset, "early", "between")]


def _final_accuracy(run: xr.Dataset) -> float:
    """Accuracy at the end, on pairs whose mirror is held out too."""
    return level(run, "test_accuracy_unmirrored")


def _growth(run: xr.Dataset) -> float:
    """Smaller of the factors by which the norm grows in the halves of the run after the event."""
    steps, norm = curve_of(run, "weight_norm")
    after = norm[steps >= float(run["event_step"])]
    if len(after) < 3:
        return math.nan
    middle = after[len(after) // 2]
    return float(min(middle / after[0], after[-1] / middle))


TITLE = "LSTM, weight decay removed early"

FIGURE = Figure(
    paper=PAPER,
    label="A5",
    title=TITLE,
    runs=runs,
    results=partial(over_training, panel=panel_of_schedule),
    picture=partial(picture, title=TITLE),
    claims=(
        Claim(
            text="Weight decay removed early: generalisation is poor, on pairs whose mirror is held out too the "
            "accuracy at the end is 50 % at most.",
            measure=partial(highest, of=_final_accuracy, phase="early"),
            at_most=POOR,
            unit="accuracy",
            needs=CONTROL,
        ),
        Claim(
            text="The weight norm keeps growing after the removal, in the first and in the second half of what is "
            "left of the run.",
            measure=partial(smallest, of=_growth),
            at_least=1.0,
            unit="x in each half",
            needs="two stored steps and more behind the removal",
        ),
    ),
    notes=f"{SCHEDULED}The essay removes it at epochs 60, 70, 97 and 200, long before anything else happens. The "
    "removals in between, while the norm is on its way to that at which the net generalises, are not in the essay "
    "and are not judged by the first claim: they show which removal is too early.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 1.7, "paper": 400},
)
