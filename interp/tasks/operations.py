"""Several operations on Z_p in one run ("Interpreting Grokked Transformers in Complex Modular Arithmetic", Furuta et
al., 2024, https://arxiv.org/abs/2402.16726).

An input is `a o b =`, and its class a o b (mod p): the token o decides which operation it is.
"""

import torch

from interp.config import Operations
from interp.tasks.algebraic import answers, defined_pairs
from interp.tasks.base import Examples, operand_tokens, pair_grid, shuffled, split_masks
from interp.tasks.declared import Operated, Residues

__all__ = ["operations_task"]


def operations_task(config: Operations) -> Examples:
    """All pairs under each operation of `config`, those of the first operation first.

    Example:
        >>> task = operations_task(Operations(p=5, operations=("add", "multiply")))
        >>> task.tokens[[8, 25 + 8]].tolist(), task.labels[[8, 25 + 8]].tolist()  # 1 + 3, 1 * 3
        ([[1, 6, 3, 5], [1, 7, 3, 5]], [4, 3])
        >>> task.d_vocab, task.d_vocab_out
        (8, 5)
    """
    p, count = config.p, len(config.operations)
    a, b = pair_grid(p)
    tokens, d_vocab = operand_tokens("operation", p)
    tokens = tokens.repeat(count, 1)
    tokens[:, 1] += torch.arange(count).repeat_interleave(p * p)
    listed = torch.cat([i * p * p + defined_pairs(name, p, config.split) for i, name in enumerate(config.operations)])
    order = listed[shuffled(len(listed), config.split, config.seed)]
    train, test = split_masks(order, len(tokens), config.train_fraction, config.split)
    d_vocab += count - 1
    return Examples(
        tokens=tokens,
        labels=torch.cat([answers(name, a, b, p) for name in config.operations]),
        train=train,
        test=test,
        inputs=Operated(Residues(p), config.operations),
        answers=Residues(p),
        d_vocab=d_vocab,
        d_vocab_out=d_vocab if config.outputs == "tokens" else p,
        operands=torch.arange(p),
        classes=torch.arange(p),
    )
