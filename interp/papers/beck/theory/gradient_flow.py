"""Gradient flow of linear classification, to times like e^3000, and its grokking times.

In the notation of `separability`, with p_i the derivative of the loss by z_i = S.x_i + b (sigmoid(z_i) for the
cross-entropy, e^z_i for the exponential loss), gradient descent with a small step size eta is the flow

    dS/dt = -r mean_i p_i x_i,    db/dt = -mean_i p_i,    t = eta times the number of steps,

with r = 1. It slows down as 1/t, too slow for steps in t. But b always falls and serves as a clock, beta = b_0 - b,

    dS/dbeta = -r sum_i p_i x_i / sum_i p_i,    dt/dbeta = e^g,    g = -log mean_i p_i,

on which S has a bounded speed and nothing overflows: only ratios of the p_i count, and log t is a sum of integrals of
the exponential of g, a smooth function. The steps are Dormand and Prince's (1980), stable up to
beta = 3.3/(r times the largest eigenvalue of the covariance of the points), so that the cost grows as sigma^2 beta.

*Conformal time* tau = integral of e^b dt makes the bias of the exponential loss l(S) e^b drop out: dS/dtau = -r grad l,
db/dtau = -l, so that S(tau) is the path without bias. As l decreases, tau >= log(1 + l_0 e^(b_0) t)/l_0 grows without
bound, and S ends where l is least (App. C).

*Rescaling* (eq. 14): with S' = sigma S, x' = x/sigma every logit stays, and S' follows this flow with
r' = sigma^2 r. A large sigma is a large learning rate of the weights against the bias, and no other change.

Late in the flow S = S_inf and b = -log(l* t) for points that are not separable, from which the grokking times follow:
the training loss falls as 1/t, and the population loss of the exponential is e^(sigma^2 S_inf^2/2)/l* times larger.

References: Grokking at the Edge of Linear Separability (Beck, Levi, Bar-Sinai, 2024), arXiv:2410.04489; A family of
embedded Runge-Kutta formulae (Dormand and Prince, 1980).
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.integrate import RK45
from scipy.special import expit

from interp.errors import InvalidArgumentError
from interp.theory.separability import Loss, as_loss, as_points, as_positive

__all__ = [
    "Direction",
    "Flow",
    "bump",
    "conformal_time_bound",
    "crossing_times",
    "flow",
    "log_time_ratio",
]

Direction = Literal["up", "down"]

_POWERS = np.arange(1.0, 5.0)[:, None]
_BLOCK = 2**20  # numbers in the points of one block of sets: 8 MB, which a cache holds between steps
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2  # Gauss and Legendre's rule on [0, 1]
_ROUNDING = 1e-12  # a step cannot be more exact than floating point
_RISE = 8.0  # of g within a step, at most: the rule above integrates e^(8 theta) to 1e-9


@dataclass(frozen=True, eq=False)
class Flow:
    """The state of every set at the times asked for."""

    log_t: Float[np.ndarray, " time"]
    S: Float[np.ndarray, "*sets time d"]
    b: Float[np.ndarray, "*sets time"]
    log_tau: Float[np.ndarray, "*sets time"]
    """Logarithm of the conformal time."""

    @property
    def S_norm(self) -> Float[np.ndarray, "*sets time"]:
        """Norm |S|."""
        return np.linalg.norm(self.S, axis=-1)


@dataclass(frozen=True, eq=False)
class _Segments:
    """Steps of length h on the clock, of one set and for one time each: S and g as polynomials of theta in [0, 1].

    b and the logarithms of t and tau are taken at theta = 0.
    """

    member: Int[np.ndarray, " segment"]
    time: Int[np.ndarray, " segment"]
    S: Float[np.ndarray, "segment d"]
    Q: Float[np.ndarray, "segment d 4"]  # S(theta) = S + h sum_k Q_k theta^k, k = 1, ..., 4
    b: Float[np.ndarray, " segment"]
    h: Float[np.ndarray, " segment"]
    G: Float[np.ndarray, "segment 5"]  # g(theta) = sum_k G_k theta^k
    log_t: Float[np.ndarray, " segment"]
    log_tau: Float[np.ndarray, " segment"]

    def __getitem__(self, which: np.ndarray) -> "_Segments":
        return _Segments(*(value[which] for value in vars(self).values()))

    @classmethod
    def joined(cls, parts: list["_Segments"]) -> "_Segments":
        return cls(*(np.concatenate(values) for values in zip(*(vars(part).values() for part in parts))))

    def at(self, theta: Float[np.ndarray, " segment"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bias b, log t and log tau at theta."""
        nodes = theta[:, None] * _NODES
        g = self.G[:, 4, None]
        for k in (3, 2, 1, 0):  # Horner
            g = g * nodes + self.G[:, k, None]
        with np.errstate(divide="ignore"):
            log_h = np.log(self.h * theta)
        t = log_h + _log_mean_exp(g)
        tau = log_h + _log_mean_exp(g - self.h[:, None] * nodes) + self.b
        return self.b - self.h * theta, np.logaddexp(self.log_t, t), np.logaddexp(self.log_tau, tau)


def flow(
    points: Float[np.ndarray, "*sets N d"],
    log_t: Float[np.ndarray, " time"],
    *,
    loss: Loss = "cross-entropy",
    S: Float[np.ndarray, "*sets d"] | float = 0.0,
    b: Float[np.ndarray, "*sets"] | float = 0.0,
    weight_rate: float = 1.0,
    tolerance: float = 1e-6,
) -> Flow:
    """Gradient flow from (S, b), on the bias clock: the states at the natural logarithms `log_t` of the times.

    `log_t` must increase; -inf is the start. Compare discrete descent at t = eta times steps: it differs by an error
    proportional to eta while that is below 2/(largest eigenvalue of the Hessian). `S` and `b` are broadcast to
    [*sets d] and [*sets]; `weight_rate` is r > 0, how much faster the weights learn than the bias: points x' of unit
    variance with r = sigma^2 are points sigma x' with r = 1, for S' = sigma S. `tolerance`, 1e-12 to 1, bounds the
    error of a step, in units of the logits and relative to the largest one.

    Raises `InvalidArgumentError` for arrays that do not fit or are not finite, times that do not increase, another
    loss, a `weight_rate` not above 0 and another `tolerance`.

    Two opposite points never move the weights, and e^b alone is left: d(e^-b)/dt = 1.

    >>> path = flow(np.array([[1.0], [-1.0]]), np.log([1.0, 9.0, 1e300]), loss="exponential")
    >>> np.exp(-path.b[:2]).round(6).tolist(), path.S_norm.tolist()
    ([2.0, 10.0], [0.0, 0.0, 0.0])
    >>> np.allclose(np.exp(path.log_tau), -path.b)                               # tau = log(1 + t)
    True
    """
    points, log_t = as_points("points", points), np.asarray(log_t, dtype=np.float64)
    if log_t.ndim != 1 or not len(log_t) or not (log_t < np.inf).all() or not (log_t[1:] > log_t[:-1]).all():
        raise InvalidArgumentError(f"`log_t` must be an increasing sequence below infinity; got {log_t.tolist()}.")
    *sets, n, d = points.shape
    start, bias = _as_start("S", S, (*sets, d)), _as_start("b", b, tuple(sets))
    rate = as_positive("weight_rate", weight_rate)
    if not _ROUNDING <= tolerance < 1:
        raise InvalidArgumentError(f"`tolerance` must be below 1, and {_ROUNDING} or more; got {tolerance!r}.")
    flat = points.reshape(-1, n, d)
    start, bias = start.reshape(-1, d), bias.reshape(-1)
    size = max(1, _BLOCK // (n * d))
    parts = []
    for i in range(0, len(flat), size):
        block = slice(i, i + size)
        parts.append(_flow(flat[block], start[block], bias[block], log_t, rate, as_loss(loss), tolerance))
    S_t, b_t, log_tau = (np.concatenate(values) for values in zip(*parts))
    time = len(log_t)
    return Flow(log_t, S_t.reshape(*sets, time, d), b_t.reshape(*sets, time), log_tau.reshape(*sets, time))


def conformal_time_bound(
    log_t: Float[np.ndarray, "*times"], *, loss_0: float = 1.0, b_0: float = 0.0
) -> Float[np.ndarray, "*times"]:
    """The least conformal time after t, for the exponential loss: log(1 + l_0 e^(b_0) t)/l_0, eqs. 22 and 23.

    d(e^-b)/dt = l <= l_0, as the flow lowers l: integrate. `loss_0` = l_0 > 0 is the mean of e^(S.x_i) at the start, 1
    for S = 0. Raises `InvalidArgumentError` otherwise.

    >>> conformal_time_bound(np.log(np.e - 1)).round(12).item()
    1.0
    """
    return np.logaddexp(0.0, np.log(as_positive("loss_0", loss_0)) + b_0 + np.asarray(log_t)) / loss_0


def crossing_times(
    log_t: Float[np.ndarray, " time"], values: Float[np.ndarray, "*curves time"], level: float, direction: Direction
) -> Float[np.ndarray, "*curves"]:
    """Logarithm of the time t of the last crossing of a level, interpolated in log t; >= 0, infinite where not crossed.

    "up": the last time at which the curve is below the level (an accuracy); "down": above it (a loss; the logarithm
    of a loss for levels over decades). Accuracies may start above their level, hence the floor. The grokking delay
    in decades is the difference of two of them over log 10. Raises `InvalidArgumentError` for times that do not
    increase or are not finite, curves of another length or with NaN, and another direction.

    >>> log_t = np.array([0.0, 1.0, 2.0, 3.0])
    >>> crossing_times(log_t, np.array([[0.9, 1.0, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]]), 0.75, "up")
    array([2.5, 0. , inf])
    """
    log_t, values = np.asarray(log_t, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if log_t.ndim != 1 or not len(log_t) or not np.isfinite(log_t).all() or not (log_t[1:] > log_t[:-1]).all():
        raise InvalidArgumentError(f"`log_t` must be an increasing sequence of finite numbers; got {log_t.tolist()}.")
    if values.ndim < 1 or values.shape[-1] != len(log_t) or np.isnan(values).any():
        raise InvalidArgumentError(
            f"`values` must have the axes [*curves time] with {len(log_t)} times and no NaN; got {list(values.shape)}."
        )
    if direction not in get_args(Direction):
        raise InvalidArgumentError(f"`direction` must be one of {', '.join(get_args(Direction))}; got {direction!r}.")
    sign = 1.0 if direction == "up" else -1.0
    missing = sign * (level - values)  # above 0 where the curve has yet to cross
    fails = missing > 0
    last = len(log_t) - 1 - np.argmax(fails[..., ::-1], axis=-1)
    after = np.minimum(last + 1, len(log_t) - 1)
    before_, after_ = (np.take_along_axis(missing, i[..., None], -1)[..., 0] for i in (last, after))
    crossing = log_t[last] + (log_t[after] - log_t[last]) * before_ / np.where(after > last, before_ - after_, 1.0)
    return np.where(fails.any(-1), np.where(fails[..., -1], np.inf, np.maximum(crossing, 0.0)), 0.0)


def bump(values: Float[np.ndarray, "*curves time"]) -> Float[np.ndarray, "*curves"]:
    """Largest rise of a loss: max over t of L(t) minus the least L(s), s <= t; 0 for a loss that only falls.

    Raises `InvalidArgumentError` for curves without points or with NaN.

    >>> bump(np.array([[0.7, 0.5, 0.9, 0.1], [3.0, 2.0, 1.0, 0.0]])).tolist()
    [0.4, 0.0]
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim < 1 or not values.shape[-1] or np.isnan(values).any():
        raise InvalidArgumentError(f"`values` must be curves [*curves time] without NaN; got {list(values.shape)}.")
    return (values - np.minimum.accumulate(values, axis=-1)).max(axis=-1)


def log_time_ratio(
    S_norm: Float[np.ndarray, "*sets"], loss: Float[np.ndarray, "*sets"], sigma: float
) -> Float[np.ndarray, "*sets"]:
    """Grokking ratio log(t_gen/t_tr) = sigma^2 |S_inf|^2/2 - log l* of the exponential losses, for small thresholds.

    Late in the flow the training loss 1/t and the population loss e^(sigma^2 |S_inf|^2/2)/(l* t) pass the threshold;
    eq. 16 is its leading term. The cross-entropy joins in below e^(-sigma^2 |S_inf|^2/2) only. `loss` is l*, in (0, 1].
    Raises `InvalidArgumentError` for values outside their range.

    >>> log_time_ratio(2.0, np.exp(-1), 1.5).item()                              # 3^2/2 + 1
    5.5
    """
    s, l_star = _as_limit(S_norm, loss, sigma)
    return s**2 / 2 - np.log(l_star)


def _flow(
    X: Float[np.ndarray, "sets N d"],
    S: Float[np.ndarray, "sets d"],
    b: Float[np.ndarray, " sets"],
    log_t: Float[np.ndarray, " time"],
    rate: float,
    loss: Loss,
    tolerance: float,
) -> tuple[Float[np.ndarray, "sets time d"], Float[np.ndarray, "sets time"], Float[np.ndarray, "sets time"]]:
    """Weights S, b and log tau at the times; every set has its own steps, up to the last time."""
    out_S, out_b = np.repeat(S[:, None], len(log_t), axis=1), np.repeat(b[:, None], len(log_t), axis=1)
    out_tau = np.full(out_b.shape, -np.inf)
    started = int(log_t[0] == -np.inf)
    if len(log_t) == started:
        return out_S, out_b, out_tau
    found = _segments(X, S, b, log_t, started, rate, loss, tolerance)
    low, high = np.zeros(len(found.time)), np.ones(len(found.time))
    for _ in range(50):  # log t increases with theta: bisection
        middle = (low + high) / 2
        early = found.at(middle)[1] < log_t[found.time]
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    where = found.member, found.time
    out_S[where] = found.S + found.h[:, None] * (found.Q @ high[:, None, None] ** _POWERS)[..., 0]
    out_b[where], _, out_tau[where] = found.at(high)
    return out_S, out_b, out_tau


def _segments(
    X: Float[np.ndarray, "sets N d"],
    S: Float[np.ndarray, "sets d"],
    b: Float[np.ndarray, " sets"],
    log_t: Float[np.ndarray, " time"],
    started: int,
    rate: float,
    loss: Loss,
    tolerance: float,
) -> _Segments:
    """The step that holds each time from number `started` on, for each set."""
    member, following = np.arange(len(X)), np.full(len(X), started)
    scale = np.sqrt(np.square(X).mean(axis=(1, 2)))  # of the logits, for S of length 1
    h = 1e-3 / (1 + rate * np.square(X).sum(axis=2).mean(axis=1))
    now_t, now_tau = np.full(len(X), -np.inf), np.full(len(X), -np.inf)
    f, g, slope = _rates(X, S, b, rate, loss)
    parts = []
    while len(X):
        K = np.empty((7, *S.shape))
        K[0] = f
        for stage in range(1, 6):
            moved = S + h[:, None] * np.tensordot(RK45.A[stage, :stage], K[:stage], axes=1)
            K[stage] = _direction(X, moved, b - RK45.C[stage] * h, rate, loss)
        end = S + h[:, None] * np.tensordot(RK45.B, K[:6], axes=1)
        K[6], g_end, slope_end = _rates(X, end, b - h, rate, loss)
        Q = np.moveaxis(np.tensordot(RK45.P.T, K, axes=1), 0, -1)
        _, g_half = _weights(_logits(X, S + h[:, None] * (Q @ 0.5**_POWERS)[..., 0], b - h / 2), loss)
        bend = g_half - (g + g_end) / 2 - h * (slope - slope_end) / 8  # error of the cubic of g at the half
        error = scale * h * np.linalg.norm(np.tensordot(RK45.E, K, axes=1), axis=1)
        error /= 1 + scale * np.maximum(np.linalg.norm(S, axis=1), np.linalg.norm(end, axis=1))
        # The quartic that follows is far more exact than the bend; g itself has rounding
        error = np.maximum(error, np.abs(bend) / (10 + np.abs(g_end) / 100)) / tolerance
        rise = g_end - g
        G = np.stack(
            [
                g,
                h * slope,
                3 * rise - h * (2 * slope + slope_end) + 16 * bend,
                h * (slope + slope_end) - 2 * rise - 32 * bend,
                16 * bend,
            ],
            axis=1,
        )
        step = _Segments(member, following, S, Q, b, h, G, now_t, now_tau)
        b_end, end_t, end_tau = step.at(np.ones(len(h)))
        good = error <= 1
        reached = np.where(good, np.searchsorted(log_t, end_t, side="right"), following)
        count = reached - following
        if count.any():
            held = step[np.repeat(np.arange(len(h)), count)]
            offset = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
            parts.append(replace(held, time=held.time + offset))
        S, f = np.where(good[:, None], end, S), np.where(good[:, None], K[6], f)
        b, g, slope = np.where(good, b_end, b), np.where(good, g_end, g), np.where(good, slope_end, slope)
        now_t, now_tau, following = np.where(good, end_t, now_t), np.where(good, end_tau, now_tau), reached
        h = h * np.clip(0.9 * np.maximum(error, 1e-10) ** -0.2, 0.2, 5.0)
        h = np.minimum(h, _RISE / (1 + np.abs(slope)))
        if (following == len(log_t)).any():
            rest = following < len(log_t)
            X, S, f, b, g, slope = (value[rest] for value in (X, S, f, b, g, slope))
            member, following, scale, h = (value[rest] for value in (member, following, scale, h))
            now_t, now_tau = now_t[rest], now_tau[rest]
    return _Segments.joined(parts)


def _rates(
    X: Float[np.ndarray, "sets N d"],
    S: Float[np.ndarray, "sets d"],
    b: Float[np.ndarray, " sets"],
    rate: float,
    loss: Loss,
) -> tuple[Float[np.ndarray, "sets d"], Float[np.ndarray, " sets"], Float[np.ndarray, " sets"]]:
    """Derivative dS/dbeta, g and dg/dbeta."""
    z = _logits(X, S, b)
    weights, g = _weights(z, loss)
    f = -rate * (weights[:, None] @ X)[:, 0]
    dz = (X @ f[..., None])[..., 0] - 1
    relative = expit(-z) if loss == "cross-entropy" else 1.0  # d log p_i/dz_i
    return f, g, -(weights * relative * dz).sum(axis=1)


def _direction(
    X: Float[np.ndarray, "sets N d"],
    S: Float[np.ndarray, "sets d"],
    b: Float[np.ndarray, " sets"],
    rate: float,
    loss: Loss,
) -> Float[np.ndarray, "sets d"]:
    """Derivative dS/dbeta."""
    weights, _ = _weights(_logits(X, S, b), loss)
    return -rate * (weights[:, None] @ X)[:, 0]


def _weights(
    z: Float[np.ndarray, "sets N"], loss: Loss
) -> tuple[Float[np.ndarray, "sets N"], Float[np.ndarray, " sets"]]:
    """Weights p_i/sum_i p_i and g = -log mean_i p_i, with p_i divided by e^top so that the largest is of order 1."""
    if loss == "exponential":
        top = z.max(axis=1)
        p = np.exp(z - top[:, None])
    else:
        top = np.minimum(z.max(axis=1), 0.0)
        p = np.exp(np.minimum(z, 0.0) - top[:, None]) * expit(np.abs(z))
    total = p.sum(axis=1)
    return p / total[:, None], -top - np.log(total / z.shape[1])


def _log_mean_exp(g: Float[np.ndarray, "segment node"]) -> Float[np.ndarray, " segment"]:
    """Logarithm of the mean of e^g over a step, from the values at the nodes."""
    top = g.max(axis=1)
    return top + np.log(np.exp(g - top[:, None]) @ _WEIGHTS)


def _logits(
    X: Float[np.ndarray, "sets N d"], S: Float[np.ndarray, "sets d"], b: Float[np.ndarray, " sets"]
) -> Float[np.ndarray, "sets N"]:
    return (X @ S[..., None])[..., 0] + b[:, None]


def _as_start(name: str, value: np.ndarray | float, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    try:
        array = np.broadcast_to(array, shape)
    except ValueError:
        raise InvalidArgumentError(
            f"`{name}` must have sizes that broadcast to {list(shape)}, as `points` do; got {list(array.shape)}."
        ) from None
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"`{name}` must be finite; got values that are NaN or infinite.")
    return array


def _as_limit(
    S_norm: np.ndarray, loss: np.ndarray, sigma: float
) -> tuple[Float[np.ndarray, "*sets"], Float[np.ndarray, "*sets"]]:
    """Checked s = sigma |S_inf| and l*."""
    s, l_star = as_positive("sigma", sigma) * np.asarray(S_norm, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if not (s >= 0).all() or not ((l_star > 0) & (l_star <= 1)).all():
        raise InvalidArgumentError(
            f"`S_norm` must be >= 0 and `loss`, the least l, in (0, 1]; "
            f"got {np.asarray(S_norm).tolist()} and {l_star.tolist()}."
        )
    return s, l_star
