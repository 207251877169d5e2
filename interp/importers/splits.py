"""The train split of an imported run: stored by its files, rebuilt from a recipe, or found by the stored losses."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.config import Modular
from interp.config.tasks import Split
from interp.errors import ForeignFormatError
from interp.importers.files import Dump
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
) -> SplitReading:
    """The split of `task`: stored pairs first, then the recipe that is `known`, then a search by the stored losses.

    Arguments:
        unshuffled: share of the pairs, the first in lexicographic order, that are the training set; 0 if shuffled.
        known: whether the split of `task` is given by a configuration or by the user.
        prove_with: the proof of the stored losses under a split.
        unproven: the proof of nothing.
        drawn_by_none: stored splits that no recipe draws, to which this one is added if need be: another operation on
            the same pairs need not look again.

    Raises:
        ForeignFormatError: stored indices are out of range, overlap, or leave a side empty.
    """
    examples = _stored_split(dump, task, unshuffled)
    if examples is not None:
        task, origin = _recipe_of(examples, task, drawn_by_none)
        return SplitReading(task, examples, prove_with(examples), origin)
    if known:
        examples = build_task(task)
        return SplitReading(task, examples, prove_with(examples), f"rebuilt: {task.split} with seed {task.seed}")
    return _split_that_agrees(task, prove_with, unproven, bool(dump.curves))


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
        indices = torch.as_tensor(listed if isinstance(listed, Tensor | np.ndarray) else _pairs(listed, full.p))
        if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex() or not indices.numel():
            raise TypeError
        indices = indices.long()
        if indices.ndim == 2 and indices.shape[1] in (2, 3):
            a, b = indices[:, 0], indices[:, 1]
            indices = torch.where((b >= 0) & (b < full.p), a.clamp(-1, full.p) * full.p + b, -1)
        fits = indices.ndim == 1 and 0 <= int(indices.min()) <= int(indices.max()) < full.p**2
    except (TypeError, ValueError, RuntimeError, OverflowError):
        fits = False
    if not fits:
        raise ForeignFormatError(
            f"The stored {side} indices must be whole numbers, 0 .. {full.p**2 - 1} for p = {full.p}, or pairs of them."
        )
    mask = torch.zeros(full.p**2, dtype=torch.bool)
    mask[indices] = True
    return mask


def _pairs(listed: Sequence[Any], p: int) -> np.ndarray:
    """The listed numbers or pairs; none where there are more than exist."""
    return np.array([_pair(item) for item in listed] if len(listed) <= p**2 else [])


def _pair(item: Any) -> Any:
    """A number, or the numbers of a pair."""
    if isinstance(item, list | tuple) or (isinstance(item, Tensor | np.ndarray) and item.ndim):
        return tuple(operator.index(part) for part in item)
    return operator.index(item)


def _recipe_of(full: Examples, task: Modular, drawn_by_none: set[str]) -> tuple[Modular, str]:
    """The task whose recipe draws exactly these training pairs, if a recipe that is tried does; and the origin."""
    drawn = build_task(task)
    every = bool((drawn.train | drawn.test).all())  # and then the recipes draw from the same list
    key = f"{packed(full.train)} {packed(full.test)} {'' if every else task.operation}"
    if key in drawn_by_none:
        return task, STORED
    n, n_train = int((full.train | full.test).sum()), int(full.train.sum())
    shares = [task.train_fraction, *(round(n_train / n, digits) for digits in (1, 2, 3, 4)), n_train / n]
    for recipe, seed in _recipes(task):
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
    task: Modular, prove_with: Callable[[Examples], Proof], unproven: Proof, has_curves: bool
) -> SplitReading:
    """The published split that alone reproduces the stored losses, or all pairs as both sides."""

    def sharply(proof: Proof) -> bool:
        return proof.agrees and proof.difference <= TOLERANCE  # a loose agreement fits other splits, too

    everything = _all_pairs(build_task(task))
    proof_of_all = prove_with(everything)
    wrong = build_task(task.replace({"split": "torch-randperm", "seed": WRONG_SEED}))
    # the losses of a network that answers all pairs alike agree with every split
    decides = not sharply(proof_of_all) and not sharply(prove_with(wrong))
    for recipe, seed in _recipes(task, seeds=0) if has_curves and decides else ():
        candidate = task.replace({"split": recipe, "seed": seed})
        proof = prove_with(found := build_task(candidate))
        if proof.compared and sharply(proof):
            origin = f"rebuilt: {recipe} with seed {seed} reproduces the stored numbers"
            return SplitReading(candidate, found, proof, origin)
    proof = replace(proof_of_all if sharply(proof_of_all) else unproven, compared=0)
    return SplitReading(task, everything, proof, "not known: all pairs are both")


def _recipes(task: Modular, seeds: int = SEEDS_TRIED) -> list[tuple[Split, int]]:
    """Recipes and seeds in the order of trial: first the task's own."""
    tried = [(task.split, task.seed)]
    tried += [(recipe, seed) for seed in (task.seed, *PUBLISHED_SEEDS) for recipe in RECIPES_TRIED]
    tried += [(recipe, seed) for seed in range(seeds) for recipe in RECIPES_TRIED]
    return list(dict.fromkeys(tried))


def _all_pairs(full: Examples) -> Examples:
    defined = full.train | full.test
    return replace(full, train=defined, test=defined)
