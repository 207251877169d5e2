"""Subspaces of the embedding: principal angles to the final plane, effective dimension, circles of components.

Principal angles t_1 <= ... <= t_c between two c-dimensional spaces with orthonormal bases Q_A, Q_B: cos t_i are the
singular values of Q_A^T Q_B, and sin t_i the singular values of (1 - Q_A Q_A^T) Q_B. The sine is accurate for small
angles and the cosine for large angles (Knyazev and Argentati, 2002, doi:10.1137/S1064827500377332).

Two measures of dimension: the effective rank exp(-sum q_i log q_i) of singular values, q_i = s_i/sum_j s_j (The
effective rank: A measure of effective dimensionality, Roy and Vetterli, 2007), and the participation ratio
(sum l_i)^2/sum l_i^2 of the eigenvalues l_i of a covariance (A theory of multineuronal dimensionality, dynamics and
measurement, Gao et al., 2017, doi:10.1101/214262). Both count n equal directions as n.

Computed in float64.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats
from interp.analysis.geometry import angular_order, circularity_of_pair, embedding_pca
from interp.errors import InvalidArgumentError
from interp.literals import as_count

__all__ = ["ComponentCircles", "component_circles", "effective_rank", "participation_ratio", "subspace_angles"]


@dataclass(frozen=True)
class ComponentCircles:
    """Best circle of each component: the partner component and the circle's properties; see `component_circles`."""

    partner: Int[Tensor, "*steps component"]
    circularity: Float[Tensor, "*steps component"]
    frequency: Int[Tensor, "*steps component"]
    stride: Int[Tensor, "*steps component"]
    multiplicity: Int[Tensor, "*steps component"]


def subspace_angles(
    W_E: Float[Array, "*steps p d_model"], reference: Float[Array, "p d_model"], *, components: int = 2
) -> Float[Tensor, "*steps component"]:
    """Principal angles between the first principal axes of each step and of a reference, in [0, pi/2], radians.

    Both embeddings are centred on their own mean token, and `components` of their principal axes span the two spaces.
    Angles increase along the last axis: all 0 for equal spaces, and the first 0 where they share a direction.
    With the last step as `reference` they show when the final plane is found; two random c-dimensional spaces in a wide
    d_model have angles near pi/2. Bjorck and Golub (1973). Invariant under one rotation of d_model for both, shifts
    and scales. A space is defined only where the variances of its last component and of the next one differ.

    Raises `InvalidArgumentError` for a reference of another shape and unless 1 <= components <= min(p - 1, d_model).

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> circle = torch.stack([t.cos(), t.sin(), 0 * t], dim=1)
    >>> tilted = circle @ torch.tensor([[1.0, 0, 0], [0, 0.5, 0.75**0.5], [0, 0, 0]])   # by 60 degrees, round an axis
    >>> torch.rad2deg(subspace_angles(tilted, circle)).round(decimals=3).abs().tolist()
    [0.0, 60.0]
    """
    W_E = as_floats("W_E", W_E, "*steps p d_model")
    p, d_model = W_E.shape[-2:]
    reference = as_floats("reference", reference, "p d_model").to(W_E.device)
    if reference.shape != (p, d_model):
        raise InvalidArgumentError(
            f"`reference` must have the axes [p d_model] of `W_E`, {[p, d_model]}; got {list(reference.shape)}."
        )
    if as_count("components", components) > min(p - 1, d_model):
        raise InvalidArgumentError(
            f"`components` must not exceed min(p - 1, d_model) = {min(p - 1, d_model)}, the largest dimension of "
            f"centred tokens; got {components}."
        )
    axes = embedding_pca(W_E, axes="each", components=components).axes
    fixed = embedding_pca(reference, components=components).axes
    overlap = fixed.mT @ axes  # [*steps, component, component]
    cosine = torch.linalg.svdvals(overlap)  # falls: angles rise
    sine = torch.linalg.svdvals(axes - fixed @ overlap).flip(-1)
    return torch.where(cosine.square() < 0.5, cosine.clamp(max=1.0).acos(), sine.clamp(max=1.0).asin())


def effective_rank(W: Float[Array, "*steps row column"]) -> Float[Tensor, "*steps"]:
    """Effective rank of a matrix: the exponential of the entropy of its singular values, in [1, min(row, column)].

    exp(-sum_i q_i log q_i) with q_i = s_i/sum_j s_j: Roy and Vetterli (2007). n where n singular values are equal and
    the others vanish; never above the rank. The matrix is not centred. 0 for a matrix that vanishes.
    Invariant under transposition, scale, and rotations of either side.

    >>> round(effective_rank(torch.diag(torch.tensor([3.0, 3.0, 3.0, 0.0]))).item(), 6)
    3.0
    """
    singular = torch.linalg.svdvals(as_floats("W", W, "*steps row column").double())
    total = singular.sum(-1, keepdim=True)
    q = singular / torch.where(total > 0, total, 1.0)
    return torch.where(total.squeeze(-1) > 0, torch.special.entr(q).sum(-1).exp(), 0.0)


def participation_ratio(W_E: Float[Array, "*steps p d_model"]) -> Float[Tensor, "*steps"]:
    """Participation ratio of the tokens: (sum_i l_i)^2/sum_i l_i^2 over the eigenvalues of their covariance.

    In [1, min(p - 1, d_model)]: Gao et al. (2017). n circles of one radius have 2 n, one circle with small noise 2.
    It weighs variances, hence is below the effective rank of the centred tokens. 0 where all tokens coincide.
    Invariant under rotations, shifts and scale. Raises `InvalidArgumentError` for p < 3 or values that are not finite.

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> round(participation_ratio(torch.stack([t.cos(), t.sin(), (2 * t).cos(), (2 * t).sin()], dim=1)).item(), 5)
    4.0
    """
    W_E = as_floats("W_E", W_E, "*steps p d_model")
    eps = torch.finfo(W_E.dtype).eps
    W_E = W_E.double()
    mean = W_E.mean(-2, keepdim=True)
    tokens = W_E - mean
    variance = tokens.square().sum((-2, -1))
    gram = tokens @ tokens.mT if W_E.shape[-2] < W_E.shape[-1] else tokens.mT @ tokens  # the smaller of the two
    spread = tokens.abs().amax((-2, -1)) > 4 * eps * mean.abs().amax((-2, -1))
    return torch.where(spread, variance.square() / torch.where(spread, gram.square().sum((-2, -1)), 1.0), 0.0)


def component_circles(coordinates: Float[Array, "*steps p component"]) -> ComponentCircles:
    """Circles in pairs of components: the best partner of each component, its frequency and its multiplicity.

    `coordinates` of `geometry.embedding_pca`. For every component:
    - `partner`: the other component, counted from 1, with the largest `geometry.circularity_of_pair`; `circularity`:
      its value in [0, 1], 1 for a perfect circle;
    - `frequency`, `stride`, `multiplicity`: from `geometry.angular_order` in the plane of the two. The multiplicity
      is gcd(frequency, p), 1 for prime p: the neighbours of a circle are the tokens t and t + stride, which for
      multiplicity g visit p/g places, with g tokens on each.

    A circle appears as two components that are each other's partners. Principal components do not separate frequencies
    of nearly equal power: then no pair is circular, and `geometry.plane_of_frequency` takes its planes from the
    frequency. Where all tokens coincide in a plane its circularity is 0. Raises `InvalidArgumentError` for fewer than
    two components.

    >>> t = torch.arange(12) * (2 * torch.pi / 12)
    >>> planes = torch.stack([3 * (2 * t).cos(), 2 * (5 * t).cos(), 3 * (2 * t).sin(), 2 * (5 * t).sin()], dim=1)
    >>> circles = component_circles(planes)
    >>> circles.partner.tolist(), circles.frequency.tolist(), circles.multiplicity.tolist()
    ([3, 4, 1, 2], [2, 5, 2, 5], [2, 1, 2, 1])
    """
    coordinates = as_floats("coordinates", coordinates, "*steps p component")
    count = coordinates.shape[-1]
    if count < 2:
        raise InvalidArgumentError(f"`coordinates` must hold at least 2 components; got {count}.")
    first, second = torch.triu_indices(count, count, 1, device=coordinates.device)
    planes = torch.stack([coordinates[..., first], coordinates[..., second]], dim=-1).movedim(-2, -3)
    value = circularity_of_pair(planes).value  # [*steps, pair]
    table = torch.full((*value.shape[:-1], count, count), -1.0, dtype=value.dtype, device=value.device)
    table[..., first, second] = value
    table[..., second, first] = value
    best = table.max(dim=-1)
    number = torch.zeros(count, count, dtype=torch.long, device=value.device)
    number[first, second] = number[second, first] = torch.arange(len(first), device=value.device)
    pair = number[torch.arange(count, device=value.device), best.indices]  # [*steps, component]
    order = angular_order(planes)
    return ComponentCircles(
        partner=best.indices + 1,
        circularity=best.values,
        frequency=order.frequency.gather(-1, pair),
        stride=order.stride.gather(-1, pair),
        multiplicity=order.multiplicity.gather(-1, pair),
    )
