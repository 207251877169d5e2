"""State of any torch optimiser as arrays and words, from which it goes on."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.config import RecordedOptimizer
from interp.errors import NotAvailableError

__all__ = ["described", "load_state", "state_arrays"]

_OWN = ("params", "lr", "weight_decay")


def described(optimizer: torch.optim.Optimizer | None) -> RecordedOptimizer:
    """Class and settings of an optimiser, in words.

    >>> described(torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)).name
    'SGD'
    """
    if optimizer is None:
        return RecordedOptimizer()
    first, *others = optimizer.param_groups
    settings = [f"{name}={_plain(value)}" for name, value in sorted(first.items()) if name not in _OWN]
    for at, group in enumerate(others, 1):
        told = [
            f"{name}={_plain(x)}" for name, x in sorted(group.items()) if name != "params" and _differ(name, x, first)
        ]
        settings.append(f"group {at}: {', '.join(told) or 'the same'}")
    numbers = {name: float(first[name]) for name in ("lr", "weight_decay") if isinstance(first.get(name), int | float)}
    if isinstance(first.get("lr"), Tensor):
        numbers["lr"] = float(first["lr"])
    return RecordedOptimizer(name=type(optimizer).__name__, settings=tuple(settings), **numbers)


def state_arrays(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """State of an optimiser as arrays `optimizer/exp_avg/embed.weight`, and as words: numbers, and groups' settings.

    Arguments:
        names: names of the parameters.

    Raises:
        NotAvailableError: it keeps what is neither a tensor nor a number, or trains parameters without a name.
    """
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        if parameter not in names:
            raise NotAvailableError("The optimiser trains a parameter that is none of `model`'s.")
        for key, value in state.items():
            at = f"{key}/{names[parameter]}"
            match value:
                case Tensor():
                    arrays[f"optimizer/{at}"] = as_array(value).copy()
                case bool() | int() | float() | None:
                    numbers[at] = value
                case _:
                    raise NotAvailableError(
                        f"The optimiser {type(optimizer).__name__} keeps `{key}`, a {type(value).__name__}, which is "
                        "neither a tensor nor a number."
                    )
    groups = [
        {name: float(x) if isinstance(x, Tensor) else x for name, x in group.items() if _is_number(x)}
        for group in optimizer.param_groups
    ]
    return arrays, {"optimizer": json.dumps({"name": type(optimizer).__name__, "numbers": numbers, "groups": groups})}


def load_state(
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Put back the state that `state_arrays` gave.

    Raises:
        NotAvailableError: it is that of another kind of optimiser, or has other groups.
    """
    words = json.loads(metadata["optimizer"])
    own = optimizer.state_dict()
    if words["name"] != type(optimizer).__name__ or len(words["groups"]) != len(own["param_groups"]):
        raise NotAvailableError(
            f"`optimizer` must be of the kind that was recorded, a {words['name']} with {len(words['groups'])} "
            f"group(s); got a {type(optimizer).__name__} with {len(own['param_groups'])}."
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for i, parameter in enumerate(parameters):
        suffix = f"/{names[parameter]}"
        entries: dict[str, Any] = {
            key.removeprefix("optimizer/").removesuffix(suffix): torch.from_numpy(np.array(value))
            for key, value in arrays.items()
            if key.startswith("optimizer/") and key.endswith(suffix) and key.count(suffix) and _key(key, suffix)
        }
        entries |= {
            k.removesuffix(suffix): x for k, x in words["numbers"].items() if k.endswith(suffix) and _key(k, suffix)
        }
        if entries:
            state[i] = entries
    groups = [{**group, **changed} for group, changed in zip(own["param_groups"], words["groups"])]
    for group, now in zip(groups, own["param_groups"]):  # a rate that is a tensor stays one, where a graph reads it
        if isinstance(now.get("lr"), Tensor):
            group["lr"] = torch.full_like(now["lr"], float(group["lr"]))
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def as_array(x: Tensor) -> np.ndarray:
    """Tensor on the host as an array; 16 bits become float32, without loss."""
    x = x.detach()
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    return x.cpu().numpy()


def _key(name: str, suffix: str) -> bool:
    """Whether a name is an entry, without a slash of its own, of the parameter that ends it."""
    return "/" not in name.removeprefix("optimizer/").removesuffix(suffix)


def _is_number(x: Any) -> bool:
    return isinstance(x, bool | int | float) or (isinstance(x, Tensor) and x.numel() == 1)


def _plain(x: Any) -> str:
    return str(float(x)) if isinstance(x, Tensor) and x.numel() == 1 else str(x)


def _differ(name: str, x: Any, first: Mapping[str, Any]) -> bool:
    return name not in first or _plain(x) != _plain(first[name])
