"""Optimisers as the configs describe them, and their state as plain arrays.

The fused implementations are used on every device: they differ from the unfused ones by rounding, and a run has to stay
with one choice to resume bit for bit.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from interp.config import SGD, Adam, AdamW

__all__ = ["build_optimizer", "learning_rate", "load_optimizer_arrays", "optimizer_arrays", "set_learning_rate"]


def build_optimizer(config: AdamW | Adam | SGD, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all trainable parameters of `model`, biases included, in one group.

    On CUDA the learning rate is a tensor on the device, so that a captured step can be replayed under a warm-up.

    Example:
        >>> build_optimizer(AdamW(lr=1e-3), nn.Linear(2, 2)).param_groups[0]["weight_decay"]
        1.0
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    lr: float | Tensor = torch.tensor(config.lr, device=device) if device.type == "cuda" else config.lr
    capturable = {"capturable": True} if device.type == "cuda" else {}
    match config:
        case AdamW():
            return torch.optim.AdamW(
                parameters, lr, config.betas, config.eps, config.weight_decay, fused=True, **capturable
            )
        case Adam():
            return torch.optim.Adam(
                parameters, lr, config.betas, config.eps, config.weight_decay, fused=True, **capturable
            )
        case SGD():
            return torch.optim.SGD(
                parameters, lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
            )


def learning_rate(config: AdamW | Adam | SGD, step: int) -> float:
    """Learning rate of the update that leaves `step` completed updates behind it: lr * min(step / warmup_steps, 1).

    Example:
        >>> [learning_rate(AdamW(lr=1.0, warmup_steps=4), step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """
    return config.lr * min(step / config.warmup_steps, 1.0) if config.warmup_steps else config.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Change the learning rate without waiting for the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def optimizer_arrays(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, np.ndarray]:
    """The optimiser's moments and counters, named `exp_avg/embed.W_E` and so on; with the weights, the whole state."""
    return {
        f"{key}/{name}": value.detach().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_arrays(optimizer: torch.optim.Optimizer, model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """The inverse of `optimizer_arrays`, by torch's own `load_state_dict`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state: dict[int, dict[str, Tensor]] = {}
    for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
        suffix = f"/{names[id(parameter)]}"
        entries = {key.removesuffix(suffix): value for key, value in arrays.items() if key.endswith(suffix)}
        if entries:
            state[i] = {key: torch.from_numpy(np.array(value)) for key, value in entries.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
