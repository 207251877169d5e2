"""Limits of the two points for t -> infinity: weights, losses, accuracies, and the hard margin, in closed form.

For delta > 0, S_inf = ln(1/delta)/(sigma (1 + delta)) and b = -ln(l* t), so that the training loss is 1/t. For
delta < 0, (S, b) goes as ln t times the point of the feasible set next to 0. Beck et al. (2024), Table 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import xlogy

from interp.papers.beck.theory.two_points.model import as_delta
from interp.theory.separability import Reals, as_positive

__all__ = [
    "HardMargin",
    "asymptotic_loss",
    "asymptotic_weight",
    "hard_margin",
]


@dataclass(frozen=True, eq=False)
class HardMargin:
    """The feasible set {(S, b): S x_j + b <= -1}, a cone from `apex` between two rays, and its point next to 0."""

    apex: Float[np.ndarray, "*cases 2"]
    rays: Float[np.ndarray, "*cases 2 2"]
    """Directions (S, b) in which the first point, then the second, stays at f = -1."""
    minimum_norm: Float[np.ndarray, "*cases 2"]


def asymptotic_weight(delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """The limit S_inf = ln(1/delta)/(sigma (1 + delta)) of the weight of inseparable points.

    Beck et al. (2024), Table 1. It equals the bound of appendix D, (1/D) ln[(1 - e)/e] with the diameter
    D = sigma (1 + delta) and e = delta/(1 + delta) the share of the point at -sigma: in one dimension it is attained.
    Raises `InvalidArgumentError` for `delta` outside (0, 1] (at 0 the weight diverges), `sigma` not above 0.

    >>> asymptotic_weight(np.array([1.0, 1e-3])).round(6).tolist()
    [0.0, 6.900854]
    """
    delta, sigma = as_delta(delta, "the asymptotic weight", "(0, 1]"), as_positive("sigma", sigma)
    return np.log(1 / delta) / (1 + delta) / sigma


def asymptotic_loss(delta: Reals) -> Float[np.ndarray, "*cases"]:
    """The minimum l* = (1 + delta) delta^(-delta/(1 + delta))/2 of l, in [1/2, 1]: late, the training loss is 1/t.

    Raises `InvalidArgumentError` for `delta` outside [0, 1]: separable points have l* = 0.

    >>> asymptotic_loss(np.array([0.0, 1.0])).tolist()
    [0.5, 1.0]
    """
    delta = as_delta(delta, "the asymptotic loss", "[0, 1]")
    return 0.5 * (1 + delta) * np.exp(-xlogy(delta, delta) / (1 + delta))


def hard_margin(delta: Reals, sigma: Reals = 1.0) -> HardMargin:
    """The support vector machine of the points (x_j, 1): the direction of (S, b) for t -> infinity.

    The point next to 0 is (0, -1) for delta >= 0 and (M, -1)/(1 + M^2) for delta < 0: Beck et al. (2024), equation 12
    and Fig. 3. Raises `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` not above 0.

    >>> hard_margin(np.array([0.5, -1.0])).minimum_norm.tolist()
    [[0.0, -1.0], [0.5, -0.5]]
    >>> hard_margin(0.5).rays.tolist()                                          # S x + b = 0 at x = -1, x = 1/2
    [[-1.0, -1.0], [1.0, -0.5]]
    """
    delta, sigma = np.broadcast_arrays(as_delta(delta, "the hard margin"), as_positive("sigma", sigma))
    one, M = np.ones(delta.shape), sigma * np.maximum(-delta, 0.0)
    rays = np.stack([np.stack([-one, -sigma], -1), np.stack([one, -sigma * delta], -1)], -2)
    nearest = np.stack([M, -one], -1) / (1 + M**2)[..., None]
    return HardMargin(apex=np.stack([0 * one, -one], -1), rays=rays, minimum_norm=nearest)
