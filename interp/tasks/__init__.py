"""Tasks: what is learned. A task config becomes a `Task`: tokens, answers and the split, as tensors."""

from interp.config import Modular
from interp.tasks.algebraic import modular_task
from interp.tasks.base import Task

__all__ = ["Task", "build_task"]


def build_task(config: Modular) -> Task:
    """The task that `config` describes; a pure function of it.

    Example:
        >>> task = build_task(Modular(p=5, train_fraction=0.4))
        >>> task.tokens[7].tolist(), int(task.labels[7])  # 1 + 2 = 3, and '=' is token 5
        ([1, 2, 5], 3)
        >>> int(task.train.sum()), int(task.test.sum())
        (10, 15)
    """
    match config:
        case Modular():
            return modular_task(config)
