"""Sums of numbers written in digits ("Understanding Addition in Transformers", Quirke and Barez, 2024,
https://arxiv.org/abs/2310.13121).

With base B and n digits, a = a_(n-1) ... a_0 and carries k_0 = 0, k_(i+1) = 1 where a_i + b_i + k_i >= B, the answer is

    c_i = a_i + b_i + k_i  mod B   for i < n,      c_n = k_n

The network reads a, '+', b and '=' and, in training, the digits of the answer but for the last.
"""

import torch

from interp.config import Digits
from interp.tasks.base import Examples, pair_grid, shuffled, split_masks
from interp.tasks.declared import DigitStrings, Sequences
from interp.tasks.objective import AnswerDigits

__all__ = ["digits_task"]


def digits_task(config: Digits) -> Examples:
    """All pairs of numbers of so many digits, with their sums.

    Example:
        >>> task = digits_task(Digits(base=10, n_digits=2))
        >>> task.tokens[4706].tolist(), int(task.labels[4706])  # 47 + 06 =
        ([4, 7, 10, 0, 6, 11], 53)
    """
    base, n = config.base, config.n_digits
    a, b = pair_grid(base**n)
    powers = base ** torch.arange(n).flip(0)
    first, second = (x[:, None] // powers % base for x in (a, b))
    plus, equals = (torch.full_like(a[:, None], base + sign) for sign in (0, 1))
    train, test = split_masks(shuffled(len(a), config.split, config.seed), len(a), config.train_fraction, config.split)
    return Examples(
        tokens=torch.cat([first, plus, second, equals], dim=1),
        labels=a + b,
        train=train,
        test=test,
        inputs=Sequences(),
        answers=DigitStrings(base, n + 1),
        d_vocab=base + 2,
        d_vocab_out=base,
        operands=torch.arange(0),
        classes=torch.arange(base ** (n + 1)),
        objective=AnswerDigits(base, n + 1, least_first=config.answer_order == "least"),
    )
