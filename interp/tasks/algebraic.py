"""Binary operations on Z_p as classification of pairs ("Grokking", Power et al., 2022, https://arxiv.org/abs/2201.02177).

A pair (a, b) is the input `a b =` and its class the answer c = a o b (mod p); of three operands it is (a o b) o c.
"""

from functools import reduce

import torch
from jaxtyping import Int
from torch import Tensor

from interp.config import Modular
from interp.config.polynomials import polynomial
from interp.tasks.base import Examples, pair_grid, pair_task, tuples_of
from interp.tasks.declared import Residues

__all__ = ["answers", "declared_operation", "defined_pairs", "modular_task"]


def modular_task(config: Modular) -> Examples:
    """All p^2 pairs, or tuples of `arity`, under the operation of `config`, split by its recipe.

    Example:
        >>> task = modular_task(Modular(p=5, arity=3, operation="subtract"))
        >>> task.tokens[38].tolist(), int(task.labels[38])  # 1 - 2 - 3 = -4 = 1 (mod 5)
        ([1, 2, 3, 5], 1)
    """
    first, *others = tuples_of(Residues(config.p), config.arity).T
    labels = reduce(lambda a, b: answers(config.operation, a, b, config.p), others, first)
    listed = defined_pairs(config.operation, config.p, config.split) if config.arity == 2 else None
    return pair_task(config, Residues(config.p), declared_operation(config.operation), labels, listed)


def declared_operation(operation: str) -> str:
    """`Examples.operation` of an operation's name in a config: the four that measures know, empty for all others.

    Example:
        >>> declared_operation("divide"), declared_operation("x2+y")
        ('divide', '')
    """
    return operation if operation in ("add", "subtract", "multiply", "divide") else ""


def defined_pairs(operation: str, p: int, split: str) -> Int[Tensor, " defined"]:
    """The pairs that have an answer, as a p + b, in the order in which the script with this split lists them.

    Example:
        >>> defined_pairs("divide", 3, "torch-randperm").tolist()  # 0/1, 0/2, 1/1, ...
        [1, 2, 4, 5, 7, 8]
        >>> defined_pairs("divide", 3, "numpy-shuffle").tolist()  # quotient 0: 0/1, 0/2; quotient 1: 1/1, 2/2; ...
        [1, 2, 4, 8, 7, 5]
    """
    first, b = pair_grid(p)
    if operation != "divide":
        return first * p + b
    # openai/grok runs over the quotients c and divisors b, with a = b c
    a = first * b % p if split == "numpy-shuffle" else first
    return (a * p + b)[b != 0]


def answers(operation: str, a: Int[Tensor, "*n"], b: Int[Tensor, "*n"], p: int) -> Int[Tensor, "*n"]:
    """a o b modulo p, elementwise; 0 where it is undefined.

    Example:
        >>> answers("divide", torch.tensor([1]), torch.tensor([3]), 7).tolist()  # 3 * 5 = 15 = 1 (mod 7)
        [5]
        >>> answers("x2+2y", torch.tensor([3]), torch.tensor([4]), 7).tolist()  # 9 + 8 = 17 = 3 (mod 7)
        [3]
    """
    match operation:
        case "add":
            return (a + b) % p
        case "subtract":
            return (a - b) % p
        case "multiply":
            return (a * b) % p
        case "divide":
            inverse = torch.tensor([pow(n, -1, p) if n else 0 for n in range(p)])
            return (a * inverse[b]) % p
        case "divide_subtract":
            return torch.where(b % 2 == 1, answers("divide", a, b, p), (a - b) % p)
        case "add_multiply":
            return torch.where(a % 2 == 0, a + b, a * b) % p
        case "add_subtract":
            return torch.where(a % 2 == 0, a + b, a - b) % p
    powers = {
        exponent: torch.tensor([pow(n, exponent, p) for n in range(p)])  # whole numbers, of any size before the mod
        for exponent in {exponent for both in polynomial(operation) for exponent in both}
    }
    found = torch.zeros_like(a)
    for (i, j), factor in polynomial(operation).items():
        found += factor % p * powers[i][a] % p * powers[j][b] % p
    return found % p
