"""Criteria for "when": a level that must be held, the interval of steps that it leaves, and the lag between two.

A curve is two sequences of one length: the steps at which a run was evaluated, increasing, and the values there.
"Passing" a level means reaching it: >= for curves that rise, <= for curves that fall. Accuracy late in a run flickers
below its level and single evaluations pass by luck, so that a crossing counts once it is *sustained*: the evaluation
and the next `hold` ones pass. The default, 5, is the number with which the AdamW and Muon grokking runs of
https://github.com/Na00s/muon-grokking are scored. It counts evaluations: densely logged runs want a larger one.

A run is seen at its evaluations only, so that a transition is known as an interval: after the last evaluation that
fails, and not after the first that is sustained. A run that ends before a crossing was held for `hold` further
evaluations is right-censored: its transition counts as not seen, however likely it looks. This is the rule everywhere
(tables, bands, headline, quantiles over seeds); `Passage.pending` in `finding` names the crossing that the end of the
run left open, and the sentences of `words` mention it as such.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from interp.analysis.curves import Curve, as_curve, sustained_step
from interp.literals import as_count, as_probability

__all__ = ["GENERALISED", "HOLD", "MEMORISED", "Criterion", "Lag", "Transition", "lag", "transition"]


HOLD: Final = 5
"""Further evaluations for which a level must be held."""


@dataclass(frozen=True)
class Criterion:
    """A level in [0, 1], and the number of further evaluations for which it must be held (None: to the end of the run).

    >>> Criterion(0.95)
    Criterion(level=0.95, hold=5)
    >>> Criterion(0.95, hold=1).transition([0, 10, 20, 30], [0.1, 0.99, 0.97, 0.2])
    Transition(lower=0, upper=10)
    """

    level: float
    hold: int | None = HOLD

    def __post_init__(self) -> None:
        as_probability("level", self.level)
        if self.hold is not None:
            as_count("hold", self.hold, minimum=0)

    @property
    def percent(self) -> str:
        """The level in words: `95 %`."""
        return f"{100 * self.level:.4g} %"

    def transition(self, steps: Curve, values: Curve) -> "Transition":
        """The interval of steps in which a rising curve meets the criterion (`transition`)."""
        return transition(steps, values, self.level, hold=self.hold)


MEMORISED: Final = Criterion(0.99)
"""Train accuracy of a run that has memorised."""
GENERALISED: Final = Criterion(0.95)
"""Test accuracy of a run that has generalised; the last few per cent can take very long."""


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


def transition(
    steps: Curve,
    values: Curve,
    threshold: float = GENERALISED.level,
    *,
    hold: int | None = GENERALISED.hold,
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


def lag(x: Transition, y: Transition) -> Lag:
    """Steps from transition x to transition y: positive where x comes first, negative where y does.

    With x in (a, b] and y in (c, d] the lag lies between c - b and d - a, and `step` is d - b. An interval that
    contains 0 leaves the order open: evaluate more often, or replay the stretch. If one of the two never happens, one
    bound remains: y not sustained by c is at least c - b late.

    >>> lag(Transition(0, 100), Transition(200, 300))
    Lag(step=200, lower=100, upper=300)
    >>> lag(Transition(0, 100), Transition(300, None))
    Lag(step=None, lower=200, upper=None)
    """

    def difference(later: int | None, earlier: int | None) -> int | None:
        return None if later is None or earlier is None else later - earlier

    return Lag(difference(y.upper, x.upper), difference(y.lower, x.upper), difference(y.upper, x.lower))
