"""Parity of k of n random bits ("A Tale of Two Circuits", Merrill et al., 2023, https://arxiv.org/abs/2303.11873).

The class of a word x of n bits is x_1 + ... + x_k mod 2; the other n - k bits are noise. Which k bits count makes no
difference to a network whose inputs are drawn alike, so they are the first. The words are distinct, and drawn bit by
bit from Python's stream, as in the code of "Grokking at the Edge of Numerical Stability" (Prieto et al., 2025,
https://arxiv.org/abs/2501.04697), whose data and split a run with its seed rebuilds.
"""

import random

import torch

from interp.config import Parity
from interp.tasks.base import Examples, shuffled, split_masks
from interp.tasks.declared import Bits, Classes

__all__ = ["parity_task"]


def parity_task(config: Parity) -> Examples:
    """Words of n bits with the parity of their first k; the token of a bit is the bit.

    Example:
        >>> task = parity_task(Parity(n=3, k=2, samples=8))
        >>> sorted(zip(task.tokens.tolist(), task.labels.tolist()))[-2:]  # 1 + 1 + anything
        [([1, 1, 0], 0), ([1, 1, 1], 0)]
    """
    stream = random.Random(config.seed)
    words: dict[tuple[int, ...], None] = {}  # in the order in which they are drawn
    while len(words) < config.samples:
        words[tuple(stream.choice((0, 1)) for _ in range(config.n))] = None
    tokens = torch.tensor(list(words))
    train, test = split_masks(
        shuffled(len(words), config.split, config.seed), len(words), config.train_fraction, config.split
    )
    return Examples(
        tokens=tokens,
        labels=tokens[:, : config.k].sum(1) % 2,
        train=train,
        test=test,
        inputs=Bits(config.n),
        answers=Classes(2),
        d_vocab=2,
        d_vocab_out=2,
        operands=torch.arange(0),
        classes=torch.arange(2),
    )
