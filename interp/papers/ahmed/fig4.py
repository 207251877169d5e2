"""Figure A4 (5.4 of the essay): the LSTM without weight decay."""

from functools import partial

import xarray as xr

from interp.config import RunConfig
from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import MORE, SCHEDULED, claim_without, medians
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, panel_of_schedule
from interp.papers.ahmed.runs import constant
from interp.papers.kit.curves import curve_of
from interp.papers.kit.figure import Claim, Figure, Preset

__all__ = ["FIGURE"]


def runs(preset: Preset) -> list[RunConfig]:
    """The LSTM with weight decay and without; on paper also without it for twice as long."""
    never = constant(preset).replace({"optimizer.weight_decay": 0.0})
    longer = [never.replace({"steps": 2 * never.steps})] if preset == "paper" else []
    return [constant(preset), never, *longer]


def _norm_without(data: xr.Dataset) -> float:
    """Norm at the end without weight decay over that with it."""
    without, with_decay = (data.isel(run=(data["weight_decay"].values > 0) == decays) for decays in (False, True))
    return min(medians(without, _end_norm).values()) / max(medians(with_decay, _end_norm).values())


def _end_norm(run: xr.Dataset) -> float:
    _, norm = curve_of(run, "weight_norm")
    return float(norm[-1])


TITLE = "LSTM without weight decay"

FIGURE = Figure(
    paper=PAPER,
    label="A4",
    title=TITLE,
    runs=runs,
    results=partial(over_training, panel=panel_of_schedule),
    picture=partial(picture, title=TITLE),
    claims=(
        claim_without("LSTM", 0.0),
        Claim(
            text="Without weight decay the weight norm ends above that with it.",
            measure=_norm_without,
            at_least=MORE,
            unit="x",
        ),
    ),
    notes=f"{SCHEDULED}'Never' is as far as run: the essay's second panel, much longer, is twice as long in the "
    "paper preset (how long is not stated) and left out on the laptop.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 0.8, "paper": 200},
)
