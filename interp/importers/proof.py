"""Proof of an import: the imported weights must reproduce the losses stored in their own file.

Weights read with a wrong layout, operation or split still have plausible shapes. But most files also have the run's
losses and accuracies, and a loss depends on every weight, on the answers, and on the training pairs. So the metrics are
computed again at the first, the middle and the last checkpoint and compared with the stored metrics.

Published loops index their metrics differently. All take the train loss from the pass that makes the update, so that
`train[i]` belongs to the weights after i updates; a test loss is taken before or after the update, and a checkpoint e
is written before or after update number e. With s and t in {0, 1} such that checkpoint e has `train[e + s]` and
`test[e + t]`, the checkpoint has seen e + s updates, and `test[i]` belongs to i + s - t. Comparison determines s and t;
for a file with its last checkpoint only, the published loop of the layout decides.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.tasks import Examples
from interp.tasks.objective import answer_loss

__all__ = ["Outputs", "Proof", "prove"]

TOLERANCE = 1e-2
"""Largest relative difference at which numbers agree; differences are relative to the stored number, at least FLOOR."""
ROUNDING = 1e-4
"""Relative differences below it are rounding."""
LOOSE = 0.5
"""Tolerance where the stored number is one update older than the weights."""
FLOOR = 1e-4
"""Smallest denominator of a relative difference: the logits are float32."""

Curves = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Proof:
    """Comparison of the stored metrics of a file with the metrics of the imported weights."""

    compared: int
    """Number of stored metrics that were computed again; 0 where the file has no metrics, or no split is known."""
    difference: float
    """Largest relative difference (among metrics of exactly these weights, if there are any)."""
    example: str
    """Metric with the largest difference, in words."""
    agrees: bool
    updates: int
    """Offset s: checkpoint e has seen e + s updates."""
    tells_updates: bool
    """Whether the comparison, not a script's convention, determined s."""
    test_lag: int
    """Offset s - t: entry i of the test metrics belongs to the weights after i + s - t updates."""


class Outputs:
    """Outputs of a network for all pairs, of which only what is asked for is kept.

    The logits of few pairs are kept; those of many are computed in batches, again for each set of answers.
    """

    def __init__(self, batches: Callable[[], Iterator[Float[Tensor, "batch d_vocab_out"]]], at_once: bool) -> None:
        self._batches = batches
        self._logits = next(batches()) if at_once else None
        self._answers: Tensor | None = None
        self._losses: Tensor | None = None
        self._guesses: Tensor | None = None

    def guesses(self) -> Int[Tensor, " pair"]:
        """The class of the largest logit, by pair."""
        if self._guesses is None:
            self._guesses = torch.cat([logits.argmax(1) for logits in self._each()])
        return self._guesses

    def losses(self, answers: Int[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        """Cross-entropy [nats] of the answers by pair, in float64."""
        if self._losses is None or self._answers is None or not torch.equal(self._answers, answers):
            parts, at = [], 0
            for logits in self._each():
                due = answers[at : at + len(logits)]
                parts.append(F.cross_entropy(logits.double(), due, reduction="none"))
                at += len(logits)
            self._answers, self._losses = answers, torch.cat(parts)
        return self._losses

    def numbers(self, task: Examples, precision: str) -> dict[str, float]:
        """Loss [nats] and accuracy on both sides of the split, under the names of the run's metrics."""
        numbers = {}
        for side, mask in (("train", task.train), ("test", task.test)):
            if self._logits is not None:
                loss, correct = answer_loss(self._logits[mask], task.labels[mask], precision)
            else:
                loss, correct = self.losses(task.labels)[mask].mean(), (self.guesses() == task.labels)[mask]
            numbers[f"{side}_loss"], numbers[f"{side}_accuracy"] = float(loss), float(correct.double().mean())
        return numbers

    def _each(self) -> Iterator[Tensor]:
        return self._batches() if self._logits is None else iter([self._logits])


def prove(
    samples: Sequence[tuple[int, Mapping[str, float]]], curves: Curves, *, updates: int, tests_after_update: bool
) -> Proof:
    """Compare the metrics of checkpoints with the stored curves, and determine the meaning of their indices.

    Arguments:
        samples: the epoch of a checkpoint, and its metrics as computed from the imported weights.
        curves: stored metrics by epoch.
        updates: s where the comparison does not determine it.
        tests_after_update: whether s - t is 1 where the comparison does not determine it.

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
    """The shift at which a side's metrics agree best, whether they determine it, and their differences.

    A difference is (difference, tolerance, in words).
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
    if (usual == 1 or older) and at[0] and not at[1]:  # the run never computed the loss of these weights
        return 1, False, [(difference, LOOSE, f"{text}, one update older") for difference, _, text in at[0]]
    if side == "test" and not at.get(usual) and at[0] and all(x <= allowed for x, allowed, _ in at[0]):
        return 0, False, at[0]  # a log whose steps are those of the weights, on both sides
    return usual, False, at.get(usual, [])


def _difference(name: str, index: int, found: float, stored: float) -> tuple[float, float, str]:
    difference = abs(found - stored) / max(abs(stored), FLOOR)
    return (
        difference,
        TOLERANCE,
        f"{name} at index {index} is {stored:.6g} in the file and {found:.6g} from the weights",
    )
