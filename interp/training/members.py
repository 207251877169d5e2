"""Runs whose steps are computed again: a run alone, or all members of its ensemble, from their full states."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from interp.config.events import Agenda
from interp.errors import NotAvailableError
from interp.store.opening import is_there
from interp.training.folders import Beginnings
from interp.training.state import TrainState
from interp.trajectory import Trajectory

__all__ = ["members_of", "new_state", "position_among", "recall", "refuse_foreign", "restored_states"]


def members_of(traj: Trajectory) -> list[Trajectory]:
    """Runs of the ensemble that `traj` belongs to, in their order; a run trained alone is its only member.

    Raises:
        NotAvailableError: a member is missing, or was trained again in another ensemble: without it the steps of the
            others cannot be computed; or `traj` is a copy of a member, or was renamed.
    """
    ensemble = traj.run.get("ensemble")
    members: list[Trajectory] = []
    place = Path(os.path.abspath(traj.folder))
    if ensemble is not None and place.name not in ensemble:
        place = place.resolve()  # a link to a member
    if ensemble is not None and place.name not in ensemble:
        raise NotAvailableError(
            f"{traj.folder} was trained in an ensemble, none of whose runs has this folder's name; was it renamed, or "
            f"is it a copy? Its steps are computed together with the others', in one folder, as {', '.join(ensemble)}."
        )
    for folder in [traj.folder] if ensemble is None else [place.parent / run_id for run_id in ensemble]:
        there = is_there(folder / "run.json")
        if there:
            members.append(Trajectory(folder))
            members[-1].require_same_examples()
        if not there or members[-1].run.get("ensemble") != ensemble:
            if Beginnings().never_begun(traj.folder):
                raise NotAvailableError(
                    f"{place.name} was to be trained together with {folder.name}, and nothing of them is stored "
                    "yet. The same call of `interp.train_many`, or the same `interp sweep`, begins them; to train it "
                    "alone, overwrite it: `interp train --existing overwrite`."
                )
            what = "has been trained again without it" if there else "is not beside it"
            raise NotAvailableError(
                f"{place.name} was trained together with {folder.name}, which {what}; its steps cannot be "
                "computed again alone. To train it alone, overwrite it: `interp train --existing overwrite`."
            )
    return members


def position_among(members: Sequence[Trajectory], traj: Trajectory) -> int:
    """Position of `traj` among `members_of(traj)`."""
    return next(i for i, member in enumerate(members) if os.path.samefile(member.folder, traj.folder))


def restored_states(
    traj: Trajectory, members: Sequence[Trajectory], first: int, device: torch.device
) -> list[TrainState]:
    """States of `members` at step `first`, with the events that happened later, to compute steps of `traj` again.

    Raises:
        NotAvailableError: a member holds no full state of this step.
        CorruptRunError: a full state is damaged, or belongs elsewhere.
    """
    states = [new_state(member, device) for member in members]
    own = members[position_among(members, traj)]
    for state, member in zip(states, members):
        if member.diverged is not None and member is not own:
            continue  # it runs along for its shape alone
        if first not in member.full_state_steps:
            raise NotAvailableError(
                f"{traj.folder.name} was trained together with {member.folder.name}, which holds no full state of "
                f"step {first}."
            )
        state.restore(member.full_state(first), first, member.events)
        state.agenda.replay(member.events, first)
    return states


def new_state(member: Trajectory, device: torch.device) -> TrainState:
    """State of a run as it begins, to be restored; one with an origin begins with the full state that it stores."""
    state = TrainState(member.config, device)
    if member.config.origin is not None and member.config.first_step in member.full_state_steps:
        state.begin(member.full_state(member.config.first_step))
    return state


def recall(agenda: Agenda, traj: Trajectory, step: int) -> None:
    """Let `agenda` know since when its thresholds have been met, by what the run logged before `step`."""
    if agenda.holding:
        metrics = traj.metrics.sel(step=slice(None, step - 1))
        columns = {str(name): column.values.tolist() for name, column in metrics.data_vars.items()}
        records = [
            (at, {name: column[i] for name, column in columns.items() if column[i] == column[i]})  # NaN: not logged
            for i, at in enumerate(metrics["step"].values.tolist())
        ]
        agenda.recall(traj.run.get("origin", {}).get("held", {}), records)


def refuse_foreign(traj: Trajectory) -> None:
    """Refuse a run of which no step can be computed again, since this package did not train it."""
    if traj.kind.no_continuation:
        raise NotAvailableError(f"{traj.folder} {traj.kind.no_continuation}")
