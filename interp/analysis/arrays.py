"""Input checks of the analysis modules: a user's arrays become checked tensors, once, where they enter.

A shape is written as in jaxtyping: `*steps p d_model` is any number of leading axes, then two named axes; axes of one
name must have one size; the modulus `p` must be at least 3, since no frequency of a smaller p has both a cosine and a
sine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InvalidArgumentError
from interp.literals import as_count, is_whole

__all__ = [
    "Array",
    "as_floats",
    "as_frequency",
    "as_indices",
    "as_logits_of",
    "as_modulus",
    "as_neurons",
    "as_tensor",
    "l2_norm",
    "ratio",
]

Array = Tensor | np.ndarray


def as_floats(name: str, value: Array, shape: str) -> Tensor:
    """The argument `name` as a real, finite tensor of the given shape; integers become float64.

    No copy is made of a tensor or of a writable numpy array of floats. The result carries no gradient.

    Raises `InvalidArgumentError` where the rank or a size does not fit, an axis is empty, or a value is not finite.

    >>> as_floats("W_E", np.eye(3), "*steps p d_model").shape
    torch.Size([3, 3])
    """
    tensor = as_tensor(name, value)
    if tensor.is_complex():
        raise InvalidArgumentError(f"`{name}` must be real; got {tensor.dtype}. Pass its real part or its modulus.")
    if not tensor.is_floating_point():
        tensor = tensor.double()
    axes = shape.split()
    star = axes[0].startswith(("*", "..."))
    named = axes[1:] if star else axes
    if tensor.ndim < len(named) or (not star and tensor.ndim != len(named)):
        came = list(tensor.shape)
        raise InvalidArgumentError(f"`{name}` must have the axes [{shape}]; got {len(came)} axes, of sizes {came}.")
    sizes: dict[str, int] = {}
    for axis, size in zip(named, tensor.shape[tensor.ndim - len(named) :], strict=True):
        if sizes.setdefault(axis, size) != size:
            raise InvalidArgumentError(
                f"`{name}` must have the axes [{shape}], every `{axis}` of one size; got sizes {list(tensor.shape)}. "
                f"Leave out the '=' token and other non-numbers first."
            )
    if "p" in sizes:
        as_modulus(sizes["p"])
    if 0 in tensor.shape:
        raise InvalidArgumentError(f"`{name}` must not be empty; got sizes {list(tensor.shape)}.")
    if not torch.stack(torch.aminmax(tensor)).isfinite().all():  # both are NaN where a value is; nothing is copied
        raise InvalidArgumentError(
            f"`{name}` must be finite; got {int((~tensor.isfinite()).sum())} values that are NaN or infinite. "
            f"Leave out the steps at which the run had diverged."
        )
    return tensor


def as_modulus(p: int) -> int:
    """The modulus, at least 3; otherwise `InvalidArgumentError`."""
    return as_count("p", p, minimum=3)


def as_frequency(name: str, k: int, p: int) -> int:
    """A frequency, in 1..floor(p/2); otherwise `InvalidArgumentError`."""
    if not is_whole(k) or not 1 <= k <= p // 2:
        raise InvalidArgumentError(f"`{name}` must be a frequency in 1..{p // 2} for p={p}; got {k!r}.")
    return int(k)


def as_indices(name: str, value: int | Sequence[int] | Array, size: int) -> list[int]:
    """Distinct indices along an axis, increasing, from 0: of whole numbers, negative ones from the end, or of a mask.

    >>> as_indices("heads", [-1, 0], 4), as_indices("heads", np.array([False, True]), 2)
    ([0, 3], [1])
    """
    try:
        given = np.atleast_1d(np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value))
    except (TypeError, ValueError):  # rows of different lengths
        given = np.array([None])
    listed = given.nonzero()[0].tolist() if given.dtype == bool and given.shape == (size,) else given.tolist()
    for index in listed:
        if not is_whole(index) or not -size <= index < size:
            raise InvalidArgumentError(
                f"`{name}` must be whole numbers in 0..{size - 1}, or from -{size} on from the end; got "
                f"{value if index is None else index!r}."
            )
    return sorted({int(index) % size for index in listed})


def as_neurons(
    activations: Float[Array, "*steps p p neuron"], W_L: Float[Array, "*steps neuron answer"]
) -> tuple[Float[Tensor, "*steps p p neuron"], Float[Tensor, "*steps neuron answer"]]:
    """Activations and the map from neurons to logits, checked to agree in steps and neurons."""
    activations = as_floats("activations", activations, "*steps p p neuron")
    W_L = as_floats("W_L", W_L, "*steps neuron answer")
    if W_L.shape[:-1] != (*activations.shape[:-3], activations.shape[-1]):
        raise InvalidArgumentError(
            f"`W_L` must have the axes [*steps neuron answer] with the steps and neurons of `activations`, "
            f"{[*activations.shape[:-3], activations.shape[-1]]}; got {list(W_L.shape)}."
        )
    return activations, W_L


def as_logits_of(
    activations: Float[Tensor, "*steps p p neuron"],
    W_L: Float[Tensor, "*steps neuron answer"],
    logits: Float[Array, "*steps p p answer"],
) -> Float[Tensor, "*steps p p answer"]:
    """Logits, checked to have the sizes of `activations @ W_L`."""
    logits = as_floats("logits", logits, "*steps p p answer")
    expected = [*activations.shape[:-1], W_L.shape[-1]]
    if list(logits.shape) != expected:
        raise InvalidArgumentError(
            f"`logits` must have the sizes of `activations @ W_L`, {expected}; got {list(logits.shape)}."
        )
    return logits


def l2_norm(x: Float[Tensor, "*steps first second third"]) -> Float[Tensor, "*steps"]:
    """The L2 norm over the last three axes, summed in float64."""
    return torch.linalg.vector_norm(x.flatten(-3), dim=-1, dtype=torch.float64)


def ratio(
    numerator: Float[Tensor, "*steps any"], denominator: Float[Tensor, "*steps"], floor: Tensor | float = 0.0
) -> Float[Tensor, "*steps any"]:
    """The quotient, or 0 where the denominator is at most `floor`, the size of rounding errors."""
    zero = denominator <= floor
    return torch.where(zero[..., None], 0.0, numerator / torch.where(zero, 1.0, denominator)[..., None])


def as_tensor(name: str, value: Array | Sequence[Any]) -> Tensor:
    """The argument `name` as a tensor without gradient; `InvalidArgumentError` for what is no array of numbers.

    >>> as_tensor("x", [1, 2])
    tensor([1, 2])
    """
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biufc":
        raise InvalidArgumentError(f"`{name}` must be a tensor or an array of numbers; got {type(value).__name__}.")
    return torch.as_tensor(array if array.flags.writeable else array.copy())  # memory maps are read-only
