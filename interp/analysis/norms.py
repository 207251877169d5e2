"""Weight norms: ||theta||_2 of all parameters, and the sum of squares of each parameter.

These curves show the effect of weight decay: the sum of squares of a transformer falls during cleanup (Progress
measures for grokking via mechanistic interpretability, Nanda et al., 2023, arXiv:2301.05217), and the norm decides
whether a network generalises (Omnigrok, Liu et al., 2022, arXiv:2210.01117). Summed in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analysis.arrays import Array, as_floats
from interp.errors import InvalidArgumentError
from interp.literals import as_count

__all__ = ["SumOfSquares", "sum_of_squares_by_parameter", "weight_norm"]


@dataclass(frozen=True)
class SumOfSquares:
    """The sum of squares of each parameter, in the order of `names`."""

    names: tuple[str, ...]
    value: Float[Tensor, "*steps parameter"]


def weight_norm(parameters: Mapping[str, Array], *, leading: int = 0) -> Float[Tensor, "*steps"]:
    """The L2 norm of all parameters together: sqrt(sum theta^2).

    `parameters` maps names to arrays whose first `leading` axes (0: one checkpoint; 1: a trajectory) they share.

    >>> weight_norm({"W": torch.tensor([[3.0, 0.0]]), "b": torch.tensor([4.0])}).item()
    5.0
    """
    return sum_of_squares_by_parameter(parameters, leading=leading).value.sum(-1).sqrt()


def sum_of_squares_by_parameter(parameters: Mapping[str, Array], *, leading: int = 0) -> SumOfSquares:
    """The sum of squares of every parameter; arguments as in `weight_norm`.

    Raises `InvalidArgumentError` for no parameters, leading axes that differ, or values that are not finite.

    >>> sum_of_squares_by_parameter({"W": torch.ones(5, 2, 2), "b": torch.ones(5, 9)}, leading=1).value[0].tolist()
    [4.0, 9.0]
    """
    as_count("leading", leading, minimum=0)
    if not parameters:
        raise InvalidArgumentError("`parameters` must hold at least one array; got none.")
    arrays = {name: as_floats(name, array, "*any") for name, array in parameters.items()}
    first, steps = next((name, array.shape[:leading]) for name, array in arrays.items())
    for name, array in arrays.items():
        if array.ndim < leading or array.shape[:leading] != steps:
            raise InvalidArgumentError(
                f"`{name}` must share its first {leading} axes with `{first}`, {list(steps)}; "
                f"got {list(array.shape)}. `leading` counts the axes that are no part of a parameter."
            )
    norms = [
        torch.linalg.vector_norm(array.reshape(*steps, -1), dim=-1, dtype=torch.float64) for array in arrays.values()
    ]
    return SumOfSquares(tuple(arrays), torch.stack(norms, dim=-1).square())
