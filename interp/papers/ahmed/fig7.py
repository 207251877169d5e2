"""Figure A7 (5.7 of the essay): the LSTM, weight decay begun late."""

import math
from functools import partial

import xarray as xr

from interp.config import RunConfig
from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import (
    DELAYED,
    GENERALISING,
    MORE,
    SCHEDULED,
    delay,
    generalised,
    how_much_later,
    smallest_delay,
)
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_of_schedule, where
from interp.papers.ahmed.runs import TIMES, constant, event
from interp.papers.kit.figure import Claim, Figure, Preset

__all__ = ["FIGURE"]


def runs(preset: Preset) -> list[RunConfig]:
    """Weight decay that sets in late, and twice as much."""
    unchanged, times = constant(preset), TIMES[preset]
    never = unchanged.replace({"optimizer.weight_decay": 0.0})
    decays = [factor * unchanged.optimizer.weight_decay for factor in (1, 2)]
    return [never.replace({"events": (event(times, times.begin, decay),)}) for decay in decays]


def _delay_begun(run: xr.Dataset) -> float:
    """Delay of a run whose weight decay begins with the event; NaN where it had generalised before."""
    return delay(run) if generalised(run) > float(run["event_step"]) else math.nan


def _doubled_decay(data: xr.Dataset) -> float:
    """Steps from the event to generalisation with the lower decay, over those with the doubled one."""
    slow, fast = (where(data, decay_after=decay) for decay in sorted(set(data["decay_after"].values.tolist())))
    return how_much_later(slow, fast, lambda run: float(run["event_step"]))


TITLE = "LSTM, weight decay begun late"

FIGURE = Figure(
    paper=PAPER,
    label="A7",
    title=TITLE,
    runs=runs,
    results=partial(over_training, panel=panel_of_schedule),
    picture=partial(picture, title=TITLE),
    claims=(
        Claim(
            text="Weight decay that sets in after the training set is fitted leads to grokking nevertheless: "
            "validation reaches 95 % after at least twice the steps that training takes to 99 % (0: never).",
            measure=partial(smallest_delay, of=_delay_begun),
            at_least=DELAYED,
            unit="x",
            needs="runs that fit their training set and have not generalised when weight decay sets in",
        ),
        Claim(
            text="Twice the weight decay: grokking is earlier, in fewer steps after it sets in.",
            measure=_doubled_decay,
            at_least=MORE,
            unit="x",
            needs=GENERALISING,
        ),
    ),
    notes=f"{SCHEDULED}When it sets in is not stated in the essay; epoch 2000 of the paper preset is a choice.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 0.8, "paper": 100},
)
