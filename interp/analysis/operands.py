"""Order of the operands in which a task's operation adds, so that frequencies are defined.

Sums mod p add in the order 0, 1, ..., p-1. Products mod a prime p add in the order of the discrete logarithms (see
`multiplicative`), without 0. Measures of frequencies take arrays indexed by operands in this order.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from interp.analysis.multiplicative import powers_of_primitive_root, primitive_root
from interp.errors import InvalidArgumentError
from interp.tasks import Examples
from interp.tasks.declared import Elements, Operated, Residues, Tuples
from interp.theory.groups import Group

__all__ = ["OperandOrder", "order_of_operands"]


@dataclass(frozen=True, eq=False)
class OperandOrder:
    """Operands in the order in which the operation adds, and what the operation is in that order."""

    residues: Int[Tensor, " n"]
    """Numbers of the operands, in order; all of them, but for products, where 0 is left out."""
    basis: str
    """Functions that the frequencies stand for, in words."""
    operation: Literal["add", "subtract"] | None = None
    """Operation on places in this order; None where the answer is no sum of two operands in any order."""
    group: Group | None = None
    """Finite group whose product is the answer."""
    are_residues: bool = False
    """Whether the operands are residues, three or more, so that they have a Fourier basis."""


def order_of_operands(examples: Examples) -> OperandOrder:
    """Order of the operands of a task, from its declarations.

    Example:
        >>> from interp.config import Modular
        >>> from interp.tasks import build_task
        >>> order = order_of_operands(build_task(Modular(p=7, operation="multiply")))
        >>> order.residues.tolist(), order.operation  # powers of 3 mod 7
        ([1, 3, 2, 6, 4, 5], 'add')
    """
    p = examples.p
    numbers, basis = torch.arange(p), f"characters of the integers mod {p}"
    match examples.inputs:
        case Tuples(Elements(group), 2) if examples.operation == "product" and examples.answers == Elements(group):
            cyclic = group.family == "cyclic"
            return OperandOrder(numbers, basis, "add" if cyclic else None, group, cyclic)
        case Tuples(Residues(p), arity):
            wave = p >= 3
            if arity != 2 or not wave or examples.answers != Residues(p):
                return OperandOrder(numbers, basis, are_residues=wave)
            match examples.operation:
                case "add" | "subtract" as operation:
                    return OperandOrder(numbers, basis, operation, are_residues=True)
                case "multiply" | "divide" if p != 3:  # of p = 3 two operands are left, which have no frequency
                    try:
                        powers = powers_of_primitive_root(p)
                    except InvalidArgumentError:  # no root: p is composite, and products are no sums
                        return OperandOrder(numbers, basis, are_residues=True)
                    logarithms = f"discrete logarithms to base {primitive_root(p)}"
                    return OperandOrder(
                        residues=powers,
                        basis=f"characters of the products mod {p}, {logarithms}",
                        operation="add" if examples.operation == "multiply" else "subtract",
                        are_residues=True,
                    )
            return OperandOrder(numbers, basis, are_residues=True)
        case Operated(Residues(p)):
            return OperandOrder(numbers, basis, are_residues=p >= 3)
    return OperandOrder(numbers, basis)
