"""Fourier spectra over Z_p of the token embedding and of the neurons.

The real characters of Z_p are 1, cos(w_k t) and sin(w_k t) with w_k = 2 pi k/p and k = 1, ..., floor(p/2). Divided by
their norms they are an orthonormal basis F of R^p, so powers add up to the squared norm (Parseval). A *frequency* is k;
its power, of cosine and sine together, does not change when the tokens are shifted. For even p the frequency p/2 has a
cosine only, the alternating row (-1)^t.

A function f(a, b) of two tokens has the complex characters exp(2 pi i (k a + l b)/p). Four families of characters have
one frequency: (k, k) depends on a + b only, (k, -k) on a - b only, (k, 0) on a, (0, k) on b. A one-frequency neuron
consists of these and the constant; all other characters mix frequencies.

References: Progress measures for grokking via mechanistic interpretability (Nanda et al., 2023), arXiv:2301.05217;
A Toy Model of Universality (Chughtai et al., 2023), arXiv:2302.03025.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats, as_modulus
from interp.errors import InvalidArgumentError
from interp.literals import as_probability

__all__ = [
    "NEURON_SHARE",
    "FamilyPower",
    "NeuronFrequency",
    "Operation",
    "conditional_mean",
    "embedding_power",
    "family_power",
    "fourier_basis",
    "fourier_power",
    "frequencies",
    "gini",
    "gini_embedding",
    "gini_neuron_logit",
    "line_mean",
    "neuron_cluster_size",
    "neuron_frequency",
    "neuron_power",
]

Operation = Literal["add", "subtract"]

NEURON_SHARE = 0.85
"""Share of its variance that puts a neuron into the cluster of a frequency (Nanda et al., 2023)."""


@dataclass(frozen=True)
class FamilyPower:
    """Power of a function of (a, b) by Fourier family; `total` is the squared norm over all p^2 inputs.

    `constant` + the four families summed over frequencies + the power of mixed frequencies = `total`. For even p the
    families `addition` and `subtraction` coincide at p/2; the power is in `addition`.
    """

    addition: Float[Tensor, "*steps feature frequency"]
    subtraction: Float[Tensor, "*steps feature frequency"]
    first: Float[Tensor, "*steps feature frequency"]
    second: Float[Tensor, "*steps feature frequency"]
    constant: Float[Tensor, "*steps feature"]
    total: Float[Tensor, "*steps feature"]


@dataclass(frozen=True)
class NeuronFrequency:
    """The frequency that explains most of each neuron's variance, and the share explained."""

    frequency: Int[Tensor, "*steps neuron"]
    share: Float[Tensor, "*steps neuron"]


def frequencies(p: int, *, device: torch.device | str | None = None) -> Int[Tensor, " frequency"]:
    """The frequencies k of Z_p, up to sign: 1, ..., (p-1)/2 for odd p, and 1, ..., p/2 for even p.

    >>> frequencies(7).tolist(), frequencies(8).tolist()
    ([1, 2, 3], [1, 2, 3, 4])
    """
    return torch.arange(1, as_modulus(p) // 2 + 1, device=device)


def fourier_basis(
    p: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Float[Tensor, "p p"]:
    """The orthonormal real Fourier basis of functions on Z_p, in the rows: 1, cos 1, sin 1, cos 2, sin 2, ...

    For even p the last row is the alternating function (-1)^t/sqrt(p). The order follows Nanda et al. (2023): the
    cosine of k is row 2k - 1, its sine row 2k.

    >>> basis = fourier_basis(5)
    >>> torch.allclose(basis @ basis.T, torch.eye(5, dtype=torch.float64))
    True
    """
    k = frequencies(p, device=device)
    t = torch.arange(p, device=device)
    angle = (k[:, None] * t % p).double() * (2 * torch.pi / p)  # k t is reduced while it is a whole number: exact
    rows = torch.stack([angle.cos(), angle.sin()], dim=1).reshape(-1, p)[: p - 1]  # even p: the last sine is zero
    rows = torch.cat([torch.ones(1, p, dtype=rows.dtype, device=device), rows])
    return (rows / rows.norm(dim=1, keepdim=True)).to(dtype)


def fourier_power(x: Float[Array, "..."], dim: int = -2) -> Float[Tensor, "..."]:
    """Power per frequency along one axis of length p, the constant first: the axis becomes 1 + floor(p/2) long.

    Power k is the squared length of the projection on cos(w_k t), sin(w_k t); the powers sum to the squared norm along
    the axis. Computed in float64.

    >>> fourier_power(torch.tensor([1.0, -1.0, 1.0, -1.0]), dim=0).tolist()   # all of it is frequency p/2
    [0.0, 0.0, 4.0]
    """
    x = as_floats("x", x, "...").double()
    if not -x.ndim <= dim < x.ndim:
        raise InvalidArgumentError(f"`dim` must name an axis of `x`, which has {x.ndim}; got {dim}.")
    p = as_modulus(x.shape[dim])
    amplitude = torch.fft.rfft(x.movedim(dim, -1), norm="ortho")
    return (amplitude.abs().square() * _multiplicity(p, x.device)).movedim(-1, dim)


def embedding_power(W_E: Float[Array, "*steps p d_model"]) -> Float[Tensor, "*steps frequency"]:
    """Fourier power of the embedding over tokens, per frequency, summed over d_model.

    Nanda et al. (2023) plot its square root. Together with the constant (p times the squared length of the mean token)
    the powers sum to ||W_E||^2. Rows of `W_E` are the p numbers: slice off '='. Invariant under rotations of d_model
    and cyclic shifts of the tokens. Computed in float64.

    Raises `InvalidArgumentError` for fewer than two axes, p < 3, or values that are not finite.

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> circle = torch.stack([torch.cos(2 * t), torch.sin(2 * t)], dim=1)     # 7 tokens at radius 1
    >>> [round(power, 5) for power in embedding_power(circle).tolist()]
    [0.0, 7.0, 0.0]
    """
    W_E = as_floats("W_E", W_E, "*steps p d_model")
    return fourier_power(W_E, dim=-2).sum(-1)[..., 1:]


def conditional_mean(
    x: Float[Array, "*steps p p feature"], operation: Operation = "add"
) -> Float[Tensor, "*steps p feature"]:
    """The conditional mean E[x | a + b = r] over the p inputs with one sum (`add`) or difference a - b (`subtract`).

    Every projection of x on functions of a + b follows from it, at the cost of p^2 additions per feature; the
    directions cos(w_k(a+b)), sin(w_k(a+b)) are Fourier modes of this table. Summed in float64.

    >>> x = torch.arange(3.0)[:, None, None] + torch.zeros(3, 3, 1)            # x(a, b) = a
    >>> conditional_mean(x).squeeze(-1).tolist()
    [1.0, 1.0, 1.0]
    """
    x = as_floats("x", x, "*steps p p feature")
    sign = operation_sign(operation)
    p = x.shape[-2]
    total = torch.zeros(*x.shape[:-3], p, x.shape[-1], dtype=torch.float64, device=x.device)
    for b in range(p):
        total += x[..., :, b, :].roll(sign * b, dims=-2)  # [*steps, r, feature]: a goes to a + b
    return total / p


def line_mean(x: Float[Array, "*steps p p feature"], axis: int) -> Float[Tensor, "*steps p feature"]:
    """The mean over one operand, summed in float64: over a for `axis` 0, [b, feature]; over b for 1, [a, feature].

    A slice at a time: torch's own mean with `dtype=float64` converts first and takes several times as long.

    >>> x = torch.arange(3.0)[:, None, None] + torch.zeros(3, 3, 1)              # x(a, b) = a
    >>> line_mean(x, 0).flatten().tolist(), line_mean(x, 1).flatten().tolist()
    ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0])
    """
    x = as_floats("x", x, "*steps p p feature")
    p = x.shape[-2]
    total = torch.zeros(*x.shape[:-3], p, x.shape[-1], dtype=torch.float64, device=x.device)
    for row in range(p):
        total += x.select(-3 if axis == 0 else -2, row)
    return total / p


def family_power(x: Float[Array, "*steps p p feature"]) -> FamilyPower:
    """Power of each feature, a function of the inputs (a, b), in the four one-frequency families.

    The families of "Grokking modular addition with Muon" style mode counts: (k, k), (k, -k), (k, 0), (0, k). Needs four
    sums over lines instead of a two-dimensional transform. Summed in float64.

    >>> a = torch.arange(5.0)
    >>> x = torch.cos(2 * torch.pi * (a[:, None] + a) / 5)[..., None]            # cos(w_1(a + b)), squared norm 25/2
    >>> power = family_power(x)
    >>> round(power.addition[0, 0].item(), 5), round(power.total.item(), 5)
    (12.5, 12.5)
    """
    families, constant, varying = _families(as_floats("x", x, "*steps p p feature"))
    return FamilyPower(families[0], families[1], families[2], families[3], constant, constant + varying)


def neuron_power(activations: Float[Array, "*steps p p neuron"]) -> Float[Tensor, "*steps neuron frequency"]:
    """Share of each neuron's variance over the inputs that one frequency explains, in [0, 1].

    The eight coefficients of frequency k in the two-dimensional real Fourier basis (cos and sin of w_k a, of w_k b and
    their four products), over the sum of squares of the centred neuron: Nanda et al. (2023). For even p the
    frequency p/2 has three coefficients. A neuron that is constant up to rounding has share 0 everywhere.
    `activations` at the position that is read out, [a, b, neuron]. Summed in float64.

    >>> a = torch.arange(5.0) * (2 * torch.pi / 5)
    >>> neuron = 2 + torch.cos(a)[:, None] + torch.cos(2 * a)                    # half frequency 1, half frequency 2
    >>> [round(share, 5) for share in neuron_power(neuron[..., None])[0].tolist()]
    [0.5, 0.5]
    """
    x = as_floats("activations", activations, "*steps p p neuron")
    families, constant, varying = _families(x)
    rounding = (4 * torch.finfo(x.dtype).eps) ** 2 * constant
    alive = varying > rounding
    share = families.sum(0) / torch.where(alive, varying, 1.0)[..., None]
    return torch.where(alive[..., None], share, 0.0).clamp(max=1.0)


def neuron_frequency(shares: Float[Array, "*steps neuron frequency"]) -> NeuronFrequency:
    """The frequency with the largest share of each neuron's variance (from `neuron_power`), and the share.

    >>> found = neuron_frequency(torch.tensor([[0.1, 0.9], [0.6, 0.3]]))
    >>> found.frequency.tolist()
    [2, 1]
    """
    shares = as_floats("shares", shares, "*steps neuron frequency").double()
    largest = shares.max(dim=-1)
    return NeuronFrequency(frequency=largest.indices + 1, share=largest.values)


def neuron_cluster_size(
    shares: Float[Array, "*steps neuron frequency"], *, threshold: float = NEURON_SHARE
) -> Int[Tensor, "*steps frequency"]:
    """Number of neurons with more than `threshold` of their variance in each frequency.

    `threshold` in [0, 1]; the default comes from Nanda et al. (2023), who find 433 of 512 neurons above it.

    >>> neuron_cluster_size(torch.tensor([[0.1, 0.9], [0.6, 0.3], [0.05, 0.95]])).tolist()
    [0, 2]
    """
    shares = as_floats("shares", shares, "*steps neuron frequency").double()
    as_probability("threshold", threshold)
    largest = shares == shares.max(dim=-1, keepdim=True).values
    members: Bool[Tensor, "*steps neuron frequency"] = largest & (shares > threshold)
    return members.sum(dim=-2)


def gini(x: Float[Array, "*steps n"]) -> Float[Tensor, "*steps"]:
    """Gini coefficient of |x|: 0 where all are equal, (n - 1)/n where all but one vanish, 0 where all vanish.

    sum_i (2i - n - 1) x_(i) / (n sum_i x_(i)) over the sorted |x|, i = 1, ..., n.

    >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, -5.0, 0.0, 0.0]])).tolist()
    [0.0, 0.75]
    """
    x = as_floats("x", x, "*steps n").double().abs().sort(dim=-1).values
    n = x.shape[-1]
    weight = 2 * torch.arange(1, n + 1, dtype=x.dtype, device=x.device) - n - 1
    total = x.sum(-1)
    return torch.where(total > 0, (weight * x).sum(-1) / (n * torch.where(total > 0, total, 1.0)), 0.0)


def gini_embedding(W_E: Float[Array, "*steps p d_model"]) -> Float[Tensor, "*steps"]:
    """Gini coefficient of the norms of the embedding's frequencies: its Fourier sparsity, in [0, 1 - 1/n].

    Nanda et al. (2023). Over the n = floor(p/2) norms sqrt(cos^2 + sin^2), without the constant: the paper
    does not say whether cosines and sines count separately.

    >>> t = torch.arange(5) * (2 * torch.pi / 5)
    >>> round(gini_embedding(torch.stack([t.cos(), t.sin()], dim=1)).item(), 5)  # one of two frequencies
    0.5
    """
    return gini(embedding_power(W_E).sqrt())


def gini_neuron_logit(W_L: Float[Array, "*steps neuron p"]) -> Float[Tensor, "*steps"]:
    """Gini coefficient of the norms of the frequencies of W_L = W_out W_U over its p answers; as `gini_embedding`.

    >>> t = torch.arange(5) * (2 * torch.pi / 5)
    >>> round(gini_neuron_logit(t.cos()[None]).item(), 5)
    0.5
    """
    return gini_embedding(as_floats("W_L", W_L, "*steps neuron p").mT)


def operation_sign(operation: Operation) -> int:
    """Sign of b: +1 for "add" (a + b), -1 for "subtract" (a - b); otherwise `InvalidArgumentError`."""
    if operation not in ("add", "subtract"):
        raise InvalidArgumentError(
            f'`operation` must be "add" or "subtract"; got {operation!r}. Only these have answers a + b or a - b.'
        )
    return 1 if operation == "add" else -1


def _families(
    x: Float[Tensor, "*steps p p feature"],
) -> tuple[
    Float[Tensor, "4 *steps feature frequency"], Float[Tensor, "*steps feature"], Float[Tensor, "*steps feature"]
]:
    """Power in the four families, in the constant, and the total without the constant.

    Centred before squaring, so that a large mean costs no digits; two passes, a slice [*steps, a, feature] at a time.
    """
    p = x.shape[-2]
    mean = line_mean(x, 1).mean(-2, keepdim=True)
    lines = torch.zeros(4, *x.shape[:-3], p, x.shape[-1], dtype=torch.float64, device=x.device)
    varying = torch.zeros(*x.shape[:-3], x.shape[-1], dtype=torch.float64, device=x.device)
    for b in range(p):
        column = x[..., :, b, :] - mean
        lines[0] += column.roll(b, dims=-2)
        lines[1] += column.roll(-b, dims=-2)
        lines[2] += column
        lines[3, ..., b, :] = column.sum(-2)
        varying += column.square().sum(-2)
    families = fourier_power(lines, dim=-2)[..., 1:, :].movedim(-2, -1) / p
    if p % 2 == 0:
        families[1, ..., -1] = 0  # cos(pi(a + b)) = cos(pi(a - b)): counted once
    return families, (p * mean.squeeze(-2)).square(), varying


def _multiplicity(p: int, device: torch.device) -> Float[Tensor, " one_and_frequency"]:
    """Number of the p complex characters of each frequency 0..floor(p/2): 1 for 0 and p/2, otherwise 2."""
    count = torch.full((p // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    count[0] = 1
    if p % 2 == 0:
        count[-1] = 1
    return count
