"""Quantiles over runs of the steps to a transition, where some runs ended before they made it.

A run that ends first has not "failed": its transition lies beyond its end (right-censored), and leaving such runs out,
or counting their last step, makes a method look faster than it is. `bootstrap_over_seeds` uses Kaplan and Meier's
estimate (1958, "Nonparametric estimation from incomplete observations"), which does neither:

    S(t) = product over the steps t_i <= t at which runs generalise of (1 - d_i / n_i),

with d_i the runs that generalise at t_i and n_i those that have neither done so nor ended before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import CensoredData, ecdf

from interp.analysis.curves import Curve, as_generator, as_numbers
from interp.errors import InvalidArgumentError
from interp.literals import as_count, as_probability

__all__ = ["SeedQuantiles", "bootstrap_over_seeds"]


@dataclass(frozen=True)
class SeedQuantiles:
    """Quantiles over runs of the steps to a transition; infinite where too few runs have made it.

    `steps` and `intervals` have one entry for each of `probabilities`; `reached` of `runs` runs made the transition.
    """

    probabilities: tuple[float, ...]
    steps: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    runs: int
    reached: int


def bootstrap_over_seeds(
    values: Sequence[int | float | None],
    last_steps: Curve | None = None,
    *,
    generator: np.random.Generator,
    probabilities: Sequence[float] = (0.25, 0.5, 0.75),
    level: float = 0.95,
    resamples: int = 1000,
) -> SeedQuantiles:
    """Median and quartiles over runs of the steps to generalise, where some runs may not have generalised.

    `values`: one `sustained_step` for each run, None where it has none; `last_steps`: the last step of each run, which
    is needed for the runs with None. A quantile q is the first step at which S(t) <= 1 - q (module docstring); it is
    infinite where the runs end before. With no None in `values` it is the ordinary quantile of the sample.

    The intervals are percentiles over `resamples` draws of as many runs, with replacement, each taking its end along
    (Efron, 1981, "Censored data and the bootstrap"). Their coverage is nominal for many runs only: of five runs, the
    interval of the median is at most the range of the five.

    Raises `InvalidArgumentError` for no runs, for a None without its last step, and for values after the last step.

    >>> generator = np.random.default_rng(0)
    >>> bootstrap_over_seeds([300, 100, 200, 500, 400], generator=generator, probabilities=[0.5]).steps
    (300.0,)
    >>> bootstrap_over_seeds([300, None, None], [900, 900, 900], generator=generator).steps     # a third of the runs
    (300.0, inf, inf)
    """
    time, reached = _times(values, last_steps)
    level = as_probability("level", level)
    chosen = tuple(as_probability("probabilities", probability) for probability in probabilities)
    as_count("resamples", resamples)
    draws = as_generator(generator).integers(len(time), size=(resamples, len(time)))
    sampled = np.stack([_quantiles(time[draw], reached[draw], chosen) for draw in draws])
    ends = np.quantile(sampled, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")  # inf stays inf
    return SeedQuantiles(
        probabilities=chosen,
        steps=tuple(_quantiles(time, reached, chosen).tolist()),
        intervals=tuple((float(low), float(high)) for low, high in ends.T),
        runs=len(time),
        reached=int(reached.sum()),
    )


def _times(values: Sequence[int | float | None], last_steps: Curve | None) -> tuple[np.ndarray, np.ndarray]:
    """The step at which each run generalised or ended, and which of the two it was."""
    reached = np.array([value is not None for value in values], dtype=bool)
    if last_steps is None:
        if not reached.all():
            raise InvalidArgumentError(
                f"`last_steps` must be given where `values` has None; got {int((~reached).sum())} runs that have not "
                f"generalised. Pass the last step of every run."
            )
        return as_numbers("values", [float(value) for value in values if value is not None]), reached
    last = as_numbers("last_steps", last_steps)
    if len(last) != len(reached):
        raise InvalidArgumentError(f"`last_steps` must have one step for each of {len(reached)} runs; got {len(last)}.")
    time = as_numbers(
        "values", [end if value is None else float(value) for value, end in zip(values, last, strict=True)]
    )
    if (time > last).any():
        at = int(np.flatnonzero(time > last)[0])
        raise InvalidArgumentError(
            f"`values` must not lie after the end of their run; got {time[at]:g} in a run that ends at {last[at]:g}."
        )
    return time, reached


def _quantiles(time: np.ndarray, reached: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """The first steps at which Kaplan and Meier's estimate has fallen to 1 - q, for every q; inf where it does not."""
    survival = ecdf(CensoredData(uncensored=time[reached], right=time[~reached])).sf
    return np.array(
        [
            np.append(survival.quantiles[survival.probabilities <= 1 - probability + 1e-12], np.inf)[0]
            for probability in probabilities
        ]
    )
