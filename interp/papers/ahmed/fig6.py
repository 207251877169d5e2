"""Figure A6 (5.6 of the essay): the LSTM, weight decay removed late."""

import math
from functools import partial

import xarray as xr

from interp.config import RunConfig
from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import SCHEDULED, generalised, level, smallest
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_of_schedule
from interp.papers.ahmed.runs import removed
from interp.papers.kit.figure import Claim, Figure, Preset

__all__ = ["FIGURE"]

HARMLESS = -0.05
"""Largest loss of accuracy that counts as none."""


def runs(preset: Preset) -> list[RunConfig]:
    """Weight decay removed after grokking, at several times."""
    return removed(preset, "late")


def _lost(run: xr.Dataset) -> float:
    """Accuracy at the end less that at the event; NaN for a run that has not generalised for good by then."""
    event = float(run["event_step"])
    return level(run, "test_accuracy") - level(run, "test_accuracy", event) if generalised(run) < event else math.nan


TITLE = "LSTM, weight decay removed late"

FIGURE = Figure(
    paper=PAPER,
    label="A6",
    title=TITLE,
    runs=runs,
    results=partial(over_training, panel=panel_of_schedule),
    picture=partial(picture, title=TITLE),
    claims=(
        Claim(
            text="Weight decay removed after grokking: validation accuracy at the end is not below that at the "
            "removal by more than 5 points.",
            measure=partial(smallest, of=_lost),
            at_least=HARMLESS,
            unit="accuracy",
            needs="runs that have generalised for good before the removal",
        ),
    ),
    notes=f"{SCHEDULED}The essay removes it at epochs 3495, 3690, 3850 and 4270. Levels are medians of six "
    "evaluations, so that a spike of the loss is no loss of generalisation.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 0.8, "paper": 200},
)
