"""Parallelograms in the embedding: the representation quality of a network that adds.

Two pairs of tokens with one sum, i + n = j + m, span a parallelogram where E_i + E_n = E_j + E_m; a decoder of
E_a + E_b then answers both pairs alike (`interp.theory.representation` lists all parallelograms). With every
dimension of the embedding standardised over the tokens (mean 0, standard deviation 1, unbiased), its defect is

    mean_d (E_i + E_n - E_j - E_m)_d^2
        = (D_ij + D_im + D_nj + D_nm - D_in - D_jm) / d_model,      D_ab = |E_a - E_b|^2,

as the coefficients +1, +1, -1, -1 add up to zero: six distances between tokens for each parallelogram. A parallelogram
holds where the defect is below a threshold.

Reference: Towards Understanding Grokking: An Effective Theory of Representation Learning (Liu et al., 2022),
arXiv:2205.10343, whose code (https://github.com/ejmichaud/grokking-squared) has the threshold 0.01 and learns addition
without a modulus. Computed in float64.
"""

from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats
from interp.errors import InvalidArgumentError
from interp.theory.representation import parallelograms

__all__ = ["parallelogram_set", "rqi"]


def rqi(
    W_E: Float[Array, "*steps p d_model"], *, threshold: float = 0.01, modular: bool = True
) -> Float[Tensor, "*steps"]:
    """Representation quality index: the share of parallelograms with a defect below `threshold`, in [0, 1].

    Liu et al. (2022), whose set is `modular=False`: pairs with i + n = j + m as whole numbers, 70 for p = 10. `modular`
    (this package's extension, for networks that add mod p) takes all pairs with i + n = j + m (mod p), p(p^2 - 1)/8
    parallelograms for odd p: 25,665 for p = 59, 180,348 for p = 113.

    - A line E_t = t v + c has 1 without modulus. With a modulus, the parallelograms that wrap round fail: about 2/3
      for large p.
    - A circle of frequency k does *not* have 1. All sums E_i + E_n of one residue s = i + n lie in the direction
      w_k s/2, but at lengths 2 cos(w_k(i - n)/2) that differ: only pairs with nearly the same |i - n| on the circle
      agree, and the index is small: 0.015, 0.028 and 0.044 for p = 23, 59 and 113, at every k. Modular addition on
      circles works by direction; a low index does not say that a network has not learned.
    - A Gaussian embedding has 0, except in very few dimensions: the defect is about 4.

    Invariant under shifts and under scaling of each dimension, not under rotations of d_model, since each dimension is
    standardised. A dimension in which all tokens coincide is left out; the index is 0 where they coincide in every
    dimension (in the published code, one such dimension makes it 0 by way of NaN).

    Rows of `W_E` are the p numbers: slice off '='. Raises `InvalidArgumentError` for fewer than two axes, p < 3, values
    that are not finite, or a threshold that is not above 0.

    >>> line = torch.arange(10.0)[:, None] * torch.tensor([1.0, -2.0]) + 5
    >>> rqi(line, modular=False).item(), rqi(line).item()                # mod 10: 70 of 125 do not wrap round
    (1.0, 0.56)
    """
    W_E = as_floats("W_E", W_E, "*steps p d_model")
    threshold = _as_threshold(threshold)
    rows = _rows(W_E, modular)
    places = _places(rows, W_E.shape[-2])
    found = torch.empty(W_E.shape[:-2], dtype=torch.float64, device=W_E.device)
    for step in product(*map(range, W_E.shape[:-2])):  # [parallelogram] is long: one step at a time
        found[step] = (_defects(W_E[step], places) < threshold).double().mean()
    return found


def parallelogram_set(
    W_E: Float[Array, "p d_model"], *, threshold: float = 0.01, modular: bool = True
) -> Int[Tensor, "found 4"]:
    """The parallelograms P(R) that hold in one embedding, as rows (i, n, j, m) of E_i + E_n = E_j + E_m.

    Liu et al. (2022); arguments, rules and errors as in `rqi`, the share of parallelograms that hold. Together with the
    training pairs they predict the accuracy: `interp.theory.representation.predicted_accuracy`.

    >>> parallelogram_set(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), modular=False).tolist()
    [[0, 2, 1, 1]]
    """
    W_E = as_floats("W_E", W_E, "p d_model")
    threshold = _as_threshold(threshold)
    rows = _rows(W_E, modular)
    return rows[_defects(W_E, _places(rows, W_E.shape[-2])) < threshold]


def _rows(W_E: Float[Tensor, "*steps p d_model"], modular: bool) -> Int[Tensor, "parallelogram 4"]:
    return torch.as_tensor(parallelograms(W_E.shape[-2], modular=modular), device=W_E.device)


def _places(rows: Int[Tensor, "parallelogram 4"], p: int) -> Int[Tensor, "6 parallelogram"]:
    """Positions of the distances D_ij, D_im, D_nj, D_nm, D_in, D_jm in the flat matrix D."""
    i, n, j, m = rows.unbind(1)
    return torch.stack([i * p + j, i * p + m, n * p + j, n * p + m, i * p + n, j * p + m])


def _defects(
    W_E: Float[Tensor, "p d_model"], places: Int[Tensor, "6 parallelogram"]
) -> Float[Tensor, " parallelogram"]:
    """The defect of every parallelogram; infinite where all tokens coincide."""
    tokens = W_E.double()
    mean = tokens.mean(0)
    std = tokens.std(0)
    spread = std > 4 * torch.finfo(W_E.dtype).eps * mean.abs()
    if not spread.any():
        return torch.full(places.shape[1:], torch.inf, dtype=torch.float64, device=W_E.device)
    tokens = ((tokens - mean) / std)[:, spread]
    gram = tokens @ tokens.T
    square = gram.diagonal()
    distance = (square[:, None] + square - 2 * gram).flatten()
    defect = -distance[places[4]] - distance[places[5]]
    for place in places[:4]:
        defect += distance[place]
    return defect / tokens.shape[1]


def _as_threshold(threshold: float) -> float:
    if not 0 < threshold < float("inf"):
        raise InvalidArgumentError(f"`threshold` must be finite and above 0; got {threshold!r}. Liu et al. have 0.01.")
    return threshold
