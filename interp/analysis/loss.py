"""Cross-entropy and accuracy of logits on all p^2 inputs, over the train or the test inputs.

Inputs are pairs (a, b); `labels[a, b]` is the correct answer and a boolean `mask[a, b]` chooses inputs. Cross-entropies
are in nats and in float64: with a float32 softmax a grokked network's loss, 1e-7 and less, is rounding.
"""

from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats
from interp.errors import InvalidArgumentError

__all__ = ["Labels", "Mask", "accuracy", "as_targets", "cross_entropy", "cross_entropy_by_pair"]

Labels = Int[Array, "p p"]
Mask = Bool[Array, "p p"]


def cross_entropy(
    logits: Float[Array, "*steps p p answer"], labels: Labels, mask: Mask | None = None
) -> Float[Tensor, "*steps"]:
    """Mean cross-entropy over the inputs in `mask` (None: all), in nats: -log softmax(L)[label].

    Raises `InvalidArgumentError` where labels or mask are not [p, p], a label is no answer, or the mask is empty.

    >>> labels = (torch.arange(3)[:, None] + torch.arange(3)) % 3
    >>> round(cross_entropy(torch.zeros(3, 3, 3), labels).item(), 4)             # log 3
    1.0986
    """
    logits = as_floats("logits", logits, "*steps p p answer")
    labels, mask = as_targets(labels, mask, logits)
    return cross_entropy_by_pair(logits, labels)[..., mask].mean(-1)


def cross_entropy_by_pair(logits: Float[Array, "*steps p p answer"], labels: Labels) -> Float[Tensor, "*steps p p"]:
    """Cross-entropy of each input [a, b], in nats, in float64; its means over masks are the losses.

    >>> labels = (torch.arange(3)[:, None] + torch.arange(3)) % 3
    >>> round(cross_entropy_by_pair(torch.zeros(3, 3, 3), labels)[1, 2].item(), 4)
    1.0986
    """
    logits = as_floats("logits", logits, "*steps p p answer")
    labels, _ = as_targets(labels, None, logits)
    by_step = [
        -logits[step].double().log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
        for step in product(*map(range, logits.shape[:-3]))
    ]
    return torch.stack(by_step).reshape(logits.shape[:-1])


def accuracy(
    logits: Float[Array, "*steps p p answer"], labels: Labels, mask: Mask | None = None
) -> Float[Tensor, "*steps"]:
    """Share of the inputs in `mask` (None: all) whose largest logit is the label's, in [0, 1].

    Of several largest logits the first counts, as in `torch.argmax`.

    >>> labels = (torch.arange(4)[:, None] + torch.arange(4)) % 4
    >>> accuracy(torch.zeros(4, 4, 4), labels).item()                            # the answer is always 0
    0.25
    """
    logits = as_floats("logits", logits, "*steps p p answer")
    labels, mask = as_targets(labels, mask, logits)
    correct = logits.argmax(-1) == labels
    return correct[..., mask].double().mean(-1)


def as_targets(
    labels: Labels, mask: Mask | None, logits: Float[Tensor, "*any p answer"]
) -> tuple[Int[Tensor, "p p"], Bool[Tensor, "p p"]]:
    """Labels and mask (None: all inputs) as tensors on the device of the logits, checked against them.

    >>> as_targets(np.zeros((3, 3), dtype=int), None, torch.zeros(3, 3, 5))[1].all().item()
    True
    """
    p, answers = logits.shape[-2:]
    label = torch.as_tensor(np.asarray(labels) if not isinstance(labels, Tensor) else labels, device=logits.device)
    if label.shape != (p, p) or label.is_floating_point() or label.is_complex():
        raise InvalidArgumentError(
            f"`labels` must be whole numbers [a, b] of shape {[p, p]}; got {label.dtype} of shape {list(label.shape)}."
        )
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= answers:
        raise InvalidArgumentError(
            f"`labels` must lie in 0..{answers - 1}, the answers of the logits; got {low}..{high}."
        )
    if mask is None:
        return label.long(), torch.ones(p, p, dtype=torch.bool, device=logits.device)
    chosen = torch.as_tensor(np.asarray(mask) if not isinstance(mask, Tensor) else mask, device=logits.device)
    if chosen.shape != (p, p) or chosen.dtype != torch.bool:
        raise InvalidArgumentError(
            f"`mask` must be boolean of shape {[p, p]}; got {chosen.dtype} of shape {list(chosen.shape)}. "
            f"From a list of pairs: `mask[a, b] = True`."
        )
    if not chosen.any():
        raise InvalidArgumentError("`mask` must choose at least one input; got none.")
    return label.long(), chosen
