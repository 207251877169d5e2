"""Numbers in the names of files and folders: which of them counts the checkpoints, and in what.

A number is read with the word before it: `epoch=499-step=500` has an epoch and a step. A step wins over an epoch, an
epoch over a number without a word, and the version of an artifact (`NAME:v3`) only gives an order. Numbers that name
runs and not moments (seed, rank, layer, p, ...), decimals and digits within words are no count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Counts", "Numbered", "numbered"]

Counts = Literal["updates", "epochs", "versions", "numbers"]
"""Meaning of a number in a name: updates made, epochs, versions in their order, or only a number."""

PART = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)([kKmM]?)(?![A-Za-z\d])")
"""A number in a name, with its unit."""
UNITS = {"": 1, "k": 1000, "m": 10**6}
WORDS: dict[str, Counts] = {
    **dict.fromkeys(
        ("step", "steps", "iter", "iters", "iteration", "iterations", "it", "update", "updates"), "updates"
    ),
    **dict.fromkeys(("batch", "batches", "globalstep"), "updates"),
    **dict.fromkeys(("epoch", "epochs", "ep", "eps", "e"), "epochs"),
    **dict.fromkeys(("v", "version", "ver"), "versions"),
}
"""Meaning of a number by the word before it."""
RUNS = frozenset(
    (
        "seed", "rank", "layer", "layers", "head", "heads", "p", "mod", "fold", "run", "trial", "shard", "of", "wd",
        "lr", "d", "h", "width", "dim", "frac", "fraction", "exp", "q", "prime", "loss", "acc",
    )
)  # fmt: skip
"""Words before numbers that name a run, and not a moment of it."""


@dataclass(frozen=True)
class Numbered:
    """Names with the number that counts them."""

    numbers: dict[str, int]
    counts: Counts
    said: str = ""
    """The choice among several numbers in a name, in words."""


def numbered(stems: Sequence[str]) -> Numbered | None:
    """The number of each of several names of one kind; None where no number counts them.

    Example:
        >>> numbered(["epoch=4-step=100", "epoch=9-step=200"])
        Numbered(numbers={'epoch=4-step=100': 100, 'epoch=9-step=200': 200}, counts='updates', said='')
        >>> numbered(["p113_10k", "p113_20k"]).numbers
        {'p113_10k': 10000, 'p113_20k': 20000}
        >>> numbered(["seed_0", "seed_1"]) is None
        True
    """
    parts = {stem: _parts(stem) for stem in stems}
    columns = len(next(iter(parts.values()), []))
    if not columns or any(len(found) != columns for found in parts.values()):
        return None
    found: list[tuple[int, int, Counts]] = []
    for i in range(columns):
        words = {found[i][0] for found in parts.values()}
        values = [found[i][1] for found in parts.values()]
        if len(words) != 1 or None in values or len(set(values)) != len(values):
            continue
        word = words.pop()
        counts = _meaning(word)
        if counts is None:
            continue
        found.append((("updates", "epochs", "numbers", "versions").index(counts), i, counts))
    if not found:
        return None
    _, i, counts = min(found)
    numbers = {stem: number for stem, found_parts in parts.items() if (number := found_parts[i][1]) is not None}
    rivals = [other for rank, other, _ in found if rank == min(found)[0] and other != i]
    return Numbered(numbers, counts, "its first number" if rivals else "")


def template(stem: str) -> str:
    """A name without its numbers: names of one kind have one template."""
    return PART.sub("#", stem)


def _meaning(word: str) -> Counts | None:
    """Meaning of a number behind `word`; None for the number of a run."""
    if word in RUNS:
        return None
    if word in WORDS:
        return WORDS[word]
    return next((WORDS[end] for end in ("step", "steps", "iter", "epoch", "epochs") if word.endswith(end)), "numbers")


def _parts(stem: str) -> list[tuple[str, int | None]]:
    """The numbers of a name with the words before them; None for a number that is not whole."""
    found = []
    for match in PART.finditer(stem):
        word = re.search(r"([A-Za-z]*)[\W_]*$", stem[: match.start()])
        digits, unit = match[1], match[2].lower()
        whole = float(digits) * UNITS[unit] if "." in digits and unit and len(digits) < 20 else None
        number = int(digits) * UNITS[unit] if digits.isdecimal() else int(whole) if whole and whole % 1 == 0 else None
        found.append((word[1].lower() if word else "", number))
    return found
