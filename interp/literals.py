"""Literals: values written as text in events, sweep grids and command-line flags; checks of counts and probabilities.

>>> read_value("0.3"), read_value("[64, 64]"), read_value("multiply")
(0.3, (64, 64), 'multiply')
"""

import json
from typing import Any

from interp.errors import InvalidArgumentError

__all__ = ["as_count", "as_probability", "is_whole", "read_value", "write_value"]


def read_value(text: str) -> Any:
    """The value that a text stands for: a JSON value (lists become tuples), or else the text itself.

    >>> [read_value(text) for text in ("7", "1e-3", ".5", "true", "null", "every(10)")]
    [7, 0.001, 0.5, True, None, 'every(10)']
    """
    try:
        value = json.loads(f"0{text}" if text.startswith(".") else text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def write_value(value: Any) -> str:
    """The inverse of `read_value`: a text that it reads as this value.

    >>> write_value((64, 64)), write_value("multiply"), write_value(None)
    ('[64, 64]', 'multiply', 'null')
    """
    return value if isinstance(value, str) else json.dumps(value)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of any numeric type; booleans are not.

    >>> [is_whole(value) for value in (3, 3.0, 2.5, True, "3", None, float("nan"), float("inf"))]
    [True, True, False, False, False, False, False, False]
    """
    try:
        return not isinstance(value, bool) and bool(int(value) == value)
    except (TypeError, ValueError, OverflowError):
        return False


def as_count(name: str, value: int, *, minimum: int = 1) -> int:
    """A whole number not below `minimum`; otherwise `InvalidArgumentError`."""
    if not is_whole(value) or value < minimum:
        raise InvalidArgumentError(f"`{name}` must be a whole number >= {minimum}; got {value!r}.")
    return int(value)


def as_probability(name: str, value: float) -> float:
    """A number in [0, 1]; otherwise `InvalidArgumentError`."""
    if not 0 <= value <= 1:
        raise InvalidArgumentError(f"`{name}` must lie in [0, 1]; got {value!r}. Per cent are divided by 100.")
    return float(value)
