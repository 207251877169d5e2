"""The description of a run in its run.json, checked once, where it is read.

The store keeps any description, a JSON object. Entries that this package itself writes have the types of `ENTRIES`:
whoever reads a run relies on them. A seal does not vouch for them, since anyone can compute one.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["check_description"]

LARGEST_STEP = 2**63
MOST_THREADS = 1024
LONGEST_NAME = 255
"""Maximum length of a file's name."""


def check_description(run: Mapping[str, Any]) -> None:
    """Check the entries of run.json that this package writes, where they are there.

    Raises:
        ValueError: one of them has another form.

    >>> check_description({"diverged": {"step": 7, "what": "the loss"}, "note": "any other entry is the writer's own"})
    >>> check_description({"ensemble": ["../../x"]})
    Traceback (most recent call last):
    ValueError: `ensemble` must be a list of names of run folders beside this one
    """
    for name, (is_valid, rule) in ENTRIES.items():
        if name in run and not is_valid(run[name]):
            raise ValueError(f"`{name}` must be {rule}")


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_STEP


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_object(value: Any) -> bool:
    return type(value) is dict


def _is_divergence(value: Any) -> bool:
    return _is_object(value) and _is_step(value.get("step")) and _is_text(value.get("what", ""))


def _are_events(value: Any) -> bool:
    return type(value) is list and all(
        type(one) is list and len(one) == 2 and _is_step(one[0]) and _is_text(one[1]) for one in value
    )


def _is_provenance(value: Any) -> bool:
    if not _is_object(value):
        return False
    device, threads = value.get("device"), value.get("threads")
    counted = threads is None or (type(threads) is int and 1 <= threads <= MOST_THREADS)
    return counted and (device is None or _is_text(device)) and _is_object(value.get("arithmetic", {}))


def _are_continuations(value: Any) -> bool:
    return type(value) is list and all(
        _is_object(one)
        and one.keys() == {"step", "started", "differs"}
        and _is_step(one["step"])
        and _is_text(one["started"])
        and _is_object(one["differs"])
        and all(type(pair) is list and len(pair) == 2 for pair in one["differs"].values())
        for one in value
    )


def _is_stretch(value: Any) -> bool:
    if not _is_object(value) or not _is_text(value.get("of")):
        return False
    numbers = [value.get(name) for name in ("start", "stop", "every", "from_state")]
    proven = value.get("proven", [])
    return type(proven) is list and all(map(_is_step, numbers + proven))


def _are_siblings(value: Any) -> bool:
    """Whether these are different names of folders, which cannot lead elsewhere."""
    return (
        type(value) is list
        and len(value) > 0
        and all(_is_text(name) and len(name) <= LONGEST_NAME and PLAIN.fullmatch(name) for name in value)
        and len(set(value)) == len(value)
    )


def _is_import(value: Any) -> bool:
    if not _is_object(value) or not _is_text(value.get("format", "")):
        return False
    split = value.get("split", {"train": "", "test": ""})
    return _is_object(split) and all(
        _is_text(split.get(side)) and HEXADECIMAL.fullmatch(split[side]) for side in ("train", "test")
    )


def _is_origin(value: Any) -> bool:
    """Whether this says how a run began with weights of another: their digest, and what is proven and was changed."""
    if not _is_object(value) or not _is_text(value.get("digest")):
        return False
    proven, changes, held = value.get("proven", []), value.get("changes", []), value.get("held", {})
    return (
        _is_object(held)
        and all(map(_is_step, held.values()))
        and type(proven) is list
        and all(map(_is_step, [*proven, value.get("from_state", 0)]))
        and type(changes) is list
        and all(map(_is_text, changes))
    )


def _is_record(value: Any) -> bool:
    if not _is_object(value) or not _is_object(value.get("task", {})) or not _is_object(value.get("files", {})):
        return False
    if not all(_is_text(value.get("files", {}).get(name, "")) for name in ("counts", "format")):
        return False
    ended = value.get("interrupted", {"step": 0, "by": ""})
    if not _is_object(ended) or not _is_step(ended.get("step")) or not _is_text(ended.get("by")):
        return False
    masks = [value.get("task", {}).get(side, "") for side in ("train", "test")]
    logits = value.get("logits", [])
    return all(_is_text(mask) and HEXADECIMAL.fullmatch(mask) for mask in masks) and (
        type(logits) is list
        and all(type(row) is list and all(type(x) in (int, float) for x in row) for row in logits)
        and len({len(row) for row in logits}) <= 1
    )


PLAIN = re.compile(r"(?!\.)[\w.+-]+")
HEXADECIMAL = re.compile(r"([0-9a-f]{2})*")
ENTRIES: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "config": (_is_object, "an object"),
        "continuations": (_are_continuations, "a list of objects with `step`, `started` and pairs that differ"),
        "diverged": (_is_divergence, "an object with a `step`"),
        "ensemble": (_are_siblings, "a list of names of run folders beside this one"),
        "events": (_are_events, "a list of pairs of a step and a text"),
        "examples": (_is_text, "a text"),
        "import": (_is_import, "an object, with masks in hexadecimal where it holds a split"),
        "origin": (_is_origin, "an object with a `digest`, steps that are `proven` and texts of `changes`"),
        "provenance": (_is_provenance, f"an object, with `threads` of 1 to {MOST_THREADS} and a `device`, or without"),
        "record": (_is_record, "an object, with a `task` whose masks are in hexadecimal, and rows of `logits`"),
        "replay": (_is_stretch, "an object with `of`, `start`, `stop`, `every` and `from_state`"),
        "schedule": (_is_text, "a text"),
    }
)
"""Checks of the entries that this package writes, each with its rule."""
