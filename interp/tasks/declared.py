"""Declarations of a task: how its inputs are made, and what its answers are.

Whoever depends on either asks these values: a measure of Fourier components asks whether the operands are `Residues`, a
measure of a group's irreps whether answers are `Elements` of it, a table over pairs whether inputs are `Tuples` of two.

    match examples.inputs:
        case Tuples(Residues(p), 2):
            ...

None of them holds a tensor, and equal declarations are equal values: answers are operands where
`examples.answers == examples.inputs.operands`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from interp.errors import InvalidArgumentError
from interp.theory.groups import Group

__all__ = [
    "Alphabet",
    "Bits",
    "Classes",
    "Codes",
    "DigitStrings",
    "Elements",
    "Inputs",
    "Numbers",
    "Operated",
    "Points",
    "Residues",
    "Sequences",
    "Sides",
    "Tuples",
]


class Alphabet(ABC):
    """Symbols, numbered from 0, that operands or answers are taken from."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of symbols."""

    @property
    def n_outputs(self) -> int:
        """Outputs of a network that answers with a symbol: one logit for each, unless the alphabet says otherwise."""
        return self.size

    @property
    def is_classes(self) -> bool:
        """Whether the outputs are logits, one for each symbol."""
        return True


@dataclass(frozen=True)
class Residues(Alphabet):
    """Integers mod p, as Z_p: the Fourier basis of its characters is defined.

    Example:
        >>> str(Residues(113)), Residues(113).size
        ('residues mod 113', 113)
    """

    p: int

    def __post_init__(self) -> None:
        _require_positive("Residues.p", self.p)

    def __str__(self) -> str:
        return f"residues mod {self.p}"

    @property
    def size(self) -> int:
        """See `Alphabet.size`."""
        return self.p


@dataclass(frozen=True, eq=False)
class Elements(Alphabet):
    """Elements of a finite group, whose irreducible representations are defined.

    Example:
        >>> from interp.theory.groups import finite_group
        >>> str(Elements(finite_group("symmetric", 5))), Elements(finite_group("symmetric", 5)).size
        ('elements of S5', 120)
    """

    group: Group

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Elements) and np.array_equal(self.group.table, other.group.table)

    def __hash__(self) -> int:
        return hash(self.group.name)

    def __str__(self) -> str:
        return f"elements of {self.group.name}"

    @property
    def size(self) -> int:
        """See `Alphabet.size`."""
        return self.group.order


@dataclass(frozen=True)
class Numbers(Alphabet):
    """Whole numbers 0 .. n-1 on a line, not modulo anything."""

    n: int

    def __post_init__(self) -> None:
        _require_positive("Numbers.n", self.n)

    def __str__(self) -> str:
        return f"numbers below {self.n}"

    @property
    def size(self) -> int:
        """See `Alphabet.size`."""
        return self.n


@dataclass(frozen=True)
class Classes(Alphabet):
    """Classes without structure, such as yes and no."""

    n: int

    def __post_init__(self) -> None:
        _require_positive("Classes.n", self.n)

    def __str__(self) -> str:
        return f"{self.n} classes"

    @property
    def size(self) -> int:
        """See `Alphabet.size`."""
        return self.n


@dataclass(frozen=True)
class Codes(Alphabet):
    """Answers that each have a code, a point of R^width which the outputs are to equal: no logits.

    Example:
        >>> Codes(n=19, width=30).size, Codes(n=19, width=30).n_outputs
        (19, 30)
    """

    n: int
    width: int

    def __post_init__(self) -> None:
        _require_positive("Codes.n", self.n)
        _require_positive("Codes.width", self.width)

    def __str__(self) -> str:
        return f"{self.n} codes of width {self.width}"

    @property
    def size(self) -> int:
        """See `Alphabet.size`."""
        return self.n

    @property
    def n_outputs(self) -> int:
        """See `Alphabet.n_outputs`: the width of a code."""
        return self.width

    @property
    def is_classes(self) -> bool:
        """See `Alphabet.is_classes`."""
        return False


@dataclass(frozen=True)
class DigitStrings(Alphabet):
    """Numbers as answers of several digits, which the network gives one after another: logits of digits.

    Example:
        >>> DigitStrings(base=10, count=3).size, DigitStrings(base=10, count=3).n_outputs
        (1000, 10)
    """

    base: int
    count: int

    def __post_init__(self) -> None:
        _require_positive("DigitStrings.base", self.base)
        _require_positive("DigitStrings.count", self.count)

    def __str__(self) -> str:
        return f"numbers of {self.count} digits in base {self.base}"

    @property
    def size(self) -> int:
        """See `Alphabet.size`."""
        return self.base**self.count

    @property
    def n_outputs(self) -> int:
        """See `Alphabet.n_outputs`: the digits."""
        return self.base

    @property
    def is_classes(self) -> bool:
        """See `Alphabet.is_classes`: the logits are of one digit, not of the answer."""
        return False


@dataclass(frozen=True)
class Sides(Alphabet):
    """The two sides of a hyperplane, told by the sign of a single logit."""

    def __str__(self) -> str:
        return "sides of a hyperplane"

    @property
    def size(self) -> int:
        """See `Alphabet.size`."""
        return 2

    @property
    def n_outputs(self) -> int:
        """See `Alphabet.n_outputs`: a single logit."""
        return 1

    @property
    def is_classes(self) -> bool:
        """See `Alphabet.is_classes`."""
        return False


class Inputs:
    """Set of all inputs of a task, in the order of `Examples.tokens`."""

    operations: tuple[str, ...] = ()
    """Operations of which each input names one; empty where one makes all answers."""

    @property
    def arity(self) -> int:
        """Operands of an input; 0 where inputs are no tuples of operands."""
        return 0

    @property
    def n_operands(self) -> int:
        """Number of values of an operand (p); 0 where inputs are no tuples of operands."""
        return 0


@dataclass(frozen=True)
class Tuples(Inputs):
    """Every tuple of `arity` operands, lexicographic: `x.reshape(p, ..., p)` is indexed by the operands.

    Example:
        >>> inputs = Tuples(Residues(5), 2)
        >>> str(inputs), inputs.arity, inputs.n_operands
        ('pairs of residues mod 5', 2, 5)
    """

    operands: Alphabet
    arity: int = 2

    def __post_init__(self) -> None:
        _require_positive("Tuples.arity", self.arity)

    def __str__(self) -> str:
        return f"{'pairs' if self.arity == 2 else f'{self.arity}-tuples'} of {self.operands}"

    @property
    def n_operands(self) -> int:
        """See `Inputs.n_operands`."""
        return self.operands.size


@dataclass(frozen=True)
class Operated(Inputs):
    """Every pair of operands under each of several operations, which a token names: `[operation, a, b]`, lexicographic.

    Example:
        >>> inputs = Operated(Residues(5), ("add", "multiply"))
        >>> str(inputs), inputs.arity, inputs.n_operands
        ('pairs of residues mod 5 under add, multiply', 0, 5)
    """

    operands: Alphabet
    operations: tuple[str, ...]

    def __str__(self) -> str:
        return f"pairs of {self.operands} under {', '.join(self.operations)}"

    @property
    def n_operands(self) -> int:
        """See `Inputs.n_operands`."""
        return self.operands.size


@dataclass(frozen=True)
class Sequences(Inputs):
    """Sequences of tokens, of which nothing else is known."""

    def __str__(self) -> str:
        return "sequences of tokens"


@dataclass(frozen=True)
class Bits(Inputs):
    """Words of n bits."""

    n: int

    def __post_init__(self) -> None:
        _require_positive("Bits.n", self.n)

    def __str__(self) -> str:
        return f"words of {self.n} bits"


@dataclass(frozen=True)
class Points(Inputs):
    """Points of R^d."""

    d: int

    def __post_init__(self) -> None:
        _require_positive("Points.d", self.d)

    def __str__(self) -> str:
        return f"points of R^{self.d}"


def _require_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgumentError(f"`{name}` must be a whole number >= 1; got {value!r}.")
