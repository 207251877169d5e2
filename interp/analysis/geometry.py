"""Circles in the embedding: principal components, their circularity, and the angular order of the tokens.

A network that uses frequency k has its tokens t at the angles 2 pi k t/p of a circle. Neighbours on that circle are
the tokens t and t + s with k s = 1 (mod p): s is the *stride*, up to sign. Where g = gcd(k, p) > 1 only p/g places
exist and g tokens share each: the circle is degenerate, of *multiplicity* g (for prime p, never).

For a plane with tokens z_t = x_t + i y_t and angles theta_t about their centroid, the order at frequency k is the
resultant R_k = |mean_t exp(i(theta_t - 2 pi k t/p))|, 1 for a perfect circle; k and -k are its two orientations.

References: Some thoughts on Grokking (Kitouni) and Towards Understanding Grokking (Liu et al., 2022),
arXiv:2205.10343, for the pictures; The Clock and the Pizza (Zhong et al., 2023), arXiv:2306.17844, for circularity;
Directional Statistics (Mardia and Jupp, 2000), chapter 11, for correlations of angles. Computed in float64.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.arrays import Array, as_floats, as_frequency, as_modulus
from interp.errors import InvalidArgumentError
from interp.literals import as_count

__all__ = [
    "AngularOrder",
    "Circularity",
    "EmbeddingPCA",
    "FrequencyPlane",
    "OrderNull",
    "angular_order",
    "angular_order_null",
    "circularity",
    "circularity_of_pair",
    "embedding_pca",
    "mean_circularity",
    "plane_of_frequency",
]


@dataclass(frozen=True)
class EmbeddingPCA:
    """Tokens on principal axes: coordinates = (W_E - mean) @ axes; the ratio is the share of the step's variance."""

    coordinates: Float[Tensor, "*steps p component"]
    axes: Float[Tensor, "*steps d_model component"]
    explained_variance_ratio: Float[Tensor, "*steps component"]
    mean: Float[Tensor, "*steps d_model"]


@dataclass(frozen=True)
class Circularity:
    """Circularity in [0, 1] and its frequency in 1..floor(p/2)."""

    value: Float[Tensor, "*any"]
    frequency: Int[Tensor, "*any"]


@dataclass(frozen=True)
class AngularOrder:
    """The order of the tokens round the centroid of a plane; see `angular_order` for each field."""

    resultant: Float[Tensor, "*steps"]
    frequency: Int[Tensor, "*steps"]
    orientation: Int[Tensor, "*steps"]
    stride: Int[Tensor, "*steps"]
    multiplicity: Int[Tensor, "*steps"]
    order_correlation: Float[Tensor, "*steps"]
    winding: Int[Tensor, "*steps"]


@dataclass(frozen=True)
class OrderNull:
    """The resultant of planes without order: its mean, and its value at each probability of `probabilities`."""

    mean: float
    probabilities: tuple[float, ...]
    quantiles: Float[Tensor, " probability"]


@dataclass(frozen=True)
class FrequencyPlane:
    """Tokens in the plane of one frequency, its orthonormal axes, and its share of the variance of the tokens."""

    coordinates: Float[Tensor, "*steps p 2"]
    axes: Float[Tensor, "*steps d_model 2"]
    share: Float[Tensor, "*steps"]


def embedding_pca(
    W_E: Float[Array, "*steps p d_model"],
    *,
    axes: Literal["last", "each", "aligned"] = "last",
    components: int = 8,
) -> EmbeddingPCA:
    """The token embeddings on their principal components, at every step. Each step is centred on its own mean token.

    `axes` chooses the principal axes:
    - "last": axes of the last step, fixed (Kitouni's animation: the final circle, seen from the beginning);
    - "each": axes of each step, so that planes may jump between steps;
    - "aligned": axes of each step, rotated or reflected within their span so that the tokens come as near as possible
      to their places at the last step (orthogonal Procrustes). The ratios need not decrease.

    An axis is signed so that the coordinate of largest magnitude (the first within a relative 1e-6 of it) is positive.
    Axes of equal variance, as the two of a perfect circle, are defined up to a rotation only. `components` >= 1; the
    result has min(components, p - 1, d_model) of them. The last step is the last along the flattened leading axes.
    Coordinates are in the units of W_E and do not change when d_model is rotated.

    >>> t = torch.arange(4) * (torch.pi / 2)
    >>> square = torch.stack([2 * t.cos(), t.sin(), torch.ones(4)], dim=1)
    >>> pca = embedding_pca(square, components=2)
    >>> [round(ratio, 4) for ratio in pca.explained_variance_ratio.tolist()]
    [0.8, 0.2]
    """
    W_E = as_floats("W_E", W_E, "*steps p d_model").double()
    if axes not in ("last", "each", "aligned"):
        raise InvalidArgumentError(f'`axes` must be "last", "each" or "aligned"; got {axes!r}.')
    steps, (p, d_model) = W_E.shape[:-2], W_E.shape[-2:]
    count = min(as_count("components", components), p - 1, d_model)
    mean = W_E.mean(-2)
    tokens = (W_E - mean[..., None, :]).reshape(-1, p, d_model)
    last = _principal_axes(tokens[-1], count)
    if axes == "last":
        directions = last.expand(len(tokens), -1, -1)
    else:
        directions = _principal_axes(tokens, count)
        if axes == "aligned":
            overlap = (tokens @ directions).mT @ (tokens[-1] @ last)  # [step, component, component]
            left, _, right = torch.linalg.svd(overlap)
            directions = directions @ (left @ right)
    coordinates = tokens @ directions
    variance = tokens.square().sum((-2, -1))
    ratio = coordinates.square().sum(-2) / torch.where(variance > 0, variance, 1.0)[:, None]
    return EmbeddingPCA(
        coordinates=coordinates.reshape(*steps, p, count),
        axes=directions.reshape(*steps, d_model, count),
        explained_variance_ratio=ratio.reshape(*steps, count),
        mean=mean,
    )


def circularity(coordinates: Float[Array, "*steps p component"]) -> Circularity:
    """Circularity of each component: its closeness, as a function of the token, to one sinusoid (Zhong et al., 2023).

    max over k >= 1 of 2 |sum_t v_t exp(2 pi i k t/p)|^2 / (p ||v||^2), clipped to 1 (for even p the alternating
    sequence would reach 2). v is not centred: a mean lowers the value. 0 for a component that vanishes.

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> found = circularity(torch.stack([torch.cos(3 * t), 1 + torch.sin(t)], dim=1))
    >>> [round(value, 4) for value in found.value.tolist()], found.frequency.tolist()      # 1/2 / (1 + 1/2)
    ([1.0, 0.3333], [3, 1])
    """
    v = as_floats("coordinates", coordinates, "*steps p component").double()
    p = v.shape[-2]
    norm = v.square().sum(-2)
    power = torch.fft.rfft(v, dim=-2).abs().square()[..., 1:, :]
    best = power.max(dim=-2)
    value = 2 * best.values / (p * torch.where(norm > 0, norm, 1.0))
    return Circularity(value=value.clamp(max=1.0), frequency=best.indices + 1)


def mean_circularity(coordinates: Float[Array, "*steps p component"]) -> Float[Tensor, "*steps"]:
    """The circularity of an embedding, the mean over its first four principal components: Zhong et al. (2023).

    In [0, 1]; the paper calls 0.995 or more circular. Raises `InvalidArgumentError` for fewer than four components.

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> round(mean_circularity(torch.stack([t.cos(), t.sin(), (2 * t).cos(), (2 * t).sin()], dim=1)).item(), 4)
    1.0
    """
    coordinates = as_floats("coordinates", coordinates, "*steps p component")
    if coordinates.shape[-1] < 4:
        raise InvalidArgumentError(
            f"`coordinates` must hold at least 4 components; got {coordinates.shape[-1]}. `circularity` has no minimum."
        )
    return circularity(coordinates[..., :4]).value.mean(-1)


def circularity_of_pair(plane: Float[Array, "*steps p 2"]) -> Circularity:
    """Circularity of a plane: closeness of its tokens to a circle traversed at constant speed, in [0, 1].

    With z_t = x_t + i y_t about the centroid and its Fourier coefficients Z_j = sum_t z_t exp(-2 pi i j t/p):
    max over j != 0 of |Z_j|^2 / sum_j |Z_j|^2. It is 1 exactly for z_t = r exp(i(2 pi k t/p + phi)), and counts radii
    as well as angles; an ellipse with half-axes u, v has (u + v)^2 / (2(u^2 + v^2)). This package's definition.
    The frequency is min(j, p - j). 0 where all tokens coincide.

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> round(circularity_of_pair(torch.stack([2 * t.cos(), t.sin()], dim=1)).value.item(), 4)
    0.9
    """
    z = _centred_plane(plane)
    p = z.shape[-1]
    power = torch.fft.fft(z).abs().square()[..., 1:]
    best = power.max(dim=-1)
    total = power.sum(-1)
    j = best.indices + 1
    value = torch.where(total > 0, best.values / torch.where(total > 0, total, 1.0), 0.0)
    return Circularity(value=value, frequency=torch.minimum(j, p - j))


def angular_order(plane: Float[Array, "*steps p 2"], *, frequency: int | None = None) -> AngularOrder:
    """Angular order of the tokens round the centroid of a plane, compared with the order of a frequency.

    With the angles theta_t of the tokens about their centroid:
    - `resultant`: max over k and orientation s = +-1 of |mean_t exp(i(theta_t - 2 pi s k t/p))|, in [0, 1]: angles, not
      radii. With a `frequency` given, over the orientations only (to follow the final frequency through a run);
    - `frequency`, `orientation`: the maximising k in 1..floor(p/2) and s (+1 where k = p/2);
    - `multiplicity`: g = gcd(k, p), the number of tokens that share a place;
    - `stride`: in 1..p/(2g), the number that is added to a token to reach the next place: k stride = +-g (mod p);
    - `order_correlation`: the resultant with 2 pi (rank of theta_t)/p for theta_t, divided by its value for a perfect
      order (1 for g = 1): 1 exactly when the tokens lie in the order of k, however unevenly; Mardia's circular rank
      correlation is its square. In [0, 1]; ties are ranked by token;
    - `winding`: how often the polygon through t, t + stride, t + 2 stride, ... winds in the direction of the order.
      g for a perfect circle, hence 1 for prime p; without meaning for k = p/2.

    Where all tokens coincide, resultant, correlation and winding are 0. Chance levels: `angular_order_null`.

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> order = angular_order(torch.stack([torch.cos(3 * t), torch.sin(3 * t)], dim=1))
    >>> order.frequency.item(), order.stride.item(), order.winding.item()                  # 3 * 2 = -1 (mod 7)
    (3, 2, 1)
    >>> round(order.resultant.item(), 4), round(order.order_correlation.item(), 4)
    (1.0, 1.0)
    """
    z = _centred_plane(plane)
    p = z.shape[-1]
    theta = z.angle()
    resultants = torch.fft.fft(torch.polar(torch.ones_like(theta), theta)).abs() / p  # [*steps, k], k = 0..p-1
    resultants[..., 0] = -1
    if frequency is not None:
        k = as_frequency("frequency", frequency, p)
        others = torch.ones(p, dtype=torch.bool, device=z.device)
        others[[k, p - k]] = False
        resultants[..., others] = -1
    best = resultants.max(dim=-1)
    k = best.indices
    strides, gcds, perfect = _stride_table(p, z.device)
    multiplicity, forward = gcds[k], strides[k]  # k * forward = g (mod p)

    t = torch.arange(p, device=z.device)
    rank = theta.argsort(dim=-1, stable=True).argsort(dim=-1)
    difference = (rank - k[..., None] * t) % p * (2 * torch.pi / p)
    correlation = torch.polar(torch.ones_like(theta), difference.to(theta.dtype)).mean(-1).abs() / perfect[k]

    ahead = theta.gather(-1, (t + forward[..., None]) % p)
    turn = torch.remainder(ahead - theta + torch.pi, 2 * torch.pi) - torch.pi
    winding = (turn.sum(-1) / (2 * torch.pi)).round().long()

    spread = z.abs().amax(-1) > 0
    period = p // multiplicity
    return AngularOrder(
        resultant=torch.where(spread, best.values.clamp(0.0, 1.0), 0.0),
        frequency=torch.minimum(k, p - k),
        orientation=torch.where(k <= p - k, 1, -1),
        stride=torch.minimum(forward, period - forward),
        multiplicity=multiplicity,
        order_correlation=torch.where(spread, correlation.clamp(max=1.0), 0.0),
        winding=torch.where(spread, winding, 0),
    )


def angular_order_null(
    p: int,
    *,
    generator: torch.Generator,
    draws: int = 1000,
    frequency: int | None = None,
    d_model: int | None = None,
    probabilities: tuple[float, ...] = (0.05, 0.5, 0.95, 0.99),
) -> OrderNull:
    """Null distribution of the resultant of `angular_order`: its mean and quantiles over `draws` random planes.

    Without `d_model`: Gaussian tokens in the plane, which is also a plane chosen independently of a Gaussian embedding
    of any width. With `d_model`: the first two principal components of a Gaussian embedding of this width. With
    `frequency` None every draw chooses its best k, as `angular_order` does; a number fixes k (and not the orientation).
    Drawn from `generator`, on the CPU.

    For one k and one orientation the mean is near sqrt(pi/(4 p)) (Rayleigh):

    >>> null = angular_order_null(59, generator=torch.Generator().manual_seed(0), draws=300)
    >>> 0.25 < null.mean < 0.31 and null.quantiles[2].item() < 0.40
    True
    """
    as_modulus(p)
    as_count("draws", draws)
    if d_model is None:
        planes = torch.randn(draws, p, 2, generator=generator, dtype=torch.float64)
    else:
        as_count("d_model", d_model, minimum=2)
        W_E = torch.randn(draws, p, d_model, generator=generator, dtype=torch.float64)
        planes = embedding_pca(W_E, axes="each", components=2).coordinates
    resultant = angular_order(planes, frequency=frequency).resultant
    if not all(0 <= probability <= 1 for probability in probabilities):
        raise InvalidArgumentError(f"`probabilities` must lie in [0, 1]; got {probabilities}.")
    levels = torch.tensor(probabilities, dtype=torch.float64)
    return OrderNull(resultant.mean().item(), tuple(probabilities), resultant.quantile(levels))


def plane_of_frequency(
    W_E: Float[Array, "*steps p d_model"], k: int, *, reference: Float[Array, "p d_model"] | None = None
) -> FrequencyPlane:
    """The tokens in the plane of frequency k, spanned by W_E^T cos(w_k t) and W_E^T sin(w_k t).

    The axes are the orthonormal pair nearest to these two vectors (their polar factor), so that distances in the
    picture are distances in the embedding. `share`, in [0, 1], is the part of the centred tokens' variance in the
    plane. With a `reference`, such as the last step's embedding, its plane is taken for all steps. A plane of a
    *random* embedding already shows the order of its k, the better the wider: signal to noise sqrt(2 d_model/p).

    Raises `InvalidArgumentError` unless 1 <= k < p/2 (p/2 has no sine) and d_model >= 2.

    >>> t = torch.arange(7) * (2 * torch.pi / 7)
    >>> W_E = torch.stack([2 * t.cos(), 2 * t.sin(), (3 * t).cos(), (3 * t).sin()], dim=1)
    >>> round(plane_of_frequency(W_E, 1).share.item(), 4)
    0.8
    """
    W_E = as_floats("W_E", W_E, "*steps p d_model").double()
    p, d_model = W_E.shape[-2:]
    source = W_E if reference is None else as_floats("reference", reference, "p d_model").double().to(W_E.device)
    if source.shape[-2:] != (p, d_model):
        raise InvalidArgumentError(
            f"`reference` must have the axes [p d_model] of `W_E`, {[p, d_model]}; got {list(source.shape)}."
        )
    if d_model < 2:
        raise InvalidArgumentError(f"`W_E` must have d_model >= 2 to hold a plane; got d_model={d_model}.")
    if 2 * as_frequency("k", k, p) == p:
        raise InvalidArgumentError(f"`k` must be below p/2, which has no sine and no plane; got k={k}, p={p}.")
    angle = (k * torch.arange(p, device=W_E.device) % p).double() * (2 * torch.pi / p)
    left, _, right = torch.linalg.svd(source.mT @ torch.stack([angle.cos(), angle.sin()], dim=1), full_matrices=False)
    axes = (left @ right).expand(*W_E.shape[:-2], d_model, 2)
    tokens = W_E - W_E.mean(-2, keepdim=True)
    coordinates = tokens @ axes
    variance = tokens.square().sum((-2, -1))
    share = coordinates.square().sum((-2, -1)) / torch.where(variance > 0, variance, 1.0)
    return FrequencyPlane(coordinates=coordinates, axes=axes, share=share)


def _principal_axes(tokens: Float[Tensor, "*steps p d_model"], count: int) -> Float[Tensor, "*steps d_model count"]:
    """The first principal axes of centred tokens, signed by the tokens' coordinates."""
    directions = torch.linalg.svd(tokens, full_matrices=False).Vh[..., :count, :].mT
    coordinates = tokens @ directions
    size = coordinates.abs()
    largest = (size >= (1 - 1e-6) * size.amax(-2, keepdim=True)).to(torch.int8).argmax(-2, keepdim=True)
    sign = coordinates.gather(-2, largest).sign()
    return directions * torch.where(sign == 0, 1.0, sign)


def _centred_plane(plane: Float[Array, "*steps p 2"]) -> Tensor:
    """The tokens of a plane as complex numbers about their centroid; tokens that coincide up to rounding are zeros."""
    tokens = as_floats("plane", plane, "*steps p coordinate")
    if tokens.shape[-1] != 2:
        raise InvalidArgumentError(
            f"`plane` must have two coordinates; got {tokens.shape[-1]}. Two components: `coordinates[..., :2]`."
        )
    eps = torch.finfo(tokens.dtype).eps
    tokens = tokens.double()
    mean = tokens.mean(-2, keepdim=True)
    z = torch.view_as_complex((tokens - mean).contiguous())
    same = z.abs().amax(-1, keepdim=True) <= 4 * eps * mean.abs().amax(-1)
    return torch.where(same, 0.0, z)


def _stride_table(p: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Strides, gcds and perfect rank resultants for k = 0..p-1: s with k s = g (mod p), g = gcd(k, p), and the last.

    The g tokens of a place have consecutive ranks, g points spaced 2 pi/p: their mean has length
    sin(pi g/p) / (g sin(pi/p)), the rank resultant of a perfect order.
    """
    gcds = [math.gcd(k, p) for k in range(p)]
    strides = [pow(k // g, -1, p // g) if k else 0 for k, g in enumerate(gcds)]
    perfect = [math.sin(math.pi * g / p) / (g * math.sin(math.pi / p)) if g < p else 1.0 for g in gcds]
    return (
        torch.tensor(strides, device=device),
        torch.tensor(gcds, device=device),
        torch.tensor(perfect, dtype=torch.float64, device=device),
    )
