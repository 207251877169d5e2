"""Sets of Gaussian points, their gradient flow, margins and limits, which several figures share."""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import xarray as xr

from interp.config import Gaussian
from interp.errors import NotAvailableError
from interp.papers.beck.presets import LEVEL, LN10, SIGMA, SIZES, Sizes
from interp.papers.beck.theory import proportional_limit
from interp.papers.beck.theory.gradient_flow import bump, crossing_times, flow
from interp.papers.kit.figure import Preset
from interp.tasks import build_task
from interp.theory.separability import (
    Loss,
    asymptotic_weights,
    generalisation_accuracy,
    generalisation_loss,
    margin,
    training_accuracy,
    training_loss,
)

__all__ = [
    "chosen_sets",
    "first_sets",
    "flow_of_sets",
    "limit_of_sets",
    "limits_over_lambda",
    "log_times",
    "margins",
    "one_set",
    "renamed",
    "scan_over_lambda",
]


def one_set(n: int, d: int, seed: int) -> np.ndarray:
    """Set of unit variance with this seed, [N, d]."""
    return build_task(Gaussian(n=n, d=d, sigma=1.0, seed=seed)).tokens.numpy()


def first_sets(n: int, d: int, count: int) -> np.ndarray:
    """The first sets, [set, N, d]."""
    return np.stack([one_set(n, d, seed) for seed in range(count)])


def chosen_sets(n: int, d: int, count: int, *, separable: bool = False) -> np.ndarray:
    """The first sets on one side of the edge, [set, N, d]."""
    drawn = (one_set(n, d, seed) for seed in itertools.count())
    return np.stack(list(itertools.islice((X for X in drawn if bool(margin(X).separable) == separable), count)))


def log_times(sizes: Sizes) -> np.ndarray:
    """Decades of t, eight values to each."""
    return np.linspace(-2, sizes.decades, 8 * (sizes.decades + 2) + 1)


def flow_of_sets(
    points: np.ndarray,
    log10_t: np.ndarray,
    sigma: float,
    *,
    loss: Loss = "cross-entropy",
    S: np.ndarray | float = 0.0,
    b: float = 0.0,
) -> xr.Dataset:
    """Gradient flow of the sets over `set` and `log10_t`, from rescaled weights `S`, and its time to generalise."""
    path = flow(points, log10_t * LN10, loss=loss, S=S, b=b, weight_rate=sigma**2, tolerance=1e-5)
    curves = {
        "train_loss": training_loss(points, path.S, path.b),
        "test_loss": generalisation_loss(path.S_norm, path.b, 1.0),
        "train_accuracy": training_accuracy(points, path.S, path.b),
        "test_accuracy": generalisation_accuracy(path.S_norm, path.b, 1.0),
        "S_norm": path.S_norm,
        "b": path.b,
    }
    data = xr.Dataset({k: (("set", "log10_t"), v) for k, v in curves.items()}, coords={"log10_t": log10_t})
    generalised = crossing_times(log10_t * LN10, curves["test_accuracy"], LEVEL, "up") / LN10
    fitted = crossing_times(log10_t * LN10, curves["train_accuracy"], LEVEL, "up") / LN10
    with np.errstate(invalid="ignore"):  # neither: inf - inf
        data["delay"] = ("set", generalised - fitted)
    data["generalised"] = ("set", generalised)
    data["bump"] = ("set", bump(curves["test_loss"]))
    return data


@lru_cache(maxsize=1)
def scan_over_lambda(preset: Preset) -> xr.Dataset:
    """Flow over lambda, sigma = 5, at whole decades of t; shared by figures 1 and 4."""
    sizes = SIZES[preset]
    parts = []
    for d in sizes.d:
        path = flow_of_sets(first_sets(sizes.n, d, sizes.sets), log_times(sizes), SIGMA)
        parts.append(path.sel(log10_t=np.arange(sizes.decades + 1.0)).drop_vars(["train_loss", "train_accuracy", "b"]))
    return xr.concat(parts, xr.DataArray([d / sizes.n for d in sizes.d], dims="lambda", name="lambda"))


@lru_cache(maxsize=64)
def limit_of_sets(n: int, d: int, count: int) -> np.ndarray:
    """|S_inf|, the share of positive projections and their mean, [3, set], NaN where a set is separable (eq. 8)."""
    values = np.full((3, count), np.nan)
    for seed in range(count):
        try:
            found = asymptotic_weights(one_set(n, d, seed))
        except NotAvailableError:
            continue
        values[:, seed] = found.S_norm, found.fraction_positive, found.mean_positive
    return values


def limits_over_lambda(n: int, dims: Sequence[int], count: int, axis: str) -> xr.Dataset:
    """Quartiles of the numbers of `limit_of_sets` over lambda, and their limits for many points."""
    values = np.stack([limit_of_sets(n, d, count) for d in dims], axis=1)
    names = ("S_inf", "fraction_positive", "mean_positive")
    quartiles = np.full((3, len(dims), 3), np.nan)
    for i, row in enumerate(values.swapaxes(0, 1)):
        if (inseparable := row[:, ~np.isnan(row[0])]).size:
            quartiles[:, i] = np.quantile(inseparable, [0.25, 0.5, 0.75], axis=1).T
    lambda_ = np.array(dims) / n
    theory = proportional_limit.inseparable(lambda_)
    data = xr.Dataset(
        {k: ((axis, "quantile"), v) for k, v in zip(names, quartiles)},
        coords={axis: lambda_, "quantile": [0.25, 0.5, 0.75]},
    )
    data["S_inf_limit"] = (axis, theory.S)
    data["fraction_positive_limit"] = (axis, theory.fraction_positive)
    data["mean_positive_limit"] = (axis, theory.mean_positive)
    return data


@lru_cache(maxsize=64)
def margins(n: int, d: int, count: int) -> np.ndarray:
    """Margin of each set, 0 where it is not separable; shared by figures 6 and 7."""
    return np.array([float(margin(one_set(n, d, seed)).size) for seed in range(count)])


def renamed(data: xr.Dataset, pattern: str) -> xr.Dataset:
    """Results with new names of variables: `pattern` with the old name in its braces."""
    return data.rename({name: pattern.format(name) for name in data.data_vars})
