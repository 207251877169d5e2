"""Progress measures: the restricted loss (key frequencies alone) and the excluded loss (without key frequencies).

Notation: logits L [a, b, c] on all p^2 inputs, neurons A [a, b, m] at the answer position, W_L = W_out W_U the map from
neurons to logits, K the key frequencies, w_k = 2 pi k/p. P_k projects a function of the inputs on the two directions
cos(w_k(a + b)), sin(w_k(a + b)). P_k f depends on r = a + b only: it is the k-th Fourier band of the p numbers
E[f | a + b = r]. So the logits below are a table [r, c], or L minus such a table; no p^2 x p^2 projector is formed.

The literature has several inequivalent measures under two names; on one checkpoint they differ by orders of magnitude.
Here each has its own name:

    restricted_loss_logit    P_K L + class means of L                           all inputs     Nanda et al.
    restricted_loss_neuron   (mean of A + P_K A) W_L, then class means of L     test inputs    TransformerLens demo
    restricted_loss_hidden   P_K A W_L: no mean, no correction                  all inputs     Chughtai et al.
    excluded_loss_2d         L - P_K L                                          train inputs   Nanda et al.
    excluded_loss_3d         L - <L, u_k> u_k, u_k ~ cos(w_k(a + b - c))        train inputs   Nanda et al.
    excluded_loss_neuron     L - P_K A W_L                                      train inputs   TransformerLens demo
    excluded_loss_hidden     (A - P_K A) W_L: without the residual stream       train inputs   Chughtai et al.

`excluded_loss_hidden` equals `excluded_loss_neuron` of the logits A W_L.

References: Progress measures for grokking via mechanistic interpretability (Nanda et al., 2023), arXiv:2301.05217, and
its code; Grokking_Demo of TransformerLens, https://github.com/TransformerLensOrg/TransformerLens; A Toy Model of
Universality (Chughtai et al., 2023), arXiv:2302.03025. Losses are cross-entropies in nats, in float64. With
`operation="subtract"`, a - b stands for a + b throughout. `keys` is a list of frequencies, or a mask over the
frequencies 1, ..., floor(p/2) for all steps or for each step. `table` is E[A | a + b] of the activations
(`spectra.conditional_mean`, the costliest part of the measures of neurons), computed if not given. Steps are processed
one at a time, which bounds the memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats, as_logits_of, as_neurons
from interp.analysis.keys import Keys, as_key_mask
from interp.analysis.logits import logit_coefficient
from interp.analysis.loss import Labels, Mask, as_targets
from interp.analysis.spectra import Operation, conditional_mean, fourier_basis, frequencies, operation_sign
from interp.errors import InvalidArgumentError

__all__ = [
    "ExcludedLoss",
    "excluded_loss_2d",
    "excluded_loss_3d",
    "excluded_loss_neuron",
    "restricted_loss_hidden",
    "restricted_loss_logit",
    "restricted_loss_neuron",
    "trig_loss_ratio",
]


@dataclass(frozen=True)
class ExcludedLoss:
    """Losses without all key frequencies together, and without each frequency of Z_p alone, key or not; in nats."""

    together: Float[Tensor, "*steps"]
    by_frequency: Float[Tensor, "*steps frequency"]


def restricted_loss_logit(
    logits: Float[Array, "*steps p p answer"],
    labels: Labels,
    keys: Keys,
    *,
    mask: Mask | None = None,
    operation: Operation = "add",
) -> Float[Tensor, "*steps"]:
    """Restricted loss of Nanda et al. (2023): the key directions of the logits and the class means, on all inputs.

    L_R = sum over k in K of P_k L, plus for every answer the mean over inputs of L - L_R. A `mask` chooses inputs.

    >>> from interp.analysis.loss import cross_entropy
    >>> t = torch.arange(5)
    >>> L = 9 * torch.cos(2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5)
    >>> labels = (t[:, None] + t) % 5
    >>> torch.isclose(restricted_loss_logit(L, labels, [1]), cross_entropy(L, labels)).item()    # 1 is all there is
    True
    >>> round(restricted_loss_logit(L, labels, [2]).item(), 4)                                   # log 5
    1.6094
    """
    logits = as_floats("logits", logits, "*steps p p answer")
    table = conditional_mean(logits, operation)
    restricted = _project(table, as_key_mask(keys, table)) + table.mean(-2, keepdim=True)
    return _table_loss(restricted, labels, mask, operation)


def restricted_loss_neuron(
    activations: Float[Array, "*steps p p neuron"],
    W_L: Float[Array, "*steps neuron answer"],
    logits: Float[Array, "*steps p p answer"],
    labels: Labels,
    test_mask: Mask,
    keys: Keys,
    *,
    operation: Operation = "add",
    table: Float[Array, "*steps p neuron"] | None = None,
) -> Float[Tensor, "*steps"]:
    """Restricted loss of the TransformerLens demo: the key directions of the neurons, on the test inputs.

    A_R = mean of A + P_K A; its logits A_R W_L, without the residual stream past the neurons, are shifted for every
    answer by the mean over all inputs of L - A_R W_L.

    >>> t = torch.arange(5)
    >>> A = torch.cos(2 * torch.pi * (t[:, None] + t) / 5)[..., None]
    >>> W_L = torch.ones(1, 5)                                                   # all answers alike
    >>> round(restricted_loss_neuron(A, W_L, A @ W_L, (t[:, None] + t) % 5, torch.ones(5, 5) > 0, [1]).item(), 4)
    1.6094
    """
    activations, W_L = as_neurons(activations, W_L)
    logits = as_logits_of(activations, W_L, logits)
    table = _table(activations, operation, table)
    class_mean = logits.double().mean((-3, -2)).unsqueeze(-2)  # the neurons' own mean cancels against the correction
    restricted = _project(table, as_key_mask(keys, table)) @ W_L.double() + class_mean
    return _table_loss(restricted, labels, test_mask, operation)


def restricted_loss_hidden(
    activations: Float[Array, "*steps p p neuron"],
    W_L: Float[Array, "*steps neuron answer"],
    labels: Labels,
    keys: Keys,
    *,
    mask: Mask | None = None,
    operation: Operation = "add",
    table: Float[Array, "*steps p neuron"] | None = None,
) -> Float[Tensor, "*steps"]:
    """Restricted loss of Chughtai et al. (2023): logits (P_K A) W_L alone, on all inputs or the inputs in `mask`.

    >>> t = torch.arange(5)
    >>> A = 3 + torch.cos(2 * torch.pi * (t[:, None] + t) / 5)[..., None]
    >>> round(restricted_loss_hidden(A, torch.eye(5)[:1], (t[:, None] + t) % 5, [2]).item(), 4)
    1.6094
    """
    activations, W_L = as_neurons(activations, W_L)
    table = _table(activations, operation, table)
    restricted = _project(table, as_key_mask(keys, table)) @ W_L.double()
    return _table_loss(restricted, labels, mask, operation)


def excluded_loss_2d(
    logits: Float[Array, "*steps p p answer"],
    labels: Labels,
    train_mask: Mask,
    keys: Keys,
    *,
    operation: Operation = "add",
) -> ExcludedLoss:
    """Excluded loss "2D" of Nanda et al. (2023): L - P_K L on the train inputs (class means do not change).

    >>> t = torch.arange(5)
    >>> L = 9 * torch.cos(2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5)
    >>> loss = excluded_loss_2d(L, (t[:, None] + t) % 5, torch.ones(5, 5) > 0, [1])
    >>> round(loss.together.item(), 4), round(loss.by_frequency[0].item(), 4)    # log 5: nothing is left
    (1.6094, 1.6094)
    """
    logits = as_floats("logits", logits, "*steps p p answer")
    table = conditional_mean(logits, operation)
    return _excluded(logits, lambda step: _bands(table[step]), as_key_mask(keys, table), labels, train_mask, operation)


def excluded_loss_3d(
    logits: Float[Array, "*steps p p p"],
    labels: Labels,
    train_mask: Mask,
    keys: Keys,
    *,
    operation: Operation = "add",
) -> ExcludedLoss:
    """Excluded loss "3D" of Nanda et al. (2023): L - <L, u_k> u_k on the train inputs, u_k ~ cos(w_k(a + b - c)).

    The 3D variant removes one coefficient per frequency, the 2D variant two per frequency and answer.

    >>> t = torch.arange(5)
    >>> L = 9 * torch.cos(2 * torch.pi * (t[:, None, None] + t[:, None] - t) / 5)
    >>> round(excluded_loss_3d(L, (t[:, None] + t) % 5, torch.ones(5, 5) > 0, [1]).together.item(), 4)
    1.6094
    """
    logits = as_floats("logits", logits, "*steps p p p")
    p = logits.shape[-1]
    t = torch.arange(p, device=logits.device)
    angle = (frequencies(p, device=logits.device)[:, None, None] * (t[:, None] - t) % p).double() * (2 * torch.pi / p)
    wave = angle.cos()  # [frequency, r, answer]
    wave /= p**0.5 * wave.flatten(1).norm(dim=1)[:, None, None]  # over (a, b, c) every entry occurs p times
    coefficient = logit_coefficient(logits, operation)

    def removed(step: tuple[int, ...]) -> Tensor:
        return coefficient[step][:, None, None] * wave

    return _excluded(logits, removed, as_key_mask(keys, coefficient, p), labels, train_mask, operation)


def excluded_loss_neuron(
    activations: Float[Array, "*steps p p neuron"],
    W_L: Float[Array, "*steps neuron answer"],
    logits: Float[Array, "*steps p p answer"],
    labels: Labels,
    train_mask: Mask,
    keys: Keys,
    *,
    operation: Operation = "add",
    table: Float[Array, "*steps p neuron"] | None = None,
) -> ExcludedLoss:
    """Excluded loss of the TransformerLens demo: L - (P_K A) W_L on the train inputs.

    The network's own `logits` L contain the residual stream past the neurons and all biases.

    >>> t = torch.arange(5)
    >>> A = torch.cos(2 * torch.pi * (t[:, None] + t) / 5)[..., None]
    >>> L = A @ torch.eye(5)[:1]
    >>> round(excluded_loss_neuron(A, torch.eye(5)[:1], L, (t[:, None] + t) % 5, torch.ones(5, 5) > 0, [1])
    ...       .together.item(), 4)
    1.6094
    """
    activations, W_L = as_neurons(activations, W_L)
    logits = as_logits_of(activations, W_L, logits)
    table = _table(activations, operation, table)

    def removed(step: tuple[int, ...]) -> Tensor:
        return _bands(table[step], W_L[step].double())

    return _excluded(logits, removed, as_key_mask(keys, table), labels, train_mask, operation)


def trig_loss_ratio(
    test_loss: Float[Array, "*steps"], restricted_loss: Float[Array, "*steps"]
) -> Float[Tensor, "*steps"]:
    """Test loss over restricted loss: rises while the circuit forms, returns to about 1 after cleanup.

    Nanda et al. (2023), "trig loss ratio". Infinite where a restricted loss is 0 in float64.

    >>> trig_loss_ratio(torch.tensor([8.0]), torch.tensor([2.0])).tolist()
    [4.0]
    """
    test_loss = as_floats("test_loss", test_loss, "*steps")
    restricted_loss = as_floats("restricted_loss", restricted_loss, "*steps")
    if (restricted_loss < 0).any() or test_loss.shape != restricted_loss.shape:
        raise InvalidArgumentError(
            f"`restricted_loss` must be losses >= 0 at the steps of `test_loss`, {list(test_loss.shape)}; "
            f"got a minimum of {restricted_loss.min().item():.3g} and the shape {list(restricted_loss.shape)}."
        )
    return test_loss.double() / restricted_loss.double()


def _table(
    activations: Float[Tensor, "*steps p p neuron"], operation: Operation, given: Float[Array, "*steps p neuron"] | None
) -> Float[Tensor, "*steps p neuron"]:
    """The table E[A | a + b], as given or computed."""
    if given is None:
        return conditional_mean(activations, operation)
    table = as_floats("table", given, "*steps p neuron")
    if table.shape != activations.shape[:-3] + activations.shape[-2:]:
        raise InvalidArgumentError(
            f"`table` must be `conditional_mean(activations)`, of shape "
            f"{[*activations.shape[:-3], *activations.shape[-2:]]}; got {list(table.shape)}."
        )
    return table.double()


def _bands(table: Float[Tensor, "p feature"], W: Float[Tensor, "feature answer"] | None = None) -> Tensor:
    """The Fourier bands [frequency, p, answer] of a table over r for each frequency, times `W` if given."""
    p = table.shape[-2]
    basis = fourier_basis(p, device=table.device)[1:]  # [cos 1, sin 1, ...; p]
    amplitude = basis @ table  # [p - 1, feature]
    if W is not None:
        amplitude = amplitude @ W
    if p % 2 == 0:  # frequency p/2 has no sine
        basis = torch.cat([basis, torch.zeros_like(basis[:1])])
        amplitude = torch.cat([amplitude, torch.zeros_like(amplitude[:1])])
    return basis.unflatten(0, (-1, 2)).mT @ amplitude.unflatten(
        0, (-1, 2)
    )  # [frequency, p, 2] @ [frequency, 2, answer]


def _project(
    table: Float[Tensor, "*steps p feature"], keys: Bool[Tensor, "*steps frequency"]
) -> Float[Tensor, "*steps p feature"]:
    """The projection P_K of a table over r: the sum of its Fourier bands of the key frequencies."""
    p = table.shape[-2]
    basis = fourier_basis(p, device=table.device)[1:]
    kept = keys.repeat_interleave(2, dim=-1)[..., : p - 1]
    return basis.T @ (kept[..., None] * (basis @ table))


def _excluded(
    logits: Float[Tensor, "*steps p p answer"],
    removed: Callable[[tuple[int, ...]], Tensor],
    keys: Bool[Tensor, "*steps frequency"],
    labels: Labels,
    train_mask: Mask,
    operation: Operation,
) -> ExcludedLoss:
    """Losses of L - removed_k, where `removed(step)` [frequency, r, answer] is the contribution of each frequency."""
    labels, mask = as_targets(labels, train_mask, logits)
    residue = _residue(labels.shape[-1], operation, logits.device)
    steps = logits.shape[:-3]
    losses = []
    for step in product(*map(range, steps)):
        tables = removed(step)
        together = (keys[step][:, None, None] * tables).sum(0, keepdim=True)
        losses.append(_losses_without(logits[step][mask], torch.cat([together, tables]), labels[mask], residue[mask]))
    stacked = torch.stack(losses).reshape(*steps, -1)
    return ExcludedLoss(together=stacked[..., 0], by_frequency=stacked[..., 1:])


def _losses_without(
    logits: Float[Tensor, "input answer"],
    tables: Float[Tensor, "table p answer"],
    labels: Int[Tensor, " input"],
    residue: Int[Tensor, " input"],
) -> Float[Tensor, " table"]:
    """Mean cross-entropy of logits[n, c] - table[r_n, c], for every table.

    log sum_c exp(L - T) = log sum_c exp(L) exp(-T): the exponentials of the logits and of the tables are taken once
    each, and the sums over c are a matrix product for each r. Where a product underflows (logits that spread over
    several hundred nats), the sum is done term by term.
    """
    logits = logits.double()
    order = residue.argsort(stable=True)
    logits, labels, residue = logits[order], labels[order], residue[order]
    top = logits.amax(-1, keepdim=True)
    scale = (-tables).amax(-1, keepdim=True)  # [table, r, 1]
    weights = (logits - top).exp()
    factors = (-tables - scale).exp()
    total = torch.empty(len(logits), len(tables), dtype=torch.float64, device=logits.device)
    counts = torch.bincount(residue, minlength=tables.shape[1]).tolist()
    for r, (rows, out) in enumerate(zip(weights.split(counts), total.split(counts), strict=True)):
        out[:] = rows @ factors[:, r].T
    log_total = total.clamp(min=1e-300).log() + top + scale[:, residue, 0].T  # [input, table]
    lost = (total < 1e-200).any(0)
    for index in lost.nonzero().flatten().tolist():
        log_total[:, index] = (logits - tables[index, residue]).logsumexp(-1)
    label_logit = logits.gather(-1, labels[:, None]) - tables[:, residue, labels].T
    return (log_total - label_logit).mean(0)


def _table_loss(
    table: Float[Tensor, "*steps p answer"],
    labels: Labels,
    mask: Mask | None,
    operation: Operation,
) -> Float[Tensor, "*steps"]:
    """Mean cross-entropy of the logits table[a + b]."""
    labels, mask = as_targets(labels, mask, table)
    residue = _residue(labels.shape[-1], operation, table.device)
    return -table.log_softmax(-1)[..., residue[mask], labels[mask]].mean(-1)


def _residue(p: int, operation: Operation, device: torch.device) -> Int[Tensor, "p p"]:
    """The residue r(a, b) = a + b or a - b, mod p."""
    t = torch.arange(p, device=device)
    return (t[:, None] + operation_sign(operation) * t) % p
