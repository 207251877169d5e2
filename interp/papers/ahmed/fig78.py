"""Figure A78 (7.8 of the essay): initial weights unscaled and times 5."""

import math
from functools import partial

import xarray as xr

from interp.config import RunConfig
from interp.papers.ahmed import PAPER
from interp.papers.ahmed.claims import (
    DELAYED,
    FITTING,
    GENERALISING,
    HALF_WAY,
    LSTM_SIZE,
    MORE,
    RNN_SIZE,
    SIZE,
    generalised,
    how_much_later,
    medians,
    reached,
    rise,
    smallest_delay,
)
from interp.papers.ahmed.picture import picture
from interp.papers.ahmed.results import over_training, where
from interp.papers.ahmed.runs import base, decayed, net_of
from interp.papers.kit.curves import curve_of
from interp.papers.kit.figure import Bounds, Claim, Figure, Preset, bounds

__all__ = ["FIGURE"]


def runs(preset: Preset) -> list[RunConfig]:
    """Initial weights unscaled, and times 5, for each cell."""
    lstm = base("lstm", preset, {"task.p": 59, "optimizer.weight_decay": 0.1, "steps": 20_000})
    rnn = decayed("rnn", preset, 0.7)
    shorter = {"steps": 30_000} if preset == "laptop" else {}
    small = [lstm.replace({"model.init_scale": 1.0}), rnn.replace({"model.init_scale": 1.0, **shorter})]
    return [small[0], lstm, small[1], rnn]


def _panel(config: RunConfig) -> str:
    """Cell and initial scale."""
    scale = net_of(config).init_scale
    return f"{net_of(config).slug.upper()}, initial weights {'unscaled' if scale == 1 else f'times {scale:g}'}"


def _delays_by_scale(data: xr.Dataset, cell: str) -> float | Bounds:
    """Delay of the nets of one cell with initial weights times 5; 0 where it never generalised."""
    return smallest_delay(where(data, cell=cell, init_scale=5.0))


def _faster_unscaled(data: xr.Dataset, cell: str) -> float:
    """Steps to generalisation with initial weights times 5, over those with unscaled ones."""
    scaled, unscaled = (where(data, cell=cell, init_scale=scale) for scale in (5.0, 1.0))
    return how_much_later(scaled, unscaled, lambda run: 0.0)


def _more_gradual_unscaled(data: xr.Dataset, cell: str) -> Bounds:
    """Share of the way that the rise takes with unscaled weights, over the share with weights times 5.

    Each is known to the density of the stored steps.
    """

    def share(scale: float, most: bool) -> float:
        (found,) = medians(where(data, cell=cell, init_scale=scale), partial(_share_of_rise, most=most)).values()
        return found

    low, high = (_over(share(1.0, most), share(5.0, not most)) for most in (False, True))
    return bounds(math.nan) if math.isnan(low) or math.isnan(high) else (low, high)


def _share_of_rise(run: xr.Dataset, *, most: bool = False) -> float:
    """Lower bound, or with `most` upper bound, of the share of the way to generalisation that the rise takes, 0 to 1.

    Half-way was passed between two stored steps.
    """
    taken = rise(run)
    if most and not math.isnan(taken):
        steps, _ = curve_of(run, "test_accuracy_unmirrored")
        half = reached(run, "test_accuracy_unmirrored", HALF_WAY)
        taken = generalised(run) - float(steps[steps < half].max(initial=0)) if half < math.inf else math.inf
    return taken / generalised(run)


def _over(one: float, other: float) -> float:
    """Quotient of two shares, infinite over 0; NaN where one is."""
    return one / other if other else math.inf if one else math.nan


def _claims(net: str) -> tuple[Claim, ...]:
    cell = net.lower()
    return (
        Claim(
            text=f"{net}, all initial weights times 5: groks, validation reaches 95 % after at least twice the steps "
            "that training takes to 99 % (0: never).",
            measure=partial(_delays_by_scale, cell=cell), at_least=DELAYED, unit="x", needs=FITTING,
        ),
        Claim(
            text=f"{net}: with unscaled weights generalisation is faster, in fewer steps than with weights times 5.",
            measure=partial(_faster_unscaled, cell=cell), at_least=MORE, unit="x", needs=GENERALISING,
        ),
        Claim(
            text=f"{net}: with unscaled weights generalisation is more gradual, from 50 % to 95 % validation accuracy "
            "in a larger share of the steps it takes.",
            measure=partial(_more_gradual_unscaled, cell=cell), at_least=MORE, unit="x",
            needs="runs that generalise with either initialisation",
        ),
    )  # fmt: skip


TITLE = "Initial weights, unscaled and times 5"

FIGURE = Figure(
    paper=PAPER,
    label="A78",
    title=TITLE,
    runs=runs,
    results=partial(over_training, panel=_panel),
    picture=partial(picture, title=TITLE),
    claims=(*_claims("RNN"), *_claims("LSTM")),
    notes=f"{SIZE}{LSTM_SIZE}p = 59 (at p = 31 the unscaled one has a delay too), weight decay 0.1 for 0.01, "
    f"time divided by 10; {RNN_SIZE}One seed each; 70 %. The initial norm is the whole difference, so 'faster' is "
    "in steps to a validation accuracy of 95 %.",
    ensemble_size=8,
    minutes={"toy": 0.1, "laptop": 1.5, "paper": 195},
)
