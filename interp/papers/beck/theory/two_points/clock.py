"""The bias as the clock of gradient flow on two points: beta = b_0 - b goes monotonically from 0 to infinity.

S is an explicit function of beta, and the time is

    t = e^(-b_0) int_0^beta e^beta'/l d beta',

an integral whose logarithm is safe to compute for t = e^3000. A weight that starts above S_inf comes down to it:
exchanging the two points, s -> -delta s, delta -> 1/delta, sigma -> delta sigma, makes it rise, and all formulas hold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, expit, hyp2f1, logsumexp, wrightomega

from interp.papers.beck.theory.two_points.limits import asymptotic_weight

__all__ = ["BiasClock"]

_KERNEL = 45.0  # parts that are more than e^45 times smaller are left out of int_0^beta e^beta'/l d beta'
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_BLOCK = 2**12  # states whose quadratures are held in memory at once


@dataclass(frozen=True, eq=False)
class BiasClock:
    """Gradient flow of the exponential loss by the bias, for cases of one shape, in s = sigma S.

    Where s would fall, `delta`, `rate` and `s0` belong to the exchanged points: `turn` times s always rises. The
    coordinate x is s itself for delta <= 0, and ln(-ln(1 - z)) for delta > 0, since s comes so near to its limit that
    the distance, e^(-e^x), is lost to rounding.
    """

    delta: Float[np.ndarray, "*cases"]
    rate: Float[np.ndarray, "*cases"]
    """Rate sigma^2, or (delta sigma)^2 for exchanged points."""
    s0: Float[np.ndarray, "*cases"]
    turn: Float[np.ndarray, "*cases"]

    @classmethod
    def of(cls, delta: np.ndarray, sigma: np.ndarray, S0: np.ndarray) -> "BiasClock":
        """The clock of flows from S0."""
        s0 = sigma * S0
        limit = np.where(delta > 0, asymptotic_weight(np.where(delta > 0, delta, 1.0)), np.inf)
        turn = np.where(s0 > limit, -delta, 1.0)
        return cls(np.where(s0 > limit, -1 / turn, delta), (turn * sigma) ** 2, turn * s0, turn)

    def __getitem__(self, index: Any) -> "BiasClock":
        return BiasClock(self.delta[index], self.rate[index], self.s0[index], self.turn[index])

    @property
    def x0(self) -> Float[np.ndarray, "*cases"]:
        """Coordinate x at the start; inf where it is at rest."""
        return self._x(self.s0)

    @property
    def log_l0(self) -> Float[np.ndarray, "*cases"]:
        """Logarithm of l at the start."""
        return self.log_l(self.s0)

    def log_l(self, s: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """Logarithm of l(S) at the rising s."""
        return np.logaddexp(-s, self.delta * s) - np.log(2)

    def s(self, x: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """The rising s at x."""
        log_z = np.log(-np.expm1(-np.exp(np.where(self.delta > 0, x, 0.0))))
        return np.where(self.delta > 0, (log_z - self._log_delta) / self._opening, x)

    def beta(self, x: Float[np.ndarray, "*cases"]) -> tuple[Float[np.ndarray, "*cases"], Float[np.ndarray, "*cases"]]:
        """The clock beta = [s - s_0 - ln((1 - z)/(1 - z_0))/delta]/rate at x, and its slope."""
        value, slope = self._term(x)
        start, _ = self._term(self.x0)
        return (self.s(x) - self.s0 + value - start) / self.rate, (self._ds(x) + slope) / self.rate

    def at_beta(self, beta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """Coordinate x at beta >= 0."""
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
        """Coordinate x at conformal time tau >= 0: the inverse of F, in logarithms."""
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
        """Logarithm of F = 2 u H at x, and its slope ds/dx/((1 - z) H), where H is the hypergeometric function."""
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
        """Logarithm of the time e^b_0 l_0 t at beta > 0: beta + ln int_0^beta e^(beta' - beta) l_0/l d beta'."""
        return beta + self.log_kernel(beta)

    def weight(self, beta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """The weight sigma S at beta, for the points as given."""
        return self.s(self.at_beta(beta)) / self.turn

    def log_kernel(self, beta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """Logarithm of int_0^beta e^(beta' - beta) l_0/l d beta', by Gauss-Legendre on halvings towards the start."""
        flat = beta.ravel()
        clock = BiasClock(*(value.ravel() for value in (self.delta, self.rate, self.s0, self.turn)))
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
            wide = BiasClock(*(np.broadcast_to(v, shape) for v in (here.delta, here.rate, here.s0, here.turn)))
            ratio = wide.log_l0 - wide.log_l(wide.s(wide.at_beta(times)))
            result[block] = logsumexp(ratio - back, axis=-1, b=weights)
        with np.errstate(divide="ignore"):
            return (result + np.log(span)).reshape(beta.shape)

    def beta_at(self, theta: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
        """The clock beta at theta = ln(1 + e^b_0 l_0 t); theta >= beta, as l falls, and nearly linear in beta."""

        def theta_of(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scaled = np.logaddexp(-beta, self.log_kernel(beta))
            ratio = self.log_l0 - self.log_l(self.s(self.at_beta(beta)))
            return beta + scaled - theta, np.exp(ratio - scaled)

        return _increasing_root(theta_of, np.zeros(theta.shape), theta, theta)

    @property
    def _opening(self) -> Float[np.ndarray, "*cases"]:
        """The divisor 1 + delta, or 1 where it is 0."""
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
        """The term -ln(1 - z)/delta and its slope."""
        y = self._log_delta + (1 + self.delta) * x
        size = np.where(self.delta == 0, 1.0, np.abs(self.delta))
        rising = np.exp(np.where(self.delta > 0, x, 0.0)) / size
        level = np.exp(np.where(self.delta == 0, x, 0.0))  # the limit of both other cases
        value = np.where(self.delta > 0, rising, np.where(self.delta == 0, level, np.logaddexp(0.0, y) / size))
        falling = np.where(self.delta == 0, level, (1 + self.delta) * expit(y) / size)
        return value, np.where(self.delta > 0, rising, falling)


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
