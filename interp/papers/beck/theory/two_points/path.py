"""Gradient flow on the two points: exact for the exponential loss, in either time; integrated for the cross-entropy.

From zero and with sigma = 1, the elementary cases of the package are in real time A: S = 0, b = -ln(1 + t); B: S =
ln(1 + W(t/2)), b = -W(t/2) - S, with Lambert's W; C: S = -b = ln(1 + 2 t)/2. In general, and with sigma = 1, they
invert

    t = e^(-b_0 - s_0) (1 - z_0)^(1/delta) [G(u) - G(u_0)],    G(u) = u^2 2F1(1 + 1/delta, 2a; 1 + 2a; z).

For the cross-entropy, S depends on b, and the flow is integrated numerically.
"""

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import log_expit

from interp.errors import InvalidArgumentError
from interp.papers.beck.theory.two_points.clock import BiasClock
from interp.papers.beck.theory.two_points.model import State, as_cases, as_reals
from interp.theory.separability import Loss, Reals, as_loss

__all__ = ["conformal_flow", "cross_entropy_flow", "flow"]


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
    if as_loss(loss) == "exponential":
        log_t, clock, sigma, b0 = _clock(delta, sigma, S0, b0, log_t)
        beta = clock.beta_at(np.logaddexp(0.0, clock.log_l0 + b0 + log_t))
        return State(S=clock.weight(beta) / sigma, b=b0 - beta)
    log_t, *cases = np.broadcast_arrays(log_t, *as_cases(delta, sigma, S0, b0))
    S, b = np.empty(log_t.shape), np.empty(log_t.shape)
    # a single integration for all times of a run
    runs, number = np.unique(np.stack(cases, -1).reshape(-1, 4), axis=0, return_inverse=True)
    for k, (d, width, S_start, b_start) in enumerate(runs):
        here = (number.ravel() == k).reshape(log_t.shape)
        theta = np.logaddexp(0.0, log_t[here])
        s, b[here] = cross_entropy_flow(float(theta.max()), d, width, S_start, b_start)(theta)
        S[here] = s / width
    return State(S=S, b=b)


def conformal_flow(tau: Reals, delta: Reals, sigma: Reals = 1.0, *, S0: Reals = 0.0, b0: Reals = 0.0) -> State:
    """Gradient flow of the exponential loss from (S0, b0) at conformal times `tau` = int_0^t e^b dt >= 0, exactly.

    Beck et al. (2024), equations 32-41: the inverse of F, elementary for delta = 0 and -1. Raises
    `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` not above 0, `tau` below 0, values that are not finite.

    >>> state = conformal_flow(2.0, 0.0)                                        # ln(1 + tau/2), -tau/2 - S
    >>> state.S.round(6).tolist(), state.b.round(6).tolist()
    (0.693147, -1.693147)
    """
    tau = as_reals("tau", tau)
    if (tau < 0).any():
        raise InvalidArgumentError(f"`tau`, the conformal time, must be >= 0; got {tau.min():.6g}.")
    tau, clock, sigma, b0 = _clock(delta, sigma, S0, b0, tau)
    x = clock.at_conformal_time(tau)
    rest = np.isinf(x)
    beta = np.where(rest, tau * np.exp(clock.log_l0), clock.beta(np.where(rest, 0.0, x))[0])
    return State(S=clock.s(x) / (clock.turn * sigma), b=b0 - beta)


def cross_entropy_flow(
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


def _clock(
    delta: Reals, sigma: Reals, S0: Reals, b0: Reals, other: np.ndarray
) -> tuple[np.ndarray, BiasClock, np.ndarray, np.ndarray]:
    """Checked and broadcast: `other`, the clock, sigma and b0."""
    other, delta, sigma, S0, b0 = np.broadcast_arrays(other, *as_cases(delta, sigma, S0, b0))
    return other, BiasClock.of(delta, sigma, S0), sigma, b0
