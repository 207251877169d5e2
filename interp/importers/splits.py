"""The train split of an imported run: stored by its files, rebuilt from a recipe, or found by losses.

Seeds and fractions that a configuration holds under any name (`seed`, `data_seed`, `frac_train`, `train_fraction`, ...)
are tried. A split is found where it reproduces the stored losses. Without those, it is found where the network itself
tells it: the pairs that it was trained on have smaller losses than the others. With n and m pairs on the two sides, the
number U of pairs of pairs that are in this order has mean n m / 2 and variance n m (n + m + 1) / 12 under every split
that has nothing to do with the run (Mann and Whitney, 1947); it must lie `DEVIATIONS` standard deviations above.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.config import Modular
from interp.config.tasks import Split
from interp.errors import ConfigError, ForeignFormatError
from interp.importers.files import Dump
from interp.importers.logs import LARGEST_NUMBER
from interp.importers.proof import TOLERANCE, Proof
from interp.tasks import Examples, build_task
from interp.tasks.base import packed

__all__ = ["SplitReading", "read_split"]

PUBLISHED_SEEDS = (598, 0, 1, 2, 42)
"""Seeds of published splits, tried first where a file has the pairs or only their losses."""
WRONG_SEED = 3_141_592_653
"""Seed that nobody has published: where its split reproduces the losses as well, they do not determine the split."""
SEEDS_TRIED = 100
"""Number of further seeds that are tried where a file has the pairs."""
RECIPES_TRIED: tuple[Split, ...] = ("torch-randperm", "python-shuffle", "numpy-shuffle")
"""Recipes of splits that are tried."""
STORED = "stored: no recipe that was tried draws these pairs"
"""Origin of a split that no recipe draws."""


DEVIATIONS = 6.0
"""Standard deviations by which losses of training pairs must be smaller than chance allows; of a hundred splits
that are tried one exceeds 6 by chance with probability 1e-7."""
SEED = re.compile(r"seed|random_state", re.IGNORECASE)
FRACTION = re.compile(
    r"frac|train_?(share|ratio|size|prop|pct|percent|split)|split|ratio|alpha|pct|percent", re.IGNORECASE
)
HELD_OUT = re.compile(r"test|val|eval|held", re.IGNORECASE)
"""Names of seeds, of shares of the pairs, and of shares that are not trained on."""
MOST_STATED = 8
"""Seeds and fractions of a configuration that are tried."""


@dataclass(frozen=True)
class Stated:
    """Seeds and fractions that a configuration may mean for the split, with their names."""

    seeds: Mapping[int, str]
    fractions: Mapping[float, str]


def stated(about: Mapping[str, Any]) -> Stated:
    """Seeds and fractions in a configuration, whatever they are called.

    Example:
        >>> stated({"data_seed": 598, "test_frac": 0.2, "wd": 0.5})
        Stated(seeds={598: 'data_seed'}, fractions={0.8: 'test_frac'})
    """
    seeds: dict[int, str] = {}
    fractions: dict[float, str] = {}
    for name, value in about.items():
        if type(value) not in (int, float) or not -LARGEST_NUMBER < value < LARGEST_NUMBER:  # no NaN, either
            continue
        if SEED.search(name) and value == int(value) and 0 <= value < 2**32:
            seeds.setdefault(int(value), name)
        elif FRACTION.search(name) and 0 < value < 100 and value != 1:
            share = value / 100 if value > 1 else value
            fractions.setdefault(round(1 - share, 10) if HELD_OUT.search(name) else share, name)
    return Stated(dict(list(seeds.items())[:MOST_STATED]), dict(list(fractions.items())[:MOST_STATED]))


@dataclass(frozen=True)
class SplitReading:
    """A task with the split that was found for it, and the proof of the losses under this split."""

    task: Modular
    examples: Examples
    proof: Proof
    origin: str
    """Source of the split, in words that begin with "rebuilt", "stored" or "not known"."""

    @property
    def needs_mask(self) -> bool:
        """Whether no recipe gives the split, so that its pairs have to be stored."""
        return self.origin.startswith(("not known", "stored"))


def read_split(
    task: Modular,
    dump: Dump,
    *,
    unshuffled: float,
    known: bool,
    prove_with: Callable[[Examples], Proof],
    unproven: Proof,
    drawn_by_none: set[str],
    losses_of: Callable[[Tensor], Sequence[Tensor]] = lambda answers: (),
) -> SplitReading:
    """The split of `task`: stored pairs first, then the recipe that is `known`, then a search by the stored losses.

    Arguments:
        unshuffled: share of the pairs, the first in lexicographic order, that are the training set; 0 if shuffled.
        known: whether the split of `task` is given by a configuration or by the user.
        prove_with: the proof of the stored losses under a split.
        unproven: the proof of nothing.
        drawn_by_none: stored splits that no recipe draws, to which this one is added if need be: another operation on
            the same pairs need not look again.
        losses_of: losses by pair for given answers, at some checkpoints.

    Raises:
        ForeignFormatError: stored indices are out of range, overlap, or leave a side empty.
    """
    about = stated(dump.about)
    examples = _stored_split(dump, task, unshuffled)
    if examples is not None:
        task, origin = _recipe_of(examples, task, drawn_by_none, about)
        return SplitReading(task, examples, prove_with(examples), origin)
    if known:
        examples = build_task(task)
        return SplitReading(task, examples, prove_with(examples), f"rebuilt: {task.split} with seed {task.seed}")
    found = _split_that_agrees(task, prove_with, unproven, bool(dump.curves), about)
    if not found.needs_mask or not (about.seeds or about.fractions):
        return found
    return _split_by_memory(found, task, prove_with, unproven, about, losses_of)


def _stored_split(dump: Dump, task: Modular, unshuffled: float) -> Examples | None:
    """The examples split by the pairs that the file lists, or unshuffled as by its script; None without either."""
    full = build_task(task)
    defined = full.train | full.test
    if dump.train is None:
        if not unshuffled:
            return None
        train = torch.zeros_like(defined)
        train[: int(unshuffled * len(train))] = True
        return replace(full, train=train, test=defined & ~train)
    train = _mask("train", dump.train, full)
    test = defined & ~train if dump.test is None else _mask("test", dump.test, full)
    if (train & test).any() or not train.any() or not test.any():
        raise ForeignFormatError(
            f"The stored indices must name train and test pairs without overlap; got {int(train.sum())} and "
            f"{int(test.sum())}, of which {int((train & test).sum())} are both."
        )
    return replace(full, train=train, test=test)


def _mask(side: str, listed: Sequence[Any], full: Examples) -> Tensor:
    """Mask of the listed pairs, which are numbers a p + b, pairs (a, b) or inputs (a, b, =)."""
    try:
        indices = torch.as_tensor(
            listed if isinstance(listed, Tensor | np.ndarray) else _pairs(listed, len(full.tokens))
        )
        if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex() or not indices.numel():
            raise TypeError
        indices = indices.long()
        if indices.ndim == 2:
            varying = [
                i for i, column in enumerate(full.tokens.T) if column.min() < column.max()
            ]  # operands, not signs
            places = varying if indices.shape[1] == full.tokens.shape[1] else range(full.arity)
            if indices.shape[1] not in (full.arity, full.arity + 1, full.tokens.shape[1]):
                raise TypeError
            operands = [indices[:, i] for i in places]
            inside = torch.stack([(x >= 0) & (x < full.p) for x in operands]).all(0)
            whole = torch.zeros_like(operands[0])
            for x in operands:
                whole = whole * full.p + x.clamp(0, full.p - 1)
            indices = torch.where(inside, whole, -1)
        fits = indices.ndim == 1 and 0 <= int(indices.min()) <= int(indices.max()) < len(full.tokens)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        fits = False
    if not fits:
        raise ForeignFormatError(
            f"The stored {side} indices must be whole numbers, 0 .. {len(full.tokens) - 1} for p = {full.p}, or pairs "
            "of them."
        )
    mask = torch.zeros(len(full.tokens), dtype=torch.bool)
    mask[indices] = True
    return mask


def _pairs(listed: Sequence[Any], most: int) -> np.ndarray:
    """The listed numbers or pairs; none where there are more than exist."""
    return np.array([_pair(item) for item in listed] if len(listed) <= most else [])


def _pair(item: Any) -> Any:
    """A number, or the numbers of a pair."""
    if isinstance(item, list | tuple) or (isinstance(item, Tensor | np.ndarray) and item.ndim):
        return tuple(operator.index(part) for part in item)
    return operator.index(item)


def _recipe_of(full: Examples, task: Modular, drawn_by_none: set[str], about: Stated) -> tuple[Modular, str]:
    """The task whose recipe draws exactly these training pairs, if a recipe that is tried does; and the origin."""
    drawn = build_task(task)
    every = bool((drawn.train | drawn.test).all())  # and then the recipes draw from the same list
    key = f"{packed(full.train)} {packed(full.test)} {'' if every else task.operation}"
    if key in drawn_by_none:
        return task, STORED
    n, n_train = int((full.train | full.test).sum()), int(full.train.sum())
    shares = [
        task.train_fraction,
        *about.fractions,
        *(round(n_train / n, digits) for digits in (1, 2, 3, 4)),
        n_train / n,
    ]
    for recipe, seed in _recipes(task, about.seeds):
        for share in shares:
            if not (0 < share < 1 and int(share * n) == n_train):
                continue
            candidate = task.replace({"split": recipe, "seed": seed, "train_fraction": share})
            if torch.equal(build_task(candidate).train, full.train):
                return candidate, f"rebuilt: {recipe} with seed {seed} draws the stored pairs"
            break
    drawn_by_none.add(key)
    return task, STORED


def _split_that_agrees(
    task: Modular, prove_with: Callable[[Examples], Proof], unproven: Proof, has_curves: bool, about: Stated
) -> SplitReading:
    """The published split that alone reproduces the stored losses, or all pairs as both sides."""

    def sharply(proof: Proof) -> bool:
        return proof.agrees and proof.difference <= TOLERANCE  # a loose agreement fits other splits, too

    everything = _all_pairs(build_task(task))
    proof_of_all = prove_with(everything)
    wrong = build_task(task.replace({"split": "torch-randperm", "seed": WRONG_SEED}))
    # the losses of a network that answers all pairs alike agree with every split
    decides = not sharply(proof_of_all) and not sharply(prove_with(wrong))
    for candidate in _candidates(task, about) if has_curves and decides else ():
        proof = prove_with(found := build_task(candidate))
        if proof.compared and sharply(proof):
            origin = f"rebuilt: {_named(candidate, about)} reproduces the stored numbers"
            return SplitReading(candidate, found, proof, origin)
    proof = replace(proof_of_all if sharply(proof_of_all) else unproven, compared=0)
    return SplitReading(task, everything, proof, "not known: all pairs are both")


def _split_by_memory(
    unknown: SplitReading,
    task: Modular,
    prove_with: Callable[[Examples], Proof],
    unproven: Proof,
    about: Stated,
    losses_of: Callable[[Tensor], Sequence[Tensor]],
) -> SplitReading:
    """The split whose training pairs the network knows better than the others, or the `unknown` split."""
    tried = (
        _candidates(task, about) if about.fractions else []
    )  # the share has to be known: sets of one seed are nested
    full = build_task(task)
    ranks = [_ranks(losses[full.train | full.test]) for losses in losses_of(full.labels)]
    best, most = None, 0.0
    for candidate in tried:
        examples = build_task(candidate)
        train = examples.train[full.train | full.test]
        found = max((_deviations(rank, train) for rank in ranks), default=0.0)
        if found > most:
            best, most = candidate, found
    if best is not None and most >= DEVIATIONS:
        examples = build_task(best)
        proof = prove_with(examples)
        origin = f"rebuilt: {_named(best, about)}, whose training pairs have smaller losses by {most:.0f} deviations"
        return SplitReading(best, examples, proof if proof.agrees else unproven, origin)
    named = [*((name, value) for value, name in about.seeds.items()), *((x, y) for y, x in about.fractions.items())]
    given = ", ".join(f"{name} {value:g}" for name, value in named)
    were = "were tried, and no pairs of theirs are known better than others" if tried else "alone name no split"
    why = f"{given} of the configuration {were}"
    return replace(unknown, origin=f"{unknown.origin} ({why}; `assume` task.seed and task.train_fraction takes them)")


def _ranks(losses: Tensor) -> Tensor:
    """Ranks of losses from 1; equal losses share their mean rank."""
    _, inverse, counts = losses.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]


def _deviations(ranks: Tensor, train: Tensor) -> float:
    """Standard deviations by which the train ranks are smaller than chance."""
    n, m = int(train.sum()), int((~train).sum())
    if not n or not m:
        return 0.0
    U = n * m + n * (n + 1) / 2 - float(ranks[train].sum())
    return (U - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def _candidates(task: Modular, about: Stated, published: bool = True) -> list[Modular]:
    """Tasks with the splits that are tried: stated fractions and seeds first."""
    fractions = [fraction for fraction in (*about.fractions, task.train_fraction) if 0 < fraction < 1]
    tried = []
    for fraction in dict.fromkeys(fractions):
        for recipe, seed in _recipes(task, about.seeds, seeds=0, published=published):
            try:
                tried.append(task.replace({"split": recipe, "seed": seed, "train_fraction": fraction}))
            except ConfigError:  # a side without pairs
                continue
    return tried


def _named(task: Modular, about: Stated) -> str:
    """The split of a task in words, with the names that a configuration gives its numbers."""
    seed = f" ({about.seeds[task.seed]})" if task.seed in about.seeds else ""
    share = about.fractions.get(task.train_fraction, "")
    fraction = f" and fraction {task.train_fraction:g} ({share})" if share else ""
    return f"{task.split} with seed {task.seed}{seed}{fraction}"


def _recipes(
    task: Modular, stated: Mapping[int, str], seeds: int = SEEDS_TRIED, published: bool = True
) -> list[tuple[Split, int]]:
    """Recipes and seeds in the order of trial: first the task's own."""
    tried = [(task.split, task.seed)]
    known = (task.seed, *stated, *(PUBLISHED_SEEDS if published else ()))
    tried += [(recipe, seed) for seed in known for recipe in RECIPES_TRIED]
    tried += [(recipe, seed) for seed in range(seeds) for recipe in RECIPES_TRIED]
    return list(dict.fromkeys(tried))


def _all_pairs(full: Examples) -> Examples:
    defined = full.train | full.test
    return replace(full, train=defined, test=defined)
