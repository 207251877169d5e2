"""Runs that begin with stored weights of another: reading the origin, and proving that it is what the run stores.

A branch at step n begins with the parent's full state of step n: weights, moments of the optimiser, memory of the
interventions. Where none is stored there, the steps from the nearest earlier one are made again, and compared with
every checkpoint on the way. From then on the branch is a run like any other: its own folder keeps the full state of the
fork, so that it is resumed, replayed and branched again without its parent.

A run may also begin at step 0 with nothing but the weights of another (`train(config, init_from=...)`).
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.config import RunConfig
from interp.config.events import AtStep, Event, parse_event
from interp.config.origins import Branch, StoredWeights
from interp.errors import ConfigError, CorruptRunError, InvalidArgumentError, NotAvailableError, StoreError
from interp.literals import is_whole, write_value
from interp.store.opening import is_there
from interp.training.loop import Member, Stretch, advance
from interp.training.members import members_of, position_among, refuse_foreign, restored_states
from interp.training.observers import ObservedRun, Observer
from interp.training.state import TrainState
from interp.trajectory import Trajectory, as_trajectory

__all__ = [
    "Beginning",
    "begun_with",
    "beside",
    "branch_config",
    "changes_in_words",
    "digest_of",
    "draws_initial_weights",
    "full_state_of",
    "read_origin",
    "require_digest",
]


@dataclass(frozen=True)
class Beginning:
    """Arrays with which a run begins, named as in a full state, and what its run.json says of them."""

    arrays: Mapping[str, np.ndarray]
    about: dict[str, Any] = field(default_factory=dict)


def branch_config(traj: Trajectory, step: int, changes: Mapping[str, Any]) -> RunConfig:
    """Config of the branch of `traj` at `step`: what is in force there, changed; events to come stay.

    Raises:
        InvalidArgumentError: `step` is none that the run has made itself.
        ConfigError: a change breaks a rule, or is one that a branch cannot make.
        NotAvailableError: the run was imported, or is a replay.
    """
    refuse_foreign(traj)
    if traj.kind.stretch:
        raise NotAvailableError(f"{traj.folder} is a replay; branch the run that it replays.")
    end = max([*traj.steps.tolist()[-1:], *traj.full_state_steps[-1:]], default=traj.config.first_step)
    if not is_whole(step) or not traj.config.first_step <= step <= end:
        raise InvalidArgumentError(
            f"`step` must be a step of {traj.folder.name}, {traj.config.first_step} <= step <= {end}; got {step!r}."
        )
    step = int(step)
    parent, pending = traj.config, [parse_event(text) for text in traj.config.events]
    for at, text in traj.events:
        if at <= step:
            parent = parent.after(parse_event(text))
            pending.remove(parse_event(text))
    origin = {"origin": Branch(run=traj.config.run_id, step=step)}
    begins = {**origin, "events": tuple(map(str, pending)), "steps": max(parent.steps, step + 1)}
    if unasked := [path for path in changes if path.partition(".")[0] == "origin"]:
        raise ConfigError(f"`{unasked[0]}` of a branch is its parent and step; name others by `traj` and `step`.")
    config = parent.replace(begins).replace(changes)
    if "steps" not in changes and parent.steps <= step:
        raise ConfigError(f"`steps` must be the last step of the branch, > {step}: the run ends there; give `steps`.")
    if config.optimizer.memory != parent.optimizer.memory:
        raise ConfigError(
            f"`optimizer` of a branch must go on with the {parent.optimizer.memory} that {traj.folder.name} keeps; got "
            f"{type(config.optimizer).__name__}."
        )
    if late := [event for event in map(parse_event, config.events) if _is_over(event, step)]:
        raise ConfigError(f"`events` of a branch must lie at its step {step} or later; got `{late[0]}`.")
    _require_known_initial_weights(config, draws_initial_weights(config, traj))
    return config


def draws_initial_weights(config: RunConfig, traj: Trajectory) -> bool:
    """Whether the initial weights that `config` draws are those of the run, through all branches, that `traj` is."""
    drawn = traj.run.get("origin", {}).get("draws_initial_weights", traj.config.origin is None)
    parent = traj.config
    if config.origin is not None and config.origin.sets_initial_weights:
        return False
    same_seed = config.model.init_stream != "split" or config.task == parent.task
    return bool(drawn) and (config.seed, config.model) == (parent.seed, parent.model) and same_seed


def changes_in_words(config: RunConfig, changes: Mapping[str, Any]) -> list[str]:
    """Changes of a branch, as they are written on the command line."""
    return [f"{path}={_in_words(config, path)}" for path in sorted(changes)]


def begun_with(
    config: RunConfig, init_from: Trajectory | str | Path | tuple[Trajectory | str | Path, int | None]
) -> tuple[RunConfig, Trajectory]:
    """Config of a run that begins with the weights of a stored one, or of its step, and that stored run.

    Raises:
        InvalidArgumentError: the config has an origin already.
        UnknownNameError: no weights are stored at the step; the message names the nearest.
    """
    run, step = init_from if isinstance(init_from, tuple) else (init_from, None)
    source = as_trajectory(run)
    if config.origin is not None:
        raise InvalidArgumentError(f"`init_from` cannot be given to a config that begins as a {config.origin}.")
    at = int(source.steps[source.position(step)])
    name = Path(os.path.abspath(source.folder)).name
    known = name if re.fullmatch(r"(?!\.)[\w.+-]+", name) else source.config.run_id
    digest = digest_of(_weights(source, at))
    return config.replace({"origin": StoredWeights(run=known, step=at, digest=digest)}), source


def read_origin(config: RunConfig, source: Trajectory, device: torch.device, *, unproven: bool = False) -> Beginning:
    """Arrays of `source` with which `config` begins, and the proof that they are what the run stores.

    Raises:
        StoreError: `source` is another run.
        NotAvailableError: no full state at or before the step; nothing proves it, and `unproven` does not allow that.
        CorruptRunError: a checkpoint of the run is not what its full state leads to, or not what the config names.
    """
    match config.origin:
        case Branch(run=run, step=step):
            if source.config.run_id != run:
                raise StoreError(f"{source.folder} is another run than {run}, from which this one begins.")
            return _full_state(source, step, device, unproven)
        case StoredWeights(step=step, digest=digest):
            arrays = _weights(source, step)
            if digest_of(arrays) != digest:
                raise CorruptRunError(
                    f"{source.folder} stores other weights at step {step} than `origin.digest` names."
                )
            return Beginning(arrays, {"digest": digest, "from_state": step, "proven": [step]})
        case None:
            raise InvalidArgumentError("`config` must have an `origin`; it begins with initial weights of its own.")


def _weights(source: Trajectory, step: int) -> dict[str, np.ndarray]:
    """Weights of a stored step, named as in a full state."""
    return {f"model/{name}": np.array(source.param(name).sel(step)) for name in source.names}


def _full_state(source: Trajectory, step: int, device: torch.device, unproven: bool) -> Beginning:
    """Full state of a step, stored or computed again, and its proof."""
    full_states = [known for known in source.full_state_steps if known <= step]
    if not full_states:
        raise NotAvailableError(f"{source.folder} holds no full state at or before step {step} to branch from.")
    first, stored = full_states[-1], source.steps.tolist()
    proves = any(first <= known <= step for known in stored) or (first == step and source.proves_state(step))
    if not (proves or unproven):
        raise NotAvailableError(
            f"{source.folder} stores no checkpoint from its full state at step {first} to step {step}, so that nothing "
            "proves the fork; branch at a stored step, or allow it with `unproven=True` (on the command line "
            "--unproven)."
        )
    if first == step:
        arrays, proven = source.full_state(step), []
        if step in stored:
            source.require_equal(step, {name: arrays[f"model/{name}"] for name in source.names})
            proven = [step]
    else:
        arrays, proven = _computed_again(source, first, step, device)
    return Beginning(arrays, {"digest": digest_of(arrays), "from_state": first, "proven": proven})


def beside(folder: Path, config: RunConfig) -> Trajectory:
    """The run from which `config` begins, in the same folder of runs as `folder`.

    Raises:
        StoreError: it is not there.
    """
    assert config.origin is not None
    place = folder.parent / config.origin.run
    if not is_there(place / "run.json"):
        raise StoreError(
            f"{folder} begins with weights of {config.origin.run}, which is not beside it, and holds no full state of "
            f"step {config.first_step} yet. Put that run there, or make this one again from it."
        )
    return Trajectory(place)


def require_digest(folder: Path, about: Mapping[str, Any], beginning: Beginning) -> None:
    """Demand that the arrays are those with which the run in `folder` began, as its run.json says."""
    if about.get("digest") != beginning.about["digest"]:
        raise CorruptRunError(
            f"The run from which {folder} begins holds other bits than when it began (it was trained again since, or "
            "under other conditions). Make this run again: overwrite it."
        )


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names, types and shapes, in hexadecimal.

    Example:
        >>> a, b = {"w": np.zeros((2, 3))}, {"w": np.zeros((3, 2))}
        >>> digest_of(a) == digest_of({"w": np.zeros((2, 3))}), digest_of(a) == digest_of(b)
        (True, False)
    """
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape};".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def _computed_again(
    source: Trajectory, first: int, step: int, device: torch.device
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Full state of `step`, by the updates from the full state at `first`, and the checkpoints met on the way."""
    members = members_of(source)
    states = restored_states(source, members, first, device)
    own = position_among(members, source)
    running = [Member(state, member.folder) for state, member in zip(states, members)]
    proof = _Proof(source)
    running[own] = Member(states[own], source.folder, (proof,))
    advance(running, Stretch(first, step, step, 1))
    return full_state_of(states[own]), proof.proven


def full_state_of(state: TrainState) -> dict[str, np.ndarray]:
    """Full state of a run in training, copied."""
    return {f"model/{name}": array.copy() for name, array in state.weights().items()} | state.moments()


class _Proof(Observer):
    """Compares every step with the checkpoint that the run stores, where it does."""

    def __init__(self, source: Trajectory) -> None:
        self._source, self._stored = source, set(source.steps.tolist())
        self.proven: list[int] = []

    def before_step(self, run: ObservedRun, step: int) -> None:
        """Compare a step on the way."""
        if step in self._stored:
            self._source.require_equal(step, run.weights())
            self.proven.append(step)

    def on_end(self, run: ObservedRun, step: int, error: BaseException | None) -> None:
        """Compare the last one."""
        if error is None:
            self.before_step(run, step)


def _is_over(event: Event, step: int) -> bool:
    """Whether the time of an event lies before `step`; that of epochs and metrics is not known beforehand."""
    return isinstance(event.when, AtStep) and event.when.step < step


def _require_known_initial_weights(config: RunConfig, drawn: bool) -> None:
    """Refuse interventions that refer to initial weights where the branch's config does not draw them."""
    refers = any(one.optimizer.decay == "to_init" or one.interventions.norm is not None for one in config.stages)
    if refers and not drawn:
        raise ConfigError(
            "`optimizer.decay` to_init and `interventions.norm` refer to the initial weights of the first parent, "
            "which a branch with another `seed` or `model` does not draw; leave these, or switch that off."
        )


def _in_words(config: RunConfig, path: str) -> str:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return write_value(value) if isinstance(value, int | float | str | tuple | None) else str(value)
