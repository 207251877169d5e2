"""Tasks: what is learned. A task config becomes `Examples`: tokens, answers and the split, as tensors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from interp.config import Digits, Gaussian, Group, Modular, NoTask, Operations, Parity, Sums, Symbolic, TableTask
from interp.config.declared import TaskConfig
from interp.errors import ConfigError, InterpError, error_line
from interp.tasks.algebraic import modular_task
from interp.tasks.base import Examples, split, tuples_of, unpacked
from interp.tasks.declared import (
    Bits,
    Classes,
    Codes,
    DigitStrings,
    Elements,
    Numbers,
    Operated,
    Points,
    Residues,
    Sequences,
    Sides,
    Tuples,
)
from interp.tasks.digits import digits_task
from interp.tasks.gaussian import gaussian_task
from interp.tasks.groups import group_task
from interp.tasks.objective import AnswerAndClosing, AnswerDigits, CrossEntropy, NearestCode, Objective, OneClass
from interp.tasks.operations import operations_task
from interp.tasks.parity import parity_task
from interp.tasks.sums import sums_task
from interp.tasks.symbolic import symbolic_task
from interp.tasks.tables import examples_of_words, no_examples, table

__all__ = [
    "AnswerAndClosing",
    "AnswerDigits",
    "Bits",
    "Classes",
    "Codes",
    "CrossEntropy",
    "DigitStrings",
    "Elements",
    "Examples",
    "NearestCode",
    "Numbers",
    "Objective",
    "OneClass",
    "Operated",
    "Points",
    "Residues",
    "Sequences",
    "Sides",
    "Task",
    "Tuples",
    "build_task",
    "split",
    "table",
    "tuples_of",
]


class Task(TaskConfig, ABC):
    """Base of a user's own task: a frozen dataclass with one method, `examples`.

    It is passed wherever a task of this package is, from a module of the user's own; JSON names it as
    `my_module:Name`. What it declares besides (`encoding`, `slug`, `losses`, ...) has defaults: see `TaskConfig`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Greater(Task):
        ...     p: int = 11
        ...     train_fraction: float = 0.5
        ...     seed: int = 0
        ...     encoding = "operands"
        ...
        ...     def examples(self) -> Examples:
        ...         tokens = tuples_of(Residues(self.p))
        ...         train, test = split(len(tokens), self.train_fraction, self.seed)
        ...         larger = (tokens[:, 0] > tokens[:, 1]).long()
        ...         return Examples.of(tokens, larger, train, test, inputs=Tuples(Residues(self.p)), answers=Classes(2))
        >>> examples = build_task(Greater(p=5))
        >>> examples.tokens[7].tolist(), int(examples.labels[7]), Greater(p=5).slug
        ([1, 2], 0, 'greater')
    """

    @abstractmethod
    def examples(self) -> Examples:
        """All inputs with answers and split: a pure function of the config, which draws from its own seed alone."""


def build_task(config: TaskConfig, stored: Mapping[str, Any] | None = None) -> Examples:
    """The task that `config` describes; a pure function of it, and of `stored` where the config says so.

    `stored` holds the masks `train` and `test` of an imported run as text (see `tasks.base.packed`), or the examples of
    a recorded one (see `tasks.tables`).

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
        if stored is None:
            raise ConfigError(
                "`task.split` stored is the split of an imported run, which only its folder holds; a run to train "
                "needs a recipe: torch-randperm, python-shuffle or numpy-shuffle."
            )
        match config:
            case TableTask():
                return examples_of_words(stored)
        task = build_task(config.replace({"split": "torch-randperm"}))
        train, test = (unpacked(stored[side], len(task.labels)) for side in ("train", "test"))
        return replace(task, train=train, test=test)
    match config:
        case Modular():
            return modular_task(config)
        case Operations():
            return operations_task(config)
        case Group():
            return group_task(config)
        case Symbolic():
            return symbolic_task(config)
        case Sums():
            return sums_task(config)
        case Digits():
            return digits_task(config)
        case Parity():
            return parity_task(config)
        case Gaussian():
            return gaussian_task(config)
        case NoTask():
            return no_examples()
        case Task():
            return _given_by_user(config)
    raise ConfigError(
        f"`task` must be a task of this package, or derived from interp.tasks.Task; got {type(config).__name__}."
    )


def _given_by_user(config: Task) -> Examples:
    name = f"`{type(config).__name__}.examples`"
    try:
        examples = config.examples()
    except (InterpError, MemoryError):
        raise
    except Exception as error:
        raise ConfigError(f"{name} raised {type(error).__name__}: {error_line(error)}") from error
    if not isinstance(examples, Examples):
        raise ConfigError(f"{name} must return Examples, as `Examples.of` makes them; got a {type(examples).__name__}.")
    examples.require_consistent()
    return examples
