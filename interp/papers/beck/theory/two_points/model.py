"""The two points: state, training loss and accuracy, and checks of the parameters.

Losses and accuracies on the population N(0, sigma^2) are in `separability`, taken at |S| in one dimension.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.errors import InvalidArgumentError
from interp.theory.separability import Loss, Reals, as_loss, as_positive, log_softplus

__all__ = ["State", "as_cases", "as_delta", "as_reals", "log_train_loss"]


@dataclass(frozen=True, eq=False)
class State:
    """Weight and bias of f(x) = S x + b."""

    S: Float[np.ndarray, "*cases"]
    b: Float[np.ndarray, "*cases"]


def log_train_loss(
    S: Reals, b: Reals, delta: Reals, sigma: Reals = 1.0, *, loss: Loss = "exponential"
) -> Float[np.ndarray, "*cases"]:
    """Logarithm of the mean of e^f or, as "cross-entropy", log(1 + e^f) over the two points: Beck et al. (2024), 1, 8.

    Raises `InvalidArgumentError` for `delta` outside [-1, 1], `sigma` not above 0, another `loss`, values that are not
    finite.

    >>> log_train_loss(0.0, -2.0, 0.5).tolist()
    -2.0
    """
    first, second = _logits(S, b, delta, sigma)
    if as_loss(loss) == "cross-entropy":
        first, second = log_softplus(first), log_softplus(second)
    return np.logaddexp(first, second) - np.log(2)


def as_cases(delta: Reals, sigma: Reals, S0: Reals, b0: Reals) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The parameters delta, sigma and the start as checked arrays."""
    return (
        as_delta(delta, "the two points"),
        np.asarray(as_positive("sigma", sigma)),
        as_reals("S0", S0),
        as_reals("b0", b0),
    )


def as_delta(delta: Reals, quantity: str, allowed: str = "[-1, 1]") -> Float[np.ndarray, "*cases"]:
    """Checked delta in an interval, written as in "(0, 1]", outside which the quantity does not exist."""
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


def as_reals(name: str, value: Reals) -> Float[np.ndarray, "*cases"]:
    """Finite numbers; otherwise `InvalidArgumentError`."""
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"`{name}` must be finite; got {array.tolist()}.")
    return array


def _logits(S: Reals, b: Reals, delta: Reals, sigma: Reals) -> tuple[np.ndarray, np.ndarray]:
    s = as_reals("S", S) * as_positive("sigma", sigma)
    b = as_reals("b", b)
    return b - s, b + as_delta(delta, "the two points") * s
