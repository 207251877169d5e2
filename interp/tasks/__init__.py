"""Tasks: what is learned. A task config becomes `Examples`: tokens, answers and the split, as tensors."""

from collections.abc import Mapping
from dataclasses import replace

from interp.config import Gaussian, Group, Modular, Parity, Sums, Symbolic
from interp.config.tasks import TaskConfig
from interp.errors import ConfigError
from interp.tasks.algebraic import modular_task
from interp.tasks.base import Examples, unpacked
from interp.tasks.gaussian import gaussian_task
from interp.tasks.groups import group_task
from interp.tasks.parity import parity_task
from interp.tasks.sums import sums_task
from interp.tasks.symbolic import symbolic_task

__all__ = ["Examples", "build_task"]


def build_task(config: TaskConfig, split: Mapping[str, str] | None = None) -> Examples:
    """The task that `config` describes; a pure function of it, and of `split` where the config says stored.

    `split` holds the masks `train` and `test` of an imported run as text (see `tasks.base.packed`).

    Raises:
        ConfigError: the split is stored, and there is none.

    Example:
        >>> task = build_task(Modular(p=5, train_fraction=0.4))
        >>> task.tokens[7].tolist(), int(task.labels[7])  # 1 + 2 = 3, and '=' is token 5
        ([1, 2, 5], 3)
        >>> int(task.train.sum()), int(task.test.sum())
        (10, 15)
    """
    if config.split == "stored":
        if split is None:
            raise ConfigError(
                "`task.split` stored is the split of an imported run, which only its folder holds; a run to train "
                "needs a recipe: torch-randperm, python-shuffle or numpy-shuffle."
            )
        task = build_task(config.replace({"split": "torch-randperm"}))
        train, test = (unpacked(split[side], len(task.labels)) for side in ("train", "test"))
        return replace(task, train=train, test=test)
    match config:
        case Modular():
            return modular_task(config)
        case Group():
            return group_task(config)
        case Symbolic():
            return symbolic_task(config)
        case Sums():
            return sums_task(config)
        case Parity():
            return parity_task(config)
        case Gaussian():
            return gaussian_task(config)
