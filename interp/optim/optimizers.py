"""Optimisers from their configs, and their state as plain arrays.

Fused implementations are used on every device: they differ from unfused implementations by rounding, and a run resumes
bit for bit only with one of the two.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp.config import SGD, Adam, AdamW, Muon, RecordedOptimizer
from interp.config.optimizers import settings_of
from interp.errors import ConfigError
from interp.models.base import is_block_matrix
from interp.optim.muon import OrthogonalizedMomentum

__all__ = [
    "build_optimizer",
    "complete_momentum",
    "learning_rate",
    "load_optimizer_arrays",
    "optimizer_arrays",
    "set_hyper_parameters",
    "set_learning_rate",
]


def build_optimizer(
    config: AdamW | Adam | SGD | Muon | RecordedOptimizer,
    parameters_by_name: Iterable[tuple[str, nn.Parameter]],
    *,
    muon_turns: Callable[[str, int], bool] = is_block_matrix,
    stacked: bool = False,
) -> torch.optim.Optimizer:
    """The optimiser of all trained parameters of a model, biases included, with one group per setting of `parameters`.

    Muon has groups of two kinds: the parameters that `muon_turns` selects by name and number of axes (as a `Network`
    does), and the others. Names may end in the number of an ensemble's member, behind a space; `stacked` parameters
    have a leading axis of members. On CUDA learning rates are tensors on the device, so that a captured step can be
    replayed under a warm-up.

    Example:
        >>> build_optimizer(AdamW(lr=1e-3), nn.Linear(2, 2).named_parameters()).param_groups[0]["weight_decay"]
        1.0
    """
    trained = {name: parameter for name, parameter in parameters_by_name if parameter.requires_grad}
    names = [name.partition(" ")[0] for name in trained]
    parameters: list[dict[str, Any]] = [{"params": list(trained.values()), "names": names}]
    device = next(iter(trained.values())).device
    lr: float | Tensor = config.lr
    if device.type == "cuda":  # fused CUDA kernels read it in float32 for every precision of the weights
        lr = torch.tensor(config.lr, dtype=torch.float32, device=device)
    capturable = device.type == "cuda"
    optimizer: torch.optim.Optimizer
    match config:
        case AdamW():
            optimizer = torch.optim.AdamW(parameters, lr, fused=True, capturable=capturable)
        case Adam():
            optimizer = torch.optim.Adam(parameters, lr, fused=True, capturable=capturable)
        case SGD():
            optimizer = torch.optim.SGD(parameters, lr, fused=True)
        case Muon():
            matrices = [name for name, W in trained.items() if muon_turns(name, W.ndim - stacked)]
            others = [name for name in trained if name not in matrices]
            optimizer = OrthogonalizedMomentum(
                [trained[name] for name in matrices], [trained[name] for name in others], lr
            )
            for group, own in zip(optimizer.param_groups, (matrices, others)):
                group["names"] = [name.partition(" ")[0] for name in own]
        case RecordedOptimizer():
            raise ConfigError(
                "`optimizer` RecordedOptimizer is the description of an optimiser that a recorded loop made itself; a "
                "run to train needs AdamW, Adam, SGD or Muon."
            )
    set_hyper_parameters(optimizer, config)
    return optimizer


def set_hyper_parameters(
    optimizer: torch.optim.Optimizer, config: AdamW | Adam | SGD | Muon | RecordedOptimizer
) -> None:
    """Give `optimizer` the hyper-parameters of `config` except the learning rate; its state stays.

    Parameters with equal settings (`interp.config.optimizers.settings_of`) come into one group.
    """
    values: dict[str, Any] = {}
    match config:
        case Adam():  # and AdamW, whose other forms of decay are interventions
            values = {"betas": config.betas, "eps": config.eps}
        case SGD():
            values = {"momentum": config.momentum}
        case Muon():
            values = {name: getattr(config, name) for name in ("momentum", "iterations", "betas", "eps")}
    old, new = list(optimizer.param_groups), []
    for turned in dict.fromkeys(group.get("turned", False) for group in old):
        alike = [group for group in old if group.get("turned", False) == turned]
        own_rate = 1.0 if turned else config.relative_lr
        by_settings: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
        for group in alike:
            for name, W in zip(group["names"], group["params"]):
                by_settings.setdefault(settings_of(name, config.parameters, config.weight_decay), []).append((name, W))
        for (decay, factor), members in (by_settings or {(config.weight_decay, 1.0): []}).items():
            group = {**alike[0], **values, "weight_decay": decay if config.decay == "to_zero" else 0.0}
            group |= {"names": [name for name, _ in members], "params": [W for _, W in members]}
            group["relative_lr"] = own_rate * factor
            if isinstance(group["lr"], Tensor):
                group["lr"] = group["lr"].clone()  # each group's rate is filled in place
            new.append(group)
    optimizer.param_groups[:] = new


def complete_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters that were never updated a momentum of zero, where others of gradient descent have one.

    torch's fused gradient descent takes a momentum of all parameters or of none; one of zero gives the same update.
    """
    if any("momentum_buffer" in state for state in optimizer.state.values()):
        for group in optimizer.param_groups:
            for W in group["params"]:
                optimizer.state[W].setdefault("momentum_buffer", torch.zeros_like(W))


def learning_rate(config: AdamW | Adam | SGD | Muon | RecordedOptimizer, step: int) -> float:
    """Learning rate of the update number `step`, counted from 1: lr * min(step / warmup_steps, 1).

    With `anneal_steps`, update t after the warm-up has the rate lr (s + (1 - s) (1 + cos(pi t / anneal_steps)) / 2),
    down to s = `anneal_to`, where it stays (as in github.com/openai/grok).

    Example:
        >>> [learning_rate(AdamW(lr=1.0, warmup_steps=4), step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
        >>> [learning_rate(AdamW(lr=1.0, anneal_steps=10, anneal_to=0.0), step) for step in (0, 5, 10, 99)]
        [1.0, 0.5, 0.0, 0.0]
    """
    lr = config.lr * min(step / config.warmup_steps, 1.0) if config.warmup_steps else config.lr
    if config.anneal_steps is None:
        return lr
    t = min(max(step - config.warmup_steps, 0) / config.anneal_steps, 1.0)
    return lr * (config.anneal_to + (1 - config.anneal_to) * (1 + math.cos(math.pi * t)) / 2)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Change the learning rate without waiting for the device; a group may have a `relative_lr`, a multiple of it."""
    for group in optimizer.param_groups:
        rate = lr * group.get("relative_lr", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def optimizer_arrays(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, np.ndarray]:
    """The optimiser's moments and counters, named `exp_avg/embed.W_E` and so on; with the weights, the whole state."""
    return {
        f"{key}/{name}": value.detach().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_arrays(optimizer: torch.optim.Optimizer, model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Restore the arrays of `optimizer_arrays` by torch's own `load_state_dict`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state: dict[int, dict[str, Tensor]] = {}
    for i, parameter in enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]):
        suffix = f"/{names[id(parameter)]}"
        entries = {key.removesuffix(suffix): value for key, value in arrays.items() if key.endswith(suffix)}
        if entries:
            state[i] = {key: torch.from_numpy(np.array(value)) for key, value in entries.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
