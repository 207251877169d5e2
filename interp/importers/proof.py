"""Whether weights were read rightly: do they give the losses that their own file stores?

A file of weights that was read with a wrong layout, operation or split still has the right shapes. But most files hold
the run's losses and accuracies too, and a loss depends on every weight, on the answers, and on which pairs were trained
on. So the numbers are computed again at the first, the middle and the last checkpoint and compared with those stored.

Published loops differ in what stands at one index. All take the train loss from the pass that makes the update, so that
`train[i]` belongs to the weights after i updates; a test loss is taken before or after the update, and a checkpoint e
is written before or after update number e. With s and t in {0, 1} such that checkpoint e has `train[e + s]` and
`test[e + t]`, the checkpoint has seen e + s updates, and `test[i]` belongs to i + s - t. Both are found by comparison;
where a file holds only its last checkpoint, the layout's own loop decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.tasks import Examples
from interp.tasks.objective import answer_loss

__all__ = ["Proof", "evaluate", "prove"]

TOLERANCE = 1e-2
"""Largest difference at which numbers agree, relative to the stored one (or to FLOOR, where that is larger)."""
ROUNDING = 1e-4
"""Differences below this say nothing."""
LOOSE = 0.5
"""The same where the stored number is known to be one update older than the weights."""
FLOOR = 1e-4
"""A loss below this is not known to better than this much times the tolerance: logits are float32."""

Curves = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Proof:
    """How the numbers of a file compare with those that the imported weights give."""

    compared: int
    """How many stored numbers were computed again; 0 where the file holds none, or no split to compute them on."""
    difference: float
    """Largest difference, relative to the stored number (of those of the very weights, if there are any)."""
    example: str
    """That number, in words."""
    agrees: bool
    updates: int
    """s: checkpoint e has seen e + s updates."""
    tells_updates: bool
    """Whether the comparison told s, and no habit of a script."""
    test_lag: int
    """s - t: entry i of the test metrics belongs to the weights after i + s - t updates."""


def evaluate(logits: Float[Tensor, "pair d_vocab_out"], task: Examples, precision: str) -> dict[str, float]:
    """Loss [nats] and accuracy on both sides of the split, under the names of the run's metrics."""
    numbers = {}
    for side, mask in (("train", task.train), ("test", task.test)):
        loss, right = answer_loss(logits[mask], task.labels[mask], precision)
        numbers[f"{side}_loss"], numbers[f"{side}_accuracy"] = float(loss), float(right.double().mean())
    return numbers


def prove(
    samples: Sequence[tuple[int, Mapping[str, float]]], curves: Curves, *, updates: int, tests_after_update: bool
) -> Proof:
    """Compare the numbers of checkpoints with the stored curves, and find out what their indices mean.

    Arguments:
        samples: the epoch of a checkpoint, and its metrics as computed from the imported weights.
        curves: stored metrics by epoch.
        updates: s where the comparison does not tell.
        tests_after_update: whether s - t is 1 where the comparison does not tell.

    Example:
        >>> curves = {"train_loss": {0: 4.0, 1: 2.0, 2: 1.0}}
        >>> samples = [(0, {"train_loss": 2.0}), (1, {"train_loss": 1.0})]
        >>> proof = prove(samples, curves, updates=1, tests_after_update=True)
        >>> proof.agrees, proof.updates, proof.tells_updates, proof.compared
        (True, 1, True, 2)
    """
    s, tells, train = _shift("train", samples, curves, updates)
    t, _, test = _shift("test", samples, curves, s - tests_after_update)
    both = train + test
    sharp = [each for each in both if each[1] == TOLERANCE]
    worst = max(sharp or both, default=(0.0, 0.0, ""))
    agrees = bool(both) and all(difference <= allowed for difference, allowed, _ in both)
    return Proof(len(both), worst[0], worst[2], agrees, s, tells, s - t)


def _shift(
    side: str, samples: Sequence[tuple[int, Mapping[str, float]]], curves: Curves, usual: int
) -> tuple[int, bool, list[tuple[float, float, str]]]:
    """The shift at which a side's numbers agree best, whether they tell, and their differences.

    A difference is (difference, allowed, in words).
    """
    at = {
        shift: [
            _difference(name, epoch + shift, numbers[name], values[epoch + shift])
            for name, values in curves.items()
            if name.startswith(side)
            for epoch, numbers in samples
            if epoch + shift in values
        ]
        for shift in (0, 1)
    }
    if at[0] and at[1]:
        errors = {shift: max(ROUNDING, *(difference for difference, *_ in found)) for shift, found in at.items()}
        best = min((0, 1), key=lambda shift: (errors[shift], shift != usual))
        return best, errors[0] != errors[1], at[best]
    older = side == "train" and any(difference > allowed for difference, allowed, _ in at[0])
    if (usual == 1 or older) and at[0] and not at[1]:  # the loss of its own weights was never computed
        return 1, False, [(difference, LOOSE, f"{text}, one update older") for difference, _, text in at[0]]
    return usual, False, at.get(usual, [])


def _difference(name: str, index: int, found: float, stored: float) -> tuple[float, float, str]:
    difference = abs(found - stored) / max(abs(stored), FLOOR)
    return (
        difference,
        TOLERANCE,
        f"{name} at index {index} is {stored:.6g} in the file and {found:.6g} from the weights",
    )
