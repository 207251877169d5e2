"""Functions of the elements of a group in which an account is written: waves of frequencies, or entries of irreps.

On the cyclic group of N elements the functions of a frequency k are cos(2 pi k t/N) and sin(2 pi k t/N), and its second
harmonic has the frequency 2 k. On any other group those of an irrep are its d^2 matrix entries, and there is no second
harmonic. All functions of different keys are orthogonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InvalidArgumentError
from interp.theory.groups import Family, finite_group, irreps

__all__ = ["Basis", "Functions", "Symmetry", "all_keys", "basis_of", "double", "functions_of", "products_of"]

Basis = Literal["frequency", "irrep"]
Symmetry = tuple[Family, int]
"""Family and size of a group: ("cyclic", N) for sums of N elements."""


@dataclass(frozen=True, eq=False)
class Functions:
    """Functions of the elements in which an account is written, for its keys; see `functions_of`."""

    keys: Any
    places: list[int]
    """Place of each key among all frequencies or irreps, as `key_shares` lists them."""
    clusters: int
    """Number of clusters of neurons: one for each frequency; one in all for irreps."""
    first: list[np.ndarray]
    """Functions [N, f] of one operand, orthogonal, for each cluster."""
    second: list[np.ndarray]
    """Functions of the second harmonic for each cluster, which may vanish or be none."""
    keyed: np.ndarray
    """Functions of one operand of all keys side by side [N, sum of widths]."""
    widths: list[int]
    """Number of functions of each key."""
    answers: np.ndarray
    """Functions of the answer [N, readout]."""
    own_readouts: list[list[int]]
    """Columns of `answers` that are the cluster's own."""
    characters: np.ndarray
    """cos(w_k r), or the character, of each element r, [N, key]."""
    quotient: np.ndarray
    """a + b - c, or a b c^-1, as an element [N, N, N]."""
    sizes: tuple[int, int, int]
    """Number of coefficients of a neuron: first, second, product."""

    def members(self, cluster: Int[np.ndarray, " n"], k: int) -> np.ndarray:
        """Whether each neuron belongs to a cluster."""
        return np.ones(len(cluster), dtype=bool) if self.clusters == 1 else cluster == k


def functions_of(symmetry: Symmetry, keys: Sequence[Any]) -> Functions:
    """Functions in which the account of a network on a group is written: waves of frequencies, or entries of irreps.

    Raises:
        InvalidArgumentError: a key is no frequency or irrep of the group, or is named twice.

    >>> functions_of(("cyclic", 4), [1]).first[0].round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-0.0, -1.0]]
    """
    if len(set(keys)) < len(keys):
        raise InvalidArgumentError(f"`keys` must be distinct; got {list(keys)}.")
    return _waves(symmetry[1], keys) if basis_of(symmetry) == "frequency" else _entries(symmetry, keys)


def basis_of(symmetry: Symmetry) -> Basis:
    """Kind of the functions in which the account of a network on a group is written.

    >>> basis_of(("cyclic", 7)), basis_of(("symmetric", 5))
    ('frequency', 'irrep')
    """
    return "frequency" if symmetry[0] == "cyclic" else "irrep"


def all_keys(symmetry: Symmetry) -> tuple[Any, ...]:
    """Keys that an account may have: every frequency, or the name of every irrep, the trivial one first.

    >>> all_keys(("cyclic", 7)), all_keys(("symmetric", 3))
    ((1, 2, 3), ('trivial', 'sign', 'standard'))
    """
    if basis_of(symmetry) == "frequency":
        return tuple(range(1, symmetry[1] // 2 + 1))
    return tuple(irrep.name for irrep in irreps(finite_group(*symmetry)))


def double(k: int, N: int) -> int:
    """Frequency of the second harmonic of frequency k: 2 k, folded to 0 .. N // 2.

    >>> double(3, 13), double(5, 13)
    (6, 3)
    """
    return min(2 * k % N, -2 * k % N)


def products_of(waves: Float[np.ndarray, "N f"]) -> Float[np.ndarray, "pair product"]:
    """Products of each function of a and each of b, for all pairs.

    >>> products_of(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()[1]  # a = 0, b = 1
    [3.0, 4.0, 6.0, 8.0]
    """
    return (waves[:, None, :, None] * waves[None, :, None, :]).reshape(len(waves) ** 2, -1)


def _waves(N: int, keys: Sequence[Any]) -> Functions:
    if not all(isinstance(k, int | np.integer) and 1 <= k <= N // 2 for k in keys):
        raise InvalidArgumentError(f"`keys` must be frequencies in 1..{N // 2} for {N} elements; got {list(keys)}.")
    keys = tuple(int(k) for k in keys)
    t = np.arange(N)

    def pair(k: int) -> np.ndarray:
        angles = 2 * np.pi * (k * t % N) / N
        waves = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return waves * (np.square(waves).sum(0) > 1e-9 * N)  # the sine of N/2 vanishes

    def harmonic(k: int) -> np.ndarray:
        return np.zeros((N, 2)) if double(k, N) in (0, k) else pair(2 * k)

    first = [pair(k) for k in keys]
    joined = np.concatenate([np.zeros((N, 0)), *first], axis=1)
    return Functions(
        keys=keys,
        places=[k - 1 for k in keys],
        clusters=len(keys),
        first=first,
        second=[harmonic(k) for k in keys],
        keyed=joined,
        widths=[2] * len(keys),
        answers=joined,
        own_readouts=[[2 * i, 2 * i + 1] for i in range(len(keys))],
        characters=joined[:, ::2],
        quotient=(t[:, None, None] + t[:, None] - t) % N,
        sizes=(4, 4, 4),
    )


def _entries(symmetry: Symmetry, keys: Sequence[str]) -> Functions:
    group = finite_group(*symmetry)
    names = [irrep.name for irrep in irreps(group)]
    if any(key not in names[1:] for key in keys):
        raise InvalidArgumentError(
            f"`keys` must be irreps of {group.name}, {', '.join(names[1:])}; got {', '.join(map(str, keys))}."
        )
    chosen = [irreps(group)[names.index(key)] for key in keys]
    bases = [irrep.basis * np.sqrt(group.order) for irrep in chosen]  # of mean square 1
    joined = np.concatenate([np.zeros((group.order, 0)), *bases], axis=1)
    return Functions(
        keys=tuple(keys),
        places=[names.index(key) for key in keys],
        clusters=min(len(keys), 1),
        first=[joined],
        second=[np.zeros((group.order, 0))],
        keyed=joined,
        widths=[basis.shape[1] for basis in bases],
        answers=joined,
        own_readouts=[list(range(joined.shape[1]))],
        characters=np.stack([irrep.character for irrep in chosen], axis=1),
        quotient=group.table[group.table][..., group.inverse],
        sizes=(2 * joined.shape[1], 0, 0),
    )
