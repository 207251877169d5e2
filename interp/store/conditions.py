"""Conditions of a run on which the bits of its numbers depend, as run.json notes them.

`provenance` has the conditions under which the run began, `continuations` an entry for each time that it was resumed:
the step, the time, and the conditions that differ from those at the beginning, as pairs (then, now). Earlier versions
noted fewer conditions, and one that was not noted differs from none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Continuation", "conditions", "continuations", "differences", "differences_in_words", "throughout"]

_NOTED = ("device", "device_name", "threads", "torch")
"""Facts of a provenance that are conditions, besides those of its `arithmetic`."""


class Continuation(NamedTuple):
    """Resumption of a run."""

    step: int
    """Step of the full state from which it went on."""
    started: str
    """Time, as ISO 8601 in UTC."""
    differs: dict[str, list[Any]]
    """Conditions that differ from those at the beginning, as pairs (then, now)."""

    def __str__(self) -> str:
        return differences_in_words(self.differs) or "as it began"


def conditions(run: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions under which a run began, by name.

    >>> conditions({"provenance": {"torch": "2.13.0", "python": "3.11", "arithmetic": {"cpu_capability": "AVX2"}}})
    {'torch': '2.13.0', 'cpu_capability': 'AVX2'}
    """
    provenance = run.get("provenance", {})
    noted = {name: provenance[name] for name in _NOTED if name in provenance}
    return noted | dict(provenance.get("arithmetic", {}))


def continuations(run: Mapping[str, Any]) -> list[Continuation]:
    """Continuations of a run, in the order of time."""
    return [Continuation(**entry) for entry in run.get("continuations", [])]


def throughout(run: Mapping[str, Any], first: int, last: int) -> list[dict[str, Any]]:
    """Conditions under which the steps behind `first`, up to `last`, were computed, in the order of time.

    >>> entry = {"step": 50, "started": "", "differs": {"threads": [2, 1]}}
    >>> run = {"provenance": {"threads": 2}, "continuations": [entry]}
    >>> throughout(run, 0, 50), throughout(run, 0, 51), throughout(run, 50, 60)
    ([{'threads': 2}], [{'threads': 2}, {'threads': 1}], [{'threads': 1}])
    """
    began = conditions(run)
    later = [one for one in continuations(run) if one.step < last]
    found = [began, *(began | {name: now for name, (_, now) in one.differs.items()} for one in later)]
    in_force = max((at for at, one in enumerate(later, 1) if one.step <= first), default=0)
    return found[in_force:]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Conditions that differ, as pairs (then, now), of those that are known of both.

    >>> differences({"threads": 2, "torch": "2.13.0"}, {"threads": 1, "torch": "2.13.0", "device": "cpu"})
    {'threads': [2, 1]}
    """
    return {name: [then[name], now[name]] for name in then if name in now and then[name] != now[name]}


def differences_in_words(differs: Mapping[str, Sequence[Any]]) -> str:
    """Differences as words.

    >>> differences_in_words({"threads": [2, 1], "cpu_capability": ["AVX2", "AVX512"]})
    'threads 1 instead of 2, cpu_capability AVX512 instead of AVX2'
    """
    return ", ".join(f"{name} {now} instead of {then}" for name, (then, now) in differs.items())
