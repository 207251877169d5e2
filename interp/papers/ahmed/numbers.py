"""Numbers by which the claims of Ahmed are judged, from the curves of one run and from those of all."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import xarray as xr

from interp.papers.ahmed.sizes import HALF_WAY, MORE, STORED, STORED_HOLD
from interp.papers.kit.curves import GENERALISED, HOLD, MEMORISED, curve_of, last_evaluation, step_of
from interp.papers.kit.figure import Bounds, bounds

__all__ = [
    "delay_begun",
    "delays_by_scale",
    "doubled_decay",
    "faster_unscaled",
    "final_accuracy",
    "growth",
    "held",
    "highest",
    "largest_delay",
    "lost",
    "more_gradual_unscaled",
    "more_pronounced",
    "norm_without",
    "slowest_rise",
    "smallest",
    "smallest_delay",
    "where",
]


def _reached(run: xr.Dataset, name: str, threshold: float) -> float:
    """The step from which a curve is sustained at the threshold; infinite where it is not by the end of the run."""
    return step_of(run, name, threshold, hold=_hold(name), limit=0)


def _hold(name: str) -> int:
    """Further values for which a level of this curve must be held."""
    return STORED_HOLD if name in STORED else HOLD


def _fitted(run: xr.Dataset) -> float:
    """The step at which the training set is fitted; NaN where it is not."""
    step = _reached(run, "train_accuracy", MEMORISED)
    return step if 0 < step < math.inf else math.nan


def _generalised(run: xr.Dataset) -> float:
    return _reached(run, "test_accuracy", GENERALISED)


def _delay(run: xr.Dataset) -> float:
    """Steps to generalise over steps to fit; infinite where the run ends first, NaN where it has not fitted."""
    return _generalised(run) / _fitted(run)


def delay_begun(run: xr.Dataset) -> float:
    """The same, of a run whose weight decay begins with the event; NaN where it had generalised before."""
    return _delay(run) if _generalised(run) > float(run["event_step"]) else math.nan


def _least_delay(run: xr.Dataset) -> float:
    """What the delay is at least, for all that is known of a run that may have ended before it generalised."""
    return min(_generalised(run), last_evaluation(run)) / _fitted(run)


def _rise(run: xr.Dataset) -> float:
    """Steps from half-way to generalised; NaN where it has not generalised."""
    late = _generalised(run)
    return max(late - _reached(run, "test_accuracy_unmirrored", HALF_WAY), 0.0) if late < math.inf else math.nan


def _rise_over_wait(run: xr.Dataset) -> float:
    """The rise over the wait for it, which begins when the training set is fitted; infinite without a wait."""
    wait = _generalised(run) - _rise(run) - _fitted(run)
    return math.inf if wait <= 0 else _rise(run) / wait


def _rise_over_all(run: xr.Dataset, *, most: bool = False) -> float:
    """The share of the way to generalisation that the rise takes, 0 to 1: the least that it can be, or the most, as
    half-way was passed between two stored steps."""
    rise = _rise(run)
    if most and not math.isnan(rise):
        steps, _ = curve_of(run, "test_accuracy_unmirrored")
        half = _reached(run, "test_accuracy_unmirrored", HALF_WAY)
        rise = _generalised(run) - float(steps[steps < half].max(initial=0)) if half < math.inf else math.inf
    return rise / _generalised(run)


def held(run: xr.Dataset) -> float:
    """The highest accuracy that is held, on pairs whose mirror is held out too."""
    _, values = curve_of(run, "test_accuracy_unmirrored")
    if len(values) <= STORED_HOLD:
        return math.nan
    return float(np.lib.stride_tricks.sliding_window_view(values, STORED_HOLD + 1).min(-1).max())


def _level(run: xr.Dataset, name: str, before: float = math.inf) -> float:
    """The median of the last values before a step, or before the end."""
    steps, values = curve_of(run, name)
    known = values[steps <= before][-_hold(name) - 1 :]
    return float(np.median(known)) if len(known) else math.nan


def final_accuracy(run: xr.Dataset) -> float:
    """The accuracy at the end, on pairs whose mirror is held out too."""
    return _level(run, "test_accuracy_unmirrored")


def lost(run: xr.Dataset) -> float:
    """Accuracy at the end less that at the event; NaN for a run that has not generalised for good by then."""
    event = float(run["event_step"])
    return _level(run, "test_accuracy") - _level(run, "test_accuracy", event) if _generalised(run) < event else math.nan


def growth(run: xr.Dataset) -> float:
    """By how much the norm grows in each half of what comes after the event, at least, as a factor."""
    steps, norm = curve_of(run, "weight_norm")
    after = norm[steps >= float(run["event_step"])]
    if len(after) < 3:
        return math.nan
    middle = after[len(after) // 2]
    return float(min(middle / after[0], after[-1] / middle))


def _end_norm(run: xr.Dataset) -> float:
    _, norm = curve_of(run, "weight_norm")
    return float(norm[-1])


def _medians(data: xr.Dataset, of: Callable[[xr.Dataset], float]) -> dict[str, float]:
    """The median over the seeds of each panel, in order; NaN as soon as one seed is."""
    values = np.array([of(data.isel(run=i)) for i in range(data.sizes["run"])])
    panels = data["panel"].values
    return {str(name): float(np.median(values[panels == name])) for name in dict.fromkeys(panels.tolist())}


def where(data: xr.Dataset, **wanted: object) -> xr.Dataset:
    """The runs whose coordinates have these values."""
    return data.isel(run=np.logical_and.reduce([data[name].values == value for name, value in wanted.items()]))


# --- numbers from all runs --------------------------------------------------------------------------------------------


def smallest_delay(data: xr.Dataset, of: Callable[[xr.Dataset], float] = _delay) -> float | Bounds:
    """Over panels; 0 where one has fitted and never generalised, at most that of the others where one cannot tell.

    A run that ends at its best may generalise yet.
    """

    def told(run: xr.Dataset) -> float:
        delay = of(run)
        return math.nan if delay == math.inf and _improving(run) else delay

    delays = [0.0 if delay == math.inf else delay for delay in _medians(data, told).values()]
    known = [delay for delay in delays if not math.isnan(delay)]
    least = min(known, default=math.inf)
    return least if len(known) == len(delays) else (-math.inf, least)


def _improving(run: xr.Dataset) -> bool:
    """Whether the test accuracy is best in the last tenth of the run."""
    steps, values = curve_of(run, "test_accuracy")
    return bool(len(values)) and steps[values.argmax()] > 0.9 * steps[-1]


def largest_delay(data: xr.Dataset) -> float:
    """Over the panels that have fitted; 0 where none of them generalised."""
    delays = [delay for delay in _medians(data, _delay).values() if not math.isnan(delay)]
    return max((0.0 if delay == math.inf else delay for delay in delays), default=math.nan)


def slowest_rise(data: xr.Dataset) -> float:
    """The largest quotient of rise and wait, over the panels that generalised."""
    return max((rise for rise in _medians(data, _rise_over_wait).values() if not math.isnan(rise)), default=math.nan)


def _quotient(one: tuple[float, float], other: tuple[float, float]) -> float:
    """A quotient of two times that may be known from below only (infinite, with the least they can be); NaN where that
    leaves open whether it is `MORE` or less.

    >>> _quotient((3000.0, 3000.0), (1000.0, 1000.0)), _quotient((math.inf, 3000.0), (1000.0, 1000.0))
    (3.0, 3.0)
    >>> _quotient((1000.0, 1000.0), (math.inf, 3000.0)), _quotient((math.inf, 3000.0), (math.inf, 1000.0))
    (0.3333333333333333, nan)
    """
    low = one[1] / other[0]
    high = math.inf if one[0] == math.inf else one[0] / other[1]
    return low if low >= MORE else high if high < MORE else math.nan


def more_pronounced(data: xr.Dataset) -> float:
    """The least quotient of the delays of a fraction and the next larger one; NaN where the claim stands or falls with
    one that is not known."""
    ordered = data.isel(run=np.argsort(-data["train_fraction"].values, kind="stable"))
    delays, bounds = _medians(ordered, _delay), _medians(ordered, _least_delay)
    quotients = [_quotient((delays[s], bounds[s]), (delays[large], bounds[large])) for large, s in pairwise(delays)]
    least = min((quotient for quotient in quotients if not math.isnan(quotient)), default=math.nan)
    return least if least < MORE or not np.isnan(quotients).any() else math.nan


def _how_much_later(slow: xr.Dataset, fast: xr.Dataset, since: Callable[[xr.Dataset], float]) -> float:
    """The quotient of the steps that two settings take to generalise, counted from where `since` says."""

    def time(data: xr.Dataset, step: Callable[[xr.Dataset], float]) -> float:
        taken = [step(data.isel(run=i)) - since(data.isel(run=i)) for i in range(data.sizes["run"])]
        return float(np.median(taken)) if min(taken) > 0 else math.nan

    def known(run: xr.Dataset) -> float:
        return min(_generalised(run), last_evaluation(run))

    one, other = ((time(data, _generalised), time(data, known)) for data in (slow, fast))
    return _quotient(one, other)


def doubled_decay(data: xr.Dataset) -> float:
    """Steps from the event to generalisation with the lower decay, over those with the doubled one."""
    slow, fast = (where(data, decay_after=decay) for decay in sorted(set(data["decay_after"].values.tolist())))
    return _how_much_later(slow, fast, lambda run: float(run["event_step"]))


def highest(data: xr.Dataset, of: Callable[[xr.Dataset], float], **wanted: object) -> float:
    """The highest accuracy of the wanted runs, as far as they can tell: those that go on, once they have fitted their
    training set, for as long as the run with the same fraction whose weight decay was never changed needed from there
    to generalise."""
    control = data.isel(
        run=(data["weight_decay"].values > 0) & (data["dropout"].values == 0) & np.isnan(data["event_step"].values)
    )
    chosen, values = where(data, **wanted), []
    for panel in dict.fromkeys(chosen["panel"].values.tolist()):
        runs = where(chosen, panel=panel)
        same = where(control, train_fraction=runs["train_fraction"].values[0])
        controls = [same.isel(run=i) for i in range(same.sizes["run"])]
        needed = [_generalised(run) - _fitted(run) for run in controls]
        fitted, last = _medians(runs, _fitted)[panel], _medians(runs, last_evaluation)[panel]
        if needed and float(np.median(needed)) <= last - fitted:
            values.append(_medians(runs, of)[panel])
    return max(values, default=math.nan)


def smallest(data: xr.Dataset, of: Callable[[xr.Dataset], float]) -> float:
    """The smallest number of all panels that have one."""
    values = [value for value in _medians(data, of).values() if not math.isnan(value)]
    return min(values, default=math.nan)


def norm_without(data: xr.Dataset) -> float:
    """The norm at the end without weight decay over that with it."""
    without, with_decay = (data.isel(run=(data["weight_decay"].values > 0) == decays) for decays in (False, True))
    return min(_medians(without, _end_norm).values()) / max(_medians(with_decay, _end_norm).values())


def delays_by_scale(data: xr.Dataset, cell: str) -> float | Bounds:
    """The delay of the nets of one cell with initial weights times 5; 0 where it never generalised."""
    return smallest_delay(where(data, cell=cell, init_scale=5.0))


def faster_unscaled(data: xr.Dataset, cell: str) -> float:
    """Steps to generalisation with initial weights times 5, over those with unscaled ones."""
    scaled, unscaled = (where(data, cell=cell, init_scale=scale) for scale in (5.0, 1.0))
    return _how_much_later(scaled, unscaled, lambda run: 0.0)


def more_gradual_unscaled(data: xr.Dataset, cell: str) -> Bounds:
    """The share that the rise takes of the way, with unscaled weights over that with weights times 5; each is known as
    well as the stored steps are dense."""

    def share(scale: float, most: bool) -> float:
        (found,) = _medians(where(data, cell=cell, init_scale=scale), partial(_rise_over_all, most=most)).values()
        return found

    low, high = (_over(share(1.0, most), share(5.0, not most)) for most in (False, True))
    return bounds(math.nan) if math.isnan(low) or math.isnan(high) else (low, high)


def _over(one: float, other: float) -> float:
    """A quotient of two shares, infinite over 0; NaN where one is."""
    return one / other if other else math.inf if one else math.nan
