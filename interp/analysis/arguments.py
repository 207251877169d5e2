"""Checks of the networks, tasks, inputs and seeds that a user hands to an analysis by passes, once, where they enter.

A pass of a network is a user's code, too, and may raise anything; `first_pass` says in one line which network did not
take which inputs.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import InterpError, InvalidArgumentError, NotAvailableError, error_line
from interp.literals import as_count
from interp.models import Network
from interp.tasks import Examples

__all__ = ["as_examples", "as_network", "as_seed", "first_pass", "require_rows"]


def as_network(name: str, value: Any) -> Network:
    """The argument `name`, a network; otherwise `InvalidArgumentError`.

    >>> as_network("model", None)
    Traceback (most recent call last):
        ...
    interp.errors.InvalidArgumentError: `model` must be a network, such as traj.model(); got NoneType.
    """
    if not isinstance(value, Network):
        raise InvalidArgumentError(f"`{name}` must be a network, such as traj.model(); got {type(value).__name__}.")
    return value


def as_examples(name: str, value: Any) -> Examples:
    """The argument `name`, the inputs of a task; otherwise `InvalidArgumentError`.

    >>> as_examples("examples", 3)
    Traceback (most recent call last):
        ...
    interp.errors.InvalidArgumentError: `examples` must be the inputs of a task, such as traj.task; got int.
    """
    if not isinstance(value, Examples):
        raise InvalidArgumentError(
            f"`{name}` must be the inputs of a task, such as traj.task; got {type(value).__name__}."
        )
    return value


def as_seed(value: Any) -> int:
    """A seed, a whole number from 0; otherwise `InvalidArgumentError`.

    >>> as_seed(np.int64(3))
    3
    """
    return as_count("seed", value, minimum=0)


def first_pass(model: Network, name: str, tokens: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Logits at the last position, activations by name, and the inputs as a tensor; `name` is that of the argument.

    Raises:
        InvalidArgumentError: these are no inputs of the network, or its pass returns no logits of them.
        NotAvailableError: the network has no pass.
    """
    if not isinstance(tokens, Tensor | np.ndarray) or tokens.ndim < 2 or not len(tokens):
        shape = f" of shape {list(tokens.shape)}" if isinstance(tokens, Tensor | np.ndarray) else ""
        raise InvalidArgumentError(
            f"`{name}` must be a tensor [input, pos] with at least one input; got {type(tokens).__name__}{shape}."
        )
    tokens = torch.as_tensor(tokens)
    kind = type(model).__name__
    try:
        outputs, cache = model.run_with_cache(tokens)
    except InterpError:
        raise
    except Exception as error:
        came = f"{str(tokens.dtype).removeprefix('torch.')} {list(tokens.shape)} from {tokens.min()} to {tokens.max()}"
        raise InvalidArgumentError(
            f"`{name}` must be inputs that {kind} takes; got {came}, at which its pass raised {type(error).__name__}: "
            f"{error_line(error).rstrip('.')}."
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim not in (2, 3) or len(outputs) != len(tokens):
        came = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise InvalidArgumentError(
            f"`{kind}.forward` must give logits [input, d_vocab_out], or at every position, of {len(tokens)} inputs; "
            f"got {came}."
        )
    logits = outputs[:, -1] if outputs.ndim == 3 else outputs
    if not logits.isfinite().all():
        raise InvalidArgumentError(
            f"`{name}` must have finite logits; those of {kind} are NaN or infinite. Take an earlier step."
        )
    return logits, cache, tokens


def require_rows(model: Network, name: str, x: Tensor, inputs: int) -> None:
    """Demand of an activation that it has real numbers, in a row for each input, or `NotAvailableError`.

    A submodule may work on tokens, on all operands in one batch, or on a table that no input is in.
    """
    if x.shape[:1] != (inputs,) or not x.is_floating_point():
        raise NotAvailableError(
            f"`{name}` of {type(model).__name__} cannot be changed input by input: it must have real numbers in a row "
            f"for each of {inputs} inputs; it is {str(x.dtype).removeprefix('torch.')} of shape {list(x.shape)}."
        )
