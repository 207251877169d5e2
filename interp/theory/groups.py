"""Finite groups as multiplication tables, with all their irreducible representations over the real numbers.

A group is a list of permutations. The product x y is "first x, then y": (x y)(i) = y(x(i)), in one-line notation the
array y[x]. This is the convention of openai/grok (its S_5 has c = b[a]) and of sympy, hence of the code of Chughtai et
al. (2023), which lists the elements of S_n in sympy's order; here the order is lexicographic.

A real irrep rho sends elements to orthogonal matrices with rho(x) rho(y) = rho(x y); chi(x) = tr rho(x) is its
character. The irreps of S_n are in Young's orthogonal form: a partition of n has its standard tableaux T as basis, and
with r the axial distance (content of i + 1 minus content of i) the transposition s_i of i and i + 1 acts by

    s_i e_T = e_T / r + sqrt(1 - 1/r^2) e_(s_i T).

The exchange of rows and columns of all tableaux, with the signs of their reading words, is a matrix J that
anticommutes with every s_i, hence commutes with A_n, and J^2 is 1 or -1. Restricted to A_n, a partition and its
conjugate become one irrep. A self-conjugate partition splits into the two eigenspaces of J where J^2 = 1 (n = 5: two
irreps of dimension 3, with the golden ratio in their characters); where J^2 = -1 (n = 3, 4), it is one irrep of complex
type.

Every irrep here is of real type (only multiples of 1 commute with it) or of complex type (the sum of two conjugate
complex irreps, as the rotations of C_n). With m = 1 or 2 respectively, the d^2 entries of rho(x) span d^2/m functions
of x, and the squared norm of chi is m times the order. The d^2/m add up to the order: the functions of all irreps are
an orthogonal basis of the functions on the group (Peter and Weyl), which for C_n is the real Fourier basis.

References: A Toy Model of Universality (Chughtai et al., 2023), arXiv:2302.03025; The Representation Theory of the
Symmetric Group (James and Kerber, 1981), sections 2.5 and 3.4.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InvalidArgumentError

__all__ = [
    "Family",
    "Group",
    "Irrep",
    "alternating",
    "cyclic",
    "dihedral",
    "finite_group",
    "irreps",
    "symmetric",
]

Family = Literal["cyclic", "dihedral", "symmetric", "alternating"]

LARGEST_SYMMETRIC = 6
"""Largest n of S_n and A_n: the 5040 elements of S_7 would have a table of 25 million products."""


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group; element 0 is the identity."""

    family: Family
    n: int
    permutations: Int[np.ndarray, "element point"]
    """Elements in one-line notation: where each point goes."""
    table: Int[np.ndarray, "element element"]
    """The product x y (first x, then y)."""
    inverse: Int[np.ndarray, " element"]
    names: tuple[str, ...]

    @property
    def order(self) -> int:
        """Number of elements."""
        return len(self.table)

    @property
    def name(self) -> str:
        """Short name of the group, such as C5, D5 (of order 10), S5 or A5."""
        return f"{self.family[0].upper()}{self.n}"


@dataclass(frozen=True, eq=False)
class Irrep:
    """An irreducible representation over the real numbers, by orthogonal matrices."""

    name: str
    matrices: Float[np.ndarray, "element d d"]

    @property
    def dimension(self) -> int:
        """Side d of the matrices."""
        return self.matrices.shape[-1]

    @property
    def character(self) -> Float[np.ndarray, " element"]:
        """Trace of each matrix."""
        return self.matrices.trace(axis1=1, axis2=2)

    @property
    def commutant(self) -> int:
        """Dimension m of the algebra of matrices that commute with all: 1 for real, 2 for complex type."""
        return round(float(np.square(self.character).mean()))

    @property
    def basis(self) -> Float[np.ndarray, "element function"]:
        """The matrix entries as functions on the group, an orthonormal basis [order, d^2/m] in the columns.

        The later columns of a matrix of complex type repeat the functions of the earlier ones, up to sign.
        """
        order, d = self.matrices.shape[:2]
        return math.sqrt(d / order) * self.matrices[:, :, : d // self.commutant].reshape(order, -1)


def finite_group(family: Family, n: int) -> Group:
    """The group of a family by its name.

    Raises `InvalidArgumentError` for another family, and for an `n` that the family does not have.

    >>> finite_group("alternating", 5).order
    60
    """
    match family:
        case "cyclic":
            return cyclic(n)
        case "dihedral":
            return dihedral(n)
        case "symmetric":
            return symmetric(n)
        case "alternating":
            return alternating(n)
    raise InvalidArgumentError(f"`family` must be one of {', '.join(get_args(Family))}; got {family!r}.")


def cyclic(n: int) -> Group:
    """The cyclic group C_n, addition of 0, ..., n-1 modulo n; n >= 3.

    >>> cyclic(5).table[3].tolist()
    [3, 4, 0, 1, 2]
    """
    _require_n("cyclic", n)
    point = np.arange(n)
    return _permutation_group("cyclic", n, (point[:, None] + point) % n, 1, tuple(map(str, range(n))))


def dihedral(n: int) -> Group:
    """The dihedral group D_n of the n-gon, n >= 3: rotations 1, r, ..., r^(n-1), then reflections r^a s; s r s = r^-1.

    The order of the elements, and the table, agree with the code of Chughtai et al. (2023).

    >>> D = dihedral(3)
    >>> D.names[D.table[4, 1]], D.names[D.table[1, 4]]       # (r s) r = s and r (r s) = r^2 s
    ('r0s', 'r2s')
    """
    _require_n("dihedral", n)
    point = np.arange(n)
    rotations = (point[:, None] + point) % n
    names = tuple(f"r{a}{s}" for s in ("", "s") for a in range(n))
    return _permutation_group("dihedral", n, np.concatenate([rotations, -rotations % n]), 2, names)


def symmetric(n: int) -> Group:
    """The symmetric group S_n of all n! permutations in lexicographic order; n in 3 .. 6. One-line names: 021 fixes 0.

    >>> S = symmetric(3)
    >>> S.names
    ('012', '021', '102', '120', '201', '210')
    >>> S.names[S.table[1, 2]]                               # first 021, then 102: 0 to 1, 1 to 2, 2 to 0
    '120'
    """
    _require_n("symmetric", n)
    permutations = np.array(list(itertools.permutations(range(n))))
    return _permutation_group("symmetric", n, permutations, n - 1, _one_line(permutations))


def alternating(n: int) -> Group:
    """The alternating group A_n of the n!/2 even permutations in lexicographic order; n in 3 .. 6.

    >>> alternating(3).names
    ('012', '120', '201')
    """
    _require_n("alternating", n)
    permutations = np.array(list(itertools.permutations(range(n))))
    permutations = permutations[_sign(permutations) > 0]
    return _permutation_group("alternating", n, permutations, n - 2, _one_line(permutations))


def irreps(group: Group) -> tuple[Irrep, ...]:
    """All irreps over the real numbers, the trivial one first.

    - cyclic: trivial, frequency 1, 2, ... (rotations by k times the angle); for even n the last is sign, (-1)^x;
    - dihedral: trivial, sign (-1 on reflections); for even n alternating, (-1)^a on r^a and r^a s, and
      alternating_sign; then frequency 1, 2, ...;
    - symmetric: trivial, sign, standard (the partition (n-1, 1), of dimension n - 1), standard_sign, and the other
      partitions as their own names, such as (3, 2);
    - alternating: the greater of each two conjugate partitions; self-conjugate partitions that split have + and -.

    >>> [(irrep.name, irrep.dimension) for irrep in irreps(symmetric(4))]
    [('trivial', 1), ('sign', 1), ('standard', 3), ('standard_sign', 3), ('(2, 2)', 2)]
    >>> [(irrep.name, irrep.dimension) for irrep in irreps(alternating(5))][2:]
    [('(3, 2)', 5), ('(3, 1, 1)+', 3), ('(3, 1, 1)-', 3)]
    """
    match group.family:
        case "cyclic":
            return _cyclic_irreps(group.n)
        case "dihedral":
            return _dihedral_irreps(group.n)
        case "symmetric":
            return tuple(Irrep(_partition_name(p), _young(p, group.n)) for p in _partitions_in_order(group.n))
        case "alternating":
            return _alternating_irreps(group.n)


def _permutation_group(
    family: Family, n: int, permutations: Int[np.ndarray, "element point"], base: int, names: tuple[str, ...]
) -> Group:
    """The group of these permutations, whose elements are determined by the images of the first `base` points."""
    elements = np.arange(len(permutations))
    weight = permutations.shape[1] ** np.arange(base)
    codes = permutations[:, :base] @ weight
    by_code = codes.argsort()
    images = permutations[elements[None, :, None], permutations[:, None, :base]]  # y[x] at [x, y, point]
    table = by_code[np.searchsorted(codes[by_code], images @ weight)]
    return Group(family, n, permutations, table, (table == 0).argmax(axis=1), names)


def _require_n(family: Family, n: int) -> None:
    bounded = family in ("symmetric", "alternating")
    if isinstance(n, bool) or int(n) != n or n < 3 or (bounded and n > LARGEST_SYMMETRIC):
        rule = f"in 3 .. {LARGEST_SYMMETRIC}" if bounded else ">= 3"
        raise InvalidArgumentError(f"`n` of {family} groups must be a whole number {rule}; got {n!r}.")


def _one_line(permutations: Int[np.ndarray, "element point"]) -> tuple[str, ...]:
    return tuple("".join(map(str, permutation)) for permutation in permutations)


def _sign(permutations: Int[np.ndarray, "element point"]) -> Int[np.ndarray, " element"]:
    """Sign of each permutation: +1 or -1 by the parity of the number of inversions."""
    first, second = np.triu_indices(permutations.shape[1], k=1)
    return np.where(permutations[:, first] > permutations[:, second], -1, 1).prod(axis=1)


# --- cyclic and dihedral groups ---------------------------------------------------------------------------------------


def _cyclic_irreps(n: int) -> tuple[Irrep, ...]:
    x = np.arange(n)
    sign = (Irrep("sign", _scalars((-1.0) ** x)),) if n % 2 == 0 else ()
    return (Irrep("trivial", np.ones((n, 1, 1))), *(_frequency(k, n) for k in range(1, (n + 1) // 2)), *sign)


def _dihedral_irreps(n: int) -> tuple[Irrep, ...]:
    a, reflection = np.tile(np.arange(n), 2), np.repeat([1.0, -1.0], n)
    one = {"trivial": np.ones(2 * n), "sign": reflection}
    if n % 2 == 0:
        one |= {"alternating": (-1.0) ** a, "alternating_sign": (-1.0) ** a * reflection}
    two = []
    for k in range(1, (n + 1) // 2):
        rotations = _frequency(k, n)
        flipped = rotations.matrices * [1.0, -1.0]  # R(a) diag(1, -1)
        two.append(Irrep(rotations.name, np.concatenate([rotations.matrices, flipped])))
    return (*(Irrep(name, _scalars(values)) for name, values in one.items()), *two)


def _frequency(k: int, n: int) -> Irrep:
    """The rotations of the plane by 2 pi k x/n."""
    angle = (k * np.arange(n) % n) * (2 * np.pi / n)  # k x is reduced while it is a whole number: exact
    matrices = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Irrep(f"frequency {k}", np.moveaxis(matrices, -1, 0))


def _scalars(values: Float[np.ndarray, " element"]) -> Float[np.ndarray, "element 1 1"]:
    return values[:, None, None]


# --- symmetric and alternating groups ---------------------------------------------------------------------------------


def _alternating_irreps(n: int) -> tuple[Irrep, ...]:
    even = _sign(np.array(list(itertools.permutations(range(n))))) > 0
    found = []
    for partition in _partitions_in_order(n):
        name, matrices = _partition_name(partition), _young(partition, n)[even]
        if partition > _conjugate(partition):
            found.append(Irrep(name, matrices))
        elif partition == _conjugate(partition):
            J = _exchange(partition)
            if not np.array_equal(J, J.T):
                found.append(Irrep(name, matrices))
                continue
            for suffix, eigenvalue in (("+", 1), ("-", -1)):
                # e_T + J e_T for one T of each pair: no tableau is its own transpose, so these are orthogonal
                columns = (np.eye(len(J)) + eigenvalue * J) / math.sqrt(2)
                columns = columns[:, [j for j in range(len(J)) if j < np.flatnonzero(J[:, j])[0]]]
                found.append(Irrep(name + suffix, columns.T @ matrices @ columns))
    return tuple(found)


def _young(partition: tuple[int, ...], n: int) -> Float[np.ndarray, "element d d"]:
    """Young's orthogonal form of all permutations of n points, in lexicographic order."""
    neighbours = _transpositions(partition)
    position = {permutation: x for x, permutation in enumerate(itertools.permutations(range(n)))}
    matrices = np.empty((len(position), *neighbours.shape[1:]))
    for permutation, x in position.items():
        i = next((i for i in range(n - 1) if permutation[i] > permutation[i + 1]), None)
        if i is None:  # the identity
            matrices[x] = np.eye(neighbours.shape[1])
            continue
        earlier = (*permutation[:i], permutation[i + 1], permutation[i], *permutation[i + 2 :])  # s_i x: first s_i
        matrices[x] = neighbours[i] @ matrices[position[earlier]]
    return matrices


def _transpositions(partition: tuple[int, ...]) -> Float[np.ndarray, "transposition d d"]:
    """The matrices of the transpositions s_0, ..., s_(n-2) of neighbours."""
    tableaux = _tableaux(partition)
    position = {rows: j for j, rows in enumerate(tableaux)}
    n, d = sum(partition), len(tableaux)
    matrices = np.zeros((n - 1, d, d))
    for rows, j in position.items():
        content = [column - row for row, column in zip(rows, _columns(rows))]
        for i in range(n - 1):
            r = content[i + 1] - content[i]
            matrices[i, j, j] = 1 / r
            if abs(r) > 1:  # else i and i + 1 are neighbours in the tableau, and to exchange them would disorder it
                exchanged = (*rows[:i], rows[i + 1], rows[i], *rows[i + 2 :])
                matrices[i, position[exchanged], j] = math.sqrt(1 - 1 / r**2)
    return matrices


def _exchange(partition: tuple[int, ...]) -> Int[np.ndarray, "d d"]:
    """The matrix J of a self-conjugate partition: e_T goes to its transpose, times the sign of T's reading word."""
    tableaux = _tableaux(partition)
    position = {rows: j for j, rows in enumerate(tableaux)}
    J = np.zeros((len(tableaux), len(tableaux)), dtype=int)
    reading = np.array([sorted(range(len(rows)), key=rows.__getitem__) for rows in tableaux])
    for j, (rows, sign) in enumerate(zip(tableaux, _sign(reading))):
        J[position[_columns(rows)], j] = sign
    return J


def _tableaux(partition: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The standard tableaux of a partition, each as the rows of its entries 1, ..., n."""
    grown: list[tuple[int, ...]] = [()]
    for _ in range(sum(partition)):
        grown = [
            (*rows, row)
            for rows in grown
            for row, length in enumerate(partition)
            if rows.count(row) < length and (row == 0 or rows.count(row) < rows.count(row - 1))
        ]
    return grown


def _columns(rows: tuple[int, ...]) -> tuple[int, ...]:
    """The columns of a tableau's entries, from their rows."""
    return tuple(rows[:k].count(row) for k, row in enumerate(rows))


def _conjugate(partition: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sum(part > column for part in partition) for column in range(partition[0]))


def _partitions_in_order(n: int) -> list[tuple[int, ...]]:
    """All partitions of n: first those with a name, then from great to small."""
    named = _named(n)
    return [*named, *(p for p in _partitions(n, n) if p not in named)]


def _partitions(n: int, largest: int) -> list[tuple[int, ...]]:
    if n == 0:
        return [()]
    return [(part, *rest) for part in range(min(n, largest), 0, -1) for rest in _partitions(n - part, part)]


def _named(n: int) -> dict[tuple[int, ...], str]:
    names = {(n,): "trivial", (1,) * n: "sign", (n - 1, 1): "standard"}
    return names | ({_conjugate((n - 1, 1)): "standard_sign"} if n > 3 else {})


def _partition_name(partition: tuple[int, ...]) -> str:
    return _named(sum(partition)).get(partition, str(partition))
