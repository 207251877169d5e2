"""Schedules: the steps of a run at which weights are stored, or metrics logged, as values.

A schedule answers one question, `at(step, last)`: does `step` belong to it in a run that ends at step `last`? The last
step always belongs to it. Schedules unite with `|` and have a written form, which the command line reads:

>>> str(Every(1, until=100) | Every(10))
'every(1, until=100) | every(10)'
>>> parse_schedule("log(200) | steps(9000, 9400)")
AnyOf(members=(LogSpaced(n=200), Steps(steps_named=(9000, 9400))))
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

from interp.errors import ConfigError

__all__ = ["AnyOf", "Dense", "Every", "LogSpaced", "Schedule", "Steps", "parse_schedule"]


MOST_SPACED = 10**6
"""Maximum number of steps that are spaced on a logarithmic axis."""


class Schedule(ABC):
    """Set of steps, for a run of any length."""

    @abstractmethod
    def at(self, step: int, last: int) -> bool:
        """Whether `step` belongs to the schedule in a run that ends at step `last`; the last step always does."""

    def resolve(self, bytes_per_checkpoint: int, last: int) -> "Schedule":
        """The schedule with every budget in bytes turned into steps."""
        return self

    def steps(self, last: int) -> list[int]:
        """All steps of the schedule in a run that ends at step `last`.

        >>> Every(4).steps(last=9)
        [0, 4, 8, 9]
        """
        return [step for step in range(last + 1) if self.at(step, last)]

    def __or__(self, other: "Schedule") -> "AnyOf":
        return AnyOf((*_members(self), *_members(other)))


@dataclass(frozen=True)
class Every(Schedule):
    """Every `k` steps, counted from 0, up to and including step `until` (None: to the end)."""

    k: int = 10
    until: int | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.k) or self.k < 1:
            raise ConfigError(f"`k` of every(k) must be a whole number of steps >= 1; got {self.k!r}.")
        if self.until is not None and (not _is_count(self.until) or self.until < 0):
            raise ConfigError(f"`until` of every(k, until) must be a step >= 0 or None; got {self.until!r}.")

    def at(self, step: int, last: int) -> bool:
        """See `Schedule.at`."""
        return step == last or (step % self.k == 0 and (self.until is None or step <= self.until))

    def steps(self, last: int) -> list[int]:
        """See `Schedule.steps`; counted, not tried one by one."""
        end = last if self.until is None else min(self.until, last)
        counted = list(range(0, end + 1, self.k))
        return counted if counted[-1:] == [last] else [*counted, last]

    def __str__(self) -> str:
        return f"every({self.k})" if self.until is None else f"every({self.k}, until={self.until})"


@cache
def _log_spaced(n: int, last: int) -> frozenset[int]:
    return frozenset(round(last ** (i / (n - 1))) for i in range(n))


@dataclass(frozen=True)
class LogSpaced(Schedule):
    """Step 0 and about `n` steps evenly spaced on a logarithmic axis from 1 to the last step.

    >>> LogSpaced(5).steps(last=100)
    [0, 1, 3, 10, 32, 100]
    """

    n: int = 200

    def __post_init__(self) -> None:
        if not _is_count(self.n) or self.n < 2:
            raise ConfigError(f"`n` of log(n) must be a whole number >= 2; got {self.n!r}.")
        if self.n > MOST_SPACED:
            raise ConfigError(f"`n` of log(n) must be at most {MOST_SPACED:,}; got {self.n!r}.")

    def at(self, step: int, last: int) -> bool:
        """See `Schedule.at`."""
        if step in (0, last):
            return True
        if not 0 < step < last:
            return False
        return step in _log_spaced(self.n, last)

    def steps(self, last: int) -> list[int]:
        """See `Schedule.steps`."""
        return sorted({0, last}.union(step for step in _log_spaced(self.n, last) if 0 < step < last))

    def __str__(self) -> str:
        return f"log({self.n})"


@dataclass(frozen=True)
class Steps(Schedule):
    """The steps named, and the last one.

    >>> Steps((3, 5)).steps(last=9)
    [3, 5, 9]
    """

    steps_named: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        named = self.steps_named
        if not isinstance(named, tuple | list):
            raise ConfigError(f"`steps(...)` must name increasing steps >= 0; got {named!r}.")
        object.__setattr__(self, "steps_named", tuple(named))
        if not all(_is_count(step) and step >= 0 for step in named) or list(named) != sorted(set(named)):
            raise ConfigError(f"`steps(...)` must name increasing steps >= 0; got {list(named)}.")

    def at(self, step: int, last: int) -> bool:
        """See `Schedule.at`."""
        return step == last or step in self.steps_named

    def steps(self, last: int) -> list[int]:
        """See `Schedule.steps`."""
        return sorted({last}.union(step for step in self.steps_named if step < last))

    def __str__(self) -> str:
        return f"steps({', '.join(map(str, self.steps_named))})"


@dataclass(frozen=True)
class Dense(Schedule):
    """Evenly spaced checkpoints, as many as fit into `budget_bytes`; the trainer knows the size of a checkpoint.

    >>> Dense(1000).resolve(bytes_per_checkpoint=100, last=99)
    Every(k=11, until=None)
    >>> len(Every(11).steps(last=99))
    10
    """

    budget_bytes: int = 1_000_000_000

    def __post_init__(self) -> None:
        if not _is_count(self.budget_bytes) or self.budget_bytes < 1:
            raise ConfigError(f"`dense(budget)` must be a positive number of bytes; got {self.budget_bytes!r}.")

    def at(self, step: int, last: int) -> bool:
        """Refused: a budget has no steps before the size of a checkpoint is known; call `resolve` first."""
        raise ConfigError("A `Dense` schedule must be resolved with the size of one checkpoint before it is asked.")

    def resolve(self, bytes_per_checkpoint: int, last: int) -> Schedule:
        """Densest `Every(k)` whose checkpoints, the first and the last included, fit into the budget."""
        affordable = self.budget_bytes // max(1, bytes_per_checkpoint)
        if affordable < 2:
            raise ConfigError(
                f"`dense(budget)` must hold at least two checkpoints of {bytes_per_checkpoint:,} bytes; "
                f"got {self.budget_bytes:,}. Raise the budget or name the steps with steps(...)."
            )
        # 0, k, 2k, ... and the last step where k does not divide it: 1 + ceil(last / k) checkpoints
        return Every(max(1, math.ceil(last / (affordable - 1))))

    def __str__(self) -> str:
        return f"dense({self.budget_bytes})"


@dataclass(frozen=True)
class AnyOf(Schedule):
    """Union of schedules; written with `|`."""

    members: tuple[Schedule, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.members, tuple | list) or not all(isinstance(m, Schedule) for m in self.members):
            raise ConfigError(f"The members of a union of schedules must be schedules; got {self.members!r}.")
        object.__setattr__(self, "members", tuple(self.members))
        if not self.members:
            raise ConfigError("A union of schedules must have at least one member; got none.")

    def at(self, step: int, last: int) -> bool:
        """See `Schedule.at`."""
        return any(member.at(step, last) for member in self.members)

    def steps(self, last: int) -> list[int]:
        """See `Schedule.steps`."""
        return sorted(set().union(*(member.steps(last) for member in self.members)))

    def resolve(self, bytes_per_checkpoint: int, last: int) -> Schedule:
        """Union of the resolved members."""
        return AnyOf(tuple(member.resolve(bytes_per_checkpoint, last) for member in self.members))

    def __str__(self) -> str:
        return " | ".join(map(str, self.members))


def parse_schedule(text: str) -> Schedule:
    """Schedule with the written form `text`; the inverse of `str`.

    Forms: `every(k)`, `every(k, until=step)`, `log(n)`, `steps(a, b, ...)`, `dense(1GB)`, a bare number k for every(k),
    and any of these joined by `|`.

    Raises:
        ConfigError: the text has none of these forms.

    >>> parse_schedule("dense(1.5MB)"), parse_schedule("10")
    (Dense(budget_bytes=1500000), Every(k=10, until=None))
    """
    parts = [_parse_one(part.strip(), text) for part in text.split("|")]
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def _parse_one(part: str, whole: str) -> Schedule:
    number = re.fullmatch(r"\d+", part)
    call = re.fullmatch(r"(\w+)\s*\(([^()]*)\)", part)
    try:
        if number:
            return Every(int(part))
        if call:
            name, arguments = call[1], [argument.strip() for argument in call[2].split(",") if argument.strip()]
            match name, arguments:
                case "every", [k]:
                    return Every(int(k))
                case "every", [k, until]:
                    return Every(int(k), int(until.removeprefix("until").lstrip(" =")))
                case "log", [n]:
                    return LogSpaced(int(n))
                case "steps", steps:
                    return Steps(tuple(int(step) for step in steps))
                case "dense", [budget]:
                    return Dense(_bytes(budget))
    except ConfigError:
        raise
    except ValueError:
        pass
    raise ConfigError(
        f"`{whole}` is no schedule; write every(10), every(1, until=100), log(200), steps(0, 50), dense(1GB), "
        "or several joined by |."
    )


def _bytes(text: str) -> int:
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    match = re.fullmatch(r"([\d.]+)\s*([a-zA-Z]*)", text)
    if not match or match[2].upper() not in units:
        raise ValueError(text)
    return round(float(match[1]) * units[match[2].upper()])


def _members(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.members if isinstance(schedule, AnyOf) else (schedule,)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
