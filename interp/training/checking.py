"""Updates of a stored run made again, at random: whether its checkpoints and full states follow from each other.

A digest tells that a file is as it was written, not that what was written is right. A stretch from a full state to the
next stored checkpoint, computed again, tells that the optimiser's state, the weights before and the weights after
belong together.
"""

import contextlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from interp.errors import InvalidArgumentError, NotAvailableError, StoreError
from interp.literals import is_whole
from interp.store.conditions import conditions, differences, differences_in_words, throughout
from interp.training.environment import choose_device, provenance, run_environment
from interp.training.loop import Member, Stretch, advance
from interp.training.members import members_of, position_among, refuse_foreign, restored_states
from interp.training.observers import ObservedRun, Observer
from interp.training.recording import ProgressBar
from interp.trajectory import Trajectory, as_trajectory

__all__ = ["UpdatesReport", "verify_updates"]


@dataclass(frozen=True)
class UpdatesReport:
    """Result of `verify_updates`: stretches as pairs (full state, next stored step), and sentences about mismatches.

    `errors` are mismatches under the conditions under which the run was computed; `warnings` are those under others
    (another processor, another number of threads), where the last bits differ even if nothing is wrong.
    """

    stretches: tuple[tuple[int, int], ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    updates: int
    """Number of updates to the last step that is stored: all that could have been made again."""

    def __str__(self) -> str:
        made = sum(stop - start for start, stop in self.stretches)
        equal = len(self.stretches) - len(self.errors) - len(self.warnings)
        head = (
            f"{made:,} of {self.updates:,} updates ({100 * made / self.updates:.3g}%) made again, from "
            f"{len(self.stretches)} full states: {equal} end bitwise equal"
        )
        lines = [f"error: {text}" for text in self.errors] + [f"warning: {text}" for text in self.warnings]
        return "\n".join([head, *lines])


def verify_updates(
    run: Trajectory | str | Path,
    count: int,
    *,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> UpdatesReport:
    """Make updates of a run again, from `count` of its full states to the next stored step, and compare bit by bit.

    At a stored checkpoint the weights are compared, at a full state also all that optimiser and interventions remember.
    Nothing is written.

    Arguments:
        run: trajectory, or its folder.
        count: number of full states, drawn at random; all are taken where there are fewer.
        seed: of the draw.
        device, threads: as those with which the run began, unless given.
        progress: show a progress bar for each stretch.

    Raises:
        InvalidArgumentError: `count` is no whole number >= 1.
        NotAvailableError: the run was imported, or no full state has a stored step after it.

    Example:
        >>> import tempfile
        >>> from interp.config import recipes
        >>> from interp.training import train
        >>> changes = {"task.p": 5, "steps": 6, "model.d_model": 16, "save.state": "every(2)"}
        >>> traj = train(recipes.get("kitouni-circle").replace(changes), root=tempfile.mkdtemp(), device="cpu")
        >>> print(verify_updates(traj, 3))
        3 of 6 updates (50%) made again, from 3 full states: 3 end bitwise equal
    """
    if not is_whole(count) or count < 1:
        raise InvalidArgumentError(f"`count` must be a whole number >= 1; got {count!r}.")
    traj = as_trajectory(run)
    refuse_foreign(traj)
    known = sorted({*traj.steps.tolist(), *traj.full_state_steps})
    following = dict(itertools.pairwise(known))
    candidates = [(step, following[step]) for step in traj.full_state_steps if step in following]
    if not candidates:
        raise NotAvailableError(f"{traj.folder} holds no full state with a stored step after it.")
    chosen = sorted(random.Random(seed).sample(candidates, min(int(count), len(candidates))))
    place = choose_device(device or traj.provenance.get("device"))
    errors, warnings = [], []
    with run_environment(place, threads or traj.provenance.get("threads")):
        now = provenance(place)
        members = members_of(traj)
        for start, stop in chosen:
            others = [differences(then, conditions({"provenance": now})) for then in throughout(traj.run, start, stop)]
            fault = _recompute(traj, members, start, stop, place, progress)
            words = "; ".join(dict.fromkeys(differences_in_words(one) for one in others if one))
            if fault and words:
                warnings.append(f"{fault} The conditions are others than then ({words}), which may explain it.")
            elif fault:
                errors.append(fault)
    return UpdatesReport(tuple(chosen), tuple(errors), tuple(warnings), known[-1])


def _recompute(
    traj: Trajectory, members: Sequence[Trajectory], start: int, stop: int, device: torch.device, progress: bool
) -> str:
    """Sentence about what differs at `stop` after the updates from the full state at `start`; empty: nothing does."""
    try:
        states = restored_states(traj, members, start, device)
    except StoreError as error:
        return str(error)
    own = position_among(members, traj)
    running = [Member(state, member.folder) for state, member in zip(states, members)]
    comparison = _Comparison(traj, start, stop)
    bar = (ProgressBar(start, stop, 1),) if progress else ()
    running[own] = Member(states[own], traj.folder, (comparison, *bar))
    advance(running, Stretch(start, stop, stop, 1))
    return comparison.fault


class _Comparison(Observer):
    """Compares the last step of a stretch with what is stored of it."""

    def __init__(self, traj: Trajectory, start: int, stop: int) -> None:
        self._traj, self._start, self._stop = traj, start, stop
        self.fault = ""

    def on_end(self, run: ObservedRun, step: int, error: BaseException | None) -> None:
        """Compare weights, and a full state."""
        if error is not None:
            return
        found = {f"model/{name}": array for name, array in run.weights().items()} | run.state.moments()
        stored = {}
        try:
            if step in self._traj.steps:
                stored = {f"model/{name}": self._traj.param(name).sel(step) for name in self._traj.names}
            if step in self._traj.full_state_steps:
                stored |= self._traj.full_state(step)
        except StoreError as damage:
            self.fault = str(damage)
            return
        wrong = {
            name: _difference(array, found[name]) if name in found else np.inf
            for name, array in stored.items()
            if name not in found or array.tobytes() != found[name].tobytes()
        }
        if wrong:
            name = max(wrong, key=wrong.__getitem__)
            self.fault = (
                f"{self._traj.folder}: step {step} does not follow from the full state at step {self._start}: "
                f"{len(wrong)} of {len(stored)} arrays differ, `{name.removeprefix('model/')}` most (by "
                f"{wrong[name]:.3g})."
            )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    with contextlib.suppress(ValueError):  # of other shapes
        return float(np.abs(a.astype(float) - b.astype(float)).max())
    return np.inf
