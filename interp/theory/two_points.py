"""Grokking at the edge of separability in one dimension: two points, solved in closed form.

The points x_1 = -sigma and x_2 = sigma delta stand for a sample of N points in d = lambda N dimensions, with
delta = 1 - 2 lambda in [-1, 1], and N(0, sigma^2) for the population. All have one label, and f(x) = S x + b is right
where f < 0. For delta > 0 the origin lies between the points (*inseparable*), for delta < 0 they are separable with
margin M = sigma |delta|. With l(S) = (e^(-sigma S) + e^(delta sigma S))/2, gradient flow of the exponential loss
L = e^b l(S) is, in conformal time tau(t) = int_0^t e^b dt,

    dS/dtau = -l'(S),    db/dtau = -l(S).

Write s = sigma S, u = e^s, z = delta u^(1 + delta). Then

    sigma^2 tau = F(u) - F(u_0),    F(u) = 2 u 2F1(1, a; 1 + a; z),    a = 1/(1 + delta),
    sigma^2 (b_0 - b) = s - s_0 - ln[(1 - z)/(1 - z_0)]/delta,

of which three cases are elementary: A, delta = 1: tanh(s/2) = tanh(s_0/2) e^(-sigma^2 tau); B, delta = 0: u = u_0 +
sigma^2 tau/2; C, delta = -1: u = u_0 + sigma^2 tau. From zero and with sigma = 1, they are in real time
A: S = 0, b = -ln(1 + t); B: S = ln(1 + W(t/2)), b = -W(t/2) - S, with Lambert's W; C: S = -b = ln(1 + 2 t)/2. In
general, and with sigma = 1, they invert

    t = e^(-b_0 - s_0) (1 - z_0)^(1/delta) [G(u) - G(u_0)],    G(u) = u^2 2F1(1 + 1/delta, 2a; 1 + 2a; z).

The right clock is the bias, beta = b_0 - b: it goes monotonically from 0 to infinity, S is explicit in it, and
t = e^(-b_0) int_0^beta e^beta'/l d beta', an integral whose logarithm is safe to compute for t = e^3000. A weight that
starts above S_inf comes down to it: exchanging the two points, s -> -delta s, delta -> 1/delta, sigma -> delta sigma,
makes it rise, and all formulas hold. For the cross-entropy, S depends on b, and the flow is integrated numerically.

Late, S_inf = ln(1/delta)/(sigma (1 + delta)) and b = -ln(l* t) for delta > 0, so that the training loss is 1/t and the
generalisation loss e^(sigma^2 S^2/2)/(l* t): the ratio of the times at which they pass any one threshold is

    ln(t_gen/t_train) = (sigma S_inf)^2/2 - ln l*,

which diverges as ln(delta)^2/2 at the edge. It holds where S has arrived before the losses pass the threshold,
sigma^2 delta ln(1/epsilon) >> 1, and with the cross-entropy of the population only for
epsilon << e^(-sigma^2 S_inf^2/2).

References: Grokking at the Edge of Linear Separability (Beck, Levi, Bar-Sinai, 2024), arXiv:2410.04489, section 4 and
appendix E: cases A, B, C are its equations 33-37. The general solution is in own form; general sigma and real times
beyond case B are extensions of this project, and so are times by a threshold of the accuracy. In many dimensions, for
N -> infinity, S_inf diverges as a power (`proportional_limit`), not as the logarithm that is exact here.
Arguments broadcast against each other; times go in and come out as logarithms, -inf for the start, inf for never.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy.integrate import solve_ivp
from scipy.special import digamma, expit, hyp2f1, log_expit, logsumexp, ndtr, ndtri, wrightomega, xlogy

from interp.errors import InvalidArgumentError

__all__ = [
    "GrokkingTimes",
    "HardMargin",
    "Loss",
    "State",
    "accuracy_time",
    "asymptotic_loss",
    "asymptotic_weight",
    "conformal_delay",
    "conformal_flow",
    "flow",
    "generalisation_accuracy",
    "grokking_times",
    "hard_margin",
    "late_accuracy_time",
    "late_time",
    "limiting_accuracy",
    "log_generalisation_loss",
    "log_grokking_ratio",
    "log_train_loss",
    "margin",
    "margin_offset",
    "train_accuracy",
]

Loss = Literal["exponential", "cross-entropy"]
Reals = float | np.ndarray

_KERNEL = 45.0  # what is more than e^45 times smaller is left out of int_0^beta e^beta'/l d beta'
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_BLOCK = 2**12  # states whose quadratures are held in memory at once


@dataclass(frozen=True, eq=False)
class State:
    """Weight and bias of f(x) = S x + b."""

    S: Float[np.ndarray, "*cases"]
    b: Float[np.ndarray, "*cases"]


@dataclass(frozen=True, eq=False)
class HardMargin:
    """The feasible set {(S, b): S x_j + b <= -1}, a cone from `apex` between two rays, and its point next to 0."""

    apex: Float[np.ndarray, "*cases 2"]
    rays: Float[np.ndarray, "*cases 2 2"]
    """Directions (S, b) in which the first point, then the second, stays at f = -1."""
    minimum_norm: Float[np.ndarray, "*cases 2"]


@dataclass(frozen=True, eq=False)
class GrokkingTimes:
    """ln t at which the losses come down through the threshold for the last time: -inf always below, inf never."""

    log_train: Float[np.ndarray, "*cases"]
    log_generalisation: Float[np.ndarray, "*cases"]

    @property
    def log_ratio(self) -> Float[np.ndarray, "*cases"]:
        """ln(t_gen/t_train)."""
        return self.log_generalisation - self.log_train


def asymptotic_weight(delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """S_inf = ln(1/delta)/(sigma (1 + delta)), to which the weight of inseparable points goes.

    Beck et al. (2024), Table 1. It is also their bound of appendix D, (1/D) ln[(1 - e)/e] with the diameter
    D = sigma (1 + delta) and e = delta/(1 + delta) the share of the point at -sigma: in one dimension it is attained.
    Raises `InvalidArgumentError` for `delta` outside (0, 1] (at 0 the weight diverges), `sigma` not above 0.

    >>> asymptotic_weight(np.array([1.0, 1e-3])).round(6).tolist()
    [0.0, 6.900854]
    """
    delta, sigma = _as_delta(delta, "the asymptotic weight", "(0, 1]"), _as_positive("sigma", sigma)
    return _scaled_limit(delta) / sigma


def asymptotic_loss(delta: Reals) -> Float[np.ndarray, "*cases"]:
    """l* = inf l = (1 + delta) delta^(-delta/(1 + delta))/2, in [1/2, 1]: the training loss e^b l* is 1/t late.

    Raises `InvalidArgumentError` for `delta` outside [0, 1]: separable points have l* = 0.

    >>> asymptotic_loss(np.array([0.0, 1.0])).tolist()
    [0.5, 1.0]
    """
    delta = _as_delta(delta, "the asymptotic loss", "[0, 1]")
    return 0.5 * (1 + delta) * np.exp(-xlogy(delta, delta) / (1 + delta))


def margin(delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """M = -sigma delta = sigma (2 lambda - 1): how far the nearer of two separable points is from the origin.

    1.6 to 2 times the margin of a Gaussian sample of the same lambda (`proportional_limit.margin`). Raises
    `InvalidArgumentError` for `delta` outside [-1, 0], `sigma` not above 0.

    >>> float(margin(-0.5, sigma=3.0))
    1.5
    """
    delta, sigma = _as_delta(delta, "the margin", "[-1, 0]"), _as_positive("sigma", sigma)
    return sigma * np.abs(delta)


def limiting_accuracy(delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """Generalisation accuracy for t -> infinity: Phi(1/(sigma M)) of separable points, 1 of others, also at delta = 0.

    Beck et al. (2024), equation 13. Raises `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` not above 0.

    >>> limiting_accuracy(np.array([-1.0, 0.0, 0.5])).round(5).tolist()          # Phi(1) and two ones
    [0.84134, 1.0, 1.0]
    """
    delta, sigma = _as_delta(delta, "the limiting accuracy"), _as_positive("sigma", sigma)
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
    delta, sigma = np.broadcast_arrays(_as_delta(delta, "the hard margin"), _as_positive("sigma", sigma))
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
    log_t, sigma = _as_positive("log_t", log_t), _as_positive("sigma", sigma)
    log_t, delta, sigma = np.broadcast_arrays(log_t, _as_delta(delta, "the late time"), sigma)
    inseparable, M = delta > 0, sigma * np.maximum(-delta, 0.0)
    bounded = np.where(inseparable, _scaled_limit(np.where(inseparable, delta, 1.0)), np.log(log_t)) / sigma
    return State(S=np.where(delta < 0, M / (1 + M**2) * log_t, bounded), b=-log_t / (1 + M**2))


def margin_offset(delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """What S - M ln t/(1 + M^2) goes to, from zero, for two separable points of different norm.

    With m = |delta| and M = sigma m it is [ln((1 + m)/m) + M sigma ln((1 + M^2)/2)]/(sigma (1 + M^2)), and S + M b
    goes to ln((1 + m)/m)/sigma. As m -> 0 the first is ln(1/m)/sigma, the S_inf of delta = m: Beck et al. (2024),
    appendix E.4; the constant itself is an extension. At delta = -1 both points are support vectors, there is one
    exponential instead of two, and (S, b) = (sigma, -1) ln(1 + (1 + sigma^2) t)/(1 + sigma^2) exactly. Raises
    `InvalidArgumentError` for `delta` outside (-1, 0), `sigma` not above 0.

    >>> margin_offset(np.array([-0.5, -0.1, -0.01])).round(4).tolist()
    [0.6909, 2.3065, 4.6077]
    """
    delta, sigma = _as_delta(delta, "the offset of the margin", "(-1, 0)"), _as_positive("sigma", sigma)
    m, M2 = np.abs(delta), np.square(sigma * delta)
    return (np.log1p(m) - np.log(m) + m * sigma**2 * np.log((1 + M2) / 2)) / (sigma * (1 + M2))


def conformal_flow(tau: Reals, delta: Reals, sigma: Reals = 1.0, *, S0: Reals = 0.0, b0: Reals = 0.0) -> State:
    """Gradient flow of the exponential loss from (S0, b0) at conformal times `tau` = int_0^t e^b dt >= 0, exactly.

    Beck et al. (2024), equations 32-41: the inverse of F, elementary for delta = 0 and -1. Raises
    `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` not above 0, `tau` below 0, values that are not finite.

    >>> state = conformal_flow(2.0, 0.0)                                        # ln(1 + tau/2), -tau/2 - S
    >>> state.S.round(6).tolist(), state.b.round(6).tolist()
    (0.693147, -1.693147)
    """
    tau = _as_reals("tau", tau)
    if (tau < 0).any():
        raise InvalidArgumentError(f"`tau`, the conformal time, must be >= 0; got {tau.min():.6g}.")
    tau, clock, sigma, b0 = _clock(delta, sigma, S0, b0, tau)
    x = clock.at_conformal_time(tau)
    rest = np.isinf(x)
    beta = np.where(rest, tau * np.exp(clock.log_l0), clock.beta(np.where(rest, 0.0, x))[0])
    return State(S=clock.s(x) / (clock.turn * sigma), b=b0 - beta)


def flow(
    log_t: Reals,
    delta: Reals,
    sigma: Reals = 1.0,
    *,
    loss: Loss = "exponential",
    S0: Reals = 0.0,
    b0: Reals = 0.0,
) -> State:
    """Gradient flow from (S0, b0) at the times t = e^log_t, from log_t = -inf to thousands.

    With the exponential loss to rounding; with the cross-entropy, mean of log(1 + e^f(x_j)), by a stiff
    multistep method in ln(1 + t), to about 1e-8. Beck et al. (2024), section 4. Raises `InvalidArgumentError` for
    `delta` outside [-1, 1], `sigma` not above 0, another `loss`, values that are not finite.

    At delta = 0 from zero, b = -W(t/2) - S and S = ln(1 + W(t/2)) with Lambert's W, here W(e) = 1:

    >>> state = flow(np.log(2 * np.e), 0.0)
    >>> state.S.round(6).tolist(), state.b.round(6).tolist()
    (0.693147, -1.693147)
    >>> flow(3000.0, -1.0).S.round(6).tolist()                                  # ln(1 + 2 e^3000)/2
    1500.346574
    """
    log_t = np.asarray(log_t, dtype=np.float64)
    if np.isnan(log_t).any() or (log_t == np.inf).any():
        raise InvalidArgumentError(f"`log_t` must be logarithms of times, finite or -inf; got {log_t.tolist()}.")
    if _as_loss(loss) == "exponential":
        log_t, clock, sigma, b0 = _clock(delta, sigma, S0, b0, log_t)
        beta = clock.beta_at(np.logaddexp(0.0, clock.log_l0 + b0 + log_t))
        return State(S=clock.weight(beta) / sigma, b=b0 - beta)
    log_t, *cases = np.broadcast_arrays(log_t, *_as_cases(delta, sigma, S0, b0))
    S, b = np.empty(log_t.shape), np.empty(log_t.shape)
    # one integration for each run, whatever the number of its times
    runs, number = np.unique(np.stack(cases, -1).reshape(-1, 4), axis=0, return_inverse=True)
    for k, (d, width, S_start, b_start) in enumerate(runs):
        here = (number.ravel() == k).reshape(log_t.shape)
        theta = np.logaddexp(0.0, log_t[here])
        s, b[here] = _integrate(float(theta.max()), d, width, S_start, b_start)(theta)
        S[here] = s / width
    return State(S=S, b=b)


def train_accuracy(S: Reals, b: Reals, delta: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """The share of the two points at which f < 0: 0, 1/2 or 1. Beck et al. (2024), equation 2.

    Raises `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` not above 0, values that are not finite.

    >>> train_accuracy(1.0, np.array([0.0, -0.4, -0.6]), 0.5).tolist()          # f = -1 + b and 1/2 + b
    [0.5, 0.5, 1.0]
    """
    first, second = _logits(S, b, delta, sigma)
    return ((first < 0) + 1.0 * (second < 0)) / 2


def generalisation_accuracy(S: Reals, b: Reals, sigma: Reals = 1.0) -> Float[np.ndarray, "*cases"]:
    """Phi(-b/(sigma |S|)), the probability of f < 0 in the population; 1/2 for b = 0. Beck et al. (2024), equation 6.

    Raises `InvalidArgumentError` for `sigma` not above 0, values that are not finite.

    >>> generalisation_accuracy(np.array([1.0, 0.0, 0.0]), np.array([-1.0, -1.0, 0.0])).round(5).tolist()
    [0.84134, 1.0, 0.5]
    """
    S, b, sigma = _as_reals("S", S), _as_reals("b", b), _as_positive("sigma", sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b == 0, 0.5, ndtr(-b / (sigma * np.abs(S))))


def log_train_loss(
    S: Reals, b: Reals, delta: Reals, sigma: Reals = 1.0, *, loss: Loss = "exponential"
) -> Float[np.ndarray, "*cases"]:
    """ln of the mean of e^f or, as "cross-entropy", of log(1 + e^f) over the two points. Beck et al. (2024), 1 and 8.

    Raises `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` not above 0, another `loss`, values that are not
    finite.

    >>> log_train_loss(0.0, -2.0, 0.5).tolist()
    -2.0
    """
    first, second = _logits(S, b, delta, sigma)
    if _as_loss(loss) == "cross-entropy":
        first, second = _log_softplus(first), _log_softplus(second)
    return np.logaddexp(first, second) - np.log(2)


def log_generalisation_loss(
    S: Reals, b: Reals, sigma: Reals = 1.0, *, loss: Loss = "exponential"
) -> Float[np.ndarray, "*cases"]:
    """ln of the population mean of e^f, which is b + sigma^2 S^2/2, or, as "cross-entropy", of log(1 + e^f).

    The latter, Beck et al. (2024), equation 5, is an integral over Z ~ N(0, 1) at f = sigma S Z + b, by the trapezoidal
    rule around its largest term; the integrand is analytic up to |Im Z| = pi/(sigma |S|), so that a step of half that
    scale is exact to rounding. Its logarithm has no underflow. Raises `InvalidArgumentError` for `sigma` not above 0,
    another `loss`, values that are not finite.

    >>> log_generalisation_loss(2.0, -1.0).tolist()
    1.0
    >>> np.exp(log_generalisation_loss(0.0, 0.0, loss="cross-entropy")).round(6).tolist()    # log 2
    0.693147
    """
    S, b, sigma = _as_reals("S", S), _as_reals("b", b), _as_positive("sigma", sigma)
    s, b = np.broadcast_arrays(np.abs(S) * sigma, b)
    if _as_loss(loss) == "exponential":
        return b + 0.5 * np.square(s)
    result = np.empty(s.shape)
    wide = np.maximum(1.0, s)
    for octave in np.unique(np.ceil(np.log2(wide))):  # as many nodes as the widest of an octave needs
        here = np.ceil(np.log2(wide)) == octave
        y = np.linspace(-9.5, 9.5, int(38 * 2**octave) + 1)
        width, bias = s[here][:, None], b[here][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            centre = np.where(bias < 0, np.minimum(width, -bias / width), 0.0)
        Z = centre + y
        terms = _log_softplus(width * Z + bias) - 0.5 * np.square(Z)
        result[here] = logsumexp(terms, axis=-1) + np.log((y[1] - y[0]) / np.sqrt(2 * np.pi))
    return result


def grokking_times(
    epsilon: Reals,
    delta: Reals,
    sigma: Reals = 1.0,
    *,
    loss: Loss = "exponential",
    S0: Reals = 0.0,
    b0: Reals = 0.0,
) -> GrokkingTimes:
    """When the training and the generalisation loss come down through `epsilon` for the last time.

    Beck et al. (2024), section 4.1 and appendix E.3, without their approximations (`log_grokking_ratio`). The losses of
    the flow are measured by the same `loss`. For delta < 0 the generalisation loss diverges. Raises
    `InvalidArgumentError` for `delta` outside [-1, 1], `epsilon` or `sigma` not above 0, another `loss`, values that
    are not finite.

    >>> times = grokking_times(1e-9, np.array([0.1, 0.01]), sigma=300.0)
    >>> (times.log_train / np.log(1e9)).round(4).tolist(), (times.log_ratio - log_grokking_ratio([0.1, 0.01])).round(4)
    ([1.0, 1.0], array([0., 0.]))
    """
    log_epsilon = np.log(_as_positive("epsilon", epsilon))

    def train(s: np.ndarray, b: np.ndarray, delta: np.ndarray, level: np.ndarray) -> np.ndarray:
        return log_train_loss(s, b, delta, loss=loss) - level

    def generalisation(s: np.ndarray, b: np.ndarray, delta: np.ndarray, level: np.ndarray) -> np.ndarray:
        return log_generalisation_loss(s, b, loss=loss) - level

    cases = _as_cases(delta, sigma, S0, b0)
    return GrokkingTimes(
        log_train=_last_crossing(train, log_epsilon, np.array(False), cases, _as_loss(loss)),
        log_generalisation=_last_crossing(generalisation, log_epsilon, cases[0] < 0, cases, loss),
    )


def accuracy_time(
    accuracy: Reals,
    delta: Reals,
    sigma: Reals = 1.0,
    *,
    loss: Loss = "exponential",
    S0: Reals = 0.0,
    b0: Reals = 0.0,
) -> Float[np.ndarray, "*cases"]:
    """ln of the last time at which the generalisation accuracy is below `accuracy`, in (1/2, 1).

    The right panel of Fig. 3 of Beck et al. (2024) has it for 0.95. It saturates in sigma and as delta -> 0, where it
    is finite: -b grows linearly with conformal time and S like its logarithm. -inf where the accuracy is above from the
    start on, inf where the `limiting_accuracy` is not above `accuracy`. Raises `InvalidArgumentError` for `accuracy`
    outside (1/2, 1), `delta` outside [-1, 1], `sigma` not above 0, another `loss`, values that are not finite.

    >>> accuracy_time(0.95, np.array([0.01, -1.0]), sigma=5.0).round(2).tolist()
    [7.83, inf]
    """
    level = ndtri(_as_accuracy(accuracy))

    def below(s: np.ndarray, b: np.ndarray, delta: np.ndarray, level: np.ndarray) -> np.ndarray:
        return b + level * np.abs(s)

    delta, sigma, S0, b0 = _as_cases(delta, sigma, S0, b0)
    never = level * sigma**2 * np.maximum(-delta, 0.0) >= 1
    return _last_crossing(below, level, never, (delta, sigma, S0, b0), _as_loss(loss))


def log_grokking_ratio(delta: Reals) -> Float[np.ndarray, "*cases"]:
    """ln(t_gen/t_train) = (sigma S_inf)^2/2 - ln l*, the same for every small threshold of the losses and every sigma.

    Its square root goes as |ln delta|/sqrt 2: Beck et al. (2024), equations 16 and 44. When it holds: see the module.
    Raises `InvalidArgumentError` for `delta` outside (0, 1].

    >>> np.sqrt(log_grokking_ratio(np.array([1e-1, 1e-2, 1e-3, 1e-4]))).round(3).tolist()
    [1.606, 3.322, 4.949, 6.565]
    """
    delta = _as_delta(delta, "the grokking ratio", "(0, 1]")
    return 0.5 * np.square(_scaled_limit(delta)) - np.log(asymptotic_loss(delta))


def late_accuracy_time(accuracy: Reals, delta: Reals) -> Float[np.ndarray, "*cases"]:
    """ln t at which -ln(l* t) = -Phi^-1(accuracy) sigma S_inf: linear in S_inf, where the ratio of losses is quadratic.

    An extension, the limit of `accuracy_time` for large sigma. Raises `InvalidArgumentError` for `accuracy` outside
    (1/2, 1), `delta` outside (0, 1].

    >>> late_accuracy_time(0.95, np.array([1e-3, 1e-4])).round(2).tolist()
    [12.04, 15.84]
    """
    level, delta = ndtri(_as_accuracy(accuracy)), _as_delta(delta, "the late accuracy time", "(0, 1]")
    return level * _scaled_limit(delta) - np.log(asymptotic_loss(delta))


def conformal_delay(delta: Reals) -> Float[np.ndarray, "*cases"]:
    """tau_gen - tau_train = [(sigma S_inf)^2/2 - ln l*]/l*, as b = const - l* tau late; for every small threshold.

    ln(delta)^2 + 2 ln 2 as delta -> 0. Beck et al. (2024), equations 45-46; the half of it that is printed in the
    later version of the article takes b = -tau, where the loss with its mean over two points has b = -tau/2, and is not
    confirmed. Raises `InvalidArgumentError` for `delta` outside (0, 1].

    >>> conformal_delay(1e-3).round(2).tolist()
    48.61
    """
    return log_grokking_ratio(delta) / asymptotic_loss(delta)


@dataclass(frozen=True, eq=False)
class _Clock:
    """The exponential loss by the bias, for cases of one shape, in s = sigma S.

    `delta`, `rate` and `s0` are those of the two points exchanged where s would fall: `turn` times s always rises.
    Its coordinate is x: s itself for delta <= 0, and ln(-ln(1 - z)) for delta > 0, as s comes so near to its limit that
    the distance, e^(-e^x), is lost to rounding.
    """

    delta: Float[np.ndarray, "*cases"]
    rate: Float[np.ndarray, "*cases"]
    """sigma^2, or (delta sigma)^2 for points exchanged."""
    s0: Float[np.ndarray, "*cases"]
    turn: Float[np.ndarray, "*cases"]

    @classmethod
    def of(cls, delta: np.ndarray, sigma: np.ndarray, S0: np.ndarray) -> "_Clock":
        s0 = sigma * S0
        limit = np.where(delta > 0, _scaled_limit(np.where(delta > 0, delta, 1.0)), np.inf)
        turn = np.where(s0 > limit, -delta, 1.0)
        return cls(np.where(s0 > limit, -1 / turn, delta), (turn * sigma) ** 2, turn * s0, turn)

    def __getitem__(self, index: Any) -> "_Clock":
        return _Clock(self.delta[index], self.rate[index], self.s0[index], self.turn[index])

    @property
    def x0(self) -> Float[np.ndarray, "*cases"]:
        """x at the start; inf where it is at rest."""
        return self._x(self.s0)

    @property
    def log_l0(self) -> Float[np.ndarray, "*cases"]:
        """ln l at the start."""
        return self.log_l(self.s0)

    def log_l(self, s: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """ln l(S) of the risen s."""
        return np.logaddexp(-s, self.delta * s) - np.log(2)

    def s(self, x: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """The risen s at x."""
        log_z = np.log(-np.expm1(-np.exp(np.where(self.delta > 0, x, 0.0))))
        return np.where(self.delta > 0, (log_z - self._log_delta) / self._opening, x)

    def beta(self, x: Float[np.ndarray, "*cases"]) -> tuple[Float[np.ndarray, "*cases"], Float[np.ndarray, "*cases"]]:
        """beta = [s - s_0 - ln((1 - z)/(1 - z_0))/delta]/rate at x, and its slope."""
        value, slope = self._term(x)
        start, _ = self._term(self.x0)
        return (self.s(x) - self.s0 + value - start) / self.rate, (self._ds(x) + slope) / self.rate

    def at_beta(self, beta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """x at beta >= 0."""
        y = self.s0 + np.exp(self.s0) + beta * self.rate  # s + e^s, if delta were 0
        s = np.where(y < -40, y, np.log(wrightomega(np.maximum(y, -40.0)).real))
        x0 = self.x0
        with np.errstate(divide="ignore", invalid="ignore"):
            high = np.log(np.exp(x0) + np.abs(self.delta) * beta * self.rate)
        high = np.where(self.delta > 0, high, np.inf)
        start = np.where(
            self.delta > 0, np.minimum(high, self._x(s)), np.where(self.delta == -1, self.s0 + beta * self.rate, s)
        )
        moving = (beta > 0) & np.isfinite(x0) & (self.delta != 0) & (self.delta != -1)
        found = np.where(np.isinf(x0), x0, np.where(beta > 0, start, x0))
        here = self[moving]
        found[moving] = _increasing_root(
            lambda x: _minus(here.beta(x), beta[moving]), x0[moving], high[moving], start[moving]
        )
        return found

    def at_conformal_time(self, tau: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """x at conformal time tau >= 0: the inverse of F, in logarithms."""
        x0 = self.x0
        elementary = (self.delta == 0) | (self.delta == -1)
        u = np.exp(self.s0) + self.rate * tau * np.where(self.delta == -1, 1.0, 0.5)
        start = np.where(self.delta > 0, self._x(np.log(u)), np.log(u))
        with np.errstate(divide="ignore"):
            span = np.log(
                np.exp(x0) + 0.5 * self.rate * tau * (1 + self.delta) * np.exp(self._log_delta / self._opening)
            )
        high = np.where(self.delta > 0, np.minimum(span, start), np.inf)
        moving = (tau > 0) & np.isfinite(x0) & ~elementary
        found = np.where(elementary, np.log(u), x0)
        here = self[moving]
        target = np.log(np.exp(here.log_F(x0[moving])[0]) + here.rate * tau[moving])
        found[moving] = _increasing_root(
            lambda x: _minus(here.log_F(x), target), x0[moving], high[moving], np.minimum(start, high)[moving]
        )
        return found

    def log_F(self, x: Float[np.ndarray, "*cases"]) -> tuple[Float[np.ndarray, "*cases"], Float[np.ndarray, "*cases"]]:
        """ln F = ln(2 u H) at x, and its slope ds/dx/((1 - z) H), where H is the hypergeometric function."""
        s, a = self.s(x), 1 / self._opening
        ell = np.exp(np.where(self.delta > 0, x, 0.0))  # -ln(1 - z)
        z = np.where(self.delta > 0, -np.expm1(-ell), self.delta * np.exp((1 + self.delta) * s))
        near = ell > 9
        H = np.where(near, 1.0, hyp2f1(1.0, a, 1 + a, np.where(near, 0.0, z)))
        # H is logarithmic at z = 1: sum over n of a (a)_n/n! [psi(n + 1) - psi(a + n) - ln(1 - z)] (1 - z)^n
        series, factor = np.zeros(x.shape), a * np.ones(x.shape)
        for n in range(5):
            series += factor * (digamma(n + 1.0) - digamma(a + n) + ell)
            factor = factor * (a + n) / (n + 1) * np.exp(-ell)
        H = np.where(near, series, H)
        slope = np.where(self.delta > 0, a * ell / -np.expm1(-ell), 1 / (1 - np.minimum(z, 0.0)))
        return np.log(2 * H) + s, slope / H

    def log_time(self, beta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """ln(e^b_0 l_0 t) at beta > 0: beta + ln int_0^beta e^(beta' - beta) l_0/l d beta'."""
        return beta + self.log_kernel(beta)

    def weight(self, beta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """sigma S at beta, of the points as they were given."""
        return self.s(self.at_beta(beta)) / self.turn

    def log_kernel(self, beta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """ln int_0^beta e^(beta' - beta) l_0/l d beta', by Gauss and Legendre between halvings towards the start."""
        flat = beta.ravel()
        clock = _Clock(*(value.ravel() for value in (self.delta, self.rate, self.s0, self.turn)))
        # for delta < 0, 1/l grows at least as e^(M^2 beta'); otherwise by a bounded factor in all
        span = np.minimum(flat, _KERNEL / (1 + clock.rate * np.square(np.minimum(clock.delta, 0.0))))
        halvings = int(np.ceil(np.log2(np.maximum(span * clock.rate, 1.0).max(initial=1.0))))
        right = np.exp2(-np.arange(halvings + 1.0))
        left = np.append(right[1:], 0.0)
        nodes = (0.5 * (left + right)[:, None] + 0.5 * (right - left)[:, None] * _NODES).ravel()
        weights = (0.5 * (right - left)[:, None] * _WEIGHTS).ravel()
        result = np.empty(flat.shape)
        for first in range(0, len(flat), _BLOCK):
            block = slice(first, first + _BLOCK)
            here = clock[block, None]
            back = span[block, None] * (1 - nodes)
            times = np.maximum(flat[block, None] - back, 0.0)
            shape = times.shape
            wide = _Clock(*(np.broadcast_to(v, shape) for v in (here.delta, here.rate, here.s0, here.turn)))
            ratio = wide.log_l0 - wide.log_l(wide.s(wide.at_beta(times)))
            result[block] = logsumexp(ratio - back, axis=-1, b=weights)
        with np.errstate(divide="ignore"):
            return (result + np.log(span)).reshape(beta.shape)

    def beta_at(self, theta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """beta at theta = ln(1 + e^b_0 l_0 t); theta is not below beta, as l falls, and nearly linear in it."""

        def theta_of(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scaled = np.logaddexp(-beta, self.log_kernel(beta))
            ratio = self.log_l0 - self.log_l(self.s(self.at_beta(beta)))
            return beta + scaled - theta, np.exp(ratio - scaled)

        return _increasing_root(theta_of, np.zeros(theta.shape), theta, theta)

    @property
    def _opening(self) -> Float[np.ndarray, "*cases"]:
        """1 + delta, by which nothing is divided where it is 0."""
        return np.where(self.delta == -1, 1.0, 1 + self.delta)

    @property
    def _log_delta(self) -> Float[np.ndarray, "*cases"]:
        return np.log(np.where(self.delta == 0, 1.0, np.abs(self.delta)))

    def _x(self, s: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        log_z = np.where(self.delta > 0, np.minimum(self._log_delta + (1 + self.delta) * s, 0.0), -1.0)
        with np.errstate(divide="ignore"):
            ell = np.where(log_z < -1, -np.log1p(-np.exp(np.minimum(log_z, -1.0))), -np.log(-np.expm1(log_z)))
            return np.where(self.delta > 0, np.where(log_z < -40, log_z, np.log(ell)), s)

    def _ds(self, x: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        ell = np.exp(np.where(self.delta > 0, np.minimum(x, 6.0), 0.0))
        return np.where(self.delta > 0, ell / np.expm1(ell) / self._opening, 1.0)

    def _term(self, x: Float[np.ndarray, "*cases"]) -> tuple[Float[np.ndarray, "*cases"], Float[np.ndarray, "*cases"]]:
        """-ln(1 - z)/delta and its slope."""
        y = self._log_delta + (1 + self.delta) * x
        size = np.where(self.delta == 0, 1.0, np.abs(self.delta))
        rising = np.exp(np.where(self.delta > 0, x, 0.0)) / size
        level = np.exp(np.where(self.delta == 0, x, 0.0))  # of which the others are the limit
        value = np.where(self.delta > 0, rising, np.where(self.delta == 0, level, np.logaddexp(0.0, y) / size))
        falling = np.where(self.delta == 0, level, (1 + self.delta) * expit(y) / size)
        return value, np.where(self.delta > 0, rising, falling)


def _clock(
    delta: Reals, sigma: Reals, S0: Reals, b0: Reals, other: np.ndarray
) -> tuple[np.ndarray, _Clock, np.ndarray, np.ndarray]:
    """Checked and broadcast: `other`, the clock, sigma and b0."""
    other, delta, sigma, S0, b0 = np.broadcast_arrays(other, *_as_cases(delta, sigma, S0, b0))
    return other, _Clock.of(delta, sigma, S0), sigma, b0


def _integrate(
    theta_max: float, delta: float, sigma: float, S0: float, b0: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Cross-entropy flow of (sigma S, b) as a function of theta = ln(1 + t) in [0, theta_max]."""
    points = np.array([-1.0, delta])
    metric = np.array([sigma**2, 1.0])[:, None]
    design = np.stack([points, np.ones(2)])

    def velocity(theta: float, state: np.ndarray) -> np.ndarray:
        p = np.exp(theta + log_expit(state @ design))
        return -0.5 * (metric[:, 0] * (design @ p))

    def jacobian(theta: float, state: np.ndarray) -> np.ndarray:
        f = state @ design
        curvature = np.exp(theta + log_expit(f) + log_expit(-f))
        return -0.5 * metric * (design * curvature @ design.T)

    start = [sigma * S0, b0]
    found = solve_ivp(
        velocity, (0.0, theta_max), start, "LSODA", jac=jacobian, rtol=1e-10, atol=1e-11, dense_output=True
    )
    return found.sol


def _last_crossing(
    excess: Callable[..., np.ndarray],
    level: np.ndarray,
    never: Bool[np.ndarray, "*cases"],
    cases: tuple[np.ndarray, ...],
    loss: Loss,
) -> Float[np.ndarray, "*cases"]:
    """ln t after which `excess` of (sigma S, b) stays at or below 0; inf for cases that are `never`."""
    level, never, *broadcast = np.broadcast_arrays(level, never, *cases)
    log_t = np.full(never.shape, np.inf)
    level, delta, sigma, S0, b0 = (value[~never] for value in (level, *broadcast))
    first = 1e-3 / np.maximum(1.0, sigma**2)  # before the weight has moved
    if loss == "exponential":
        clock = _Clock.of(delta, sigma, S0)

        def after(beta: np.ndarray) -> np.ndarray:
            return excess(clock.weight(beta), b0 - beta, delta, level)

        beta = _last_positive(after, first)
        time = clock.log_time(np.where(beta > 0, beta, 1.0)) - clock.log_l0 - b0
        log_t[~never] = np.where(beta > 0, time, -np.inf)
        return log_t
    theta = np.empty(level.shape)
    for k in range(len(level)):
        case = (delta[k], sigma[k], S0[k], b0[k])
        theta[k] = _last_positive(_excess_after(excess, level[k], case), first[k : k + 1])[0]
    with np.errstate(divide="ignore"):
        log_t[~never] = theta + np.log(-np.expm1(-theta))
    return log_t


def _excess_after(
    excess: Callable[..., np.ndarray], level: float, case: tuple[float, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    """`excess` as a function of theta, by an integration that is done again where it is asked for later times."""
    reached = 64.0
    state = _integrate(reached, *case)

    def after(theta: np.ndarray) -> np.ndarray:
        nonlocal reached, state
        if theta.max() > reached:
            reached = float(theta.max())
            state = _integrate(reached, *case)
        s, b = state(theta)
        return excess(s, b, case[0], level)

    return after


def _last_positive(function: Callable[[np.ndarray], np.ndarray], first: np.ndarray) -> Float[np.ndarray, "*cases"]:
    """The last sign change, from `first` on, of functions of time that end below 0; 0 where there is none."""
    upper = np.full(first.shape, 64.0)
    while (above := function(upper) > 0).any():
        upper = np.where(above, 2 * upper, upper)
    grid = first * (upper / first) ** np.linspace(0.0, 1.0, 256).reshape(-1, *[1] * first.ndim)
    above = np.stack([function(times) > 0 for times in grid])
    last = len(grid) - 1 - above[::-1].argmax(axis=0)
    last = np.minimum(last, len(grid) - 2)
    low, high = (np.take_along_axis(grid, (last + k)[None], 0)[0] for k in (0, 1))
    for _ in range(60):
        middle = 0.5 * (low + high)
        positive = function(middle) > 0
        low, high = np.where(positive, middle, low), np.where(positive, high, middle)
    return np.where(above.any(axis=0), 0.5 * (low + high), 0.0)


def _increasing_root(
    function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    low: Float[np.ndarray, "*cases"],
    high: Float[np.ndarray, "*cases"],
    start: Float[np.ndarray, "*cases"],
) -> Float[np.ndarray, "*cases"]:
    """Newton's zero of increasing functions (value, slope), kept between `low` and `high` by bisection."""
    x = start
    for _ in range(100):
        value, slope = function(x)
        low, high = np.where(value < 0, x, low), np.where(value > 0, x, high)
        step = x - value / slope
        step = np.where((step < low) | (step > high), 0.5 * (low + high), step)
        done = np.abs(step - x) <= 1e-14 * (1 + np.abs(x))
        x = step
        if done.all():
            break
    return x


def _minus(pair: tuple[np.ndarray, np.ndarray], target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return pair[0] - target, pair[1]


def _scaled_limit(delta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
    """sigma S_inf of delta in (0, 1]."""
    return np.log(1 / delta) / (1 + delta)


def _log_softplus(z: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
    """ln log(1 + e^z), which is z to rounding below -37."""
    return np.where(z < -37, z, np.log(np.logaddexp(0.0, np.maximum(z, -37.0))))


def _logits(S: Reals, b: Reals, delta: Reals, sigma: Reals) -> tuple[np.ndarray, np.ndarray]:
    s = _as_reals("S", S) * _as_positive("sigma", sigma)
    b = _as_reals("b", b)
    return b - s, b + _as_delta(delta, "the two points") * s


def _as_cases(
    delta: Reals, sigma: Reals, S0: Reals, b0: Reals
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return (
        _as_delta(delta, "the two points"),
        _as_positive("sigma", sigma),
        _as_reals("S0", S0),
        _as_reals("b0", b0),
    )


def _as_reals(name: str, value: Reals) -> Float[np.ndarray, "*cases"]:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"`{name}` must be finite; got {array.tolist()}.")
    return array


def _as_positive(name: str, value: Reals) -> Float[np.ndarray, "*cases"]:
    array = np.asarray(value, dtype=np.float64)
    if not ((array > 0) & (array < np.inf)).all():
        raise InvalidArgumentError(f"`{name}` must be finite and above 0; got {array.tolist()}.")
    return array


def _as_delta(delta: Reals, quantity: str, allowed: str = "[-1, 1]") -> Float[np.ndarray, "*cases"]:
    """delta in an interval, written as in "(0, 1]", outside which the quantity does not exist."""
    array = np.asarray(delta, dtype=np.float64)
    low, high = (float(end) for end in allowed[1:-1].split(","))
    inside = (array > low if allowed[0] == "(" else array >= low) & (
        array < high if allowed[-1] == ")" else array <= high
    )
    if not inside.all():
        raise InvalidArgumentError(
            f"`delta` = 1 - 2 lambda must lie in {allowed} for {quantity} to exist; got {array[~inside].tolist()}."
        )
    return array


def _as_accuracy(accuracy: Reals) -> Float[np.ndarray, "*cases"]:
    array = np.asarray(accuracy, dtype=np.float64)
    if not ((array > 0.5) & (array < 1)).all():
        raise InvalidArgumentError(f"`accuracy` must lie in (1/2, 1); got {array.tolist()}.")
    return array


def _as_loss(loss: Loss) -> Loss:
    if loss not in get_args(Loss):
        raise InvalidArgumentError(f"`loss` must be one of {', '.join(get_args(Loss))}; got {loss!r}.")
    return loss
