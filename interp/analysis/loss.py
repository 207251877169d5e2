"""Cross-entropy and accuracy of logits on all inputs, over the train or the test inputs.

Inputs are pairs (a, b), where `labels[a, b]` is the correct answer and a boolean `mask[a, b]` chooses inputs, or a
list, where `labels[input]` and `mask[input]` have one axis. Cross-entropies are in nats and in float64: with a float32
softmax a grokked network's loss, 1e-7 and less, is rounding.
"""

from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats
from interp.errors import InvalidArgumentError

__all__ = [
    "Labels",
    "Mask",
    "accuracy",
    "as_logits",
    "as_targets",
    "cross_entropy",
    "cross_entropy_by_input",
]

Labels = Int[Array, "p p"] | Int[Array, " input"]
"""Correct answers of pairs [a, b], or of a list of inputs."""
Mask = Bool[Array, "p p"] | Bool[Array, " input"]
"""Chosen pairs [a, b], or inputs of a list."""


def cross_entropy(
    logits: Float[Array, "*steps_and_inputs answer"], labels: Labels, mask: Mask | None = None
) -> Float[Tensor, "*steps"]:
    """Mean cross-entropy over the inputs in `mask` (None: all), in nats: -log softmax(L)[label].

    `logits` are [*steps, p, p, answer] for labels [p, p], and [*steps, input, answer] for labels [input].

    Raises `InvalidArgumentError` where labels or mask do not fit, a label is no answer, or the mask is empty.

    >>> labels = (torch.arange(3)[:, None] + torch.arange(3)) % 3
    >>> round(cross_entropy(torch.zeros(3, 3, 3), labels).item(), 4)             # log 3
    1.0986
    """
    logits = as_logits(logits, labels)
    label, chosen = as_targets(labels, mask, logits)
    inputs = label.ndim
    by_input = cross_entropy_by_input(logits.flatten(-1 - inputs, -2), label.flatten())
    return by_input[..., chosen.flatten()].mean(-1)


def cross_entropy_by_input(
    logits: Float[Array, "*steps input answer"], labels: Int[Array, " input"]
) -> Float[Tensor, "*steps input"]:
    """Cross-entropy of each input of a list, in nats, in float64; its means over masks are the losses.

    >>> cross_entropy_by_input(torch.tensor([[0.0, 0.0], [50.0, 0.0]]), torch.tensor([1, 1])).tolist()
    [0.6931471805599453, 50.0]
    """
    logits = as_floats("logits", logits, "*steps input answer")
    label, _ = as_targets(labels, None, logits)
    by_step = [
        -logits[step].double().log_softmax(-1).gather(-1, label[:, None]).squeeze(-1)
        for step in product(*map(range, logits.shape[:-2]))
    ]
    return torch.stack(by_step).reshape(logits.shape[:-1])


def accuracy(
    logits: Float[Array, "*steps_and_inputs answer"], labels: Labels, mask: Mask | None = None
) -> Float[Tensor, "*steps"]:
    """Share of the inputs in `mask` (None: all) whose largest logit is the label's, in [0, 1].

    Of several largest logits the first counts, as in `torch.argmax`.

    >>> labels = (torch.arange(4)[:, None] + torch.arange(4)) % 4
    >>> accuracy(torch.zeros(4, 4, 4), labels).item()                            # the answer is always 0
    0.25
    """
    logits = as_logits(logits, labels)
    label, chosen = as_targets(labels, mask, logits)
    correct = logits.argmax(-1) == label
    return correct[..., chosen].double().mean(-1)


def as_logits(logits: Float[Array, "*steps_and_inputs answer"], labels: Labels) -> Float[Tensor, "*any answer"]:
    """Logits as a checked tensor: [*steps, p, p, answer] for labels of pairs, [*steps, input, answer] for a list.

    >>> as_logits(np.zeros((4, 5, 3)), np.zeros(5, dtype=int)).shape                        # four steps, five inputs
    torch.Size([4, 5, 3])
    """
    return as_floats("logits", logits, "*steps input answer" if np.ndim(labels) == 1 else "*steps p p answer")


def as_targets(
    labels: Labels, mask: Mask | None, logits: Float[Tensor, "*any answer"]
) -> tuple[Int[Tensor, "*inputs"], Bool[Tensor, "*inputs"]]:
    """Labels and mask (None: all inputs) as tensors on the device of the logits, checked against them.

    >>> as_targets(np.zeros((3, 3), dtype=int), None, torch.zeros(3, 3, 5))[1].all().item()
    True
    """
    label = torch.as_tensor(np.asarray(labels) if not isinstance(labels, Tensor) else labels, device=logits.device)
    answers, pairs = logits.shape[-1], label.ndim != 1
    shape = [logits.shape[-2]] * (2 if pairs else 1)
    axes = "[a, b]" if pairs else "[input]"
    if list(label.shape) != shape or label.is_floating_point() or label.is_complex():
        raise InvalidArgumentError(
            f"`labels` must be whole numbers {axes} of shape {shape}; got {label.dtype} of shape {list(label.shape)}."
        )
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= answers:
        raise InvalidArgumentError(
            f"`labels` must lie in 0..{answers - 1}, the answers of the logits; got {low}..{high}."
        )
    if mask is None:
        return label.long(), torch.ones_like(label, dtype=torch.bool)
    chosen = torch.as_tensor(np.asarray(mask) if not isinstance(mask, Tensor) else mask, device=logits.device)
    if list(chosen.shape) != shape or chosen.dtype != torch.bool:
        raise InvalidArgumentError(
            f"`mask` must be boolean of shape {shape}; got {chosen.dtype} of shape {list(chosen.shape)}. "
            f"From a list of pairs: `mask[a, b] = True`."
        )
    if not chosen.any():
        raise InvalidArgumentError("`mask` must choose at least one input; got none.")
    return label.long(), chosen
