"""Discrete logarithms, which turn products mod p into sums: the residues 1, ..., p-1 as powers of a primitive root.

For a prime p the non-zero residues are the powers g^0, g^1, ..., g^(p-2) of a primitive root g, and a b = c reads

    log a + log b = log c  (mod p - 1).

With the residues in the order of their logarithms, multiplication is addition mod p-1 and division is subtraction, so
that every measure for addition (spectra, key frequencies, restricted losses, circles) applies to products: the
frequencies k are the multiplicative characters exp(2 pi i k log a/(p - 1)). 0 is left out, since it has no logarithm.
Another primitive root permutes the frequencies by a factor prime to p - 1; the smallest root is taken.

Reference: any text on characters; for grokking networks, A Toy Model of Universality (Chughtai et al., 2023,
arXiv:2302.03025): these characters are the irreducible representations of the cyclic group of products.
"""

import math

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import InvalidArgumentError

__all__ = ["powers_of_primitive_root", "primitive_root"]


def primitive_root(p: int) -> int:
    """The smallest g whose powers are all of 1, ..., p-1 (mod p).

    Raises:
        InvalidArgumentError: p is not an odd prime.

    >>> primitive_root(7)                                         # 3, 2, 6, 4, 5, 1
    3
    """
    if p < 3 or any(p % divisor == 0 for divisor in range(2, math.isqrt(p) + 1)):
        raise InvalidArgumentError(
            f"`p` must be an odd prime, for which the residues 1..p-1 are the powers of a primitive root; got {p}."
        )
    divisors = [(p - 1) // q for q in range(2, p) if (p - 1) % q == 0]  # every proper divisor of p - 1
    return next(g for g in range(2, p) if all(pow(g, n, p) != 1 for n in divisors))


def powers_of_primitive_root(p: int) -> Int[Tensor, " residue"]:
    """Powers g^0, g^1, ..., g^(p-2) (mod p) of the smallest primitive root g: residues by their discrete logarithm.

    Raises `InvalidArgumentError` where p is not an odd prime.

    >>> powers_of_primitive_root(7).tolist()
    [1, 3, 2, 6, 4, 5]
    """
    g = primitive_root(p)
    return torch.tensor([pow(g, n, p) for n in range(p - 1)])
