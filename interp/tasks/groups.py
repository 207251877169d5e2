"""Products in a finite group as classification of pairs ("A Toy Model of Universality", Chughtai et al., 2023).

A pair of elements (x, y) is the input `x y =` and its class is x y, or as in "Grokking" (Power et al., 2022) on S_5,
x y x^-1 or x y x. The product is first x, then y; tokens number the elements as `interp.theory.groups` does, so that
permutations come in lexicographic order, as in openai/grok.

References: https://arxiv.org/abs/2302.03025, https://arxiv.org/abs/2201.02177.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.config import Group
from interp.tasks.base import Examples, pair_task
from interp.tasks.declared import Elements
from interp.theory.groups import finite_group

__all__ = ["group_answers", "group_task"]


def group_task(config: Group) -> Examples:
    """All pairs of elements under the operation of `config`, split by its recipe.

    Example:
        >>> task = group_task(Group(family="cyclic", n=5, operation="aba"))
        >>> task.tokens[7].tolist(), int(task.labels[7])  # 1 + 2 + 1
        ([1, 2, 5], 4)
    """
    operation = "product" if config.operation == "compose" else ""
    return pair_task(config, Elements(finite_group(config.family, config.n)), operation, group_answers(config))


def group_answers(config: Group) -> Int[Tensor, " pair"]:
    """The answers of all pairs of elements, lexicographic.

    Example:
        >>> group_answers(Group(family="cyclic", n=3)).reshape(3, 3).tolist()
        [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    group = finite_group(config.family, config.n)
    x = np.arange(group.order)[:, None]
    match config.operation:
        case "compose":
            answers = group.table
        case "conjugate":
            answers = group.table[group.table, group.inverse[x]]
        case "aba":
            answers = group.table[group.table, x]
    return torch.from_numpy(answers.flatten())
