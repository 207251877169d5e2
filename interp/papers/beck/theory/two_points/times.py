"""Times at which losses and accuracy of the two points pass a threshold, and their ratio.

Late, the training loss is 1/t and the generalisation loss e^(sigma^2 S^2/2)/(l* t): the ratio of their times at any
threshold is

    ln(t_gen/t_train) = (sigma S_inf)^2/2 - ln l*,

which diverges as ln(delta)^2/2 at the edge. It holds where S has arrived before the losses pass the threshold,
sigma^2 delta ln(1/epsilon) >> 1, and with the cross-entropy of the population only for
epsilon << e^(-sigma^2 S_inf^2/2).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtri

from interp.errors import InvalidArgumentError
from interp.papers.beck.theory.two_points.clock import BiasClock
from interp.papers.beck.theory.two_points.limits import asymptotic_loss, asymptotic_weight
from interp.papers.beck.theory.two_points.model import as_cases, as_delta, log_train_loss
from interp.papers.beck.theory.two_points.path import cross_entropy_flow
from interp.theory.separability import Loss, Reals, as_loss, as_positive, log_generalisation_loss

__all__ = [
    "GrokkingTimes",
    "accuracy_time",
    "grokking_times",
    "log_grokking_ratio",
]


@dataclass(frozen=True, eq=False)
class GrokkingTimes:
    """Logarithms of the times at which the losses last fall below the threshold: -inf always below, inf never."""

    log_train: Float[np.ndarray, "*cases"]
    log_generalisation: Float[np.ndarray, "*cases"]

    @property
    def log_ratio(self) -> Float[np.ndarray, "*cases"]:
        """Grokking ratio ln(t_gen/t_train)."""
        return self.log_generalisation - self.log_train


def grokking_times(
    epsilon: Reals,
    delta: Reals,
    sigma: Reals = 1.0,
    *,
    loss: Loss = "exponential",
    S0: Reals = 0.0,
    b0: Reals = 0.0,
) -> GrokkingTimes:
    """Times at which the training and the generalisation loss last fall below `epsilon`.

    Beck et al. (2024), section 4.1 and appendix E.3, without their approximations (`log_grokking_ratio`). The losses of
    the flow are measured by the same `loss`. For delta < 0 the generalisation loss diverges. Raises
    `InvalidArgumentError` for `delta` outside [-1, 1], `epsilon` or `sigma` not above 0, another `loss`, values that
    are not finite.

    >>> times = grokking_times(1e-9, np.array([0.1, 0.01]), sigma=300.0)
    >>> (times.log_train / np.log(1e9)).round(4).tolist(), (times.log_ratio - log_grokking_ratio([0.1, 0.01])).round(4)
    ([1.0, 1.0], array([0., 0.]))
    """
    log_epsilon = np.log(as_positive("epsilon", epsilon))

    def train(s: np.ndarray, b: np.ndarray, delta: np.ndarray, level: np.ndarray) -> np.ndarray:
        return log_train_loss(s, b, delta, loss=loss) - level

    def generalisation(s: np.ndarray, b: np.ndarray, delta: np.ndarray, level: np.ndarray) -> np.ndarray:
        return log_generalisation_loss(np.abs(s), b, 1.0, loss=loss) - level

    cases = as_cases(delta, sigma, S0, b0)
    return GrokkingTimes(
        log_train=_last_crossing(train, log_epsilon, np.array(False), cases, as_loss(loss)),
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
    """Logarithm of the last time at which the generalisation accuracy is below `accuracy`, in (1/2, 1).

    Beck et al. (2024), right panel of Fig. 3, for 0.95. It saturates in sigma and as delta -> 0, where it is finite:
    -b grows linearly with conformal time and S like its logarithm. -inf where the accuracy is above from the start on,
    inf where the limit of the accuracy is not above `accuracy`. Raises `InvalidArgumentError` for `accuracy`
    outside (1/2, 1), `delta` outside [-1, 1], `sigma` not above 0, another `loss`, values that are not finite.

    >>> accuracy_time(0.95, np.array([0.01, -1.0]), sigma=5.0).round(2).tolist()
    [7.83, inf]
    """
    level = ndtri(_as_accuracy(accuracy))

    def below(s: np.ndarray, b: np.ndarray, delta: np.ndarray, level: np.ndarray) -> np.ndarray:
        return b + level * np.abs(s)

    delta, sigma, S0, b0 = as_cases(delta, sigma, S0, b0)
    never = level * sigma**2 * np.maximum(-delta, 0.0) >= 1
    return _last_crossing(below, level, never, (delta, sigma, S0, b0), as_loss(loss))


def log_grokking_ratio(delta: Reals) -> Float[np.ndarray, "*cases"]:
    """Grokking ratio ln(t_gen/t_train) = (sigma S_inf)^2/2 - ln l*, for every small threshold of the losses and sigma.

    Its square root goes as |ln delta|/sqrt 2: Beck et al. (2024), equations 16 and 44. Its range: see the module.
    Raises `InvalidArgumentError` for `delta` outside (0, 1].

    >>> np.sqrt(log_grokking_ratio(np.array([1e-1, 1e-2, 1e-3, 1e-4]))).round(3).tolist()
    [1.606, 3.322, 4.949, 6.565]
    """
    delta = as_delta(delta, "the grokking ratio", "(0, 1]")
    return 0.5 * np.square(asymptotic_weight(delta)) - np.log(asymptotic_loss(delta))


def _last_crossing(
    excess: Callable[..., np.ndarray],
    level: np.ndarray,
    never: Bool[np.ndarray, "*cases"],
    cases: tuple[np.ndarray, ...],
    loss: Loss,
) -> Float[np.ndarray, "*cases"]:
    """Logarithm of the time after which `excess` of (sigma S, b) stays at or below 0; inf for `never`."""
    level, never, *broadcast = np.broadcast_arrays(level, never, *cases)
    log_t = np.full(never.shape, np.inf)
    level, delta, sigma, S0, b0 = (value[~never] for value in (level, *broadcast))
    first = 1e-3 / np.maximum(1.0, sigma**2)  # before the weight has moved
    if loss == "exponential":
        clock = BiasClock.of(delta, sigma, S0)

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
    """The function `excess` of theta, by an integration that is repeated for later times."""
    reached = 64.0
    state = cross_entropy_flow(reached, *case)

    def after(theta: np.ndarray) -> np.ndarray:
        nonlocal reached, state
        if theta.max() > reached:
            reached = float(theta.max())
            state = cross_entropy_flow(reached, *case)
        s, b = state(theta)
        return excess(s, b, case[0], level)

    return after


def _last_positive(function: Callable[[np.ndarray], np.ndarray], first: np.ndarray) -> Float[np.ndarray, "*cases"]:
    """The last sign change, from `first` on, of functions of time that end below 0; 0 without any."""
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


def _as_accuracy(accuracy: Reals) -> Float[np.ndarray, "*cases"]:
    array = np.asarray(accuracy, dtype=np.float64)
    if not ((array > 0.5) & (array < 1)).all():
        raise InvalidArgumentError(f"`accuracy` must lie in (1/2, 1); got {array.tolist()}.")
    return array
