"""Polynomials in two operands, as an operation is written: x2+xy+y2 is a^2+ab+b^2, and 2x3y-5y+1 is 2a^3b-5b+1.

Mod a prime every operation is one ("Grokking Modular Polynomials", Doshi et al., 2024, arXiv:2406.03495, has which of
them are learned).
"""

import re
from collections import Counter

from interp.errors import ConfigError

__all__ = ["polynomial"]

_TERM = re.compile(r"([+-]?)(\d*)(x(?:[1-9]\d*)?)?(y(?:[1-9]\d*)?)?")


def polynomial(text: str) -> dict[tuple[int, int], int]:
    """The coefficients by exponents: those of x^i y^j by (i, j), none of them 0.

    Raises:
        ConfigError: where `text` writes no polynomial that depends on both x and y.

    >>> polynomial("x2+xy+y2")
    {(2, 0): 1, (1, 1): 1, (0, 2): 1}
    >>> polynomial("-2x3y+5-y")
    {(3, 1): -2, (0, 0): 5, (0, 1): -1}
    """
    terms: Counter[tuple[int, int]] = Counter()
    at = 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None or not term[0].strip("+-") or (at and not term[1]):
            raise ConfigError(f"{text!r} is no polynomial in x and y, such as x2+xy+y2 or 2x3y-5y+1.")
        i, j = (0 if part is None else int(part[1:] or 1) for part in (term[3], term[4]))
        terms[i, j] += int(f"{term[1]}{term[2] or 1}")
        at = term.end()
    found = {powers: factor for powers, factor in terms.items() if factor}
    if not any(i for i, _ in found) or not any(j for _, j in found):
        raise ConfigError(f"{text!r} is no operation on two operands: a polynomial must have an x and a y in it.")
    return found
