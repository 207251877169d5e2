"""The milestones of a run, found once: when it memorised and generalised, its training phases and change points.

`find` reads the curves by the rule of `sources`, asks of them the criteria of `criterion`, and returns one value, which
the sentences and headline of a report, its bands and lines, the tables of `comparison` and the sweeps all read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import numpy as np
import xarray as xr

from interp.analysis.curves import first_step, sustained_step
from interp.analysis.numerics import BELOW, Collapse, Slingshot, collapses, slingshots
from interp.errors import InvalidArgumentError
from interp.milestones.changepoints import Boundary, phase_boundaries
from interp.milestones.criterion import GENERALISED, HOLD, MEMORISED, Criterion, Lag, Transition, lag
from interp.milestones.phases import PHASES, Phases, phase_lines
from interp.milestones.sources import CURVES, Evaluations, Run, curve, curves, evaluations, logged_loss

__all__ = ["Milestones", "Passage", "find"]

CHANGE_POINT_EVALUATIONS: Final = 1000
"""Maximum number of evaluations among which change points are sought: their cost grows with its square."""
UNKNOWN: Final = Transition(None, None)


@dataclass(frozen=True)
class Passage:
    """The steps at which an accuracy met its criterion, and how it ended.

    `sustained`: the interval in which it met the criterion for good. `first`: the first evaluation at or above the
    level, lucky or not; None: there is none. `begin`, `end`: the steps of the first and the last evaluation. `last`,
    `best`: the last and the greatest value, in [0, 1].
    """

    criterion: Criterion
    sustained: Transition
    first: int | None
    pending: int | None
    """The step from which the level has been held to the end of the run, by fewer evaluations than the criterion asks
    for; None: it was sustained, or the run ends below it."""
    begin: int
    end: int
    last: float
    best: float

    @property
    def step(self) -> int | None:
        """The first sustained evaluation; None: the run ended before (right-censored)."""
        return self.sustained.upper

    @property
    def before_begin(self) -> bool:
        """Whether the curve begins, after step 0, at or above the level: when it was passed is not known."""
        passed = self.pending if self.step is None else self.step
        return passed == self.begin > 0


@dataclass(frozen=True)
class Milestones:
    """Steps at which a run memorised and generalised, its training phases, and the last values of its curves.

    Steps are numbers of completed optimiser updates.
    """

    accuracies: Mapping[str, Passage]
    """Passages by `train` and `test`; without `test` where nothing was held out, and without what was not evaluated."""
    held_out: bool
    """Whether inputs are known to have been held out."""
    phases: Phases = Phases(None, None, None)
    """The training phases; all ends are None where they were not sought, not evaluated, or inputs have no operands."""
    boundaries: Mapping[str, Boundary] = field(default_factory=lambda: MappingProxyType({}))
    """The ends of circuit formation and of cleanup that have a change point too, by their names in `Phases`."""
    last: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """The last value of each of `train_loss`, `test_loss` (nats, or see `loss`), `train_accuracy`, `test_accuracy`."""
    loss: str | None = None
    """The kind of loss, in words, where it is not the cross-entropy of the answers alone."""
    collapses: tuple[Collapse, ...] = ()
    """Stretches after generalising with a test accuracy below 0.9 (or below the criterion, if that is less)."""
    slingshots: tuple[Slingshot, ...] = ()
    """Spikes of the training loss after a growth of the last layer, where its norm has been measured."""
    last_step: int = 0
    """The last step at which anything was evaluated."""
    diverged: int | None = None
    """The step at which a number was not finite; None: all were."""

    @property
    def memorised(self) -> Transition:
        """Interval in which the train accuracy met its criterion; without bounds where it was not evaluated."""
        return self.accuracies["train"].sustained if "train" in self.accuracies else UNKNOWN

    @property
    def generalised(self) -> Transition:
        """Interval in which the test accuracy met its criterion; without bounds where nothing was held out."""
        return self.accuracies["test"].sustained if "test" in self.accuracies else UNKNOWN

    @property
    def delay(self) -> Lag:
        """Steps from memorising to generalising: the length of grokking."""
        return lag(self.memorised, self.generalised)

    @property
    def ends(self) -> dict[str, int | None]:
        """The ends of the training phases by their names in `Phases`; None: the phase did not happen."""
        return {name: getattr(self.phases, name) for name in PHASES}

    @property
    def changes(self) -> dict[str, tuple[int, int, int]]:
        """The change points of `boundaries`: the step, and the two ends of its 95 % interval."""
        return {
            name: (found.change, *found.interval)
            for name, found in self.boundaries.items()
            if found.change is not None and found.interval is not None
        }

    @property
    def marks(self) -> list[tuple[int, str]]:
        """The sustained transitions as events: step and label."""
        return [
            (found.step, f"{who} accuracy reaches {found.criterion.percent}")
            for who, found in self.accuracies.items()
            if found.step is not None and not found.before_begin
        ]


def find(
    run: Run | Evaluations,
    *,
    memorised: Criterion = MEMORISED,
    generalised: Criterion = GENERALISED,
    with_phases: bool = True,
) -> Milestones:
    """The milestones of a run.

    Arguments:
        run: a trajectory or its folder, or the pair `(data, metrics)` of what was measured and what was logged (None:
            nothing), as from `interp.measure(traj)` and `traj.metrics`.
        memorised, generalised: criteria for the train and the test accuracy.
        with_phases: seek the training phases and their change points, too.

    Example:
        >>> import xarray as xr
        >>> log = {"train_accuracy": [0.1, *8 * [1.0]], "test_accuracy": [*3 * [0.1], *6 * [0.97]]}
        >>> log = xr.Dataset({name: ("step", curve) for name, curve in log.items()}, {"step": range(0, 90, 10)})
        >>> found = find((xr.Dataset(), log))
        >>> found.memorised, found.generalised, found.delay.step
        (Transition(lower=0, upper=10), Transition(lower=20, upper=30), 20)
    """
    source = evaluations(run)
    held = {name: curve(source, name) for name in CURVES}
    held = {name: (steps, values) for name, (steps, values) in held.items() if len(steps)}
    asked = {"train": memorised, "test": generalised} if source.held_out else {"train": memorised}
    accuracies = {
        who: _passage(*held[f"{who}_accuracy"], criterion)
        for who, criterion in asked.items()
        if f"{who}_accuracy" in held
    }
    found = Milestones(
        accuracies=accuracies,
        held_out=source.held_out,
        last={name: float(values[-1]) for name, (_, values) in held.items()},
        last_step=max((int(steps[-1]) for steps, _ in held.values()), default=0),
        collapses=_collapses(source, generalised),
        slingshots=_slingshots(source, memorised),
        loss=logged_loss(source.logged),
        diverged=source.diverged,
    )
    return _with_phases(found, source, generalised.hold) if with_phases else found


def _passage(steps: np.ndarray, values: np.ndarray, criterion: Criterion) -> Passage:
    sustained = criterion.transition(steps, values)
    held = sustained_step(steps, values, criterion.level, hold=None)
    return Passage(
        criterion=criterion,
        sustained=sustained,
        first=first_step(steps, values, criterion.level),
        pending=held if sustained.upper is None else None,
        begin=int(steps[0]),
        end=int(steps[-1]),
        last=float(values[-1]),
        best=float(values.max()),
    )


def _collapses(source: Evaluations, generalised: Criterion) -> tuple[Collapse, ...]:
    """Collapses of the test accuracy after its criterion was met, where both accuracies were evaluated."""
    shared = curves(source, ["train_accuracy", "test_accuracy"])
    if not source.held_out or not shared.sizes["step"]:
        return ()
    train, test = shared["train_accuracy"].values, shared["test_accuracy"].values
    level, below = generalised.level, min(BELOW, generalised.level)
    return collapses(shared["step"].values, train, test, reached=level, below=below, hold=generalised.hold)


def _slingshots(source: Evaluations, memorised: Criterion) -> tuple[Slingshot, ...]:
    """Slingshots at the steps at which both training curves were evaluated and the last layer's norm was measured."""
    if "norm" not in source.last_layer:
        return ()
    shared = xr.merge([curves(source, ["train_accuracy", "train_loss"]), source.last_layer], join="inner")
    if not shared.sizes["step"]:
        return ()
    loss, norm = shared["train_loss"].values, shared["norm"].values
    accuracy, hold = shared["train_accuracy"].values, HOLD if memorised.hold is None else memorised.hold
    return slingshots(shared["step"].values, accuracy, loss, norm, train_threshold=memorised.level, hold=hold)


def _with_phases(found: Milestones, source: Evaluations, hold: int | None) -> Milestones:
    """The milestones with the training phases and their change points, where the curves for them were evaluated."""
    shared = curves(source, ["train_accuracy", "test_accuracy", "test_loss"])
    if not source.operands or shared.sizes["step"] < 2:
        return found
    steps, loss = shared["step"].values, shared["test_loss"].values
    lines = phase_lines(
        steps, loss, found.memorised.upper, found.generalised.upper, hold=HOLD if hold is None else hold
    )
    thinned = slice(None, None, -(-len(steps) // CHANGE_POINT_EVALUATIONS))
    try:
        ends = phase_boundaries(steps[thinned], loss[thinned], lines)
    except InvalidArgumentError:  # too few evaluations after memorisation for three segments
        ends = {}
    kept = {name: one for name, one in ends.items() if one.step is not None and one.change is not None}
    return replace(found, phases=lines, boundaries=kept)
