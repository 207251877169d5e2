"""Numbers for claims: values and medians over sets of labelled results, NaN where these were not computed."""

import math

import numpy as np
import xarray as xr

__all__ = ["largest", "limit_error", "median", "medians", "values_at"]


def values_at(array: xr.DataArray, **where: float) -> xr.DataArray:
    """Values at the given coordinates (`lambda_` for lambda); a single NaN where these were not computed."""
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
    """Largest number; NaN where there is none, or one is NaN."""
    return float(np.max(values)) if np.size(values) else math.nan


def limit_error(data: xr.Dataset, kind: str, axis: str = "lambda_below", below: float = 0.42) -> float:
    """Largest relative distance of a median from the limit N to infinity."""
    near = data.sel(quantile=0.5).isel({axis: np.flatnonzero(data[axis] < below + 1e-6)})
    return largest(abs(near[kind] / near[f"{kind}_limit"] - 1).values)
