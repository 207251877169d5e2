"""Claims that several figures share, the numbers by which they are judged, and parts of their notes."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import xarray as xr

from interp.papers.ahmed.results import STORED, where
from interp.papers.kit.curves import GENERALISED, HOLD, MEMORISED, curve_of, last_evaluation, step_of
from interp.papers.kit.figure import Bounds, Claim

__all__ = [
    "ADAM",
    "BY_FRACTION_LSTM",
    "CONTROL",
    "DELAYED",
    "FITTING",
    "GENERALISING",
    "HALF_WAY",
    "LSTM_SIZE",
    "MORE",
    "POOR",
    "RNN_SIZE",
    "SCHEDULED",
    "SIZE",
    "claim_dropout",
    "claim_without",
    "claims_by_fraction",
    "delay",
    "fitted",
    "generalised",
    "highest",
    "how_much_later",
    "level",
    "medians",
    "reached",
    "rise",
    "smallest",
    "smallest_delay",
]

HALF_WAY = 0.5
"""Accuracy from which a rise is counted."""
STORED_HOLD = 2
"""Further stored steps for which a level must be held: stored steps are at most half as dense as evaluations."""
DELAYED = 2.0
"""Least delay that is grokking."""
MORE = 1.1
"""Least quotient of two numbers of which one counts as larger."""
POOR = 0.5
"""Largest accuracy that is poor."""

# what claims need, and parts of notes
FITTING = "runs that fit their training set"
CONTROL = "runs that fit their training set, and one with weight decay that generalises in the same time"
GENERALISING = "runs that generalise"
SIZE = (
    "The essay's learning rate is lost; the paper preset takes 1e-3, which lr wd t makes likely. Laptop: batches of 64 "
    "(the essay: 32); "
)
LSTM_SIZE = "LSTM and embeddings of 64, learning rate 3e-3. "
RNN_SIZE = (
    "tanh RNN and embeddings of 128, p = 47, learning rate 1e-3, weight decay 0.3 for 0.01, time divided by 30; no "
    "lower one is known to make it grok, and that of the essay was not tried. "
)
BY_FRACTION_LSTM = "p = 47, weight decay 0.3 for 0.01, time divided by 30"
SCHEDULED = (
    f"{SIZE}{LSTM_SIZE}p = 31, one seed, 70 % of the pairs (the essay: 50 %). Weight decay 0.1 stands for 0.01, time "
    "divided by 10, which is right for the time of grokking and not for its shape. "
)
ADAM = (
    "'Adam' has no weight decay at all, neither decoupled nor as L2 in the gradient. A run counts only if it has "
    "fitted its training set, which dropout makes slow with large initial weights, and if the same net with weight "
    "decay and no dropout has generalised in as many steps (those runs are not drawn). "
)


# --- numbers from one run ---------------------------------------------------------------------------------------------


def delay(run: xr.Dataset) -> float:
    """Steps to generalise over steps to fit; infinite where the run ends first, NaN where it has not fitted."""
    return generalised(run) / fitted(run)


def _least_delay(run: xr.Dataset) -> float:
    """Lower bound of the delay of a run that may have ended before it generalised."""
    return min(generalised(run), last_evaluation(run)) / fitted(run)


def fitted(run: xr.Dataset) -> float:
    """Step from which the training set is fitted; NaN where it is not."""
    step = reached(run, "train_accuracy", MEMORISED)
    return step if 0 < step < math.inf else math.nan


def generalised(run: xr.Dataset) -> float:
    """Step from which the run generalises; infinite where it does not by its end."""
    return reached(run, "test_accuracy", GENERALISED)


def reached(run: xr.Dataset, name: str, threshold: float) -> float:
    """Step from which a curve is sustained at the threshold; infinite where it is not by the end of the run."""
    return step_of(run, name, threshold, hold=_hold(name), limit=0)


def _hold(name: str) -> int:
    """Number of further values for which a level of this curve must be held."""
    return STORED_HOLD if name in STORED else HOLD


def rise(run: xr.Dataset) -> float:
    """Steps from half-way to generalised; NaN where it has not generalised."""
    late = generalised(run)
    return max(late - reached(run, "test_accuracy_unmirrored", HALF_WAY), 0.0) if late < math.inf else math.nan


def _rise_over_wait(run: xr.Dataset) -> float:
    """Rise over the wait for it, which begins when the training set is fitted; infinite without a wait."""
    wait = generalised(run) - rise(run) - fitted(run)
    return math.inf if wait <= 0 else rise(run) / wait


def _improving(run: xr.Dataset) -> bool:
    """Whether the test accuracy is best in the last tenth of the run."""
    steps, values = curve_of(run, "test_accuracy")
    return bool(len(values)) and steps[values.argmax()] > 0.9 * steps[-1]


def _held(run: xr.Dataset) -> float:
    """Highest accuracy that is held, on pairs whose mirror is held out too."""
    _, values = curve_of(run, "test_accuracy_unmirrored")
    if len(values) <= STORED_HOLD:
        return math.nan
    return float(np.lib.stride_tricks.sliding_window_view(values, STORED_HOLD + 1).min(-1).max())


def level(run: xr.Dataset, name: str, before: float = math.inf) -> float:
    """Median of the last values before a step, or before the end."""
    steps, values = curve_of(run, name)
    known = values[steps <= before][-_hold(name) - 1 :]
    return float(np.median(known)) if len(known) else math.nan


# --- numbers from all runs --------------------------------------------------------------------------------------------


def smallest_delay(data: xr.Dataset, of: Callable[[xr.Dataset], float] = delay) -> float | Bounds:
    """Smallest delay of the panels; 0 where one has fitted and never generalised.

    A panel that is undecided bounds it by the delays of the others. A run that ends at its best may generalise yet.
    """

    def told(run: xr.Dataset) -> float:
        found = of(run)
        return math.nan if found == math.inf and _improving(run) else found

    delays = [0.0 if delay == math.inf else delay for delay in medians(data, told).values()]
    known = [delay for delay in delays if not math.isnan(delay)]
    least = min(known, default=math.inf)
    return least if len(known) == len(delays) else (-math.inf, least)


def _largest_delay(data: xr.Dataset) -> float:
    """Largest delay of the panels that have fitted; 0 where none of them generalised."""
    delays = [delay for delay in medians(data, delay).values() if not math.isnan(delay)]
    return max((0.0 if delay == math.inf else delay for delay in delays), default=math.nan)


def _slowest_rise(data: xr.Dataset) -> float:
    """Largest quotient of rise and wait, over the panels that generalised."""
    return max((rise for rise in medians(data, _rise_over_wait).values() if not math.isnan(rise)), default=math.nan)


def _more_pronounced(data: xr.Dataset) -> float:
    """Least quotient of the delays of a fraction and the next larger one; NaN where an unknown one decides."""
    ordered = data.isel(run=np.argsort(-data["train_fraction"].values, kind="stable"))
    delays, bounds = medians(ordered, delay), medians(ordered, _least_delay)
    quotients = [_quotient((delays[s], bounds[s]), (delays[large], bounds[large])) for large, s in pairwise(delays)]
    least = min((quotient for quotient in quotients if not math.isnan(quotient)), default=math.nan)
    return least if least < MORE or not np.isnan(quotients).any() else math.nan


def highest(data: xr.Dataset, of: Callable[[xr.Dataset], float], **wanted: object) -> float:
    """Highest accuracy of the wanted runs that last long enough to tell.

    Once they have fitted their training set, they must go on for as long as the run with the same fraction and an
    unchanged weight decay needed from there to generalise.
    """
    control = data.isel(
        run=(data["weight_decay"].values > 0) & (data["dropout"].values == 0) & np.isnan(data["event_step"].values)
    )
    chosen, values = where(data, **wanted), []
    for panel in dict.fromkeys(chosen["panel"].values.tolist()):
        runs = where(chosen, panel=panel)
        same = where(control, train_fraction=runs["train_fraction"].values[0])
        controls = [same.isel(run=i) for i in range(same.sizes["run"])]
        needed = [generalised(run) - fitted(run) for run in controls]
        lasted = medians(runs, last_evaluation)[panel] - medians(runs, fitted)[panel]
        if needed and float(np.median(needed)) <= lasted:
            values.append(medians(runs, of)[panel])
    return max(values, default=math.nan)


def smallest(data: xr.Dataset, of: Callable[[xr.Dataset], float]) -> float:
    """Smallest number of the panels that have one."""
    values = [value for value in medians(data, of).values() if not math.isnan(value)]
    return min(values, default=math.nan)


def how_much_later(slow: xr.Dataset, fast: xr.Dataset, since: Callable[[xr.Dataset], float]) -> float:
    """Quotient of the steps that two settings take to generalise, counted from `since`."""

    def time(data: xr.Dataset, step: Callable[[xr.Dataset], float]) -> float:
        taken = [step(data.isel(run=i)) - since(data.isel(run=i)) for i in range(data.sizes["run"])]
        return float(np.median(taken)) if min(taken) > 0 else math.nan

    def known(run: xr.Dataset) -> float:
        return min(generalised(run), last_evaluation(run))

    one, other = ((time(data, generalised), time(data, known)) for data in (slow, fast))
    return _quotient(one, other)


def _quotient(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Quotient of two times, each a pair (time, lower bound) whose time is infinite where it is known from below only.

    NaN where that leaves open whether the quotient is `MORE` or less.

    >>> _quotient((3000.0, 3000.0), (1000.0, 1000.0)), _quotient((math.inf, 3000.0), (1000.0, 1000.0))
    (3.0, 3.0)
    >>> _quotient((1000.0, 1000.0), (math.inf, 3000.0)), _quotient((math.inf, 3000.0), (math.inf, 1000.0))
    (0.3333333333333333, nan)
    """
    low = one[1] / other[0]
    high = math.inf if one[0] == math.inf else one[0] / other[1]
    return low if low >= MORE else high if high < MORE else math.nan


def medians(data: xr.Dataset, of: Callable[[xr.Dataset], float]) -> dict[str, float]:
    """Median over the seeds of each panel, in order; NaN as soon as one seed is."""
    values = np.array([of(data.isel(run=i)) for i in range(data.sizes["run"])])
    panels = data["panel"].values
    return {str(name): float(np.median(values[panels == name])) for name in dict.fromkeys(panels.tolist())}


# --- claims -----------------------------------------------------------------------------------------------------------


def claims_by_fraction(net: str) -> tuple[Claim, ...]:
    """Claims of A2 and A3."""
    return (
        Claim(
            text=f"The {net} groks at 30, 50 and 70 %: validation reaches 95 % after at least twice the steps that "
            "training takes to 99 % (0: never).",
            measure=smallest_delay, at_least=DELAYED, unit="x", needs=FITTING,
        ),
        Claim(
            text="The improvement is sudden: from 50 % to 95 % validation accuracy takes no longer than the wait "
            "before it.",
            measure=_slowest_rise, at_most=1.0, unit="of the wait", needs=GENERALISING,
        ),
        Claim(
            text="The smaller the fraction, the more pronounced: its delay (steps to validation over steps to training "
            "accuracy) is longer than that of the next larger one.",
            measure=_more_pronounced, at_least=MORE, unit="x",
            needs="runs that generalise at each fraction, or are longer",
        ),
    )  # fmt: skip


def claim_without(net: str, dropout: float) -> Claim:
    """Claim of A4, A71 and A73."""
    return Claim(
        text=f"The {net} does not generalise without weight decay, {'dropout' if dropout else 'no dropout'}: on pairs "
        "whose mirror is held out too, no accuracy above 50 % is held.",
        measure=partial(highest, of=_held, weight_decay=0.0, dropout=dropout), at_most=POOR, unit="accuracy",
        needs=CONTROL,
    )  # fmt: skip


def claim_dropout(net: str) -> Claim:
    """Claim of A72 and A74."""
    return Claim(
        text=f"With weight decay and dropout the {net} groks, at one fraction at least: validation reaches 95 % after "
        "at least twice the steps that training takes to 99 % (0: never).",
        measure=_largest_delay, at_least=DELAYED, unit="x", needs=FITTING,
    )  # fmt: skip
