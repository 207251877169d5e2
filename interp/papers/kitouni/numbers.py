"""Numbers by which the claims of Kitouni are judged, from the results of all runs."""

import math
from collections.abc import Callable

import numpy as np
import xarray as xr

from interp.papers.kit.curves import GENERALISED
from interp.papers.kitouni.sizes import COINCIDES, ORDERED

__all__ = [
    "above_random",
    "broken_share",
    "circles_of_run",
    "degenerate_runs",
    "delay_left",
    "delay_ratio",
    "early_share",
    "gain_per_doubling",
    "lag_share",
    "of_generalised",
    "rank_of_winner",
    "shares_places",
    "times_earlier",
    "unordered_runs",
]


def _median(values: np.ndarray) -> float:
    """Over what is defined; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


# --- K1: the circle at the end, and when it came ----------------------------------------------------------------------


def of_generalised(name: str) -> Callable[[xr.Dataset], float]:
    """The median of a variable over the seeds whose run has generalised."""
    return lambda data: _median(data[name].where(data["generalised_step"].notnull()).values)


def lag_share(data: xr.Dataset) -> float:
    """Steps between circle and generalisation, as a share of the later one.

    A circle that never came is later than the last step, so that a share below a quarter then decides nothing.
    """
    circle, generalised = data["circle_step"].fillna(data["last_step"]).values, data["generalised_step"].values
    share = np.abs(circle - generalised) / np.maximum(circle, generalised)
    undecided = data["circle_step"].isnull().values & (share <= COINCIDES)
    return _median(np.where(undecided, math.nan, share))


def early_share(data: xr.Dataset) -> float:
    """When the order comes first in the axes of the end, as a share of the way to generalisation."""
    early = data["early_step"].fillna(data["last_step"])
    return _median((early / data["generalised_step"]).values)


# --- K2: the same axes at initialisation ------------------------------------------------------------------------------


def _trained(data: xr.Dataset, name: str) -> xr.DataArray:
    """A variable of the runs that have generalised, NaN for the others."""
    return data[name].where(data["test_accuracy"] >= GENERALISED)


def _by_width(data: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The widths with runs that have generalised, and the medians of a variable over these."""
    medians = np.array([_median(row.values) for row in _trained(data, name).transpose("d_model", "seed")])
    known = np.isfinite(medians)
    return data["d_model"].values[known], medians[known]


def above_random(data: xr.Dataset) -> float:
    """The least order of step 0 over widths, less what 95 % of random planes stay below."""
    _, medians = _by_width(data, "order_start")
    return float(medians.min()) - data.attrs["random_upper"] if medians.size else math.nan


def gain_per_doubling(name: str) -> Callable[[xr.Dataset], float]:
    """The slope of the medians against log2 of the width, by least squares."""

    def slope(data: xr.Dataset) -> float:
        widths, medians = _by_width(data, name)
        return float(np.polyfit(np.log2(widths), medians, 1)[0]) if widths.size >= 2 else math.nan

    return slope


def rank_of_winner(data: xr.Dataset) -> float:
    """The share of the other frequencies that are less ordered at step 0, each in its own plane, than the winner."""
    winner = data["own_order"].sel(frequency=data["dominant"])
    below = (data["own_order"] < winner).sum("frequency") / (data.sizes["frequency"] - 1)
    return _median(_trained(data.assign(below=below), "below").values)


# --- K3: circles spread over components -------------------------------------------------------------------------------


def _generalised_mod(data: xr.Dataset, prime: bool) -> xr.Dataset:
    """The runs that have generalised, those with a prime p or the others."""
    kind = [all(p % q for q in range(2, math.isqrt(p) + 1)) == prime for p in data["p"].values]
    return data.isel(run=np.flatnonzero((data["test_accuracy"].values >= GENERALISED) & kind))


def unordered_runs(data: xr.Dataset) -> float:
    """How many runs mod a prime have no circle in PC 1-2; NaN of fewer than three that have generalised."""
    found = _generalised_mod(data, prime=True)
    return float((found["order"][:, 0] < ORDERED).sum()) if found.sizes["run"] >= 3 else math.nan


def circles_of_run(data: xr.Dataset) -> float:
    """Ordered circles of key frequencies in a run mod a prime."""
    return _median((_generalised_mod(data, prime=True)["key_order"] >= ORDERED).sum("key").values.astype(float))


def _degenerate(data: xr.Dataset) -> xr.Dataset:
    """The runs whose PC 1-2 shows a circle on which numbers share places."""
    found = _generalised_mod(data, prime=False)
    return found.isel(run=np.flatnonzero((found["order"][:, 0].values >= ORDERED) & shares_places(found)[:, 0]))


def shares_places(data: xr.Dataset) -> np.ndarray:
    """Whether each pair of components has a circle with fewer places than numbers; two places are none."""
    return (data["multiplicity"] > 1).values & (2 * data["frequency"].values < data["p"].values[:, None])


def degenerate_runs(data: xr.Dataset) -> float:
    """How many such runs there are; NaN where no run with an even p has generalised."""
    return float(_degenerate(data).sizes["run"]) if _generalised_mod(data, prime=False).sizes["run"] else math.nan


def broken_share(data: xr.Dataset) -> float:
    """The share of these runs whose ordered circles together give every number a place of its own."""
    runs = _degenerate(data)
    if not runs.sizes["run"]:
        return math.nan
    shared = [
        math.gcd(int(p), *(int(k) for k in data["key"].values[orders >= ORDERED]))
        for p, orders in zip(runs["p"].values, runs["key_order"].values)
    ]
    return float(np.mean([g == 1 for g in shared]))


# --- K4 and K5: a small MLP -------------------------------------------------------------------------------------------


def _middle(data: xr.Dataset, name: str, place: int) -> float:
    """The median over seeds at one weight decay; a run that ended before is later than all others.

    NaN where fewer than half of the runs got there.
    """
    steps = data[name].isel(weight_decay=place).fillna(np.inf).values
    return float(np.median(steps)) if np.isfinite(np.sort(steps)[len(steps) // 2]) else math.nan


def delay_ratio(data: xr.Dataset) -> float:
    """Steps to generalise over steps to memorise, at the lower weight decay."""
    return _middle(data, "generalised_step", 0) / max(_middle(data, "memorised_step", 0), 1.0)


def times_earlier(data: xr.Dataset) -> float:
    """Steps to generalise at the lower weight decay over those at the higher one."""
    return _middle(data, "generalised_step", 0) / max(_middle(data, "generalised_step", 1), 1.0)


def delay_left(data: xr.Dataset) -> float:
    """Steps from memorising to generalising at the higher weight decay, as a share of those at the lower one."""
    grokking, comprehension = (
        _middle(data, "generalised_step", place) - _middle(data, "memorised_step", place) for place in (0, 1)
    )
    return comprehension / grokking if grokking > 0 else math.nan
