"""Sums a + b of whole numbers, not modulo anything ("Towards Understanding Grokking", Liu et al., 2022, section 3).

The p numbers have 2p-1 sums 0 .. 2p-2. Of (a, b) and (b, a), which are one sample, only the pair with a <= b is kept.
In the paper the outputs are to equal a random code N(0, 1)^30 of the sum, by mean squared error; otherwise they are
2p-1 classes. Numbers whose representations lie evenly on a line, E_a = u + a v, answer all pairs alike.

References: https://arxiv.org/abs/2205.10343, github.com/ejmichaud/grokking-squared, toy/train_add.py.
"""

import numpy as np
import torch

from interp.config import Sums
from interp.tasks.base import Examples, operand_tokens, pair_grid, shuffled, split_masks
from interp.tasks.declared import Codes, Numbers, Tuples
from interp.tasks.objective import CrossEntropy, NearestCode

__all__ = ["sums_task"]


def sums_task(config: Sums) -> Examples:
    """All p^2 pairs of numbers, of which those with a <= b (or all) have an answer.

    Example:
        >>> task = sums_task(Sums())
        >>> int(task.train.sum()), int(task.test.sum()), task.d_vocab_out
        (45, 10, 19)
        >>> int(task.labels[99]), task.train[10].item() or task.test[10].item()  # 9 + 9; (1, 0) is (0, 1)
        (18, False)
    """
    p, classes = config.p, 2 * config.p - 1
    a, b = pair_grid(p)
    defined = a <= b if config.order == "unordered" else torch.ones_like(a, dtype=torch.bool)
    listed = defined.nonzero().squeeze(1)
    stream = np.random.RandomState(config.seed)
    codes = stream.normal(0, 1, size=(classes, config.codes or classes))  # drawn there even where nothing reads them
    if config.split == "numpy-choice":
        order = listed[torch.from_numpy(stream.choice(len(listed), len(listed), replace=False))]
    else:
        order = listed[shuffled(len(listed), config.split, config.seed)]
    train, test = split_masks(order, p * p, config.train_fraction, config.split)
    tokens, d_vocab = operand_tokens(config.encoding, p)
    return Examples(
        tokens=tokens,
        labels=torch.where(defined, a + b, 0),
        train=train,
        test=test,
        inputs=Tuples(Numbers(p), 2),
        answers=Codes(classes, config.codes) if config.codes else Numbers(classes),
        d_vocab=d_vocab,
        d_vocab_out=config.codes or classes,
        operands=torch.arange(p),
        classes=torch.arange(classes),
        operation="add",
        objective=NearestCode(torch.from_numpy(codes).float()) if config.codes else CrossEntropy(),
    )
