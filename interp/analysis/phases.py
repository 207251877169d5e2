"""When something happened for good: sustained thresholds, the grokking delay, and the phase lines of a run.

A curve is two sequences of one length: the steps at which a run was evaluated, increasing, and the values there.
"Passing" a threshold means reaching it: >= for curves that rise, <= for curves that fall. Accuracy late in a run
flickers below its threshold and single evaluations pass by luck, so that a crossing counts once it is *sustained*:
the evaluation and the next `hold` ones pass. The default, 5, is the number that the AdamW and Muon grokking runs of
https://github.com/Na00s/muon-grokking are scored with. It counts evaluations: densely logged runs want a larger one.

The three phases (memorisation, circuit formation, cleanup) are those of Progress measures for grokking via mechanistic
interpretability (Nanda et al., 2023, arXiv:2301.05217), who drew the lines by eye. `phases` is a definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.analysis.arrays import as_count, as_probability
from interp.errors import InvalidArgumentError

__all__ = ["Curve", "Phases", "first_step", "grokking_delay", "phases", "sustained_step"]

Curve = Tensor | np.ndarray | Sequence[float] | Sequence[int]


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


def first_step(steps: Curve, values: Curve, threshold: float, *, above: bool = True) -> int | None:
    """The first logged step at which the value passes the threshold, lucky or not; None where it never does.

    >>> first_step([0, 10, 20, 30], [0.1, 0.99, 0.2, 0.99], 0.95)
    10
    """
    return sustained_step(steps, values, threshold, hold=0, above=above)


def sustained_step(
    steps: Curve,
    values: Curve,
    threshold: float,
    *,
    hold: int | None = 5,
    above: bool = True,
    open_end: bool = False,
) -> int | None:
    """The first logged step at which the value passes the threshold and at each of the next `hold` evaluations as well.

    What comes later (one evaluation at 0.989, a collapse) does not matter, and a run that ends before `hold` further
    evaluations have shown it to last has no such step: once given, the answer does not change as a run grows.
    `hold=None` asks for every later evaluation, up to the end of the run (that answer can change). `hold` = 0 is
    `first_step`. `above=False`: for values that fall, at or below the threshold. `open_end=True` lets the end of the
    run stand in for evaluations that it does not have (an answer that can change as the run grows).

    Raises `InvalidArgumentError` for curves that are empty, not finite or of different lengths, and for steps that do
    not increase.

    >>> accuracy = [0.1, 0.99, 0.2, 0.97, 0.99, 0.98, 0.99]
    >>> sustained_step(range(0, 70, 10), accuracy, 0.95, hold=2)
    30
    >>> sustained_step(range(0, 70, 10), accuracy, 0.95) is None                 # only 3 evaluations after step 30
    True
    """
    step, value = _curve(steps, values, "values")
    if hold is not None:
        as_count("hold", hold, minimum=0)
    if not np.isfinite(threshold):
        raise InvalidArgumentError(f"`threshold` must be finite; got {threshold!r}.")
    passes = value >= threshold if above else value <= threshold
    if hold is None:
        failures = np.flatnonzero(~passes)
        start = failures[-1] + 1 if len(failures) else 0
        return int(step[start]) if start < len(step) else None
    if open_end:
        passes = np.concatenate([passes, np.repeat(passes[-1:], hold)])
    if len(passes) <= hold:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(passes, hold + 1).all(axis=-1)
    return int(step[windows.argmax()]) if windows.any() else None


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
    step, loss = _curve(steps, test_loss, "test_loss")
    _, norm = _curve(steps, weight_norm, "weight_norm") if weight_norm is not None else (step, None)
    _, excluded = _curve(steps, excluded_loss, "excluded_loss") if excluded_loss is not None else (step, None)
    _, restricted = _curve(steps, restricted_loss, "restricted_loss") if restricted_loss is not None else (step, None)
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


def _fallen(value: np.ndarray, start: int, hold: int) -> int:
    """The first index from which 90 % of the fall from `start` to the end level has happened and stays so."""
    last = np.median(value[-hold - 1 :])
    above = np.flatnonzero(value[start:-1] > last + 0.1 * (value[start] - last))
    return start + int(above[-1]) + 1 if len(above) else start


def _curve(steps: Curve, values: Curve, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values as checked one-dimensional arrays."""
    step, value = _numbers("steps", steps), _numbers(name, values)
    if step.shape != value.shape:
        raise InvalidArgumentError(
            f"`{name}` must have one value for each of the {len(step)} steps; got {len(value)}. "
            f"Select the evaluations that both have."
        )
    if (np.diff(step) <= 0).any():
        at = int(np.flatnonzero(np.diff(step) <= 0)[0])
        raise InvalidArgumentError(
            f"`steps` must increase; got {step[at]:g} before {step[at + 1]:g}. Sort both curves."
        )
    return step, value


def _numbers(name: str, values: Curve) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiub":
        raise InvalidArgumentError(
            f"`{name}` must be a non-empty sequence of numbers; got {array.dtype} of shape {list(array.shape)}."
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InvalidArgumentError(
            f"`{name}` must be finite; got {bad} values that are NaN or infinite. "
            f"Leave out the steps at which nothing was measured or the run had diverged."
        )
    return array
