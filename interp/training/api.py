"""Training, resuming and replaying runs.

A run is a pure function of its config (per device model and torch version). Hence resuming from a full state gives the
same weights, bit for bit, and a stretch can be replayed at any density. Events are no exception: run.json lists those
that happened, so that a run is resumed and replayed with the hyper-parameters that were in force. The loop is in
`loop`; observers, which see each of its steps, in `observers`.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from interp.config import RunConfig, recipes
from interp.config.events import Agenda, parse_event
from interp.config.schedule import Schedule
from interp.errors import (
    ConfigError,
    CorruptRunError,
    DamagedRunWarning,
    DivergedError,
    InvalidArgumentError,
    NotAvailableError,
    ReproducibilityWarning,
    RunExistsError,
    StoreError,
)
from interp.literals import is_whole
from interp.store import RunWriter
from interp.store.conditions import conditions, differences, differences_in_words, throughout
from interp.store.opening import delete_run, inside, is_there, naming
from interp.tasks import Task
from interp.training.ensemble import require_equal_inputs, require_equal_shape
from interp.training.environment import choose_device, provenance, run_environment
from interp.training.folders import Beginnings, delete_never_begun
from interp.training.loop import Member, Plan, RunInterrupted, Stretch, WholeRun, advance, build_step
from interp.training.members import members_of, new_state, position_among, recall, refuse_foreign, restored_states
from interp.training.observers import Observer, check_observers
from interp.training.origins import (
    Beginning,
    begun_with,
    beside,
    branch_config,
    changes_in_words,
    draws_initial_weights,
    read_origin,
    require_digest,
)
from interp.training.recording import (
    Completion,
    DivergenceCheck,
    ProgressBar,
    ReplayProof,
    Storage,
    divergence,
    record_continuation,
    record_events,
)
from interp.training.state import TrainState
from interp.trajectory import Trajectory, as_trajectory

__all__ = ["RunInterrupted", "branch", "replay", "resume", "train", "train_many"]


def train(
    config: RunConfig | str,
    *,
    root: str | Path = "checkpoints",
    device: str | None = None,
    progress: bool = False,
    existing: Literal["resume", "overwrite", "error"] = "resume",
    threads: int | None = None,
    observers: Sequence[Observer] = (),
    init_from: Trajectory | str | Path | tuple[Trajectory | str | Path, int | None] | None = None,
) -> Trajectory:
    """Run `config` and return its trajectory, stored in `root/<run_id>`.

    Arguments:
        config: config of the run, or the name of a recipe.
        root: folder that holds runs.
        device: "cpu", "cuda", "cuda:1"; None takes CUDA where there is one.
        progress: show a progress bar with losses and accuracies.
        existing: treatment of a stored run of the same config: "resume" continues it, or returns it where it is
            complete; "overwrite" trains it again in its place; "error" refuses.
        threads: CPU threads; None leaves torch's setting. Bit-exactness holds for one number of threads.
        observers: objects that see each step (`interp.Observer`); they must not change the run. One of them can end
            it early, to be resumed later: then the trajectory so far is returned.
        init_from: another run, or a pair of it and a step: training begins at step 0 with its weights of that step
            (None: its last), with a fresh optimiser. `config.origin` then names run, step and digest of the weights,
            so that the run has an id of its own. Interventions that refer to initial weights mean these.

    Raises:
        InvalidArgumentError: `existing`, `device`, `threads` or `observers` has no meaning; nothing is deleted.
        RunExistsError: the run exists and `existing` is "error".
        RunLockedError: another process is writing to it.
        DeviceMemoryError: the run does not fit into the memory of the device; none is made, and none is deleted.
        DivergedError: a loss or a weight is not finite; all earlier steps stay stored.
        RunInterrupted: (a KeyboardInterrupt) after Ctrl-C or SIGTERM; the run can be resumed.
        ObserverError: an observer raised an exception; the run can be resumed.
        ConfigError: the weights of `init_from` have other names or shapes.
        UnknownNameError: `init_from` stores no weights at that step.
    """
    check_observers(observers)
    config = recipes.get(config) if isinstance(config, str) else config
    source = None
    if init_from is not None:
        config, source = begun_with(config, init_from)
    folder = Path(root) / config.run_id
    if _continues(folder, existing):
        return _resume(folder, device, progress, threads, observers, source=source)
    begin = None if config.origin is None else _from(source or beside(folder, config), config)
    _start([config], Path(root), device, progress, existing, threads, observers, begin)
    return Trajectory(folder)


def train_many(
    configs: Sequence[RunConfig | str],
    *,
    root: str | Path = "checkpoints",
    device: str | None = None,
    progress: bool = False,
    existing: Literal["resume", "overwrite", "error"] = "resume",
    threads: int | None = None,
    observers: Sequence[Observer] = (),
) -> list[Trajectory]:
    """Train an ensemble: runs of equal shape in one batched step, each stored as a run of its own, as by `train`.

    Members may differ in seeds, splits and their sizes, learning rates and all other hyper-parameters of the optimiser,
    interventions and events: in everything that leaves the shapes of a step's arrays as they are
    (`interp.training.ensemble.shape_of`). A member equals the run of its config alone up to the rounding of batched
    products. Its run.json lists the whole ensemble: resuming one member resumes all, and a replay runs them all again,
    since rounding depends on the other members.

    Stored runs are treated one by one as `train` treats them; those of an ensemble that was killed before it began are
    made anew, together with the missing ones. A member whose loss is not finite is given up, the others
    are trained to their end, and `DivergedError` is raised after that.

    Arguments: as `train`. Each observer sees every run; an observer that ends one of them early ends them all.

    Raises:
        ConfigError: the configs are not of equal shape (the message names the fields), or two are the same.
        RunExistsError, RunLockedError, DeviceMemoryError, DivergedError, RunInterrupted, ObserverError: as `train`.
    """
    check_observers(observers)
    if not configs:
        raise InvalidArgumentError("`configs` must hold at least one run; got none.")
    chosen = [recipes.get(config) if isinstance(config, str) else config for config in configs]
    require_equal_shape(chosen)
    if len(chosen) > 1 and any(config.origin is not None for config in chosen):
        raise ConfigError("Runs that begin with stored weights of another run (`origin`) are trained one by one.")
    if len({config.run_id for config in chosen}) < len(chosen):
        raise ConfigError("Runs that are trained together must be different; two configs are the same.")
    folders = [Path(root) / config.run_id for config in chosen]
    beginnings = Beginnings()
    stored = [_continues(folder, existing) and not beginnings.never_begun(folder) for folder in folders]
    lost: list[DivergedError] = []
    for folder, is_stored in zip(folders, stored):
        if is_stored:
            try:
                resume(folder, device=device, progress=progress, threads=threads, observers=observers)
            except DivergedError as error:
                lost.append(error)
    fresh = [config for config, is_stored in zip(chosen, stored) if not is_stored]
    begin = _from(beside(folders[0], fresh[0]), fresh[0]) if fresh and fresh[0].origin is not None else None
    _start(fresh, Path(root), device, progress, existing, threads, observers, begin)
    if lost:
        raise lost[0]
    return [Trajectory(folder) for folder in folders]


def resume(
    path: str | Path,
    *,
    device: str | None = None,
    progress: bool = False,
    threads: int | None = None,
    observers: Sequence[Observer] = (),
    unproven: bool = False,
) -> Trajectory:
    """Continue an unfinished run from its last full state, to weights bitwise equal to those of an uninterrupted run.

    Checkpoints stored after that state are computed again and must come out equal. A finished run is returned as it is.
    If the run has lost its last segments or metrics, it goes back to the last full state before the loss, with a
    `DamagedRunWarning`, and computes them again. With `unproven`, it also continues from a full state which nothing
    proves to belong to the run.

    The kind of device and the number of threads default to those that the run began with. Observers see all steps that
    are computed, also those that had been computed before.

    Raises:
        StoreError: `path` is no run folder.
        CorruptRunError: a recomputed checkpoint differs from the stored one (another device, torch or thread count), a
            file is damaged or of another run, or files of a complete run are missing.
        NotAvailableError: the run is a replay, or was imported; or nothing proves that its full state, written by a
            version of the package before format 1.1, belongs to it.
        DivergedError: the run diverged, and would diverge again.
        RunInterrupted, ObserverError, RunLockedError: as `train`.

    Warns:
        ReproducibilityWarning: the processor's kernels, torch, the number of threads or another condition of bits is
            not that of the beginning; run.json notes each continuation, and `interp verify` tells of it.
    """
    return _resume(Path(path), device, progress, threads, observers, unproven)


def _resume(
    path: Path,
    device: str | None,
    progress: bool,
    threads: int | None,
    observers: Sequence[Observer],
    unproven: bool = False,
    source: Trajectory | None = None,
) -> Trajectory:
    """See `resume`; `source` is the run with whose weights this one begins, where it is not beside it."""
    check_observers(observers)
    traj = Trajectory(path)
    refuse_foreign(traj)
    if traj.diverged is not None:
        raise divergence(traj)
    if traj.complete and traj.problems:
        raise CorruptRunError(f"{traj.problems[0]} Restore it; `interp verify {traj.folder}` says what is lost.")
    if traj.complete:
        return traj
    if traj.kind.stretch:
        raise NotAvailableError(f"{path} is a replay; run `interp replay` again with the same range instead.")
    began = traj.provenance
    place = choose_device(device or began.get("device"))
    with run_environment(place, threads or began.get("threads")), contextlib.ExitStack() as stack:
        members = members_of(traj)
        for member in members:
            member.network  # noqa: B018  raises, before anything is changed, where no such model fits the weights
        writers = [stack.enter_context(RunWriter.open(member.folder)) for member in members]
        # read under the locks, so that no other process adds states
        now = provenance(place)
        differs = differences_in_words(differences(conditions(traj.run), conditions({"provenance": now})))
        first = _resume_step([member.refresh() for member in members if member.diverged is None], unproven, differs)
        _warn_of_other_conditions(f"{traj.folder.name} goes on", now, [conditions(traj.run)], stacklevel=4)
        states = [new_state(member, place) for member in members]
        begins = traj.config.first_step
        if first is None and traj.config.origin is not None:
            if begins not in traj.full_state_steps:  # else `new_state` has begun with it
                beginning = read_origin(traj.config, source or beside(traj.folder, traj.config), place, unproven=True)
                require_digest(traj.folder, traj.run["origin"], beginning)
                states[0].begin(beginning.arrays)
            states[0].agenda.recall(traj.run["origin"].get("held", {}), ())
        running = []  # a run that has diverged runs along for its shape alone, from wherever
        for state, member, writer in zip(states, members, writers):
            if member.diverged is not None:
                running.append(Member(state, member.folder))
                continue
            if first is not None:
                state.restore(member.full_state(first), first, member.events)
                recall(state.agenda, member, first)
            start = begins if first is None else first
            writer.truncate_after(start)
            record_continuation(writer, start, now)
            record_events(state.agenda, writer, start)
            running.append(_recorded(state, writer))
        plan = WholeRun(begins if first is None else first, traj.config.steps, traj.config, _schedule(states[0]))
        advance(_with_bar(running, plan, progress), plan, observers)
    return Trajectory(traj.folder)


def branch(
    traj: Trajectory | str | Path,
    step: int,
    changes: Mapping[str, Any] = MappingProxyType({}),
    steps: int | None = None,
    *,
    root: str | Path | None = None,
    device: str | None = None,
    progress: bool = False,
    existing: Literal["resume", "overwrite", "error"] = "resume",
    threads: int | None = None,
    observers: Sequence[Observer] = (),
    unproven: bool = False,
) -> Trajectory:
    """Train a branch of a run: a new run that shares the parent's bits up to `step`, and then goes its own way.

    The branch begins with the parent's full state of `step`, whose weights must be those of the parent's checkpoint;
    where no full state is stored there, the steps from the nearest earlier one are made again. Its folder has the
    steps from the fork on; `config.origin` names parent and step, `run["origin"]` the digest of that full state and
    the checkpoints that prove it. Without `changes` the branch is bitwise the parent (on the same device and number of
    threads; a member of an ensemble goes on alone, and so with its own rounding).

    What is in force at the fork stays, events that are still to come included, unless it is changed. A branch can
    have another split (`task.train_fraction`, `task.seed`), another task of equal shapes, another `seed` of its draws;
    epochs and batches count from step 0, as if the run had been so from its beginning.

    Arguments:
        traj: the parent, or its folder; it may be unfinished, diverged later, or a branch itself.
        step: step of the fork, from the parent's first to its last stored one.
        changes: fields of the config by dotted path, such as `{"optimizer.weight_decay": 0}`.
        steps: last step of the branch, counted from the parent's beginning; None: that of the parent.
        root: folder that holds the branch; None: that of the parent.
        device, threads: as the parent began, unless given.
        progress, existing, observers: as `train`.
        unproven: begin also where no checkpoint of the parent can prove the fork.

    Raises:
        InvalidArgumentError: the parent did not make this step.
        ConfigError: the changes break a rule, alter the shape of a parameter, or the kind of the optimiser's memory.
        NotAvailableError: the parent was imported, or holds no full state at or before `step`.
        CorruptRunError: the full state is not that of the parent's checkpoint, or does not lead to it.
        RunExistsError, RunLockedError, DivergedError, RunInterrupted, ObserverError: as `train`.

    Example:
        >>> import tempfile
        >>> from interp.config import recipes
        >>> small = {"task.p": 5, "steps": 6, "model.d_model": 16, "save.state": "every(2)", "save.weights": "every(1)"}
        >>> parent = train(recipes.get("kitouni-circle").replace(small), root=tempfile.mkdtemp(), device="cpu")
        >>> free = branch(parent, step=3, changes={"optimizer.weight_decay": 0}, steps=8)
        >>> free.steps.tolist(), free.config.origin.step, free.run["origin"]["proven"]
        ([3, 4, 5, 6, 7, 8], 3, [2, 3])
        >>> same = branch(parent, step=3)
        >>> same.fingerprints() == parent.fingerprints()[3:], free.fingerprints()[0] == parent.fingerprints()[3]
        (True, True)
    """
    check_observers(observers)
    traj = as_trajectory(traj)
    asked = {**changes, **({} if steps is None else {"steps": steps})}
    config = branch_config(traj, step, asked)
    folder = (traj.folder.parent if root is None else Path(root)) / config.run_id
    began = traj.provenance
    device, threads = device or began.get("device"), threads or began.get("threads")
    if _continues(folder, existing):
        return _resume(folder, device, progress, threads, observers, unproven, traj)
    traj.require_same_examples()
    begin = _from(traj, config, changes_in_words(config, asked), unproven)
    _start([config], folder.parent, device, progress, existing, threads, observers, begin)
    return Trajectory(folder)


def replay(
    traj: Trajectory | str | Path,
    start: int,
    stop: int,
    every: int = 1,
    *,
    device: str | None = None,
    progress: bool = False,
    threads: int | None = None,
    observers: Sequence[Observer] = (),
    unproven: bool = False,
) -> Trajectory:
    """Run the steps from `start` to `stop` again and store every `every`-th: a microscope for the moment of grokking.

    A replay begins at the nearest full state at or before `start`. At every checkpoint of the original from there on
    the weights must be bitwise equal; `traj.run["replay"]["proven"]` lists these steps from `start` on. Where the
    original stores none, so that nothing could be proven, `unproven` must allow it. The replay is a trajectory of its
    own, in `<run>/replay/<start>-<stop>-every<k>`; a complete one is returned as it is. Observers see the steps from
    the full state on, with the folder of the replay; of an ensemble they see the member that is replayed.

    Raises:
        InvalidArgumentError: `start`, `stop` or `every` do not fit the run.
        NotAvailableError: the run holds no full state at or before `start`, was imported, or stores no checkpoint
            with which the replay could be compared.
        CorruptRunError: a replayed step differs from the stored one, or the full state belongs to another run.

    Warns:
        ReproducibilityWarning: the conditions of bits are not those under which the run computed these steps.
    """
    check_observers(observers)
    traj = as_trajectory(traj)
    refuse_foreign(traj)
    for name, value in (("start", start), ("stop", stop), ("every", every)):
        if not is_whole(value) or (name == "every" and value < 1):
            least = ">= 1" if name == "every" else "stored"
            raise InvalidArgumentError(f"`{name}` must be a whole number of steps, {least}; got {value!r}.")
    start, stop, every = int(start), int(stop), int(every)  # numpy's, too
    end = int(traj.steps[-1]) if len(traj.steps) else 0
    if not 0 <= start < stop <= end:
        raise InvalidArgumentError(
            f"`start` and `stop` must be 0 <= start < stop <= {end}, the last stored step; got {start} and {stop}."
        )
    full_states = [step for step in traj.full_state_steps if step <= start]
    if not full_states:
        raise NotAvailableError(f"{traj.folder.name} holds no full state at or before step {start} to replay from.")
    first = full_states[-1]
    if not unproven:
        _require_proof(traj, first, stop)
    folder = inside(traj.folder, "replay", f"{start:08d}-{stop:08d}-every{every}")
    if is_there(folder / "run.json"):
        done = Trajectory(folder)
        stretch = {"start": start, "stop": stop, "every": every}
        is_ours = done.run.get("replay", {}).items() >= stretch.items() and not traj.replay_fault(done)
        if is_ours and done.complete and not done.problems:
            return done
        _delete(folder)

    began = traj.provenance
    place = choose_device(device or began.get("device"))
    with run_environment(place, threads or began.get("threads")):
        members = members_of(traj)
        states = restored_states(traj, members, first, place)
        name = Path(os.path.abspath(traj.folder)).name  # also of "."
        about = {"start": start, "stop": stop, "every": every, "of": name, "from_state": first}
        own = position_among(members, traj)
        now = provenance(place)
        _warn_of_other_conditions(f"{traj.folder.name} is replayed", now, throughout(traj.run, first, stop))
        run = {
            "config": traj.config.to_dict(),
            "replay": about,
            "provenance": now,
            **_digest(states[own]),
        }
        running = [Member(state, member.folder) for state, member in zip(states, members)]
        with RunWriter.create(folder, run) as writer:
            record_events(states[own].agenda, writer, first)
            storage = Storage(writer, traj.config.save.state)
            recorders = (DivergenceCheck(writer), storage, ReplayProof(traj, start, writer))
            running[own] = Member(states[own], folder, recorders)
            plan = Stretch(first, stop, start, every)
            advance(_with_bar(running, plan, progress), plan, observers)
    return Trajectory(folder)


def _continues(folder: Path, existing: str) -> bool:
    """Whether `folder` holds a run that is to be continued."""
    if existing not in ("resume", "overwrite", "error"):
        raise InvalidArgumentError(f"`existing` must be resume, overwrite or error; got {existing!r}.")
    with naming(folder):
        exists = is_there(folder / "run.json")
    if exists and existing == "error":
        raise RunExistsError(f"{folder} already holds this run; resume it, load it, or overwrite it.")
    return exists and existing == "resume"


def _start(
    configs: list[RunConfig],
    root: Path,
    device: str | None,
    progress: bool,
    existing: str,
    threads: int | None,
    observers: Sequence[Observer],
    begin: Callable[[torch.device], Beginning] | None = None,
) -> None:
    """Train from the initial weights, or from those that `begin` reads for the only one of `configs`.

    A run to be overwritten is deleted once everything is ready to replace it.
    """
    if not configs:
        return
    place = choose_device(device)
    with run_environment(place, threads), contextlib.ExitStack() as stack:
        states = [TrainState(config, place) for config in configs]
        about_origin: dict[str, Any] = {}
        if begin is not None:
            beginning = begin(place)
            states[0].begin(beginning.arrays)
            states[0].agenda.recall(beginning.about.get("held", {}), ())
            about_origin = {"origin": beginning.about}
        if len(states) > 1:
            require_equal_inputs(states)
        update = build_step(states)
        schedule = _schedule(states[0])
        together = {"ensemble": [config.run_id for config in configs]} if len(configs) > 1 else {}
        about = {"schedule": str(schedule), "provenance": provenance(place), **together, **about_origin}
        folders = [root / config.run_id for config in configs]
        replaced = [folder for folder in folders if existing == "overwrite" and is_there(folder)]
        for folder in replaced:  # before any of them is deleted
            _require_unlocked(folder)
        for folder in replaced:
            _delete(folder)
        delete_never_begun(folders)
        writers = [
            stack.enter_context(
                RunWriter.create(
                    root / state.config.run_id, {"config": state.config.to_dict(), **about, **_digest(state)}
                )
            )
            for state in states
        ]
        running = [_recorded(state, writer) for state, writer in zip(states, writers)]
        plan = WholeRun(configs[0].first_step, configs[0].steps, configs[0], schedule)
        advance(_with_bar(running, plan, progress), plan, observers, update)


def _from(
    source: Trajectory, config: RunConfig, changes: Sequence[str] = (), unproven: bool = False
) -> Callable[[torch.device], Beginning]:
    """Reader of the weights of `source` with which `config` begins."""

    def begin(place: torch.device) -> Beginning:
        beginning = read_origin(config, source, place, unproven=unproven)
        if (first := beginning.about["from_state"]) < config.first_step:
            then = throughout(source.run, first, config.first_step)
            _warn_of_other_conditions(f"{source.folder.name} is branched", provenance(place), then, stacklevel=5)
        about = {
            **beginning.about,
            "changes": list(changes),
            "draws_initial_weights": draws_initial_weights(config, source),
        }
        agenda = Agenda(map(parse_event, config.events), 1)
        if config.first_step:
            recall(agenda, source, config.first_step)
        return replace(beginning, about=about | ({"held": agenda.held} if agenda.held else {}))

    return begin


def _warn_of_other_conditions(
    what: str, now: Mapping[str, Any], then: Sequence[Mapping[str, Any]], stacklevel: int = 3
) -> None:
    """Warn where the conditions of the provenance `now` are others than one of `then`."""
    for one in then:
        if differs := differences(one, conditions({"provenance": now})):
            warnings.warn(
                f"{what} under other conditions than it was computed under: {differences_in_words(differs)}. Its last "
                "bits may come out otherwise, and nothing compares steps that are not stored.",
                ReproducibilityWarning,
                stacklevel=stacklevel,
            )
            return


def _recorded(state: TrainState, writer: RunWriter) -> Member:
    """Member of a loop that is stored, and marked as complete at its last step."""
    storage = Storage(writer, state.config.save.state, state.config.anchors)
    return Member(state, writer.folder, (DivergenceCheck(writer), storage, Completion(writer)))


def _with_bar(members: list[Member], plan: Plan, progress: bool) -> list[Member]:
    """Members with a progress bar among their observers, if `progress`."""
    if not progress:
        return members
    bar = ProgressBar(plan.first, plan.last, sum(bool(member.recorders) for member in members))
    return [replace(member, recorders=(*member.recorders, bar)) if member.recorders else member for member in members]


def _delete(folder: Path) -> None:
    """Delete a run, whole or damaged, unless another process is writing to it."""
    _require_unlocked(folder)
    delete_run(folder)


def _require_unlocked(folder: Path) -> None:
    """Demand that no other process is writing to a run, whole or damaged."""
    with contextlib.suppress(CorruptRunError):
        if is_there(folder / "run.json"):
            RunWriter.open(folder).close()


def _require_proof(traj: Trajectory, first: int, stop: int) -> None:
    """Demand that a replay from the full state at `first` to `stop` meets a stored checkpoint."""
    later = [step for step in traj.steps.tolist() if step >= first]
    if later[0] > stop:  # there is one, since `stop` is not beyond the last stored step
        raise NotAvailableError(
            f"{traj.folder} stores no checkpoint from its full state at step {first} to step {stop}, so that nothing "
            f"of the replay could be proven; replay until step {later[0]}, or allow it with `unproven=True` (on the "
            "command line --unproven)."
        )


def _resume_step(members: Sequence[Trajectory], unproven: bool, differs: str) -> int | None:
    """Last full state from which all `members` can be continued; None where they must begin anew (as from step 0).

    A full state of which nothing proves that it belongs to its run is passed over for an earlier one, unless `unproven`
    allows it. Under other conditions (`differs` in words) the run does not go back unasked: full states would be
    dropped, and the checkpoints since might not come out equal.
    """
    found = [member.resumable_steps() for member in members]
    common = set.intersection(*(set(steps) for steps, _ in found)) - {0}
    warned = [lost for _, lost in found if lost]
    first, doubted = None, ""
    for step in sorted(common, reverse=True):
        doubts = [member for member in members if not (_proves_state(member, step) or unproven)]
        if not doubts:
            first = step
            break
        doubted = doubted or (
            f"Nothing proves that the full state at step {step} belongs to {doubts[0].folder}: its file is of format "
            "1.0, which names no run, and no checkpoint can be compared with it."
        )
    if doubted and (first is None or differs):
        back = f" Under other conditions ({differs}) the run does not go back to step {first}." if first else ""
        raise NotAvailableError(
            f"{doubted}{back} If you know that it does, continue with `unproven=True` (on the command line "
            "--unproven); to begin anew, overwrite the run."
        )
    if warned and differs and not unproven:
        raise NotAvailableError(
            f"{warned[0]} The run would go back to step {first or 0}, and under other conditions ({differs}) the steps "
            "from there on might not come out equal; nothing was changed. Restore what is lost, continue under the "
            "conditions of before, or allow it with `unproven=True` (on the command line --unproven)."
        )
    for sentence in [*warned, *([doubted] if doubted else [])]:
        warnings.warn(
            f"{sentence} The run goes on from step {first or 0} and computes the rest again.",
            DamagedRunWarning,
            stacklevel=5,
        )
    return first


def _proves_state(member: Trajectory, step: int) -> bool:
    """See `Trajectory.proves_state`; an error says how to continue without the full state."""
    try:
        return member.proves_state(step)
    except StoreError as error:
        state = member.folder / "state" / f"{step:08d}.safetensors"
        raise CorruptRunError(f"{error} Remove {state} to continue from an earlier full state.") from None


def _digest(state: TrainState) -> dict[str, str]:
    """Entry of run.json by which a later change of a user's task is seen; none for a task of this package."""
    return {"examples": state.task.digest()} if isinstance(state.config.task, Task) else {}


def _schedule(state: TrainState) -> Schedule:
    """Schedule of weights, with a budget turned into steps."""
    return state.config.save.weights.resolve(state.bytes_per_checkpoint, state.config.steps)
