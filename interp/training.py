"""Training, resuming and replaying a run: one loop, which can be read from top to bottom.

`step` is the number of completed updates. At each step the loop looks at the weights as they are (stores them, tests
them), then makes one update; the training loss and accuracy of a step come from the pass of the update that follows it,
so they belong to the same weights as everything else recorded for that step.

Nothing inside a step waits for the device: numbers stay there in a small buffer and are fetched together when something
is stored, shown or full. A run is a pure function of its config (per device model and torch version), hence resuming
from a full state gives the same weights, bit for bit, and a stretch can be replayed at any density. That holds for its
events too: run.json lists those that happened, so that a run goes on, and is replayed, with what was in force.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from interp import recipes
from interp.config import RunConfig
from interp.ensemble import EnsembleStep, require_equal_shape
from interp.environment import choose_device, interruptible, provenance, run_environment
from interp.errors import (
    ConfigError,
    CorruptRunError,
    DivergedError,
    InvalidArgumentError,
    NotAvailableError,
    RunExistsError,
)
from interp.schedule import Schedule
from interp.session import Numbers, Session, TrainingStep
from interp.store import RunWriter
from interp.trajectory import Trajectory, as_trajectory

__all__ = ["RunInterrupted", "replay", "resume", "train", "train_many"]

SAFETY_SECONDS = 60.0
"""A full state is written at least this often, so that a killed run loses no more; only the last two such are kept."""
SHOW_SECONDS = 0.3
"""How often the progress bar fetches numbers from the device."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the step was finished and everything is stored; `folder` can be resumed from `step`.

    (Of runs trained together it is the first one's; resuming one of them resumes all.)
    """

    def __init__(self, folder: Path, step: int, signum: int) -> None:
        super().__init__(f"Interrupted at step {step}; everything is saved. Continue with: interp resume {folder}")
        self.folder, self.step, self.signum = folder, step, signum


# --- the four verbs --------------------------------------------------------------------------------------------------


def train(
    config: RunConfig | str,
    *,
    root: str | Path = "checkpoints",
    device: str | None = None,
    progress: bool = False,
    existing: Literal["resume", "overwrite", "error"] = "resume",
    threads: int | None = None,
) -> Trajectory:
    """Run `config` and return its trajectory, stored in `root/<run_id>`.

    Arguments:
        config: what to run, or the name of a recipe.
        root: folder that holds runs.
        device: "cpu", "cuda", "cuda:1"; None takes CUDA where there is one.
        progress: show a progress bar with losses and accuracies.
        existing: what to do with a run of the same config: "resume" goes on with it, or returns it where it is
            complete, "overwrite" trains it again in its place, "error" refuses.
        threads: CPU threads; None leaves torch's setting. Bit-exactness holds for one number of threads.

    Raises:
        InvalidArgumentError: a value of `existing`, `device` or `threads` that there is not; nothing is deleted then.
        RunExistsError: the run exists and `existing` is "error".
        RunLockedError: another process is writing to it.
        DivergedError: a loss or a weight is not a number; what was stored before is kept.
        RunInterrupted: (a KeyboardInterrupt) after Ctrl-C or SIGTERM; the run can be resumed.
    """
    config = recipes.get(config) if isinstance(config, str) else config
    folder = Path(root) / config.run_id
    if _settled(folder, existing):
        return resume(folder, device=device, progress=progress, threads=threads)
    _start([config], Path(root), device, progress, threads)
    return Trajectory(folder)


def train_many(
    configs: Sequence[RunConfig],
    *,
    root: str | Path = "checkpoints",
    device: str | None = None,
    progress: bool = False,
    existing: Literal["resume", "overwrite", "error"] = "resume",
    threads: int | None = None,
) -> list[Trajectory]:
    """Train runs of equal shape together, in one batched step; each is stored as its own run, as by `train`.

    They may differ in seeds, splits and their sizes, learning rates and all other hyper-parameters of the optimiser,
    interventions and events: in everything that leaves the arrays of a step as they are (`interp.ensemble.shape_of`).
    A member equals the run of its config alone up to the rounding of batched products. Its run.json lists the whole
    ensemble: resuming one member resumes all, and a replay runs them all again, since rounding depends on the company.

    Runs that are there already are treated one by one as `train` treats them. A member whose loss is not finite is
    given up, the others go on, and `DivergedError` is raised when they are done.

    Arguments: as `train`.

    Raises:
        ConfigError: the configs are not of equal shape (the message names the fields), or two are the same.
        RunExistsError, RunLockedError, DivergedError, RunInterrupted: as `train`.
    """
    if not configs:
        raise InvalidArgumentError("`configs` must hold at least one run; got none.")
    require_equal_shape(configs)
    if len({config.run_id for config in configs}) < len(configs):
        raise ConfigError("Each of the runs that are trained together must be another one; two configs are the same.")
    folders = [Path(root) / config.run_id for config in configs]
    settled = [_settled(folder, existing) for folder in folders]
    lost: list[DivergedError] = []
    for folder, there in zip(folders, settled):
        if there:
            try:
                resume(folder, device=device, progress=progress, threads=threads)
            except DivergedError as error:
                lost.append(error)
    _start([config for config, there in zip(configs, settled) if not there], Path(root), device, progress, threads)
    if lost:
        raise lost[0]
    return [Trajectory(folder) for folder in folders]


def resume(
    path: str | Path, *, device: str | None = None, progress: bool = False, threads: int | None = None
) -> Trajectory:
    """Go on with an unfinished run, from its last full state, to weights bitwise equal to the uninterrupted run's.

    Checkpoints stored after that state are computed again and must come out the same. A finished run is returned as it
    is. The device kind and the number of threads default to those that the run began with.

    Raises:
        StoreError: `path` is no run folder.
        CorruptRunError: a recomputed checkpoint differs from the stored one (another device, torch or thread count), or
            the run was complete and has lost something.
        NotAvailableError: the run is a replay, or was imported.
        DivergedError: it diverged, which it would do again.
        RunInterrupted, RunLockedError: as `train`.
    """
    traj = Trajectory(Path(path))
    _refuse_imported(traj)
    if traj.diverged is not None:
        raise _divergence(traj)
    if traj.complete and traj.problems:
        raise CorruptRunError(f"{traj.problems[0]} Restore it; `interp verify {traj.folder}` says what is lost.")
    if traj.complete:
        return traj
    if "replay" in traj.run:
        raise NotAvailableError(f"{path} is a replay; run `interp replay` again with the same range instead.")
    began = traj.provenance
    place = choose_device(device or began.get("device"))
    with run_environment(place, threads or began.get("threads")), contextlib.ExitStack() as stack:
        members = _members(traj)
        writers = [stack.enter_context(RunWriter.open(member.folder)) for member in members]
        for member, writer in zip(members, writers):
            if member.diverged is not None:  # to be seen again, for the others' sake
                writer.replace_run({key: value for key, value in member.run.items() if key != "diverged"})
        # under the locks, so that nobody adds to them
        states = [set(member.refresh().full_state_steps) for member in members]
        first = max(set.intersection(*states), default=0)
        sessions = [Session(member.config, place) for member in members]
        for session, member, writer in zip(sessions, members, writers):
            if all(states):
                session.restore(member.full_state(first), first, member.events)
            writer.truncate_after(first)
            _note_events(session, writer)
        _run(sessions, writers, first=first, last=traj.config.steps, weights=_schedule(sessions[0]), progress=progress)
    return Trajectory(traj.folder)


def replay(
    traj: Trajectory | str | Path,
    start: int,
    stop: int,
    every: int = 1,
    *,
    device: str | None = None,
    progress: bool = False,
    threads: int | None = None,
) -> Trajectory:
    """Run a stretch again and store every `every`-th step of it: a microscope for the moment of grokking.

    The run begins at the nearest full state at or before `start`. Wherever it passes a checkpoint of the original, the
    weights must be bitwise equal; `traj.run["replay"]["proven"]` lists those steps. The replay is a trajectory of its
    own, in `<run>/replay/<start>-<stop>-every<k>`; asked for again, it is returned as it is.

    Raises:
        InvalidArgumentError: start, stop or every do not fit the run.
        NotAvailableError: the run holds no full state at or before `start`, or was imported.
        CorruptRunError: a replayed step differs from the stored one.
    """
    traj = as_trajectory(traj)
    _refuse_imported(traj)
    end = int(traj.steps[-1]) if len(traj.steps) else 0
    if not 0 <= start < stop <= end:
        raise InvalidArgumentError(
            f"`start` and `stop` must be 0 <= start < stop <= {end}, the last stored step; got {start} and {stop}."
        )
    if every < 1:
        raise InvalidArgumentError(f"`every` must be a whole number of steps >= 1; got {every}.")
    states = [step for step in traj.full_state_steps if step <= start]
    if not states:
        raise NotAvailableError(f"{traj.folder.name} holds no full state at or before step {start} to replay from.")
    folder = traj.folder / "replay" / f"{start:08d}-{stop:08d}-every{every}"
    if (folder / "run.json").exists():
        done = Trajectory(folder)
        if done.complete and not done.problems:
            return done
        _delete(folder)

    began = traj.provenance
    place = choose_device(device or began.get("device"))
    with run_environment(place, threads or began.get("threads")):
        members, first = _members(traj), states[-1]
        sessions = [Session(member.config, place) for member in members]
        for session, member in zip(sessions, members):
            if first not in member.full_state_steps:
                raise NotAvailableError(
                    f"{traj.folder.name} was trained together with {member.folder.name}, which holds no full state of "
                    f"step {first}."
                )
            session.restore(member.full_state(first), first, member.events)
            session.agenda.follow(member.events, first)
        stretch = {"start": start, "stop": stop, "every": every, "of": traj.folder.name, "from_state": first}
        run = {"config": traj.config.to_dict(), "replay": stretch, "provenance": provenance(place)}
        own = [member.folder.name for member in members].index(traj.folder.name)
        with RunWriter.create(folder, run) as writer:
            _note_events(sessions[own], writer)
            proven: list[int] = []
            stored = set(traj.steps.tolist())

            def witness(step: int, weights: dict[str, np.ndarray]) -> None:
                if step in stored:
                    traj.require_equal(step, weights)
                    proven.append(step)

            _run(
                sessions,
                [writer if i == own else None for i in range(len(members))],
                first=first,
                last=stop,
                weights=_Stretch(start, stop, every),
                progress=progress,
                witness=witness,
                record_from=start,
            )
            run = Trajectory(folder).run  # with the events
            writer.replace_run({**run, "replay": {**stretch, "proven": proven}}, complete=True)
    return Trajectory(folder)


def _settled(folder: Path, existing: str) -> bool:
    """Whether a run is there, to be gone on with."""
    if existing not in ("resume", "overwrite", "error"):
        raise InvalidArgumentError(f"`existing` must be resume, overwrite or error; got {existing!r}.")
    there = (folder / "run.json").exists()
    if there and existing == "error":
        raise RunExistsError(f"{folder} already holds this run; resume it, load it, or overwrite it.")
    return there and existing == "resume"


def _start(configs: list[RunConfig], root: Path, device: str | None, progress: bool, threads: int | None) -> None:
    """Train from the initial weights; runs that are there already are deleted once all is ready to replace them."""
    if not configs:
        return
    place = choose_device(device)
    with run_environment(place, threads), contextlib.ExitStack() as stack:
        sessions = [Session(config, place) for config in configs]
        schedule = _schedule(sessions[0])
        together = {"ensemble": [config.run_id for config in configs]} if len(configs) > 1 else {}
        about = {"schedule": str(schedule), "provenance": provenance(place), **together}
        for folder in (root / config.run_id for config in configs):
            if (folder / "run.json").exists():
                _delete(folder)
        writers = [
            stack.enter_context(RunWriter.create(root / config.run_id, {"config": config.to_dict(), **about}))
            for config in configs
        ]
        _run(sessions, writers, first=0, last=configs[0].steps, weights=schedule, progress=progress)


def _delete(folder: Path) -> None:
    """Delete a run, whole or damaged, unless somebody is writing to it."""
    with contextlib.suppress(CorruptRunError):
        RunWriter.open(folder).close()
    shutil.rmtree(folder)


def _schedule(session: Session) -> Schedule:
    """When weights are stored."""
    return session.config.save.weights.resolve(session.bytes_per_checkpoint, session.config.steps)


def _members(traj: Trajectory) -> list[Trajectory]:
    """The runs that are trained together with this one, itself included, in their order.

    Raises:
        NotAvailableError: one of them is missing: without it the others cannot be computed again.
    """
    folders = [traj.folder.parent / run_id for run_id in traj.run.get("ensemble", [traj.folder.name])]
    missing = [folder.name for folder in folders if not (folder / "run.json").exists()]
    if missing:
        raise NotAvailableError(
            f"{traj.folder.name} was trained together with {missing[0]}, which is not beside it; its steps cannot be "
            "computed again alone. To train it alone, overwrite it: `interp train --existing overwrite`."
        )
    return [Trajectory(folder) for folder in folders]


# --- the loop ---------------------------------------------------------------------------------------------------------


def _run(
    sessions: Sequence[Session],
    writers: Sequence[RunWriter | None],
    *,
    first: int,
    last: int,
    weights: Schedule,
    progress: bool,
    witness: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    record_from: int = 0,
) -> None:
    """From the weights of step `first` to those of step `last`, of one run or of several in one batched step.

    `witness` sees every step from `record_from` at which the original run stored weights; a run that has one (a replay)
    stores neither full states nor metrics before `record_from`. Sessions without a writer run along and leave nothing.
    A run that reaches the last step of its config is marked as complete.
    """
    config = sessions[0].config  # the schedules are those of all
    states = config.save.state
    is_replay = witness is not None
    final = config.steps  # schedules are those of the whole run, also in a replay
    runs = _Runs(sessions, writers)
    update, exact_pass = _build_update(sessions), _exact_pass(sessions)
    numbers = Numbers(sessions[0].device, len(sessions))
    safe_at = time.monotonic()

    with interruptible() as interrupted, _Bar(progress, first, last, len(sessions)) as bar:
        for step in range(first, last + 1):
            if runs.meet_events(step):  # before anything of this step is stored
                update, exact_pass = _build_update(sessions), _exact_pass(sessions)
            recorded = step >= record_from
            tested = recorded and (is_replay or config.log.test.at(step, final))
            stored = recorded and weights.at(step, last if is_replay else final)
            stopping = bool(interrupted)  # asked once: a signal that comes later in this step is for the next one
            overdue = time.monotonic() - safe_at > SAFETY_SECONDS
            saved = not is_replay and (states.at(step, final) or overdue or stopping)
            if tested:
                numbers.add(step, "test", update.evaluate("test"))
                if not exact_pass:
                    numbers.add(step, "train", update.evaluate("train"))
            if stored or saved or (is_replay and recorded):
                runs.write_numbers(numbers, bar)  # a loss that is no number is found before weights are stored
                for session, writer in runs.going():
                    arrays = session.weights()
                    if not all(np.isfinite(array).all() for array in arrays.values()):
                        runs.give_up(writer, step, "a weight")
                        continue
                    if witness is not None:
                        witness(step, arrays)
                    if stored:
                        writer.append(step, arrays)
                    if saved:
                        _save_state(session, writer, step, states)
                if saved:
                    safe_at = time.monotonic()
            if stopping and step < last:
                runs.commit()
                raise RunInterrupted(runs.folder, step, interrupted[0])

            if step == last:
                if exact_pass:
                    numbers.add(step, "train", update.evaluate("train"))
            else:
                logged = recorded and (is_replay or config.log.train.at(step, final))
                measured = update(step)
                if logged:
                    numbers.add(step, "train" if exact_pass else "batch", measured)
            if numbers.full or step == last or bar.due() or runs.watching:
                runs.write_numbers(numbers, bar)
            bar.advance(step)
    runs.finish(complete=last == final and not is_replay)


def _build_update(sessions: Sequence[Session]) -> TrainingStep | EnsembleStep:
    return TrainingStep(sessions[0]) if len(sessions) == 1 else EnsembleStep(sessions)


def _exact_pass(sessions: Sequence[Session]) -> bool:
    """Whether the loss of an update's pass is the training loss in every run."""
    return all(session.exact_pass for session in sessions)


class _Runs:
    """The sessions of a loop and where each is stored; those whose numbers are no longer finite are given up."""

    def __init__(self, sessions: Sequence[Session], writers: Sequence[RunWriter | None]) -> None:
        self._pairs = [(session, writer) for session, writer in zip(sessions, writers, strict=True)]
        self._lost: dict[RunWriter, DivergedError] = {}

    @property
    def folder(self) -> Path:
        """That of the first run that is stored."""
        return next(writer.folder for _, writer in self._pairs if writer is not None)

    @property
    def watching(self) -> bool:
        """Whether an event of any run waits for a metric."""
        return any(session.agenda.watching for session, _ in self._pairs)

    def going(self) -> list[tuple[Session, RunWriter]]:
        """Those that are stored and not given up."""
        return [(session, writer) for session, writer in self._pairs if writer is not None and writer not in self._lost]

    def meet_events(self, step: int) -> bool:
        """Let the events of `step` happen, in every run, and note them; whether there were any."""
        met = [(session, writer) for session, writer in self._pairs if session.meet_events(step)]
        for session, writer in met:
            if writer is not None:
                _note_events(session, writer)
        return bool(met)

    def write_numbers(self, numbers: Numbers, bar: "_Bar") -> None:
        """Fetch the numbers that wait on the device, show them to the events and log them."""
        fetched = numbers.fetch()
        for (session, writer), records in zip(self._pairs, fetched, strict=True):
            for step, record in records.items():
                if writer in self._lost:
                    break
                session.agenda.see(step, record)
                if writer is None:
                    continue
                if not all(np.isfinite(value) for value in record.values()):
                    self.give_up(writer, step, "the loss")
                else:
                    writer.log({"step": step, **record})
        for step in fetched[0]:
            bar.show([records[step] for records in fetched])

    def give_up(self, writer: RunWriter, step: int, what: str) -> None:
        """Store nothing more of a run; raise its `DivergedError` if it was the last one."""
        writer.replace_run({**Trajectory(writer.folder).run, "diverged": {"step": step, "what": what}})
        self._lost[writer] = _divergence(Trajectory(writer.folder))
        if not self.going():
            raise self._lost[writer]

    def commit(self) -> None:
        """Make everything safe on disk."""
        for _, writer in self.going():
            writer.commit()

    def finish(self, *, complete: bool) -> None:
        """Commit, mark what is `complete`, and only then raise the error of a run that was given up."""
        for _, writer in self.going():
            writer.finish() if complete else writer.commit()
        for error in self._lost.values():
            raise error


def _divergence(traj: Trajectory) -> DivergedError:
    """What is said of a run that has diverged."""
    step, what = (traj.run["diverged"][key] for key in ("step", "what"))
    last_good = int(traj.steps[-1]) if len(traj.steps) else None
    kept = "nothing was stored" if last_good is None else f"the last good checkpoint is step {last_good}"
    return DivergedError(
        f"At step {step} {what} is not a finite number; {kept} in {traj.folder}. "
        "A lower learning rate, a warm-up, or loss_precision float64 may help.",
        step=step,
        last_good=last_good,
    )


def _refuse_imported(traj: Trajectory) -> None:
    if "import" in traj.run:
        raise NotAvailableError(
            f"{traj.folder} was imported: its weights are known, the state of the optimiser is not, so no step of it "
            "can be computed again. `interp train` trains a run of its own."
        )


@dataclass(frozen=True)
class _Stretch(Schedule):
    """Every `every`-th step of a replayed stretch."""

    start: int
    stop: int
    every: int

    def at(self, step: int, last: int) -> bool:
        return step == last or (step - self.start) % self.every == 0


def _note_events(session: Session, writer: RunWriter) -> None:
    """Bring the events in run.json up to date: a run without any has no such entry."""
    if session.config.events:
        events = [[step, str(event)] for step, event in session.agenda.happened]
        writer.replace_run({**Trajectory(writer.folder).run, "events": events})


def _save_state(session: Session, writer: RunWriter, step: int, states: Schedule) -> None:
    """Store a full state; those of the schedule stay, of the others only the last two."""
    arrays = {f"model/{name}": array for name, array in session.weights().items()} | session.moments()
    writer.save_state(step, arrays, {"step": str(step)}, keep=lambda kept: states.at(kept, session.config.steps))


class _Bar:
    """A progress bar that shows the latest losses and accuracies, or nothing."""

    def __init__(self, shown: bool, first: int, last: int, runs: int) -> None:
        self._bar = tqdm(
            desc=f"{runs} runs" if runs > 1 else None,
            total=last,
            initial=first,
            unit="step",
            disable=not shown,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._fetched = time.monotonic()
        self._latest: dict[str, str] = {}

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def due(self) -> bool:
        """Whether it is time to fetch numbers only to show them."""
        return not self._bar.disable and time.monotonic() - self._fetched > SHOW_SECONDS

    def show(self, records: Sequence[Mapping[str, float]]) -> None:
        """Take over the numbers of one step, of each run: their median."""
        self._fetched = time.monotonic()
        for split in ("train", "batch", "test") if not self._bar.disable else ():
            if f"{split}_loss" in records[0]:
                loss, right = (median(record[f"{split}_{name}"] for record in records) for name in ("loss", "accuracy"))
                self._latest[split] = f"{loss:.2e} {right:6.1%}"
        self._bar.set_postfix(self._latest, refresh=False)

    def advance(self, step: int) -> None:
        """The weights of `step` are reached."""
        self._bar.update(step - self._bar.n)
