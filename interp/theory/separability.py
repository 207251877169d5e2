"""Linear classification of one class at the edge of separability: margins, limits of training, and generalisation.

N points x_i ~ N(0, sigma^2 I_d), all with one label, are classified by f(x) = S.x + b, correctly where f < 0. Only the
bias can classify every new point correctly, but it learns slowly, and the weights S fit the sample first. With
z_i = S.x_i + b, the training loss is the mean of log(1 + e^z_i) ("cross-entropy") or of e^z_i ("exponential"), and

    L_gen = E log(1 + e^(sigma |S| Z + b)),    A_gen = Phi(-b / (sigma |S|)),    Z ~ N(0, 1),

depend on |S| and b alone. The points are *separable* (from the origin) if some v has v.x_i < 0 for all i, that is, if 0
is not in their convex hull. Let p be the hull's point nearest to 0 and M = |p|, the margin; lambda = d/N.

- Separable: (S, b) goes as log t times the hard-margin solution -(p, 1)/(1 + M^2) of the points (x_i, 1), so that
  |S| -> M/(1 + M^2) log t, b -> -log t/(1 + M^2), and A_gen -> Phi(1/(sigma M)) < 1: overfitting for ever.
- Not separable: l(S) = mean of e^(S.x_i) has a minimum l* > 0 at a finite S_inf; S -> S_inf and b -> -log(l* t), so
  that A_gen -> 1, after a time that grows with |S_inf|: grokking.

Random points are separable with Wendel's probability, a step at lambda = 1/2 for large N, and |S_inf| is large near the
step. sigma can be scaled away: with S' = sigma S and x' = x/sigma every logit stays, and S' learns sigma^2 times as
fast. The case sigma = 1 with a separate learning rate for the weights covers all others.

How |S_inf| diverges depends on the limit: in the logarithm of the distance from 0 to the boundary of the hull for a
fixed number of points, but as (1/2 - lambda)^(-1/2) for N -> infinity. With sigma = 1 the limit Phi(1/M) is hard to
tell from 1 (0.99999 at lambda = 0.6), and the accuracy is high from the first step on: large sigma makes it visible.

References: Grokking at the Edge of Linear Separability (Beck, Levi, Bar-Sinai, 2024), arXiv:2410.04489; A Problem in
Geometric Probability (Wendel, 1962); The Implicit Bias of Gradient Descent on Separable Data (Soudry et al., 2018),
arXiv:1710.10345. Points have the axes [*sets N d]: every function takes many samples of equal size at once.
"""

from dataclasses import dataclass
from typing import Literal, get_args, overload

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import linprog, nnls
from scipy.spatial.distance import pdist
from scipy.special import ndtr
from scipy.stats import binom

from interp.errors import InvalidArgumentError, NotAvailableError

__all__ = [
    "AsymptoticWeights",
    "HardMargin",
    "Loss",
    "Margin",
    "NormBound",
    "Reals",
    "as_loss",
    "as_points",
    "as_positive",
    "asymptotic_weights",
    "generalisation_accuracy",
    "generalisation_loss",
    "hard_margin",
    "log_generalisation_loss",
    "log_softplus",
    "margin",
    "separation_probability",
    "training_accuracy",
    "training_loss",
    "weight_norm_bound",
]

Loss = Literal["cross-entropy", "exponential"]
Reals = float | np.ndarray

_SEPARABLE = 1e-9  # |p| above this, in units of the points; of 0, rounding leaves less than 1e-14
_ITERATIONS = 200  # Newton steps: 5 to 15 are the rule
_HALF_WIDTH = 8.5  # of the window of Z: the mass outside is below e^(-36) of the mass inside
_ENTRIES = 2**16  # numbers in one block of the quadrature: they stay in the cache


@dataclass(frozen=True, eq=False)
class Margin:
    """Margin: the distance of the origin from the convex hull of the points, its direction and support vectors."""

    size: Float[np.ndarray, "*sets"]
    """Distance M = |p|, in units of the points; 0 where they are not separable."""
    direction: Float[np.ndarray, "*sets d"]
    """Unit vector v = -p/M with v.x_i <= -M for all i; 0 where the points are not separable."""
    weights: Float[np.ndarray, "*sets N"]
    """Convex weights a of p = sum_i a_i x_i: positive on support vectors only."""

    @property
    def separable(self) -> Bool[np.ndarray, "*sets"]:
        """Whether some half-space through the origin holds all points."""
        return self.size > 0


@dataclass(frozen=True, eq=False)
class AsymptoticWeights:
    """The weights S_inf to which gradient flow converges on points that are not separable."""

    S: Float[np.ndarray, "*sets d"]
    loss: Float[np.ndarray, "*sets"]
    """Minimum l* = mean of e^(S_inf.x_i), in (1/N, 1]."""
    projections: Float[np.ndarray, "*sets N"]
    """Logits S_inf.x_i."""

    @property
    def S_norm(self) -> Float[np.ndarray, "*sets"]:
        """Norm |S_inf|."""
        return np.linalg.norm(self.S, axis=-1)

    @property
    def weights(self) -> Float[np.ndarray, "*sets N"]:
        """Normalised weights alpha_i = e^(S_inf.x_i)/sum of the points, with sum_i alpha_i x_i = 0 (App. D)."""
        return np.exp(self.projections) / (self.loss * self.projections.shape[-1])[..., None]

    @property
    def fraction_positive(self) -> Float[np.ndarray, "*sets"]:
        """Share of points on the wrong side of the weights, S_inf.x_i > 0, which the bias has to outweigh."""
        return (self.projections > 0).mean(axis=-1)

    @property
    def mean_positive(self) -> Float[np.ndarray, "*sets"]:
        """Mean of the positive projections on the direction of S_inf, in units of the points."""
        positive = self.projections > 0
        return np.where(positive, self.projections, 0.0).sum(-1) / (positive.sum(-1) * self.S_norm)


@dataclass(frozen=True, eq=False)
class HardMargin:
    """The late-time slopes of S and b in log t: the hard-margin solution of the points (x_i, 1)."""

    S: Float[np.ndarray, "*sets d"]
    """Slope dS/dlog t -> -p/(1 + M^2)."""
    b: Float[np.ndarray, "*sets"]
    """Slope db/dlog t -> -1/(1 + M^2)."""
    margin: Float[np.ndarray, "*sets"]
    """Margin M, 0 where the points are not separable."""

    @property
    def S_norm(self) -> Float[np.ndarray, "*sets"]:
        """Slope d|S|/dlog t -> M/(1 + M^2)."""
        return self.margin / (1 + self.margin**2)

    def accuracy(self, sigma: float) -> Float[np.ndarray, "*sets"]:
        """Limit Phi(1/(sigma M)) of the generalisation accuracy (eq. 13); 1 where M = 0."""
        return generalisation_accuracy(self.S_norm, self.b, sigma)

    def loss_slope(self, sigma: float) -> Float[np.ndarray, "*sets"]:
        """Limit of the slope dL_gen/dlog t of the cross-entropy, nats: E max(0, sigma |dS| Z + db) >= 0.

        With k = 1/(sigma M) it is sigma M/(1 + M^2) (phi(k) - k Phi(-k)). An extension of the paper, which states that
        L_gen diverges.
        """
        s = as_positive("sigma", sigma) * self.S_norm
        k = -self.b / np.where(s > 0, s, 1.0)
        return s * (np.exp(-(k**2) / 2) / np.sqrt(2 * np.pi) - k * ndtr(-k))


@dataclass(frozen=True, eq=False)
class NormBound:
    """A lower bound of |S_inf| from the geometry of the points (App. D)."""

    S_norm: Float[np.ndarray, "*sets"]
    """Lower bound max(0, log(((1 - epsilon)/epsilon) (N - d)/d) / diameter) <= |S_inf|."""
    epsilon: Float[np.ndarray, "*sets"]
    """Largest weight of a convex representation of 0 outside the d points with the largest S_inf.x_i."""
    diameter: Float[np.ndarray, "*sets"]
    """Diameter max_ij |x_i - x_j| of the points."""


# --- losses and accuracies --------------------------------------------------------------------------------------------


def generalisation_loss(
    S_norm: Float[np.ndarray, "*sets"], b: Float[np.ndarray, "*sets"], sigma: Reals, *, loss: Loss = "cross-entropy"
) -> Float[np.ndarray, "*sets"]:
    """The expected loss of a new point, in nats: E log(1 + e^(s Z + b)) or e^(b + s^2/2), with s = sigma |S|.

    Eqs. 4 and 5. `S_norm` >= 0, `b` and `sigma` are broadcast against each other. The relative error is below 1e-10
    for all s up to 300; values beyond the floating-point range come out as 0 or infinity. Raises
    `InvalidArgumentError` for sigma <= 0, negative norms, values that are not finite and another loss.

    >>> generalisation_loss(0.0, 0.0, 5.0).round(6).item()                       # log 2
    0.693147
    >>> excess = generalisation_loss(2.0, 3.0, 1.0) - generalisation_loss(2.0, -3.0, 1.0)
    >>> excess.round(12).item()                                                  # softplus(z) - softplus(-z) = z
    3.0
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(log_generalisation_loss(S_norm, b, sigma, loss=loss))


def log_generalisation_loss(
    S_norm: Float[np.ndarray, "*sets"], b: Float[np.ndarray, "*sets"], sigma: Reals, *, loss: Loss = "cross-entropy"
) -> Float[np.ndarray, "*sets"]:
    """Logarithm of `generalisation_loss`, free of underflow and overflow: for thresholds as small as 1e-300.

    The integrand softplus(s Z + b) phi(Z) is log-concave, at least as curved as phi itself, and its mode is near
    Z = -b/s clipped to [0, s]: the trapezoidal rule on a window around the mode converges geometrically, once the step
    is small against the distance pi/s of the singularities from the real axis. A rule with fixed nodes, such as
    Gauss-Hermite, misses the bend of the softplus for large s, and all of the mass for b < -s^2.

    >>> log_generalisation_loss(1.0, -1000.0, 2.0).round(6).item()               # e^(b + s^2/2)
    -998.0
    """
    s, b = _as_state(S_norm, b, sigma)
    if as_loss(loss) == "exponential":
        return b + s**2 / 2
    flat_s, flat_b = s.ravel(), b.ravel()
    result = np.empty(flat_s.shape)
    # Step 1/8 or 0.6/s at most; powers of two let the pairs share nodes
    nodes = 2 ** np.ceil(np.log2(2 * _HALF_WIDTH * np.maximum(8.0, flat_s / 0.6))).astype(int)
    for count in np.unique(nodes):
        offset, step = np.linspace(-_HALF_WIDTH, _HALF_WIDTH, count, retstep=True)
        members = np.flatnonzero(nodes == count)
        for some in np.array_split(members, -(-len(members) * count // _ENTRIES)):
            s_, b_ = flat_s[some, None], flat_b[some, None]
            mode = np.minimum(np.maximum(-b_, 0.0), s_**2) / np.where(s_ > 0, s_, 1.0)
            Z = mode + offset
            exponent = log_softplus(s_ * Z + b_) - Z**2 / 2
            largest = exponent.max(axis=1)
            total = np.exp(exponent - largest[:, None]).sum(axis=1)
            result[some] = largest + np.log(total * (step / np.sqrt(2 * np.pi)))
    return result.reshape(s.shape)


def generalisation_accuracy(
    S_norm: Float[np.ndarray, "*sets"], b: Float[np.ndarray, "*sets"], sigma: Reals
) -> Float[np.ndarray, "*sets"]:
    """The probability that a new point is classified correctly, in [0, 1]: A_gen = Phi(-b/(sigma |S|)), eq. 6.

    For S = 0 it is 1 where b < 0, 1/2 where b = 0 and 0 where b > 0. Raises as `generalisation_loss` does.

    >>> generalisation_accuracy(np.array([0.0, 0.0, 1.0]), np.array([-1.0, 0.0, -2.0]), 2.0).round(6).tolist()
    [1.0, 0.5, 0.841345]
    """
    s, b = _as_state(S_norm, b, sigma)
    return ndtr(np.where(s > 0, -b / np.where(s > 0, s, 1.0), np.where(b == 0, 0.0, np.where(b < 0, np.inf, -np.inf))))


def training_loss(
    points: Float[np.ndarray, "*sets N d"],
    S: Float[np.ndarray, "*states d"],
    b: Float[np.ndarray, "*states"],
    *,
    loss: Loss = "cross-entropy",
) -> Float[np.ndarray, "*states"]:
    """The mean over the points of log(1 + e^z_i) (eq. 1) or of e^z_i (eq. 8), in nats; z_i = S.x_i + b.

    `*states` are the axes `*sets` of the points and any further axes: one or several (S, b) for every set. Raises
    `InvalidArgumentError` for sizes that do not fit, values that are not finite and another loss.

    >>> training_loss(np.array([[1.0], [-1.0]]), np.array([[0.0], [np.log(2)]]), np.zeros(2), loss="exponential")
    array([1.  , 1.25])
    """
    z = _logits(points, S, b)
    with np.errstate(over="ignore", under="ignore"):
        return (np.exp(z) if as_loss(loss) == "exponential" else np.logaddexp(0.0, z)).mean(axis=-1)


def training_accuracy(
    points: Float[np.ndarray, "*sets N d"], S: Float[np.ndarray, "*states d"], b: Float[np.ndarray, "*states"]
) -> Float[np.ndarray, "*states"]:
    """The share of points with z_i = S.x_i + b < 0, in [0, 1]: eq. 2. Shapes and errors as in `training_loss`.

    >>> training_accuracy(np.array([[1.0], [-1.0]]), np.array([3.0]), np.array(-1.0)).item()
    0.5
    """
    return (_logits(points, S, b) < 0).mean(axis=-1)


# --- separability -----------------------------------------------------------------------------------------------------


def separation_probability(n: np.ndarray | int, d: np.ndarray | int) -> Float[np.ndarray, "*sets"]:
    """The probability that n points in R^d lie in a half-space through the origin: Wendel (1962), eq. 19.

    2^(1-n) sum over k < d of binomial(n - 1, k), for independent points of any distribution that is symmetric about
    the origin and puts no d of them in a plane with it. Whole numbers >= 1. Raises `InvalidArgumentError` otherwise.

    >>> separation_probability(3, 2).item(), separation_probability(40, 20).round(12).item()  # three points on a circle
    (0.75, 0.5)
    """
    n, d = _as_sizes(n, d)
    return np.asarray(binom.cdf(d - 1, n - 1, 0.5))


def margin(points: Float[np.ndarray, "*sets N d"]) -> Margin:
    """The margin M = max over unit v of min_i (-v.x_i) of the points, 0 where they are not separable.

    By duality M is the distance of the origin from the convex hull, whose nearest point p = X^T a/sum(a) comes from the
    non-negative least-squares solution a of X^T a = 0, sum(a) = 1. |p| is 0 up to rounding where no plane separates.
    Raises `InvalidArgumentError` for arrays that are not finite points [*sets N d].

    >>> found = margin(np.array([[-3.0, 4.0], [-3.0, -4.0]]))                    # the hull is a line at distance 3
    >>> found.size.round(6).item(), found.direction[0].round(6).item(), found.weights.round(6).tolist()
    (3.0, 1.0, [0.5, 0.5])
    >>> margin(np.array([[[1.0], [-2.0]], [[1.0], [2.0]]])).separable.tolist()
    [False, True]
    """
    points = as_points("points", points)
    *sets, n, d = points.shape
    flat = points.reshape(-1, n, d)
    size, direction, weights = np.zeros(len(flat)), np.zeros((len(flat), d)), np.zeros((len(flat), n))
    for i, X in enumerate(flat):
        scale = np.sqrt(np.square(X).mean()) or 1.0
        a, _ = nnls(np.vstack([X.T / scale, np.ones(n)]), np.eye(d + 1)[d])
        weights[i] = a / a.sum()
        p = weights[i] @ X
        distance = np.linalg.norm(p)
        if distance > _SEPARABLE * scale:
            size[i], direction[i] = distance, -p / distance
    return Margin(size.reshape(sets), direction.reshape(*sets, d), weights.reshape(*sets, n))


def hard_margin(points: Float[np.ndarray, "*sets N d"]) -> HardMargin:
    """The late-time direction (S, b)/log t of gradient descent: argmin |S|^2 + b^2 with S.x_i + b <= -1, eqs. 7, 12.

    It is -(p, 1)/(1 + M^2), where p is the point of the convex hull nearest to the origin; (0, -1) where the points are
    not separable, M = 0. The residual, (S, b) minus log t times this direction, stays bounded (Soudry et al., 2018),
    so that (S, b)/log t converges only as 1/log t. Raises as `margin` does.

    >>> limit = hard_margin(np.array([[-1.0, 2.0], [-1.0, -2.0]]))
    >>> limit.S[0].round(6).item(), limit.b.round(6).item(), limit.accuracy(1.0).round(6).item()  # M = 1, Phi(1)
    (0.5, -0.5, 0.841345)
    """
    found = margin(points)
    share = 1 / (1 + found.size**2)
    return HardMargin(S=found.direction * (found.size * share)[..., None], b=-share, margin=found.size)


def asymptotic_weights(points: Float[np.ndarray, "*sets N d"]) -> AsymptoticWeights:
    """The minimiser S_inf of l(S) = mean of e^(S.x_i), the limit of the weights on points that are not separable.

    By damped Newton steps on log l, to a gradient of 1e-10 in units of the points. Separable points have no minimum:
    the descent finds weights with all S.x_i < 0, and raises `NotAvailableError`, which names the sets.
    `InvalidArgumentError` for arrays that are not finite points [*sets N d], and for N <= d, where points in general
    position are always separable.

    >>> found = asymptotic_weights(np.array([[-1.0], [0.5]]))                    # e^(-S) = e^(S/2)/2
    >>> (found.S / np.log(2)).round(6).tolist()
    [0.666667]
    >>> found.fraction_positive.item(), found.weights.round(6).tolist()
    (0.5, [0.333333, 0.666667])
    """
    points = as_points("points", points)
    *sets, n, d = points.shape
    if n <= d:
        raise InvalidArgumentError(
            f"`points` must be more than their dimension, N > d: otherwise they are separable; got N={n}, d={d}."
        )
    flat = points.reshape(-1, n, d)
    S = np.empty((len(flat), d))
    separable = []
    for i, X in enumerate(flat):
        found = _newton(X)
        if found is None:
            separable.append(i)
        else:
            S[i] = found
    if separable:
        raise NotAvailableError(
            f"`points` must not be separable for S_inf to exist; {len(separable)} of {len(flat)} sets are: "
            f"{', '.join(map(str, separable[:5]))}{', ...' if len(separable) > 5 else ''}. "
            f"Leave out the sets with `margin(points).separable`, or take their limit from `hard_margin`."
        )
    projections = (flat @ S[:, :, None])[..., 0]
    return AsymptoticWeights(
        S=S.reshape(*sets, d),
        loss=np.exp(projections).mean(axis=-1).reshape(sets),
        projections=projections.reshape(*sets, n),
    )


def weight_norm_bound(points: Float[np.ndarray, "*sets N d"]) -> NormBound:
    """A lower bound of |S_inf| (App. D), from the weight of d points in convex representations of the origin.

    The weights alpha_i ~ e^(S_inf.x_i) represent the origin. If a set J of d points carries at least 1 - epsilon in
    every convex representation of the origin, then some alpha_i/alpha_j >= ((1 - epsilon)/epsilon) (N - d)/d, and log
    alpha_i/alpha_j = S_inf.(x_i - x_j) <= |S_inf| D. Here J are the d points with the largest S_inf.x_i, and the least
    epsilon comes from a linear program. An equality for two points on a line, loose for random points: 0.05 to 0.2
    where |S_inf| is 1 to 9. Raises as `asymptotic_weights` does.

    >>> points = np.array([[-1.0], [0.5]])
    >>> bound, S_inf = weight_norm_bound(points), asymptotic_weights(points)
    >>> bound.epsilon.round(6).item(), (bound.S_norm / S_inf.S_norm).round(6).item()
    (0.333333, 1.0)
    """
    points = as_points("points", points)
    *sets, n, d = points.shape
    flat, projections = points.reshape(-1, n, d), asymptotic_weights(points).projections.reshape(-1, n)
    epsilon, diameter = np.empty(len(flat)), np.empty(len(flat))
    for i, X in enumerate(flat):
        outside = np.ones(n)
        outside[np.argsort(projections[i])[n - d :]] = 0.0
        A = np.vstack([X.T, np.ones(n)])
        epsilon[i] = -linprog(-outside, A_eq=A, b_eq=np.eye(d + 1)[d], bounds=(0, None), method="highs").fun
        diameter[i] = pdist(X).max()
    ratio = (1 - epsilon) / epsilon * (n - d) / d
    bound = np.log(np.maximum(ratio, 1.0)) / diameter
    return NormBound(S_norm=bound.reshape(sets), epsilon=epsilon.reshape(sets), diameter=diameter.reshape(sets))


def log_softplus(z: Float[np.ndarray, "*cases"]) -> Float[np.ndarray, "*cases"]:
    """Logarithm of the softplus, ln log(1 + e^z), which equals z up to rounding below -37."""
    return np.where(z < -37.0, z, np.log(np.logaddexp(0.0, np.maximum(z, -37.0))))


def as_points(name: str, value: np.ndarray) -> Float[np.ndarray, "*sets N d"]:
    """Finite points [*sets N d] in float64, at least one point of at least one dimension."""
    points = np.asarray(value, dtype=np.float64)
    if points.ndim < 2 or 0 in points.shape:
        raise InvalidArgumentError(
            f"`{name}` must have the axes [*sets N d] with N >= 1 and d >= 1; got sizes {list(points.shape)}."
        )
    if not np.isfinite(points).all():
        raise InvalidArgumentError(
            f"`{name}` must be finite; got {int((~np.isfinite(points)).sum())} values that are NaN or infinite."
        )
    return points


@overload
def as_positive(name: str, value: float) -> float: ...


@overload
def as_positive(name: str, value: Reals) -> Reals: ...


def as_positive(name: str, value: Reals) -> Reals:
    """A finite number above 0, or an array of them; otherwise `InvalidArgumentError`."""
    array = np.asarray(value, dtype=np.float64)
    if not ((array > 0) & (array < np.inf)).all():
        raise InvalidArgumentError(f"`{name}` must be finite and above 0; got {array.tolist()}.")
    return array[()]


def as_loss(loss: Loss) -> Loss:
    """Name of a loss, checked to be in `Loss`; otherwise `InvalidArgumentError`."""
    if loss not in get_args(Loss):
        raise InvalidArgumentError(f"`loss` must be one of {', '.join(get_args(Loss))}; got {loss!r}.")
    return loss


def _newton(X: Float[np.ndarray, "N d"]) -> Float[np.ndarray, " d"] | None:
    """The minimiser of log mean e^(X S); None where X is separable, exactly or numerically."""
    scale = np.sqrt(np.square(X).mean())
    if not scale:
        return np.zeros(X.shape[1])
    X = X / scale
    S, z = np.zeros(X.shape[1]), np.zeros(len(X))
    for _ in range(_ITERATIONS):
        top = z.max()
        weight = np.exp(z - top)
        value = top + np.log(weight.mean())
        if top < 0:
            return None
        weight /= weight.sum()
        gradient = weight @ X
        half = X * np.sqrt(weight)[:, None]
        H = half.T @ half  # Hessian of l over l; the Hessian of log l, less the square of the gradient, may vanish
        H[np.diag_indices_from(H)] += 1e-14 * H.trace()
        step = -cho_solve(cho_factor(H, check_finite=False), gradient, check_finite=False)
        # near the boundary of the hull the gradient falls as e^-S, long before the minimum
        if np.linalg.norm(gradient) < 1e-10 and np.linalg.norm(step) <= 1e-6 * (1 + np.linalg.norm(S)):
            return (S + step) / scale
        along = X @ step
        slope, length = gradient @ step, 1.0
        while length > 1e-9:
            excess = np.logaddexp.reduce(z + length * along) - np.log(len(X)) - value
            if excess <= 0.1 * length * slope + 1e-13 * (1 + abs(value)):  # but for rounding, near the minimum
                break
            length /= 2
        S, z = S + length * step, z + length * along
    return None


def _logits(
    points: Float[np.ndarray, "*sets N d"], S: Float[np.ndarray, "*states d"], b: Float[np.ndarray, "*states"]
) -> Float[np.ndarray, "*states N"]:
    points, S, b = as_points("points", points), np.asarray(S, dtype=np.float64), np.asarray(b, dtype=np.float64)
    *sets, n, d = points.shape
    if list(S.shape[: len(sets)]) != sets or S.ndim == len(sets) or S.shape[-1] != d or b.shape != S.shape[:-1]:
        raise InvalidArgumentError(
            f"`S` and `b` must have the axes [*states d] and [*states], d={d} and states that begin with the sets "
            f"{sets} of `points`; got sizes {list(S.shape)} and {list(b.shape)}."
        )
    if not (np.isfinite(S).all() and np.isfinite(b).all()):
        raise InvalidArgumentError("`S` and `b` must be finite; got values that are NaN or infinite.")
    further = S.shape[len(sets) : -1]
    z = S.reshape(*sets, -1, d) @ points.swapaxes(-1, -2)
    return z.reshape(*sets, *further, n) + b[..., None]


def _as_state(
    S_norm: np.ndarray, b: np.ndarray, sigma: Reals
) -> tuple[Float[np.ndarray, "*sets"], Float[np.ndarray, "*sets"]]:
    """The standard deviation s = sigma |S| of the logits and b, of one shape."""
    given = [np.asarray(value, dtype=np.float64) for value in (S_norm, b, as_positive("sigma", sigma))]
    try:
        norm, bias, scale = np.broadcast_arrays(*given)
    except ValueError:
        sizes = ", ".join(str(list(value.shape)) for value in given)
        raise InvalidArgumentError(
            f"`S_norm`, `b` and `sigma` must have sizes that can be broadcast; got {sizes}."
        ) from None
    s = scale * norm
    if not (np.isfinite(s).all() and np.isfinite(bias).all() and (s >= 0).all()):
        wrong = ~(np.isfinite(s) & np.isfinite(bias) & (s >= 0))
        raise InvalidArgumentError(
            f"`S_norm` must be finite and >= 0, and `b` finite; got {int(wrong.sum())} pairs that are not."
        )
    return s, bias


def _as_sizes(n: np.ndarray | int, d: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    n, d = np.asarray(n), np.asarray(d)
    for name, value in (("n", n), ("d", d)):
        if value.dtype.kind not in "iu" or (value < 1).any():
            raise InvalidArgumentError(f"`{name}` must be whole numbers >= 1; got {value.tolist()!r}.")
    return n, d
