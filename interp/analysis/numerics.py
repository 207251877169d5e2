"""Numerical stability of a run: softmax collapse, vanished losses, slingshots, and collapses of the accuracy.

Softmax collapse. In a format whose spacing at 1 is eps, 1 + x rounds to 1 for x <= eps/2. Once the largest logit leads
by about -log(eps/2) (16.6 nats in float32, 36.7 in float64), the sum of exp(z_j - max z) is exactly 1: a correctly
answered input has loss 0 and no gradient at its label, though every other answer could still be pushed down. Wrong
answers keep their gradient, so that the gradients of an input no longer add up to 0. A network without weight decay
scales its logits until this happens (Grokking at the Edge of Numerical Stability, Prieto et al., 2025,
arXiv:2501.04697).

Slingshots. Without weight decay, adaptive optimisers go through cycles: the norm of the last layer grows, the training
loss jumps by orders of magnitude and recovers, the norm stays on its new plateau (The Slingshot Mechanism, Thilak et
al., 2022, arXiv:2206.04817). Softmax collapse has been proposed as their cause (Grokking or Glitching?, Liu et al.,
2026, arXiv:2605.06152). The papers find slingshots by eye; `slingshots` gives a definition.

Collapses. The test accuracy of a network that has grokked can fall again (https://github.com/Na00s/muon-grokking,
whose count of episodes `collapses` adopts).

Every arithmetic operation under test is done in the format under test, one at a time, on the given logits; the order
of summation is torch's, and matters only within a rounding of the threshold.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.arrays import Array
from interp.analysis.curves import Curve, as_curve, sustained_step
from interp.analysis.loss import Labels, Mask, as_logits, as_targets, cross_entropy
from interp.errors import InvalidArgumentError
from interp.literals import as_count, as_probability

__all__ = [
    "BELOW",
    "Collapse",
    "Slingshot",
    "collapses",
    "loss_spikes",
    "precision_gap",
    "slingshots",
    "softmax_collapse",
    "zero_loss_share",
]

BELOW = 0.9
"""Test accuracy below which a network that had grokked has collapsed (the Muon study)."""
RESOLUTION = 2.0**-23
"""Resolution of a float32 cross-entropy, in nats: ratios of smaller losses are meaningless."""


@dataclass(frozen=True)
class Slingshot:
    """A spike of the training loss after the last layer's norm has grown."""

    start: int
    """Step of the first evaluation above the multiple of the running median."""
    peak: int
    """Step of the evaluation with the largest loss."""
    height: float
    """Largest loss over the running median before the start."""
    growth: float
    """Relative growth of the last layer's norm in the window before the start."""


@dataclass(frozen=True)
class Collapse:
    """Consecutive evaluations, after grokking, with the test accuracy below the threshold."""

    start: int
    """Step of the first evaluation below the threshold."""
    end: int | None
    """Step of the first evaluation no longer below the threshold; None where the run ends first."""
    lowest_test: float
    lowest_train: float
    joint: bool
    """Whether the train accuracy, too, was below the threshold at any of these evaluations."""


def softmax_collapse(
    logits: Float[Array, "*steps_and_inputs answer"],
    labels: Labels,
    mask: Mask | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*steps"]:
    """Share of the inputs in `mask` (None: all) for which sum_j exp(z_j - max z) = 1 exactly in `dtype`, in [0, 1].

    As in the code of Prieto et al. (2025). Their equation has the label's term in place of the largest, which agrees on
    correctly answered inputs: `zero_loss_share` counts these alone. `labels` are only checked. The logits are rounded
    to `dtype` first.

    Raises `InvalidArgumentError` for a `dtype` that is no float, or that cannot hold the logits.

    >>> logits = torch.zeros(3, 3, 3)
    >>> logits[..., 0] = 20.0                                                   # 2 exp(-20) < 2^-24
    >>> labels = torch.zeros(3, 3, dtype=torch.long)
    >>> softmax_collapse(logits, labels).item(), softmax_collapse(logits, labels, dtype=torch.float64).item()
    (1.0, 0.0)
    """
    _, total, _ = _softmax(logits, labels, mask, dtype)
    return (total == 1).double().mean(-1)


def zero_loss_share(
    logits: Float[Array, "*steps_and_inputs answer"],
    labels: Labels,
    mask: Mask | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*steps"]:
    """Share of the inputs in `mask` (None: all) whose cross-entropy is exactly 0 in `dtype`, in [0, 1].

    Zero terms of the loss (Prieto et al., 2025): collapsed inputs whose largest logit is the label's, with no gradient
    at the label. At most `softmax_collapse`. Every operation is in `dtype`; fused kernels of 16-bit formats often
    compute in float32 internally, and have fewer zero terms.

    >>> logits = torch.zeros(3, 3, 3)
    >>> logits[..., 0] = 20.0                                                    # the answer is always 0
    >>> labels = (torch.arange(3)[:, None] + torch.arange(3)) % 3                # and correct for a third
    >>> round(zero_loss_share(logits, labels).item(), 4)
    0.3333
    """
    label_logit, total, _ = _softmax(logits, labels, mask, dtype)
    return (total.log() - label_logit == 0).double().mean(-1)


def precision_gap(
    logits: Float[Array, "*steps_and_inputs answer"],
    labels: Labels,
    mask: Mask | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*steps"]:
    """Rounding error of the mean cross-entropy in `dtype`: |difference| to float64, in nats.

    Both start from the logits as given, so that it measures the rounding of the softmax and the mean, not of the
    network. Where it is as large as the loss itself, the loss in `dtype` is noise.

    >>> logits = torch.zeros(3, 3, 3)
    >>> logits[..., 0] = 20.0
    >>> gap = precision_gap(logits, torch.zeros(3, 3, dtype=torch.long))         # log(1 + 2 exp(-20)), against 0
    >>> torch.isclose(gap, 2 * torch.exp(torch.tensor(-20.0, dtype=torch.float64))).item()
    True
    """
    label_logit, total, checked = _softmax(logits, labels, mask, dtype)
    rounded = (total.log() - label_logit).mean(-1)
    return (rounded.double() - cross_entropy(checked, labels, mask)).abs()


def slingshots(
    steps: Curve,
    train_accuracy: Curve,
    train_loss: Curve,
    last_layer_norm: Curve,
    *,
    multiple: float = 10.0,
    window: int = 20,
    train_threshold: float = 0.99,
    hold: int = 5,
) -> tuple[Slingshot, ...]:
    """Slingshots of a run, after Thilak et al. (2022), by the definition below; none before the run has memorised.

    - A spike starts where the training loss exceeds `multiple` times its median over the `window` evaluations before
      (fewer soon after memorisation), and lasts until `window` evaluations in a row do not exceed it. Medians below
      2^-23 nats, the resolution of a float32 softmax, are raised to 2^-23.
    - A spike is a slingshot if the norm of the last layer grew in the `window` evaluations before it, and changed less
      than half as much in the `window` after it: growth, jump, plateau. Steady growth, a noisy loss and an optimiser
      that diverges fulfil only one of the two conditions.

    Memorisation is `curves.sustained_step(steps, train_accuracy, train_threshold, hold=hold)`. A spike counts once all
    evaluations of its windows exist, so that slingshots do not change as a run grows. `window` counts evaluations: it
    should span a spike and its recovery, and less than half a cycle. Losses in nats.

    Raises `InvalidArgumentError` for curves that do not fit the steps, negative losses, or `multiple` <= 1.

    >>> steps = range(0, 1000, 10)
    >>> loss = [1e-3] * 100
    >>> loss[50] = 0.3
    >>> norm = [10.0] * 40 + [10.1 + 0.1 * i for i in range(10)] + [11.0] * 50   # grows up to the spike
    >>> [(s.start, s.peak, round(s.height), round(s.growth, 4)) for s in slingshots(steps, [1.0] * 100, loss, norm)]
    [(500, 500, 300, 0.1)]
    """
    step, loss = as_curve(steps, train_loss, "train_loss")
    _, norm = as_curve(steps, last_layer_norm, "last_layer_norm")
    as_count("window", window)
    as_probability("train_threshold", train_threshold)
    if not multiple > 1:
        raise InvalidArgumentError(f"`multiple` must be above 1; got {multiple!r}. 10 finds tenfold jumps.")
    if (loss < 0).any():
        raise InvalidArgumentError(
            f"`train_loss` must be >= 0; got {loss.min():.3g}. Pass the loss, not its logarithm."
        )
    memorised = sustained_step(steps, train_accuracy, train_threshold, hold=hold)
    if memorised is None:
        return ()
    first = int(np.searchsorted(step, memorised))
    median = _running_median(loss, first, window)
    found = []
    for spike in loss_spikes(loss, first, multiple=multiple, window=window):
        if spike[-1] + window >= len(loss):
            continue
        start, last, peak = int(spike[0]), int(spike[-1]), int(spike[loss[spike].argmax()])
        before = max(first, start - 1 - window)
        grown = norm[start - 1] - norm[before]
        if grown > 2 * abs(norm[last + window] - norm[last]):
            height = float(loss[peak] / median[start - first - 1])
            found.append(Slingshot(int(step[start]), int(step[peak]), height, float(grown / norm[before])))
    return tuple(found)


def loss_spikes(
    loss: Curve, first: int = 0, *, multiple: float = 10.0, window: int = 20
) -> tuple[Int[np.ndarray, " evaluation"], ...]:
    """Spikes of a training loss from evaluation `first` on: the positions of the evaluations in each.

    A spike starts and lasts as in `slingshots`, whatever the last layer does, and counts although it may go on.

    >>> loss_spikes([1e-3] * 30 + [0.3, 0.2] + [1e-3] * 30)
    (array([30, 31]),)
    """
    values = np.asarray(loss, dtype=float)
    above = first + 1 + np.flatnonzero(values[first + 1 :] > multiple * _running_median(values, first, window))
    return tuple(spike for spike in np.split(above, np.flatnonzero(np.diff(above) > window) + 1) if len(spike))


def _running_median(loss: np.ndarray, first: int, window: int) -> np.ndarray:
    """Median of the `window` losses before each evaluation after `first`, at least `RESOLUTION`."""
    return np.array([max(np.median(loss[max(first, i - window) : i]), RESOLUTION) for i in range(first + 1, len(loss))])


def collapses(
    steps: Curve,
    train_accuracy: Curve,
    test_accuracy: Curve,
    *,
    reached: float = 0.95,
    below: float = BELOW,
    hold: int | None = 5,
) -> tuple[Collapse, ...]:
    """Collapses of the test accuracy below `below` in a run that had grokked; accuracies in [0, 1].

    Grokked: from `curves.sustained_step(steps, test_accuracy, reached, hold=hold)` on. Consecutive evaluations below
    the threshold are one collapse, so that the number of collapses depends on how often the run was evaluated. The
    defaults come from the Muon study, which distinguishes collapses of the test accuracy alone from collapses of both
    accuracies (`joint`). A collapse that lasts to the end of the run has the end None.

    >>> test = [0.0, 1.0, 1.0, 0.4, 0.7, 1.0, 0.8]
    >>> [(c.start, c.end, c.lowest_test, c.joint) for c in collapses(range(7), [1.0] * 7, test, hold=1)]
    [(3, 5, 0.4, False), (6, None, 0.8, False)]
    """
    step, train = as_curve(steps, train_accuracy, "train_accuracy")
    _, test = as_curve(steps, test_accuracy, "test_accuracy")
    as_probability("reached", reached)
    as_probability("below", below)
    grokked = sustained_step(steps, test_accuracy, reached, hold=hold)
    if grokked is None:
        return ()
    low = np.flatnonzero((step >= grokked) & (test < below))
    return tuple(
        Collapse(
            start=int(step[part[0]]),
            end=int(step[part[-1] + 1]) if part[-1] + 1 < len(step) else None,
            lowest_test=float(test[part].min()),
            lowest_train=float(train[part].min()),
            joint=bool((train[part] < below).any()),
        )
        for part in np.split(low, np.flatnonzero(np.diff(low) > 1) + 1)
        if len(part)
    )


def _softmax(
    logits: Float[Array, "*steps_and_inputs answer"], labels: Labels, mask: Mask | None, dtype: torch.dtype
) -> tuple[Float[Tensor, "*steps chosen"], Float[Tensor, "*steps chosen"], Float[Tensor, "*steps_and_inputs answer"]]:
    """Terms z_label - max z and sum_j exp(z_j - max z) of the chosen inputs, in `dtype`; and the checked logits."""
    checked = as_logits(logits, labels)
    labels, mask = as_targets(labels, mask, checked)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InvalidArgumentError(f"`dtype` must be a floating-point format of torch; got {dtype}.")
    z = checked[..., mask, :].to(dtype)
    if not z.isfinite().all():
        raise InvalidArgumentError(
            f"`dtype` must represent the logits; got {dtype}, whose largest number is {torch.finfo(dtype).max:g}, and "
            f"logits up to {checked.abs().max().item():g}."
        )
    z = z - z.amax(-1, keepdim=True)
    label = labels[mask].expand(z.shape[:-1])[..., None]
    return z.gather(-1, label).squeeze(-1), z.exp().sum(-1), checked
