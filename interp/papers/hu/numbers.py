"""Numbers by which the claims of Hu et al. are judged, from the curves of one run and from those of all."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import median_filter
from scipy.stats import spearmanr

from interp.papers.hu.runs import PLAIN
from interp.papers.hu.sizes import COMMUTED, LASTING, Label, Measured, OneRun, P
from interp.papers.kit.curves import GENERALISED, HOLD, MEMORISED, curve_of, last_evaluation, step_of
from interp.papers.kit.figure import Bounds, bounds

__all__ = [
    "advantage_of_decay",
    "at_fractions",
    "best_of_plain",
    "best_test",
    "best_train",
    "best_unmirrored",
    "delayed_gain",
    "direct_alone",
    "half_rise_ratio",
    "late_rise",
    "lateness",
    "loss_ratio",
    "over_seeds",
    "promptness",
    "rank_correlation",
    "ratio_of",
    "reaches",
    "slowest_memory",
    "spread_of_rates",
    "steepening",
    "synchrony",
]


def _steady(run: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The curve without its spikes: running medians over five evaluations."""
    steps, values = curve_of(run, name)
    return steps, median_filter(values, size=HOLD, mode="nearest") if len(values) else values


def lateness(run: xr.Dataset) -> float:
    """Steps to generalise over steps to memorise."""
    return step_of(run, "test_accuracy", GENERALISED) / step_of(run, "train_accuracy", MEMORISED)


def promptness(limit: float) -> OneRun:
    """The same; of a run that has not generalised yet how late it is already, if that is beyond `limit`."""

    def lateness_so_far(run: xr.Dataset) -> float:
        found = lateness(run)
        so_far = last_evaluation(run) / step_of(run, "train_accuracy", MEMORISED)
        return so_far if math.isnan(found) and so_far > limit else found

    return lateness_so_far


def reaches(name: str, threshold: float, limit: float) -> OneRun:
    """Steps to an accuracy, at the paper's modulus; infinite where a run has not come that far by step `limit`."""

    def steps(run: xr.Dataset) -> float:
        return step_of(run, name, threshold, limit=limit) if int(run["p"]) == P else math.nan

    return steps


def _lasted(run: xr.Dataset) -> bool:
    """Whether the run has memorised, and gone on for long enough to tell that nothing else comes."""
    return last_evaluation(run) >= LASTING * step_of(run, "train_accuracy", MEMORISED)


def best_unmirrored(run: xr.Dataset) -> float:
    """Best accuracy on pairs whose mirror is held out too; NaN where the level of failure is that of chance, 1/p."""
    if 2 / int(run["p"]) > COMMUTED:
        return math.nan
    _, values = curve_of(run, "test_accuracy_unmirrored")
    best = float(values.max()) if len(values) else math.nan
    return best if best > COMMUTED or _lasted(run) else math.nan


def loss_ratio(run: xr.Dataset) -> float:
    """Test loss at the end over that at initialisation."""
    _, loss = curve_of(run, "test_loss")
    ratio = float(loss[-1] / loss[0])
    return ratio if ratio < 1 or _lasted(run) else math.nan


def synchrony(run: xr.Dataset) -> float:
    """Steps until the test loss is below half of its peak for good, over steps to generalise."""
    steps, loss = curve_of(run, "test_loss")
    generalised = step_of(run, "test_accuracy", GENERALISED)
    fallen = step_of(
        run.sel(step=slice(steps[loss.argmax()], None)), "test_loss", loss.max() / 2, above=False, limit=2 * generalised
    )
    return fallen / generalised


def half_rise_ratio(limit: float) -> OneRun:
    """Steps of the test accuracy to half of its best over those of the train accuracy to half of its own.

    NaN of runs that have not learned half of the training set. A test accuracy that stays at chance has not risen yet:
    its number is how late it is already, if that is beyond `limit`.
    """

    def ratio(run: xr.Dataset) -> float:
        _, train = _steady(run, "train_accuracy")
        _, test = _steady(run, "test_accuracy")
        if not len(train) or train.max() < 0.5:
            return math.nan
        learned = step_of(run, "train_accuracy", train.max() / 2)
        if test.max() >= COMMUTED:
            return step_of(run, "test_accuracy", test.max() / 2) / learned
        so_far = last_evaluation(run) / learned
        return so_far if so_far > limit else math.nan

    return ratio


def delayed_gain(run: xr.Dataset) -> float:
    """What the test accuracy gains after twice the steps that brought the train accuracy within 5 % of its best.

    NaN of runs that have not learned nine tenths of the training set, or end before.
    """
    _, train = _steady(run, "train_accuracy")
    steps, test = _steady(run, "test_accuracy")
    if not len(train) or train.max() < 0.9:
        return math.nan
    after = test[steps >= 2 * step_of(run, "train_accuracy", 0.95 * train.max())]
    return float(after.max() - after[0]) if len(after) else math.nan


def best_train(budget: int) -> OneRun:
    """Best train accuracy, spikes apart; below 99.9 % it is known only of runs of the published length."""

    def best(run: xr.Dataset) -> float:
        _, train = _steady(run, "train_accuracy")
        found = float(train.max()) if len(train) else math.nan
        return found if found >= 0.999 or last_evaluation(run) >= budget else math.nan

    return best


def best_test(budget: int, level: float) -> OneRun:
    """Best test accuracy, spikes apart; below `level` it is known only of runs of the published length."""

    def best(run: xr.Dataset) -> float:
        _, test = _steady(run, "test_accuracy")
        found = float(test.max()) if len(test) else math.nan
        return found if found >= level or last_evaluation(run) >= budget else math.nan

    return best


def late_rise(budget: int, least: float) -> OneRun:
    """Test loss at the end over its minimum; below `least` it is known only of runs of the published length."""

    def rise(run: xr.Dataset) -> float:
        _, loss = _steady(run, "test_loss")
        found = float(loss[-1] / loss.min()) if len(loss) else math.nan
        return found if found >= least or last_evaluation(run) >= budget else math.nan

    return rise


# --- numbers from all runs --------------------------------------------------------------------------------------------


def over_seeds(number: Measured) -> Measured:
    """The median over seeds; of those that cannot tell it is known as far as the others determine it."""
    return lambda data: _of_all(np.median, [number(data.isel(seed=i)) for i in range(data.sizes["seed"])])


def at_fractions(
    number: OneRun, *fractions: float, of: Callable[[list[float]], Any] = np.max, inputs: str | None = None
) -> Measured:
    """The number of the runs at these fractions, the largest unless said otherwise, and the median over seeds."""
    where: Label = {} if inputs is None else {"inputs": inputs}
    return over_seeds(lambda data: _of_all(of, [number(data.sel({"fraction": f, **where})) for f in fractions]))


def _of_all(of: Callable[[list[float]], Any], numbers: Sequence[float | Bounds]) -> Bounds:
    """What never falls when one of the numbers grows, of numbers that may be known from one side only."""
    lows, highs = zip(*map(bounds, numbers))
    low, high = float(of(list(lows))), float(of(list(highs)))
    return -math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high


def ratio_of(above: Measured, below: Measured) -> Measured:
    """The one number over the other, both of them positive."""

    def ratio(data: xr.Dataset) -> Bounds:
        (least, most), (smallest, largest) = (bounds(number(data)) for number in (above, below))
        low = max(least, 0.0) / largest if largest < math.inf else 0.0
        high = most / smallest if 0 < smallest < math.inf else math.inf if smallest <= 0 or most == math.inf else 0.0
        return low, high

    return ratio


def _generalised_steps(data: xr.Dataset) -> xr.DataArray:
    """Steps to generalise by fraction, direct encoding; none where a run between others ended before it did."""
    steps = data["generalised_step"].sel(encoding="direct")
    run, known = data["last_step"].sel(encoding="direct").notnull(), steps.notnull()
    gap = run & ~known & (steps["fraction"] > steps["fraction"].where(known).min())
    return steps.isel(fraction=slice(0)) if gap.any() else steps.dropna("fraction")


def rank_correlation(data: xr.Dataset) -> float:
    """Of steps to generalise with fraction, direct encoding; NaN of fewer than three fractions that generalised."""
    steps = _generalised_steps(data)
    if steps.size < 3:
        return math.nan
    return float(spearmanr(steps["fraction"], steps).statistic) if np.ptp(steps.values) else 0.0


def steepening(data: xr.Dataset) -> float:
    """-d log(steps) / d log(fraction) between the two smallest fractions that generalised, less that of the largest."""
    steps = _generalised_steps(data)
    if steps.size < 4:
        return math.nan
    slopes = -np.diff(np.log(steps.values)) / np.diff(np.log(steps["fraction"].values))
    return float(slopes[0] - slopes[-1])


def direct_alone(data: xr.Dataset) -> float:
    """Fractions at which, in equal steps, the direct encoding generalises and the symbolic does not, less the others.

    NaN where the two were trained at different moduli.
    """
    shared = data.dropna("fraction", subset=["last_step"])
    if shared["p"].values.min() < shared["p"].values.max() or not shared.sizes["fraction"]:
        return math.nan
    generalised = shared["generalised_step"] <= shared["last_step"].min("encoding")
    if not generalised.any():
        return math.nan
    direct, symbolic = (generalised.sel(encoding=name).values for name in ("direct", "symbolic"))
    return float((direct & ~symbolic).sum() - (symbolic & ~direct).sum())


def slowest_memory(limit: float) -> OneRun:
    """Updates to memorise, the slowest run of all; infinite where one had not by `limit`."""

    def slowest(data: xr.Dataset) -> float:
        if int(data["p"]) != P:
            return math.nan
        steps = data["memorised_step"].where(data["memorised_step"].notnull() | (data["last_step"] < limit), np.inf)
        return float(np.max(steps.values[data["last_step"].notnull().values]))

    return slowest


def _best(data: xr.Dataset) -> xr.DataArray:
    """Best accuracy on pairs whose mirror is held out, over optimiser and the fractions at which all were run.

    None where no run is right of half of them: nothing is then to be compared.
    """
    name = "best_test_accuracy_unmirrored"
    table = data[name].dropna("fraction") if name in data else xr.DataArray([[]], dims=("optimiser", "fraction"))
    return table if table.size and float(table.max()) > 0.5 else table.isel(fraction=slice(0))


def advantage_of_decay(data: xr.Dataset) -> float:
    """Best accuracy, mean over fractions: the best optimiser with weight decay less the best without."""
    table = _best(data)
    if not table.size:
        return math.nan
    mean = table.mean("fraction")
    decayed = mean["optimiser"].str.startswith("AdamW")
    return float(mean[decayed].max() - mean[~decayed].max())


def spread_of_rates(data: xr.Dataset) -> float:
    """Best accuracy, mean over fractions: the best less the worst learning rate of Adam."""
    table = _best(data)
    mean = table.sel(optimiser=list(PLAIN)).mean("fraction") if table.size else np.array(math.nan)
    return float(mean.max() - mean.min())


def best_of_plain(data: xr.Dataset) -> float:
    """Best accuracy on pairs whose mirror is held out at the largest fraction, with neither decay nor noise."""
    name = "best_test_accuracy_unmirrored"
    if name not in data or int(data["p"]) != P:
        return math.nan
    return float(data[name].sel(optimiser=list(PLAIN)).isel(fraction=-1).max(skipna=False))
