"""When something happened for good: sustained thresholds, lags, phase lines, and how long it takes over many seeds.

A curve is two sequences of one length: the steps at which a run was evaluated, increasing, and the values there.
"Passing" a threshold means reaching it: >= for curves that rise, <= for curves that fall. Accuracy late in a run
flickers below its threshold and single evaluations pass by luck, so that a crossing counts once it is *sustained*:
the evaluation and the next `hold` ones pass. The default, 5, is the number that the AdamW and Muon grokking runs of
https://github.com/Na00s/muon-grokking are scored with. It counts evaluations: densely logged runs want a larger one.

A run is seen at its evaluations only, so that a transition is known as an interval: after the last evaluation that
fails, and not after the first that is sustained. `transition` returns it, and `lag`, the time between two transitions,
carries it along. A run that ends first has not "failed": its transition lies beyond its end (right-censored), and
leaving such runs out, or counting their last step, makes a method look faster than it is. `bootstrap_over_seeds` uses
Kaplan and Meier's estimate (1958, "Nonparametric estimation from incomplete observations"), which does neither:

    S(t) = product over the steps t_i <= t at which runs generalise of (1 - d_i / n_i),

with d_i the runs that generalise at t_i and n_i those that have neither done so nor ended before.

The three phases (memorisation, circuit formation, cleanup) are those of Progress measures for grokking via mechanistic
interpretability (Nanda et al., 2023, arXiv:2301.05217), who drew the lines by eye. `phases` is a definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import CensoredData, ecdf

from interp.analysis.curves import Curve, as_curve, as_generator, as_numbers, sustained_step
from interp.errors import InvalidArgumentError
from interp.literals import as_count, as_probability

__all__ = [
    "Lag",
    "Phases",
    "SeedQuantiles",
    "Transition",
    "bootstrap_over_seeds",
    "grokking_delay",
    "lag",
    "phases",
    "transition",
]


@dataclass(frozen=True)
class Phases:
    """The last step of each phase (None: it did not happen), and whether the progress measures agree (None: not given).

    `excluded_rose`, `restricted_fell`: between the ends of memorisation and of circuit formation.
    """

    memorisation_end: int | None
    circuit_formation_end: int | None
    cleanup_end: int | None
    excluded_rose: bool | None = None
    restricted_fell: bool | None = None


@dataclass(frozen=True)
class Transition:
    """The transition lies after step `lower` and not after step `upper`, in (lower, upper].

    `lower` None: the first evaluation has passed already, no earlier one is known to fail (left-censored).
    `upper` None: it was not sustained by the end of the run (right-censored).
    """

    lower: int | None
    upper: int | None


@dataclass(frozen=True)
class Lag:
    """Steps from one transition to another, between `lower` and `upper`; positive: the first one came first.

    `step`: from the first sustained evaluation of the one to that of the other. None: not known, or without bound.
    """

    step: int | None
    lower: int | None
    upper: int | None


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


def grokking_delay(
    steps: Curve,
    train_accuracy: Curve,
    test_accuracy: Curve,
    *,
    train_threshold: float = 0.99,
    test_threshold: float = 0.95,
    hold: int | None = 5,
) -> int | None:
    """Steps from sustained training accuracy to sustained test accuracy; None where either is not reached.

    Accuracies and thresholds in [0, 1]. Negative where the test accuracy comes first. Training at 99 % is memorised;
    test at 95 % is the usual mark of generalisation, which leaves out a last few per cent that can take very long.

    >>> grokking_delay([0, 1, 2, 3], [0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], hold=0)
    2
    """
    as_probability("train_threshold", train_threshold)
    as_probability("test_threshold", test_threshold)
    memorised = sustained_step(steps, train_accuracy, train_threshold, hold=hold)
    generalised = sustained_step(steps, test_accuracy, test_threshold, hold=hold)
    return None if memorised is None or generalised is None else generalised - memorised


def phases(
    steps: Curve,
    train_accuracy: Curve,
    test_accuracy: Curve,
    test_loss: Curve,
    *,
    weight_norm: Curve | None = None,
    excluded_loss: Curve | None = None,
    restricted_loss: Curve | None = None,
    train_threshold: float = 0.99,
    test_threshold: float = 0.95,
    hold: int = 5,
) -> Phases:
    """The ends of memorisation, circuit formation and cleanup, by these definitions:

    - memorisation ends where the train accuracy is sustained (`sustained_step`) at `train_threshold`;
    - the other two exist if the test accuracy is sustained at `test_threshold` too, and more than `hold` evaluations
      later: below that no delay can be told from none (comprehension), and without it nothing was learned but the data;
    - circuit formation ends at the knee of the log test loss, where it stops being flat and starts to drop: the step
      that lies farthest above the straight line from the end of memorisation to the floor (Satopaa et al., 2011,
      "Finding a Kneedle in a Haystack"), the floor being where 90 % of the fall from the peak have happened for good;
    - cleanup ends where 90 % of what falls after that knee has fallen, to the end of the run: of the log test loss and,
      if given and falling by more than 1 %, of the weight norm; the later of the two. The end level is the median of
      the last `hold` + 1 evaluations. Of a run cut off while it still falls, this is a lower bound.

    The progress measures do not move the lines; they tell whether the middle phase deserves its name: while the test
    loss is flat the excluded loss should rise and the restricted loss fall. Losses in nats; 0 counts as 1e-300.

    >>> steps = range(0, 3000, 100)
    >>> train = [0.0] + 29 * [1.0]
    >>> loss = [5.0] + 14 * [20.0] + [2.0, 0.2, 0.02, 0.002, 2e-4, 2e-5] + 9 * [2e-6]
    >>> test = [float(value < 0.1) for value in loss]
    >>> phases(steps, train, test, loss)
    Phases(memorisation_end=100, circuit_formation_end=1400, cleanup_end=2100, excluded_rose=None, restricted_fell=None)
    """
    as_probability("train_threshold", train_threshold)
    as_probability("test_threshold", test_threshold)
    as_count("hold", hold, minimum=0)
    memorised = sustained_step(steps, train_accuracy, train_threshold, hold=hold)
    generalised = sustained_step(steps, test_accuracy, test_threshold, hold=hold)
    step, loss = as_curve(steps, test_loss, "test_loss")
    _, norm = as_curve(steps, weight_norm, "weight_norm") if weight_norm is not None else (step, None)
    _, excluded = as_curve(steps, excluded_loss, "excluded_loss") if excluded_loss is not None else (step, None)
    _, restricted = as_curve(steps, restricted_loss, "restricted_loss") if restricted_loss is not None else (step, None)
    if memorised is None or generalised is None:
        return Phases(memorised, None, None)
    start, end = (int(np.searchsorted(step, at)) for at in (memorised, generalised))
    if end - start <= hold:
        return Phases(memorised, None, None)
    if (loss < 0).any():
        raise InvalidArgumentError(f"`test_loss` must be >= 0; got {loss.min():.3g}. Pass the loss, not its logarithm.")

    log_loss = np.log(np.maximum(loss, 1e-300))
    peak = start + int(log_loss[start : end + 1].argmax())
    floor = _fallen(log_loss, peak, hold)
    chord = np.interp(step[start : floor + 1], step[[start, floor]], log_loss[[start, floor]])
    knee = start + int((log_loss[start : floor + 1] - chord).argmax())
    finished = [_fallen(log_loss, knee, hold)]
    if norm is not None and np.median(norm[-hold - 1 :]) < 0.99 * norm[knee]:
        finished.append(_fallen(norm, knee, hold))
    return Phases(
        memorisation_end=memorised,
        circuit_formation_end=int(step[knee]),
        cleanup_end=int(step[max(finished)]),
        excluded_rose=None if excluded is None else bool(excluded[knee] > excluded[start]),
        restricted_fell=None if restricted is None else bool(restricted[knee] < restricted[start]),
    )


def transition(
    steps: Curve,
    values: Curve,
    threshold: float = 0.95,
    *,
    hold: int | None = 5,
    above: bool = True,
) -> Transition:
    """The interval of steps in which the value passes the threshold for good, by the definition of `sustained_step`.

    Its upper end is `sustained_step`; its lower end is the evaluation before that, which failed. If the threshold is
    not sustained by the end of the run, the lower end is the last evaluation that failed. Raises like `sustained_step`.

    >>> transition([0, 10, 20, 30], [0.1, 0.99, 0.2, 0.99], hold=0)
    Transition(lower=0, upper=10)
    >>> transition([0, 10, 20, 30], [0.1, 0.99, 0.2, 0.99], hold=1)             # 30 may be the first of many
    Transition(lower=20, upper=None)
    """
    step, value = as_curve(steps, values, "values")
    upper = sustained_step(step, value, threshold, hold=hold, above=above)
    fails = value < threshold if above else value > threshold
    before = np.flatnonzero(fails if upper is None else fails & (step < upper))
    return Transition(int(step[before[-1]]) if len(before) else None, upper)


def lag(
    steps: Curve,
    x: Curve,
    y: Curve,
    *,
    x_threshold: float = 0.9,
    y_threshold: float = 0.95,
    x_above: bool = True,
    y_above: bool = True,
    hold: int | None = 5,
    y_steps: Curve | None = None,
) -> Lag:
    """Steps from the transition of x to that of y: positive where x comes first, negative where y does.

    With x in (a, b] and y in (c, d] the lag lies between c - b and d - a, and `step` is d - b. An interval that
    contains 0 leaves the order open: evaluate more often, or replay the stretch. The default thresholds suit a circle
    (`geometry`, resultant in [0, 1]) and an accuracy. `y_steps`: where y was evaluated at other steps than x.

    If one of the two never happens, one bound remains: y not sustained by c is at least c - b late.

    >>> steps, circle, accuracy = [0, 100, 200, 300], [0.2, 0.95, 0.95, 0.95], [0.0, 0.1, 0.2, 1.0]
    >>> lag(steps, circle, accuracy, hold=0)
    Lag(step=200, lower=100, upper=300)
    >>> lag(steps, circle, [0.0, 0.1, 0.2, 0.3], hold=0)
    Lag(step=None, lower=200, upper=None)
    """
    one = transition(steps, x, x_threshold, hold=hold, above=x_above)
    two = transition(steps if y_steps is None else y_steps, y, y_threshold, hold=hold, above=y_above)

    def difference(later: int | None, earlier: int | None) -> int | None:
        return None if later is None or earlier is None else later - earlier

    return Lag(difference(two.upper, one.upper), difference(two.lower, one.upper), difference(two.upper, one.lower))


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


def _fallen(value: np.ndarray, start: int, hold: int) -> int:
    """The first index from which 90 % of the fall from `start` to the end level has happened and stays so."""
    last = np.median(value[-hold - 1 :])
    above = np.flatnonzero(value[start:-1] > last + 0.1 * (value[start] - last))
    return start + int(above[-1]) + 1 if len(above) else start


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
