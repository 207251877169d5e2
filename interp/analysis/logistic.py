"""Logistic regression on points of one class ("Grokking at the Edge of Linear Separability", Beck et al., 2024).

With weights S and bias b a point x_i is classified correctly where S.x_i + b < 0. The limit of S is known beforehand:
where no plane through the origin separates the points, S tends to S_inf = argmin of the mean of e^(S.x_i), while
b -> -infinity; for separable points, to the direction of the largest margin, in which |S| grows with -b like log t.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.theory.separability import asymptotic_weights, margin

__all__ = ["late_direction", "late_direction_cosine", "positive_share"]


def positive_share(points: Float[Tensor, "point d"], S: Float[Tensor, "*steps d"]) -> Float[Tensor, " *steps"]:
    """Share of points with S.x > 0, which the bias alone classifies correctly (Beck et al., figure 6), 0 to 1.

    Example:
        >>> positive_share(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([2.0, 0.0]))
        tensor(0.3333, dtype=torch.float64)
    """
    return (S.double() @ points.double().mT > 0).double().mean(-1)


def late_direction(points: Float[Tensor, "point d"]) -> Float[Tensor, " d"]:
    """The direction of S at t -> infinity under gradient descent: along S_inf, or along the largest margin.

    Example:
        >>> late_direction(torch.tensor([[-1.0, -1.0], [-2.0, -2.0], [-1.0, -1.1]])).round(decimals=3)
        tensor([0.7070, 0.7070], dtype=torch.float64)
    """
    found = margin(points.double().numpy())
    S = torch.from_numpy(found.direction if found.separable else asymptotic_weights(points.double().numpy()).S)
    return S / S.norm()


def late_direction_cosine(direction: Float[Tensor, " d"], S: Float[Tensor, "*steps d"]) -> Float[Tensor, " *steps"]:
    """Cosine of S with `direction`, -1 to 1; 0 where S is 0.

    Example:
        >>> late_direction_cosine(torch.tensor([1.0, 0.0]), torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([0.6000, 0.0000], dtype=torch.float64)
    """
    length = S.double().norm(dim=-1) * direction.double().norm()
    return torch.where(length > 0, S.double() @ direction.double() / length.clamp(min=1e-300), 0.0)
