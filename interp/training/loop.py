"""The loop of updates of one run, or of several in one batched step: what is stored, tested and logged, and when.

`step` is the number of completed updates. At each step the loop looks at the weights as they are (stores them, tests
them), then makes one update; the training loss and accuracy of a step come from the pass of the update that follows it,
so they belong to the same weights as everything else recorded for that step.

Nothing inside a step waits for the device: numbers stay there in a small buffer and are fetched together when something
is stored, shown or full.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from tqdm.auto import tqdm

from interp.config.schedule import Schedule
from interp.errors import DivergedError
from interp.store import RunWriter
from interp.training.ensemble import EnsembleStep
from interp.training.environment import interruptible
from interp.training.state import MetricsBuffer, TrainState
from interp.training.step import TrainingStep
from interp.trajectory import Trajectory

__all__ = ["RunInterrupted", "advance", "build_update", "divergence", "note_events"]

SAFETY_SECONDS = 60.0
"""A full state is written at least this often, so that a killed run loses no more; only the last two such are kept."""
SHOW_SECONDS = 0.3
"""How often the progress bar fetches numbers from the device."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the step was finished and everything is stored; `folder` can be resumed from `step`.

    (Of runs trained together it is the first one's; resuming one of them resumes all.)
    """

    def __init__(self, folder: Path, step: int, signum: int, *, is_replay: bool = False) -> None:
        how = "Ask for the same replay again." if is_replay else f"Continue with: interp resume {folder}"
        super().__init__(f"Interrupted at step {step}; everything is saved. {how}")
        self.folder, self.step, self.signum = folder, step, signum


def advance(
    sessions: Sequence[TrainState],
    writers: Sequence[RunWriter | None],
    *,
    first: int,
    last: int,
    weights: Schedule,
    progress: bool,
    update: TrainingStep | EnsembleStep | None = None,
    on_checkpoint: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    record_from: int = 0,
) -> None:
    """From the weights of step `first` to those of step `last`, of one run or of several in one batched step.

    `update` is that of the sessions, where it has been built already. `on_checkpoint` sees every step from
    `record_from` at which the original run stored weights; a run that has one (a replay) stores neither full states nor
    metrics before `record_from`. Sessions without a writer run along and leave nothing. A run that reaches the last
    step of its config is marked as complete.
    """
    config = sessions[0].config  # the schedules are those of all
    states = config.save.state
    is_replay = on_checkpoint is not None
    final = config.steps  # schedules are those of the whole run, also in a replay
    runs = _Runs(sessions, writers)
    update, exact_pass = update or build_update(sessions), _exact_pass(sessions)
    numbers = MetricsBuffer(sessions[0].device, len(sessions))
    safe_at = time.monotonic()

    with interruptible() as interrupted, _Bar(progress, first, last, len(sessions)) as bar:
        for step in range(first, last + 1):
            if runs.apply_events(step):  # before anything of this step is stored
                update, exact_pass = build_update(sessions), _exact_pass(sessions)
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
                    if on_checkpoint is not None:
                        on_checkpoint(step, arrays)
                    if stored:
                        writer.append(step, arrays)
                    if saved:
                        _save_state(session, writer, step, states)
                if saved:
                    safe_at = time.monotonic()
            if stopping and step < last:
                runs.commit()
                raise RunInterrupted(runs.folder, step, interrupted[0], is_replay=is_replay)

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
    if interrupted and not is_replay:  # in the last step: this run is done, but what was to come after it is not wanted
        raise RunInterrupted(runs.folder, last, interrupted[0])


def build_update(sessions: Sequence[TrainState]) -> TrainingStep | EnsembleStep:
    """The update of these sessions; on CUDA it then holds all the memory that it will need."""
    update = TrainingStep(sessions[0]) if len(sessions) == 1 else EnsembleStep(sessions)
    if sessions[0].device.type == "cuda":
        update.evaluate("test")
    return update


def _exact_pass(sessions: Sequence[TrainState]) -> bool:
    """Whether the loss of an update's pass is the training loss in every run."""
    return all(session.exact_pass for session in sessions)


class _Runs:
    """The sessions of a loop and where each is stored; those whose numbers are no longer finite are given up."""

    def __init__(self, sessions: Sequence[TrainState], writers: Sequence[RunWriter | None]) -> None:
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

    def going(self) -> list[tuple[TrainState, RunWriter]]:
        """Those that are stored and not given up."""
        return [(session, writer) for session, writer in self._pairs if writer is not None and writer not in self._lost]

    def apply_events(self, step: int) -> bool:
        """Let the events of `step` happen, in every run, and note them; whether there were any."""
        met = [(session, writer) for session, writer in self._pairs if session.apply_events(step)]
        for session, writer in met:
            if writer is not None:
                note_events(session, writer, step)
        return bool(met)

    def write_numbers(self, numbers: MetricsBuffer, bar: "_Bar") -> None:
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
        self._lost[writer] = divergence(Trajectory(writer.folder))
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


def divergence(traj: Trajectory) -> DivergedError:
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


def note_events(session: TrainState, writer: RunWriter, now: int) -> None:
    """Bring the events in run.json up to date: a run without any has no such entry.

    Those after step `now`, which happened before the run was resumed there, stay beside the checkpoints of that time.
    """
    if session.config.events:
        run = Trajectory(writer.folder).run
        events = [[step, str(event)] for step, event in session.agenda.happened]
        later = [event for event in run.get("events", []) if event[0] > now]
        writer.replace_run({**run, "events": events + later})


def _save_state(session: TrainState, writer: RunWriter, step: int, states: Schedule) -> None:
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
