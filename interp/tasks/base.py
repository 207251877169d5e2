"""What every task provides, and the named split recipes."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Task", "shuffled"]


@dataclass(frozen=True, eq=False)
class Task:
    """All inputs of a task with their answers and the split.

    Pairs are in lexicographic order, so that `x.reshape(p, p, ...)` is indexed `[a, b]`. A pair without an answer
    (b = 0 in division) is in neither `train` nor `test`; its label is 0 and means nothing.
    """

    p: int
    """Modulus."""
    tokens: Int[Tensor, "pair pos"]
    """Input tokens."""
    labels: Int[Tensor, " pair"]
    """Class of the answer."""
    train: Bool[Tensor, " pair"]
    """Pairs trained on."""
    test: Bool[Tensor, " pair"]
    """Pairs held out."""
    d_vocab: int
    """Number of tokens."""
    d_vocab_out: int
    """Number of classes."""

    @property
    def n_ctx(self) -> int:
        """Number of positions of an input."""
        return self.tokens.shape[1]


def shuffled(n: int, recipe: str, seed: int) -> Int[Tensor, " n"]:
    """The numbers 0 .. n-1 in the order in which a published script shuffles them.

    - `torch-randperm`: `torch.manual_seed(seed); torch.randperm(n)` (TransformerLens's Grokking demo, simple-grokking);
    - `python-shuffle`: `random.Random(seed).shuffle(list)` ("Progress measures for grokking", Nanda et al., 2023);
    - `numpy-shuffle`: `numpy.random.RandomState(seed).shuffle(list)` ("Grokking", Power et al., 2022).

    Example:
        >>> shuffled(5, "python-shuffle", 0).tolist()
        [2, 1, 0, 4, 3]
    """
    match recipe:
        case "torch-randperm":
            return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        case "python-shuffle":
            order = list(range(n))
            random.Random(seed).shuffle(order)
            return torch.tensor(order)
        case "numpy-shuffle":
            positions = np.arange(n)
            np.random.RandomState(seed).shuffle(positions)  # the published stream
            return torch.from_numpy(positions)
    raise AssertionError(recipe)  # a config admits no other
