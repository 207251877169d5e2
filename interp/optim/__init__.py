"""Optimisers, the learning-rate schedule, and interventions on updates."""

from interp.optim.interventions import Intervention, build_interventions
from interp.optim.optimizers import (
    build_optimizer,
    complete_momentum,
    learning_rate,
    load_optimizer_arrays,
    optimizer_arrays,
    set_hyper_parameters,
    set_learning_rate,
)

__all__ = [
    "Intervention",
    "build_interventions",
    "build_optimizer",
    "complete_momentum",
    "learning_rate",
    "load_optimizer_arrays",
    "optimizer_arrays",
    "set_hyper_parameters",
    "set_learning_rate",
]
