"""Limits of the two points for t -> infinity: weights, losses, accuracies, and the hard margin, in closed form.

For delta > 0, S_inf = ln(1/delta)/(sigma (1 + delta)) and b = -ln(l* t), so that the training loss is 1/t. For
delta < 0, (S, b) goes as ln t times the point of the feasible set next to 0. Beck et al. (2024), Table 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, xlogy

from interp.papers.beck.theory.two_points.model import State, as_delta
from interp.theory.separability import Reals, as_positive

__all__ = [
    "HardMargin",
    "asymptotic_loss",
    "asymptotic_weight",
    "hard_margin",
    "late_time",
    "limiting_accuracy",
    "margin",
    "margin_offset",
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


def margin(delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """The margin M = -sigma delta = sigma (2 lambda - 1), the distance of the nearer separable point from the origin.

    1.6 to 2 times the margin of a Gaussian sample of the same lambda (`proportional_limit.margin`). Raises
    `InvalidArgumentError` for `delta` outside [-1, 0], `sigma` not above 0.

    >>> float(margin(-0.5, sigma=3.0))
    1.5
    """
    delta, sigma = as_delta(delta, "the margin", "[-1, 0]"), as_positive("sigma", sigma)
    return sigma * np.abs(delta)


def limiting_accuracy(delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """Generalisation accuracy for t -> infinity: Phi(1/(sigma M)) for separable points, 1 for others and at delta = 0.

    Beck et al. (2024), equation 13. Raises `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` not above 0.

    >>> limiting_accuracy(np.array([-1.0, 0.0, 0.5])).round(5).tolist()          # Phi(1) and two ones
    [0.84134, 1.0, 1.0]
    """
    delta, sigma = as_delta(delta, "the limiting accuracy"), as_positive("sigma", sigma)
    with np.errstate(divide="ignore"):
        return ndtr(1 / (sigma**2 * np.maximum(-delta, 0.0)))


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


def late_time(log_t: Reals, delta: Reals, sigma: Reals = 1.0) -> State:
    """The leading terms for t -> infinity, by `log_t` = ln t > 0.

    Beck et al. (2024), Table 1: b = -ln t with S = S_inf for delta > 0 and S = ln ln t/sigma for delta = 0, and
    (S, b) = (M, -1) ln t/(1 + M^2) for delta < 0. What is left out does not go to 0 (`margin_offset`). Raises
    `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` or `log_t` not above 0.

    >>> late_time(100.0, -0.5).S.tolist(), late_time(100.0, -0.5).b.tolist()
    (40.0, -80.0)
    """
    log_t, sigma = as_positive("log_t", log_t), as_positive("sigma", sigma)
    log_t, delta, sigma = np.broadcast_arrays(log_t, as_delta(delta, "the late time"), sigma)
    inseparable, M = delta > 0, sigma * np.maximum(-delta, 0.0)
    bounded = np.where(inseparable, asymptotic_weight(np.where(inseparable, delta, 1.0)), np.log(log_t)) / sigma
    return State(S=np.where(delta < 0, M / (1 + M**2) * log_t, bounded), b=-log_t / (1 + M**2))


def margin_offset(delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """The limit of S - M ln t/(1 + M^2), from zero, for two separable points of different norm.

    With m = |delta| and M = sigma m it is [ln((1 + m)/m) + M sigma ln((1 + M^2)/2)]/(sigma (1 + M^2)), and S + M b
    goes to ln((1 + m)/m)/sigma. As m -> 0 the first is ln(1/m)/sigma, the S_inf of delta = m: Beck et al. (2024),
    appendix E.4; the constant itself is an extension. At delta = -1 both points are support vectors, there is one
    exponential instead of two, and (S, b) = (sigma, -1) ln(1 + (1 + sigma^2) t)/(1 + sigma^2) exactly. Raises
    `InvalidArgumentError` for `delta` outside (-1, 0), `sigma` not above 0.

    >>> margin_offset(np.array([-0.5, -0.1, -0.01])).round(4).tolist()
    [0.6909, 2.3065, 4.6077]
    """
    delta, sigma = as_delta(delta, "the offset of the margin", "(-1, 0)"), as_positive("sigma", sigma)
    m, M2 = np.abs(delta), np.square(sigma * delta)
    return (np.log1p(m) - np.log(m) + m * sigma**2 * np.log((1 + M2) / 2)) / (sigma * (1 + M2))
