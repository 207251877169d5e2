"""Will this run generalise? The spectral signature of its first steps, and an honest score for any such measure.

Predicting Grokking Long Before it Happens (Notsawo et al., 2023, arXiv:2306.13253, section 3) looks at the training
loss L(t) of the first 400 steps as a signal. With m_n = integral of w^n |F(L)(w)|^2 dw, the moments of its power
spectrum, they propose Hjorth's parameters (Hjorth, 1970, "EEG analysis based on time domain properties"), above all
the first:

    activity m_0,      mobility (m_2 / m_0)^(1/2),      complexity (m_4 / m_2)^(1/2) [theirs; Hjorth: over the mobility]

The activity is the variance of L. They ask for the parts that do not oscillate (a level, a trend, a smooth curve) to be
filtered away first, and leave open by which filter (their "low-pass" must be read as its complement), at which
frequency, and even the sign: more or less of it may go with generalisation. Without a filter the activity is almost
entirely the fall of the loss itself. Here the spectrum is split at a period, both parts are returned, and the sign is
for the score to tell. They call every run that generalises grokking, however soon, and so it is counted here.

The curve is continued by its mirror image (the cosine transform DCT-II), with w_k = pi k / (n d) for n values d steps
apart: continued periodically, the fall from the first loss to the last is a jump, whose spectrum reaches everywhere.

A measure predicts as well as it tells runs apart that were not used to set its threshold: AUC needs no threshold
(the share of pairs, one run that generalised and one that did not, that it orders rightly), and lead times take theirs
from the other runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct
from scipy.stats import mannwhitneyu

from interp.analysis.curves import Curve, as_curve, as_generator, first_step
from interp.errors import InvalidArgumentError
from interp.literals import as_count, as_probability

__all__ = [
    "LeadTimes",
    "PredictorScore",
    "SpectralSignature",
    "lead_time",
    "lead_times",
    "score_predictors",
    "spectral_signature",
]


@dataclass(frozen=True)
class SpectralSignature:
    """Hjorth's parameters of a curve, and its power on either side of a period; `fast` + `slow` = `activity`.

    `activity`: its variance, in squared units of the curve. `mobility`: the root mean square frequency, in radians per
    step, at most pi. `complexity`: Hjorth's, the mobility of the slope over that of the curve: >= 1, and 1 for a pure
    oscillation; times `mobility` it is that of Notsawo et al. Both are NaN for a constant curve. `frequency` (radians
    per step) and `power` are the spectrum, without the constant.
    """

    activity: float
    mobility: float
    complexity: float
    fast: float
    slow: float
    frequency: np.ndarray
    power: np.ndarray


@dataclass(frozen=True)
class PredictorScore:
    """AUC of a measure that tells the runs that generalise from the others: 1 always higher, 0 lower, 1/2 useless.

    `p_value`: Mann and Whitney's, two-sided, of seeing an AUC that far from 1/2 by chance; look at it where `interval`,
    a bootstrap, has no width, since resampling cannot overlap what a few runs did not.
    """

    auc: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class LeadTimes:
    """A warning in each run, at the threshold that the other runs suggest.

    `steps`: from the warning to generalisation, positive where it came in time; None without a warning or without
    generalisation. `detected`: the share of the runs that generalise with a warning before they do; `false_alarms`: the
    share of the others with a warning at any time.
    """

    thresholds: tuple[float, ...]
    steps: tuple[int | None, ...]
    detected: float
    false_alarms: float


def spectral_signature(
    steps: Curve,
    loss: Curve,
    *,
    until: int = 400,
    period: float = 20.0,
    log: bool = False,
) -> SpectralSignature:
    """The spectral signature of a loss curve up to step `until` (Notsawo et al., 2023; module docstring).

    `until`: 400 as in their figure 2. `period`, in steps: what oscillates as fast or faster is `fast`; they name none,
    and 20 is ours, long against the flips of two steps at the edge of stability and short against the fall of the loss.
    `log`, ours too: of log(loss) instead (0 counts as 1e-300), where oscillations after the fall weigh as much.

    Raises `InvalidArgumentError` for fewer than 3 values, steps that are not evenly spaced, a run that was not logged
    up to `until`, a period below that of two evaluations, and negative losses if `log`.

    >>> steps = np.arange(400)
    >>> flips = spectral_signature(steps, 3 + np.cos(np.pi * 200 * (steps + 0.5) / 400), until=399)     # period 4
    >>> round(flips.activity, 6), round(flips.mobility, 6), round(flips.complexity, 6)                  # 1/2, pi/2
    (0.5, 1.570796, 1.0)
    >>> round(flips.fast, 6)
    0.5
    """
    step, value = as_curve(steps, loss, "loss")
    as_count("until", until)
    if step[-1] < until:
        raise InvalidArgumentError(
            f"`until` must be a step that the run has reached, <= {step[-1]:g}; got {until}. Pass a smaller one, "
            f"the same for all runs that are compared."
        )
    step, value = step[step <= until], value[step <= until]
    if len(step) < 3 or np.ptp(np.diff(step)) > 1e-9 * step[-1]:
        raise InvalidArgumentError(
            f"`steps` must be evenly spaced, at least 3 of them up to step {until}; got {len(step)}. "
            f"Log the train loss at every step."
        )
    spacing = float(step[1] - step[0])
    if not period >= 2 * spacing:
        raise InvalidArgumentError(
            f"`period` must be at least that of two evaluations, {2 * spacing:g} steps; got {period!r}."
        )
    if log:
        if (value < 0).any():
            raise InvalidArgumentError(f"`loss` must be >= 0 to have a logarithm; got {value.min():.3g}.")
        value = np.log(np.maximum(value, 1e-300))

    n = len(value)
    frequency = np.pi * np.arange(1, n) / (n * spacing)
    power = dct(value - value.mean(), norm="ortho")[1:] ** 2 / n
    fast = frequency >= 2 * np.pi / period * (1 - 1e-12)
    m0, m2, m4 = (float((frequency**order * power).sum()) for order in (0, 2, 4))
    oscillates = m0 > 1e-24 * float(value @ value) / n  # rounding of the mean is no oscillation
    mobility = np.sqrt(m2 / m0) if oscillates else np.nan
    return SpectralSignature(
        activity=m0,
        mobility=float(mobility),
        complexity=float(np.sqrt(m4 / m2) / mobility) if oscillates else np.nan,
        fast=float(power[fast].sum()),
        slow=float(power[~fast].sum()),
        frequency=frequency,
        power=power,
    )


def score_predictors(
    features: Mapping[str, Curve],
    grokked: Sequence[bool] | np.ndarray,
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 1000,
) -> dict[str, PredictorScore]:
    """Scores of features, one number per run: how well each tells the runs that generalise from the others.

    AUC = P(x > x') + P(x = x') / 2 for a run x that generalises and one x' that does not (Hanley & McNeil, 1982, "The
    meaning and use of the area under a ROC curve"); below 1/2 low values go with generalisation, and it is not turned
    round, since a sign chosen after the fact is a parameter fitted to the runs. The interval takes percentiles over
    `resamples` draws of the runs, with replacement, within each of the two groups, the same for all features. Where
    many features are scored, the best of them looks better than it is.

    Raises `InvalidArgumentError` unless both groups have a run and every feature is finite, with one number per run.

    >>> grokked = [True, True, True, False, False, False]
    >>> scores = score_predictors(
    ...     {"norm": [3, 4, 5, 0, 1, 2], "seed": [0, 1, 2, 0, 1, 2]}, grokked, generator=np.random.default_rng(0)
    ... )
    >>> scores["norm"].auc, scores["seed"].auc, round(scores["norm"].p_value, 6)              # 2 of the 20 orders
    (1.0, 0.5, 0.1)
    """
    positive = np.asarray(grokked)
    if positive.dtype != bool or positive.ndim != 1 or not (positive.any() and not positive.all()):
        raise InvalidArgumentError(
            f"`grokked` must be booleans, one for each run, with at least one run of each kind; got {grokked!r}."
        )
    as_probability("level", level)
    as_count("resamples", resamples)
    counts = [
        as_generator(generator).multinomial(size, np.full(size, 1 / size), size=resamples)
        for size in (int(positive.sum()), int((~positive).sum()))
    ]
    scores = {}
    for name, feature in features.items():
        _, value = as_curve(np.arange(len(positive)), feature, f"features[{name!r}]")
        high, low = value[positive], value[~positive]
        ordered = (high[:, None] > low) + 0.5 * (high[:, None] == low)  # [run that generalises, run that does not]
        drawn = np.einsum("dp,dp->d", counts[0] @ ordered, counts[1]) / ordered.size  # halves of whole numbers: exact
        ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        scores[name] = PredictorScore(
            auc=float(ordered.mean()),
            interval=(float(ends[0]), float(ends[1])),
            p_value=float(mannwhitneyu(high, low).pvalue),
        )
    return scores


def lead_time(
    steps: Curve, values: Curve, threshold: float, generalisation_step: int | None, *, above: bool = True
) -> int | None:
    """Steps from the first time a measure passes its threshold to generalisation; positive: it warned beforehand.

    A warning is a single evaluation (`first_step`), because whoever waits cannot know yet what will be sustained. None
    where there was no warning or no generalisation (`generalisation_step` None). `above=False`: for falling measures.

    >>> lead_time([0, 100, 200, 300], [0.1, 0.6, 0.4, 0.9], 0.5, 300)
    200
    """
    warning = first_step(steps, values, threshold, above=above)
    return None if warning is None or generalisation_step is None else generalisation_step - warning


def lead_times(
    steps: Sequence[Curve],
    values: Sequence[Curve],
    generalisation_steps: Sequence[int | None],
    *,
    above: bool = True,
) -> LeadTimes:
    """Lead times of a measure over runs, each at a threshold chosen on the other runs alone (leave one out).

    The threshold maximises (share of runs that generalise and are warned before) - (share of the others that are ever
    warned), Youden's index (1950, "Index for rating diagnostic tests"); it is the middle of the widest interval between
    neighbouring extremes of the curves that does so. A run that never generalises counts to its end, one that does only
    up to that step: cut long runs, if their length alone would give them time to pass.

    Raises `InvalidArgumentError` unless there are one curve per run and at least two runs of each kind.

    >>> rise = lambda start: np.clip((np.arange(0, 1000, 100) - start) / 100, 0, 1)
    >>> curves = [rise(200), rise(300), rise(2000), rise(2000)]
    >>> found = lead_times([range(0, 1000, 100)] * 4, curves, [900, 900, None, None])
    >>> found.thresholds, found.steps
    ((0.5, 0.5, 0.5, 0.5), (600, 500, None, None))
    >>> found.detected, found.false_alarms
    (1.0, 0.0)
    """
    runs = len(generalisation_steps)
    if len(steps) != runs or len(values) != runs:
        raise InvalidArgumentError(
            f"`steps` and `values` must have one curve for each of the {runs} runs; got {len(steps)} and {len(values)}."
        )
    grokked = np.array([at is not None for at in generalisation_steps], dtype=bool)
    if min(grokked.sum(), runs - grokked.sum()) < 2:
        raise InvalidArgumentError(
            f"`generalisation_steps` must have at least two runs that generalise and two that do not; "
            f"got {int(grokked.sum())} of {runs}. With a threshold of your own, use `lead_time`."
        )
    sign = 1.0 if above else -1.0
    extremes = np.empty(runs)
    for run, at in enumerate(generalisation_steps):
        step, value = as_curve(steps[run], values[run], f"values[{run}]")
        extremes[run] = (sign * value[step < (np.inf if at is None else at)]).max(initial=-np.inf)

    thresholds, leads, warned = [], [], []
    for run in range(runs):
        others = np.arange(runs) != run
        threshold = sign * _separating(extremes[others], grokked[others])
        thresholds.append(threshold)
        leads.append(lead_time(steps[run], values[run], threshold, generalisation_steps[run], above=above))
        warned.append(sign * threshold <= extremes[run])
    alarm = np.array(warned)
    return LeadTimes(
        thresholds=tuple(thresholds),
        steps=tuple(leads),
        detected=float(alarm[grokked].mean()),
        false_alarms=float(alarm[~grokked].mean()),
    )


def _separating(extremes: np.ndarray, grokked: np.ndarray) -> float:
    """The middle of the widest gap between neighbouring extremes at which Youden's index is greatest.

    A run that generalised at its first evaluation has the extreme -inf. No threshold stands there, nor above them all.
    """
    found = np.unique(extremes[np.isfinite(extremes)])
    middles = np.concatenate([found[:1], (found[1:] + found[:-1]) / 2])
    widths = np.concatenate([[0.0], np.diff(found)])
    index = np.array([(extremes[grokked] >= at).mean() - (extremes[~grokked] >= at).mean() for at in middles])
    best = np.flatnonzero(index >= index.max() - 1e-12)
    return float(middles[best[widths[best].argmax()]])
