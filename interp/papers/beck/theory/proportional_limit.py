"""Large random samples next to the edge of separability: exact limits for N, d -> infinity at lambda = d/N.

An extension of this project to Grokking at the Edge of Linear Separability (Beck, Levi, Bar-Sinai, 2024),
arXiv:2410.04489, which has the limits t -> infinity of one sample but not how they depend on lambda. The points are
x_i ~ N(0, I_d), i = 1..N; for N(0, sigma^2 I_d) divide the weights by sigma and multiply the margin by it. A convex
function of a Gaussian matrix is compared with that of two Gaussian vectors: the derivation is formal, and was checked
against Newton's method up to N = 2400.

Inseparable, 0 < lambda < 1/2: the mean of e^(S.x_i) has its minimum l* at S_inf, of length S. With g ~ N(0, 1) and
W = W_0(kappa e^(S g)), Lambert's function, two equations fix S and kappa:

    E[W^2] = lambda S^2,    E[W/(1 + W)] = lambda.

The logits S_inf.x_i of the training points are then distributed as z = S g - W = ln(W/kappa): a Gaussian
whose upper tail is pressed down, as S g = z + kappa e^z. It follows that l* = E[e^z] = E[W]/kappa and
P(z > 0) = Phi(-kappa/S).

At the edge, kappa/S -> c = sqrt(2 e^-gamma) with Euler's gamma, so that the share of positive projections stays above
Phi(-c) = 0.1446 and l* -> phi(0)/c, while the weight diverges as a power, not as the logarithm of two points:

    S = sqrt(q) (1/2 - lambda)^(-1/2),    q = (pi^2/8 + ln(2)^2)/2,    sqrt(q) = 0.9258.

Separable, lambda > 1/2: the largest margin M solves lambda = E[(g + M)_+^2] = (1 + M^2) Phi(M) + M phi(M) (Gardner's
argument), and the projections on the best direction are distributed as min(g, -M): a share Phi(M) of the points are
support vectors.

References: The Space of Interactions in Neural Network Models (Gardner, 1988); A Modern Maximum-Likelihood Theory for
High-Dimensional Logistic Regression (Sur and Candes, 2019), arXiv:1803.06964, for the same method.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, wrightomega

from interp.errors import InvalidArgumentError

__all__ = [
    "CRITICAL_RATIO",
    "Inseparable",
    "Separable",
    "inseparable",
    "limiting_accuracy",
    "log_grokking_ratio",
    "projection_cdf",
    "projection_density",
    "separable",
]

Reals = float | np.ndarray

CRITICAL_RATIO = float(np.sqrt(2 * np.exp(-np.euler_gamma)))
"""c, the limit of kappa/S for lambda -> 1/2."""

_STEPS = np.linspace(-1.0, 1.0, 601)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_REACH = 9.5  # of a Gaussian: phi is 1e-20 there


@dataclass(frozen=True, eq=False)
class Inseparable:
    """Limit of gradient flow for inseparable points, 0 < lambda < 1/2."""

    S: Float[np.ndarray, "*cases"]
    """Norm |S_inf|."""
    kappa: Float[np.ndarray, "*cases"]
    loss: Float[np.ndarray, "*cases"]
    """Minimal loss l*, the mean of e^(S_inf.x_i)."""
    fraction_positive: Float[np.ndarray, "*cases"]
    """The share of training points with S_inf.x_i > 0, which the bias alone classifies correctly."""
    mean_positive: Float[np.ndarray, "*cases"]
    """The mean of S_inf.x_i/S over the points with S_inf.x_i > 0."""


@dataclass(frozen=True, eq=False)
class Separable:
    """The best separating direction for lambda >= 1/2."""

    margin: Float[np.ndarray, "*cases"]
    support_fraction: Float[np.ndarray, "*cases"]
    """Share Phi(M) of training points on the margin."""


def inseparable(lambda_: Reals) -> Inseparable:
    """S_inf, its loss and the projections on it of inseparable points: the two equations, by Newton's method.

    For lambda -> 0, S -> sqrt(lambda) and l* -> 1; for lambda -> 1/2 see the module. Raises `InvalidArgumentError` for
    `lambda_` outside (0, 1/2).

    >>> found = inseparable(np.array([0.1, 0.3, 0.48]))
    >>> found.S.round(3).tolist(), found.fraction_positive.round(3).tolist()
    ([0.376, 1.11, 5.883], [0.376, 0.287, 0.191])
    """
    lambda_ = _as_lambda(lambda_, "the asymptotic weight", "(0, 1/2)")
    log_S, log_kappa = _solve(lambda_)
    S, kappa = np.exp(log_S), np.exp(log_kappa)
    g, weight = _grid(S)
    loss = (weight * wrightomega(S[..., None] * g + log_kappa[..., None]).real).sum(-1) / kappa
    threshold = kappa / S
    g = threshold[..., None] + 0.5 * _REACH * (1 + _NODES)  # z > 0 is g > kappa/S
    z = S[..., None] * g - wrightomega(S[..., None] * g + log_kappa[..., None]).real
    positive = ndtr(-threshold)
    mean = 0.5 * _REACH * (_WEIGHTS * z * _phi(g)).sum(-1) / (S * positive)
    return Inseparable(S=S, kappa=kappa, loss=loss, fraction_positive=positive, mean_positive=mean)


def separable(lambda_: Reals) -> Separable:
    """The margin M of lambda = (1 + M^2) Phi(M) + M phi(M), and the share Phi(M) of support vectors.

    M = (lambda - 1/2)/(2 phi(0)) next to 1/2, sqrt(lambda) far from it. Raises `InvalidArgumentError` for `lambda_`
    below 1/2.

    >>> separable(np.array([0.5, 0.55, 0.7, 0.9])).margin.round(4).tolist()
    [0.0, 0.0603, 0.2189, 0.394]
    """
    lambda_ = _as_lambda(lambda_, "the margin", "[1/2, inf)")
    M = np.sqrt(lambda_)  # from above, where Newton's method for a convex function only comes down
    for _ in range(50):
        step = ((1 + M**2) * ndtr(M) + M * _phi(M) - lambda_) / (2 * (M * ndtr(M) + _phi(M)))
        M = np.maximum(M - step, 0.0)
        if (np.abs(step) <= 1e-15 * (1 + M)).all():
            break
    return Separable(margin=M, support_fraction=ndtr(M))


def projection_cdf(value: Reals, lambda_: Reals) -> Float[np.ndarray, "*cases"]:
    """The share of training points whose projection x_i.S/|S| on the final direction is at most `value`.

    Phi(v + kappa e^(S v)/S) for lambda < 1/2, Phi(v) and 1 from -M on for lambda >= 1/2; they agree at 1/2. For the
    logits S_inf.x_i, divide them by S first. Raises `InvalidArgumentError` for `lambda_` not above 0, values that are
    not finite.

    >>> projection_cdf(np.array([-1.0, 0.0]), 0.6).round(5).tolist()            # Phi(-1), and the margin passed
    [0.15866, 1.0]
    """
    value, lambda_, S, kappa, M = _projections(value, lambda_)
    with np.errstate(over="ignore"):
        below = ndtr(value + kappa / S * np.exp(S * value))
    return np.where(lambda_ < 0.5, below, np.where(value < -M, ndtr(value), 1.0))


def projection_density(value: Reals, lambda_: Reals) -> Float[np.ndarray, "*cases"]:
    """The density of the projections of `projection_cdf`, for lambda >= 1/2 without the share Phi(M) at exactly -M.

    Raises `InvalidArgumentError` for `lambda_` not above 0, values that are not finite.

    >>> projection_density(np.array([-1.0, 0.0]), 0.6).round(5).tolist()        # phi(-1), and none right of -M
    [0.24197, 0.0]
    """
    value, lambda_, S, kappa, M = _projections(value, lambda_)
    tilt = kappa * np.exp(np.minimum(S * value, 300.0))  # phi is 0 long before
    below = _phi(value + tilt / S) * (1 + tilt)
    return np.where(lambda_ < 0.5, below, np.where(value < -M, _phi(value), 0.0))


def log_grokking_ratio(lambda_: Reals) -> Float[np.ndarray, "*cases"]:
    """ln(t_gen/t_train) = S^2/2 - ln l* of the losses at any one small threshold, for every sigma.

    It grows as (q/2)/(1/2 - lambda), where two points have the square of a logarithm (`two_points.log_grokking_ratio`).
    Raises `InvalidArgumentError` for `lambda_` outside (0, 1/2).

    >>> log_grokking_ratio(np.array([1e-9, 0.48])).round(2).tolist()            # far from the edge, nothing to grok
    [0.0, 17.98]
    """
    found = inseparable(lambda_)
    return 0.5 * np.square(found.S) - np.log(found.loss)


def limiting_accuracy(lambda_: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """Generalisation accuracy for t -> infinity: Phi(1/(sigma^2 M)) for lambda > 1/2, 1 below and at 1/2.

    Equation 13 of Beck et al. (2024), with the margin of `separable`. Raises `InvalidArgumentError` for `lambda_` or
    `sigma` not above 0.

    >>> limiting_accuracy(np.array([0.3, 0.52, 0.6, 0.9]), sigma=5.0).round(3).tolist()
    [1.0, 0.947, 0.634, 0.54]
    """
    sigma = np.asarray(sigma, dtype=np.float64)
    if not ((sigma > 0) & (sigma < np.inf)).all():
        raise InvalidArgumentError(f"`sigma` must be finite and above 0; got {sigma.tolist()}.")
    M = separable(np.maximum(_as_lambda(lambda_, "the limiting accuracy", "(0, inf)"), 0.5)).margin
    with np.errstate(divide="ignore"):
        return ndtr(1 / (sigma**2 * M))


def _solve(lambda_: Float[np.ndarray, "*cases"]) -> tuple[Float[np.ndarray, "*cases"], Float[np.ndarray, "*cases"]]:
    """ln S and ln kappa: Newton's method in two unknowns, with dW/d ln kappa = W/(1 + W), dW/d ln S = S g W/(1 + W)."""
    log_S = np.log(np.sqrt(lambda_ / (1 - 2 * lambda_)) * (1 + 0.85 * (2 * lambda_) ** 4))  # right at both ends
    log_kappa = np.log(lambda_) + lambda_ * (np.log(CRITICAL_RATIO) + log_S - np.log(0.5)) * 2
    for _ in range(100):
        S = np.exp(log_S)
        g, weight = _grid(S)
        x = S[..., None] * g + log_kappa[..., None]
        W = wrightomega(x).real
        share = W / (1 + W)
        drift = S[..., None] * g
        second, first = (weight * W**2).sum(-1), (weight * share).sum(-1)
        # logarithms of the two equations, and their derivatives by ln S and ln kappa
        r = np.log(second / lambda_) - 2 * log_S, np.log(first / lambda_)
        curve = share / (1 + W) ** 2
        a = 2 * (weight * W * share * drift).sum(-1) / second - 2, 2 * (weight * W * share).sum(-1) / second
        b = (weight * curve * drift).sum(-1) / first, (weight * curve).sum(-1) / first
        determinant = a[0] * b[1] - a[1] * b[0]
        dS = np.clip((r[0] * b[1] - a[1] * r[1]) / determinant, -1.0, 1.0)
        dkappa = np.clip((a[0] * r[1] - r[0] * b[0]) / determinant, -1.0, 1.0)
        log_S, log_kappa = log_S - dS, log_kappa - dkappa
        if max(np.abs(dS).max(initial=0.0), np.abs(dkappa).max(initial=0.0)) < 1e-12:
            break
    return log_S, log_kappa


def _grid(S: Float[np.ndarray, "*cases"]) -> tuple[Float[np.ndarray, "*cases node"], Float[np.ndarray, "*cases node"]]:
    """Nodes g and weights of the mean over g ~ N(0, 1) of functions that bend at W = 1, on the scale 1/S.

    The trapezoidal rule in v, where g - g_0 = sinh(v)/k with k = max(S, 1): as fine as the bend at g_0, as wide as phi.
    """
    k = np.maximum(S, 1.0)[..., None]
    bend = -np.log(CRITICAL_RATIO * k) / k
    v = np.arcsinh(k * (_REACH + np.abs(bend))) * _STEPS
    g = bend + np.sinh(v) / k
    return g, _phi(g) * np.cosh(v) / k * (v[..., 1:2] - v[..., :1])


def _phi(g: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
    """The density of N(0, 1)."""
    return np.exp(-0.5 * np.square(g)) / np.sqrt(2 * np.pi)


def _projections(value: Reals, lambda_: Reals) -> tuple[np.ndarray, ...]:
    """Checked and broadcast value and lambda, with S, kappa and M where they exist."""
    value = np.asarray(value, dtype=np.float64)
    if not np.isfinite(value).all():
        raise InvalidArgumentError(f"`value` must be finite; got {value.tolist()}.")
    lambda_ = _as_lambda(lambda_, "the distribution of the projections", "(0, inf)")
    mixed = lambda_ < 0.5
    log_S, log_kappa = _solve(np.where(mixed, lambda_, 0.25))
    M = separable(np.maximum(lambda_, 0.5)).margin
    arrays = np.broadcast_arrays(value, lambda_, np.exp(log_S), np.exp(log_kappa), M)
    return tuple(arrays)


def _as_lambda(lambda_: Reals, quantity: str, allowed: str) -> Float[np.ndarray, "*cases"]:
    """lambda in an interval, written as in "(0, 1/2)", outside which the quantity does not exist."""
    array = np.asarray(lambda_, dtype=np.float64)
    low, high = (0.5 if end.strip() == "1/2" else float(end) for end in allowed[1:-1].split(","))
    inside = (array > low if allowed[0] == "(" else array >= low) & (array < high)
    if not inside.all():
        raise InvalidArgumentError(
            f"`lambda_` = d/N must lie in {allowed} for {quantity} to exist; got {array[~inside].tolist()}."
        )
    return array
