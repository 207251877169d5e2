"""The training phases of Nanda et al.: memorisation, circuit formation and cleanup, by a definition.

Progress measures for grokking via mechanistic interpretability (Nanda et al., 2023, arXiv:2301.05217) drew the lines
between them by eye. `phases` draws them from the curves of accuracy and test loss. (The learning phases of Liu et al.,
comprehension to confusion, sort whole runs: `interp.execution.sweeps.learning_phase`.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from interp.analysis.curves import Curve, as_curve, sustained_step
from interp.errors import InvalidArgumentError
from interp.literals import as_count, as_probability
from interp.milestones.criterion import GENERALISED, HOLD, MEMORISED

__all__ = ["PHASES", "Phases", "phase_lines", "phases"]

PHASES: Mapping[str, str] = MappingProxyType(
    {
        "memorisation_end": "memorisation",
        "circuit_formation_end": "circuit formation",
        "cleanup_end": "cleanup",
    }
)
"""The training phases in their order: the field of `Phases` that holds the end, and the name."""


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


def phases(
    steps: Curve,
    train_accuracy: Curve,
    test_accuracy: Curve,
    test_loss: Curve,
    *,
    weight_norm: Curve | None = None,
    excluded_loss: Curve | None = None,
    restricted_loss: Curve | None = None,
    train_threshold: float = MEMORISED.level,
    test_threshold: float = GENERALISED.level,
    hold: int = HOLD,
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
    return phase_lines(
        steps, test_loss, memorised, generalised,
        weight_norm=weight_norm, excluded_loss=excluded_loss, restricted_loss=restricted_loss, hold=hold,
    )  # fmt: skip


def phase_lines(
    steps: Curve,
    test_loss: Curve,
    memorised: int | None,
    generalised: int | None,
    *,
    weight_norm: Curve | None = None,
    excluded_loss: Curve | None = None,
    restricted_loss: Curve | None = None,
    hold: int = HOLD,
) -> Phases:
    """The training phases as `phases` defines them, of a run whose transitions are known.

    Arguments:
        steps, test_loss, weight_norm, excluded_loss, restricted_loss, hold: as for `phases`.
        memorised, generalised: the steps from which train and test accuracy are sustained; None: they are not. They
            need not be among `steps`: the accuracies may have been evaluated more often.

    Raises:
        InvalidArgumentError: a curve breaks a rule of `sustained_step`, or the test loss is negative.
    """
    step, loss = as_curve(steps, test_loss, "test_loss")
    _, norm = as_curve(steps, weight_norm, "weight_norm") if weight_norm is not None else (step, None)
    _, excluded = as_curve(steps, excluded_loss, "excluded_loss") if excluded_loss is not None else (step, None)
    _, restricted = as_curve(steps, restricted_loss, "restricted_loss") if restricted_loss is not None else (step, None)
    if memorised is None or generalised is None:
        return Phases(memorised, None, None)
    start, end = (min(int(np.searchsorted(step, at)), len(step) - 1) for at in (memorised, generalised))
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


def _fallen(value: np.ndarray, start: int, hold: int) -> int:
    """The first index from which 90 % of the fall from `start` to the end level has happened and stays so."""
    last = np.median(value[-hold - 1 :])
    above = np.flatnonzero(value[start:-1] > last + 0.1 * (value[start] - last))
    return start + int(above[-1]) + 1 if len(above) else start
