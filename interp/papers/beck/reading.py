"""Labelled results: under new names, and read for a claim as medians over sets, NaN where these were not computed."""

import math

import numpy as np
import xarray as xr

__all__ = ["largest", "limit_error", "median", "medians", "renamed", "values_at"]


def renamed(data: xr.Dataset, pattern: str) -> xr.Dataset:
    """The variables under new names: `pattern` with the old one in its braces."""
    return data.rename({name: pattern.format(name) for name in data.data_vars})


def values_at(array: xr.DataArray, **where: float) -> xr.DataArray:
    """The values at the coordinates named (`lambda_` for lambda); one NaN where these were not computed."""
    named = {name.rstrip("_"): value for name, value in where.items()}
    try:
        return array.sel(named, method="nearest", tolerance=1e-6)
    except KeyError:
        return xr.DataArray(np.nan)


def median(array: xr.DataArray, **where: float) -> float:
    """Median over sets, or seeds; NaN where it was not computed, or is infinite: not reached."""
    value = float(values_at(array, **where).median())
    return value if math.isfinite(value) else math.nan


def medians(array: xr.DataArray, axis: str, low: float, high: float) -> np.ndarray:
    """Medians of the coordinates in [low, high]."""
    chosen = array[axis].values
    return np.array(
        [median(array, **{axis: value}) for value in chosen[(chosen > low - 1e-6) & (chosen < high + 1e-6)]]
    )


def largest(values: np.ndarray) -> float:
    """The largest number; NaN where there is none, or one is NaN."""
    return float(np.max(values)) if np.size(values) else math.nan


def limit_error(data: xr.Dataset, kind: str, axis: str = "lambda_below", below: float = 0.42) -> float:
    """Largest relative distance of a median from the limit N to infinity."""
    near = data.sel(quantile=0.5).isel({axis: np.flatnonzero(data[axis] < below + 1e-6)})
    return largest(abs(near[kind] / near[f"{kind}_limit"] - 1).values)
