"""The loop of updates of one run, or of several in one batched step: what is evaluated, saved and logged, and when.

`step` is the number of completed updates. At each step the loop looks at the weights as they are (evaluates and saves
them), then makes one update; the training loss and accuracy of a step come from the pass of the update that follows it,
so they belong to the same weights as everything else recorded for that step.

Nothing inside a step waits for the device: metrics stay there in a small buffer and are fetched together when weights
are saved, when an event or an observer asks for them, or when the buffer is full. Whatever is done with weights and
metrics is done by observers: those of `recording`, and the user's.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.config import RunConfig
from interp.config.schedule import Schedule
from interp.errors import DivergedError, ObserverError
from interp.training.ensemble import EnsembleStep
from interp.training.environment import interruptible
from interp.training.observers import HOOKS, ObservedRun, Observer, StopTraining
from interp.training.state import MetricsBuffer, TrainState
from interp.training.step import Step, TrainingStep

__all__ = ["Member", "Plan", "RunInterrupted", "Stretch", "WholeRun", "advance", "build_step"]

SAFETY_SECONDS = 60.0
"""A full state is written at least this often, so that a killed run loses no more; only the last two such are kept."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the step was finished and everything is stored; `folder` can be resumed from `step`.

    (Of runs trained together it is the first one's; resuming one of them resumes all.)
    """

    def __init__(self, folder: Path, step: int, signum: int, *, is_replay: bool = False) -> None:
        super().__init__(f"Interrupted at step {step}; everything is saved. {_way_on(folder, is_replay)}")
        self.folder, self.step, self.signum = folder, step, signum


@dataclass(frozen=True)
class Member:
    """A run of the loop: its state on the device, its folder, and the observers that record it.

    A member without recorders runs along for the shape of the batch alone: it is neither stored nor observed.
    """

    state: TrainState
    folder: Path
    recorders: tuple[Observer, ...] = ()


@dataclass(frozen=True)
class Plan(ABC):
    """The steps `first` to `last`, and at which of them weights and full states are saved, and metrics logged."""

    first: int
    last: int

    @property
    @abstractmethod
    def is_replay(self) -> bool:
        """Whether stored steps are run again; an interrupted replay cannot be resumed, so it saves no full states."""

    @abstractmethod
    def saves_weights(self, step: int) -> bool:
        """Whether weights are stored."""

    @abstractmethod
    def saves_state(self, step: int) -> bool:
        """Whether a full state is stored by schedule."""

    @abstractmethod
    def evaluates(self, step: int) -> bool:
        """Whether test metrics are computed."""

    @abstractmethod
    def logs_pass(self, step: int) -> bool:
        """Whether the metrics of the update that leaves the step are logged."""


@dataclass(frozen=True)
class WholeRun(Plan):
    """Plan from step `first` to the end of a run by its config's schedules; `weights` is resolved, without budgets."""

    config: RunConfig
    weights: Schedule
    is_replay = False

    def saves_weights(self, step: int) -> bool:
        """See `Plan.saves_weights`."""
        return step in self.config.anchors or self.weights.at(step, self.last)

    def saves_state(self, step: int) -> bool:
        """See `Plan.saves_state`."""
        return step in self.config.anchors or self.config.save.state.at(step, self.last)

    def evaluates(self, step: int) -> bool:
        """See `Plan.evaluates`."""
        return self.config.log.test.at(step, self.last)

    def logs_pass(self, step: int) -> bool:
        """See `Plan.logs_pass`."""
        return self.config.log.train.at(step, self.last)


@dataclass(frozen=True)
class Stretch(Plan):
    """Every `every`-th step of a replay from step `start` on, which begins at an earlier full state; all is logged."""

    start: int
    every: int
    is_replay = True

    def saves_weights(self, step: int) -> bool:
        """See `Plan.saves_weights`."""
        return step >= self.start and (step == self.last or (step - self.start) % self.every == 0)

    def saves_state(self, step: int) -> bool:
        """See `Plan.saves_state`."""
        return False

    def evaluates(self, step: int) -> bool:
        """See `Plan.evaluates`."""
        return step >= self.start

    def logs_pass(self, step: int) -> bool:
        """See `Plan.logs_pass`."""
        return step >= self.start


def advance(
    members: Sequence[Member], plan: Plan, observers: Sequence[Observer] = (), update: Step | None = None
) -> None:
    """Make the updates of `plan`, of one run or of several in one batched step.

    Arguments:
        members: the runs, whose states are at step `plan.first`.
        plan: steps, and what is done at which.
        observers: the user's; each sees every member that is recorded.
        update: `build_step` of the states, where it has been built already.

    Raises:
        RunInterrupted: after a signal.
        ObserverError: an observer raised an exception.
        DivergedError: at the end, where a member has diverged; at once where all have.
    """
    states = [member.state for member in members]
    update = update or build_step(states)
    buffer = MetricsBuffer(states[0].device, len(states))
    runs = _Runs(members, buffer, observers)
    step, safe_at, final = plan.first, time.monotonic(), False
    try:
        with interruptible() as signals:
            for step in range(plan.first, plan.last + 1):
                if runs.apply_events(step):  # before anything of this step is stored
                    update = build_step(states)
                final = step == plan.last or (runs.ended and not plan.is_replay)
                stopping = bool(signals) or runs.stopping  # asked once: what comes later in this step is for the next
                overdue = time.monotonic() - safe_at > SAFETY_SECONDS
                saves_weights = plan.saves_weights(step) or final
                saves_state = plan.saves_state(step) or ((overdue or stopping or final) and not plan.is_replay)
                if plan.evaluates(step) or final:
                    buffer.add(step, "test", update.evaluate("test"))
                    if not update.exact_pass:
                        buffer.add(step, "train", update.evaluate("train"))
                if saves_weights or saves_state or (plan.is_replay and plan.evaluates(step)):
                    runs.fetch()  # a loss that is no number is found before weights are stored
                if saves_weights:
                    runs.save_weights(step)
                if saves_state:
                    runs.save_states(step)
                    safe_at = time.monotonic()
                if final:
                    if update.exact_pass:
                        buffer.add(step, "train", update.evaluate("train"))
                    runs.fetch()
                if stopping or final:
                    break
                runs.before_step(step)
                metrics = update(step)
                if plan.logs_pass(step):
                    buffer.add(step, "train" if update.exact_pass else "batch", metrics)
                runs.after_step(step, metrics)
                if buffer.full or runs.awaiting_metrics:
                    runs.fetch()
        unfinished = None if final else runs.interruption(plan, step, signals)
    except BaseException as error:
        with contextlib.suppress(Exception):  # the error that came first is the one to be raised
            runs.end(step, error)
        raise
    runs.end(step, unfinished)
    if unfinished is None:
        runs.raise_divergence()
    # in the last step the run is done, but what was to come after it is not wanted
    reason = unfinished or runs.interruption(plan, step, signals)
    if reason is not None and not isinstance(reason, StopTraining):
        raise reason


def build_step(states: Sequence[TrainState]) -> Step:
    """The batched update of runs of equal shape, or that of one; on CUDA it then holds all the memory it will need."""
    update = TrainingStep(states[0]) if len(states) == 1 else EnsembleStep(states)
    if states[0].device.type == "cuda":
        update.evaluate("test")
    return update


@dataclass(frozen=True)
class _Failure:
    """An exception in a hook of a user's observer."""

    observer: Observer
    hook: str
    step: int
    error: Exception


class _Runs:
    """The members of a loop with their observers; a member that diverges is neither stored nor observed any longer."""

    def __init__(self, members: Sequence[Member], buffer: MetricsBuffer, observers: Sequence[Observer]) -> None:
        self._members, self._buffer, self._observers = members, buffer, list(observers)
        self._views = [
            ObservedRun(member.state, member.folder, partial(self._latest_metrics, row))
            for row, member in enumerate(members)
        ]
        self._latest: list[dict[str, float]] = [{} for _ in members]
        self._failures: list[_Failure] = []
        self._diverged: dict[int, DivergedError] = {}
        self._hooks: dict[str, dict[int, list[Callable[..., None]]]] = {}
        self._collect_hooks()

    @property
    def awaiting_metrics(self) -> bool:
        """Whether an event of any run waits for a metric."""
        return any(member.state.agenda.watching for member in self._members)

    @property
    def ended(self) -> bool:
        """Whether an event has ended the run: such a run is trained alone."""
        return any(member.state.agenda.stopped for member in self._members)

    @property
    def stopping(self) -> bool:
        """Whether an observer has failed, or asked for the end."""
        return bool(self._failures)

    def apply_events(self, step: int) -> bool:
        """Let the events of `step` happen in every run; whether there were any."""
        happened = [member.state.apply_events(step) for member in self._members]
        for row, events in enumerate(happened):
            for event in events:
                self._call("on_event", row, step, event)
        return any(happened)

    def before_step(self, step: int) -> None:
        """Call the observers before an update."""
        for row in self._hooks["before_step"]:
            self._call("before_step", row, step)

    def after_step(self, step: int, metrics: Float[Tensor, "run 2"]) -> None:
        """Call the observers after an update."""
        for row in self._hooks["after_step"]:
            self._call("after_step", row, step, metrics[row])
        self._require_active()

    def fetch(self) -> None:
        """Fetch the metrics that wait on the device, for events and observers."""
        self._fetch()
        self._require_active()

    def save_weights(self, step: int) -> None:
        """Call the observers with a checkpoint."""
        for row in self._active():
            self._call("on_save", row, step, self._views[row].weights())
        self._require_active()

    def save_states(self, step: int) -> None:
        """Call the observers with a full state."""
        for row in self._active():
            weights = {f"model/{name}": array for name, array in self._views[row].weights().items()}
            self._call("on_state", row, step, weights | self._members[row].state.moments())
        self._require_active()

    def end(self, step: int, error: BaseException | None) -> None:
        """Call the observers for the last time: those of every member, before the error of one is raised."""
        errors: list[Exception] = []
        for row in self._active():
            try:
                self._call("on_end", row, step, error)
            except Exception as failed:
                errors.append(failed)
        if errors:
            raise errors[0]

    def interruption(self, plan: Plan, step: int, signals: Sequence[int]) -> BaseException | None:
        """Why the loop ends at `step` otherwise than by having reached its last step."""
        folder = next(member.folder for member in self._members if member.recorders)
        if signals and not (plan.is_replay and step == plan.last):
            return RunInterrupted(folder, step, signals[0], is_replay=plan.is_replay)
        failures = sorted(self._failures, key=lambda failure: isinstance(failure.error, StopTraining))  # errors first
        if not failures or isinstance(failures[0].error, StopTraining):
            return failures[0].error if failures else None
        hook, reason = f"{type(failures[0].observer).__name__}.{failures[0].hook}", failures[0].error
        error = ObserverError(
            f"`{hook}` raised {type(reason).__name__} at step {failures[0].step}: {reason}. Everything until step "
            f"{step} is saved. {_way_on(folder, plan.is_replay)}",
            hook=hook,
            step=step,
        )
        error.__cause__ = reason
        return error

    def raise_divergence(self) -> None:
        """Raise the error of the first member that has diverged, if any has."""
        for error in self._diverged.values():
            raise error

    def _active(self) -> list[int]:
        return [row for row, member in enumerate(self._members) if member.recorders and row not in self._diverged]

    def _require_active(self) -> None:
        if self._diverged and not self._active():
            self.raise_divergence()

    def _fetch(self) -> None:
        fetched = self._buffer.fetch()
        for step in fetched[0]:
            for row, records in enumerate(fetched):
                if row not in self._diverged:
                    self._members[row].state.agenda.observe(step, records[step])
                    self._latest[row].update(records[step])
                    self._call("on_metrics", row, step, records[step])

    def _latest_metrics(self, row: int) -> Mapping[str, float]:
        self._fetch()
        return self._latest[row]

    def _call(self, hook: str, row: int, step: int, *arguments: Any) -> None:
        """Call a hook of all observers of one member, unless it has diverged or does so in the first of them."""
        for call in self._hooks[hook].get(row, ()):
            if row in self._diverged and hook != "on_end":
                return
            try:
                call(self._views[row], step, *arguments)
            except DivergedError as error:
                self._diverged[row] = error
                self._call("on_end", row, step, error)
                self._collect_hooks()

    def _collect_hooks(self) -> None:
        """List the hooks that do something, so that others cost nothing."""
        for hook in HOOKS:
            self._hooks[hook] = {}
            for row in self._active():
                own = [getattr(one, hook) for one in self._members[row].recorders if _overrides(one, hook)]
                users = [self._guarded(one, hook) for one in self._observers if _overrides(one, hook)]
                if own or users:
                    self._hooks[hook][row] = own + users

    def _guarded(self, observer: Observer, hook: str) -> Callable[..., None]:
        """A hook whose exception is kept for the end; after that, only `on_end` of the observer is called."""
        call = getattr(observer, hook)

        def guarded(run: ObservedRun, step: int, *arguments: Any) -> None:
            failed = any(failure.observer is observer for failure in self._failures)
            if failed and hook != "on_end":
                return
            try:
                call(run, step, *arguments)
            except Exception as error:
                self._failures.append(_Failure(observer, hook, step, error))

        return guarded


def _overrides(observer: Observer, hook: str) -> bool:
    return getattr(type(observer), hook) is not getattr(Observer, hook)


def _way_on(folder: Path, is_replay: bool) -> str:
    return "Ask for the same replay again." if is_replay else f"Continue with: interp resume {folder}"
