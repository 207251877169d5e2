"""The folders of an ensemble that was killed while they were made."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import NamedTuple

from interp.errors import RunLockedError, StoreError
from interp.store import RunReader, RunWriter
from interp.store.opening import delete_run, is_there
from interp.store.segments import read_run_json

__all__ = ["Beginnings", "delete_never_begun"]


class Beginnings:
    """Answers to whether ensembles were ever begun; each folder is looked at once, however many name it."""

    def __init__(self) -> None:
        self._look = cache(_look)
        self._begun: dict[tuple[Path, ...], bool] = {}

    def never_begun(self, folder: Path) -> bool:
        """Whether `folder` is a member of an ensemble of which nothing is stored: no weights, states or metrics.

        The folders of an ensemble are made one after the other. Where that was cut short, those that exist name others
        that do not, or that belong to another ensemble by now, so that they cannot be resumed. Nothing is lost if they
        are made anew.

        Raises:
            StoreError: a run.json cannot be read.
        """
        ensemble, holds = self._look(folder)
        if not ensemble or holds:
            return False
        companions = self.companions(folder)
        if companions not in self._begun:
            looks = map(self._look, companions)
            self._begun[companions] = any(look.holds and look.ensemble == ensemble for look in looks)
        return not self._begun[companions]

    def companions(self, folder: Path) -> tuple[Path, ...]:
        """Folders of the ensemble that `folder` belongs to, itself among them; empty where it belongs to none.

        Raises:
            StoreError: its run.json cannot be read.
        """
        return tuple(folder.parent / name for name in self._look(folder).ensemble)


def delete_never_begun(folders: Iterable[Path]) -> None:
    """Delete each folder that was never begun, unless another process is just making, or training, its ensemble.

    All that can be deleted is, before the first error is raised.

    Raises:
        RunLockedError: another process is.
        StoreError: a folder cannot be read.
    """
    beginnings, errors = Beginnings(), list[StoreError]()
    groups: dict[tuple[Path, ...], list[Path]] = {}
    for folder in folders:
        try:
            if beginnings.never_begun(folder):
                groups.setdefault(beginnings.companions(folder), []).append(folder)
        except StoreError as error:
            errors.append(error)
    for companions, ours in groups.items():
        try:
            _delete_together(ours, companions)
        except StoreError as error:
            errors.append(error)
    if errors:
        raise errors[0]


class _Look(NamedTuple):
    """A look at a folder: names of its ensemble, and whether it holds any file of a run, or an outcome."""

    ensemble: tuple[str, ...]
    holds: bool


def _look(folder: Path) -> _Look:
    if not is_there(folder / "run.json"):
        return _Look((), False)
    run, complete, *_ = read_run_json(folder / "run.json")
    metrics = folder / "metrics.jsonl"
    files = any(any((folder / child).glob("*.safetensors")) for child in ("trajectory", "state"))  # readable or not
    holds = complete or "diverged" in run or files or (is_there(metrics) and os.stat(metrics).st_size > 0)
    return _Look(tuple(run.get("ensemble", ())), holds)


def _delete_together(folders: list[Path], companions: Iterable[Path]) -> None:
    """Delete members of one ensemble that were never begun, under the locks of them all."""
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(RunWriter.open(folder))
        others = set(companions) - set(folders)
        if any(is_there(one / "run.json") and RunReader(one).locked for one in others):
            raise RunLockedError(f"{folders[0]}: another process is making the runs of this ensemble; wait for it.")
        beginnings = Beginnings()
        for folder in [one for one in folders if beginnings.never_begun(one)]:
            delete_run(folder)
