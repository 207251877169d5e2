"""The package's own observers: storing a run, marking it complete, proving a replay, divergence, the progress bar."""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from interp.config.events import Agenda, Event
from interp.config.schedule import Schedule
from interp.errors import CorruptRunError, DivergedError
from interp.store import RunWriter
from interp.store.conditions import Continuation, conditions, continuations, differences
from interp.training.observers import ObservedRun, Observer
from interp.trajectory import WHATS, Trajectory

__all__ = [
    "Completion",
    "DivergenceCheck",
    "ProgressBar",
    "ReplayProof",
    "Storage",
    "divergence",
    "record_continuation",
    "record_events",
]

SHOW_SECONDS = 0.3
"""Interval at which the progress bar fetches metrics from the device [s]."""


class DivergenceCheck(Observer):
    """Raises `DivergedError` at the first loss or weight that is not finite, and notes it in run.json.

    It stands before `Storage`, so that nothing of the step is stored.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer

    def on_metrics(self, run: ObservedRun, step: int, metrics: Mapping[str, float]) -> None:
        """Check losses and accuracies."""
        if not all(np.isfinite(value) for value in metrics.values()):
            self._give_up(step, "the loss")

    def on_save(self, run: ObservedRun, step: int, weights: Mapping[str, np.ndarray]) -> None:
        """Check weights that are to be stored."""
        self._check(step, weights)

    def on_state(self, run: ObservedRun, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Check the weights of a full state."""
        self._check(step, {name: array for name, array in arrays.items() if name.startswith("model/")})

    def _check(self, step: int, weights: Mapping[str, np.ndarray]) -> None:
        if not all(np.isfinite(array).all() for array in weights.values()):
            self._give_up(step, "a weight")

    def _give_up(self, step: int, what: str) -> None:
        self._writer.replace_run({**self._writer.run, "diverged": {"step": step, "what": what}})
        raise divergence(Trajectory(self._writer.folder))


class Storage(Observer):
    """Stores weights, full states, metrics and events of a run.

    Arguments:
        writer: the run's writer.
        states: steps whose full states are kept; of others, written for safety, only the last two are.
        anchors: further steps whose full states are kept.
    """

    def __init__(self, writer: RunWriter, states: Schedule, anchors: Sequence[int] = ()) -> None:
        self._writer, self._states, self._anchors = writer, states, anchors

    def on_event(self, run: ObservedRun, step: int, event: Event) -> None:
        """List the event in run.json."""
        record_events(run.state.agenda, self._writer, step)

    def on_metrics(self, run: ObservedRun, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line of metrics."""
        self._writer.log({"step": step, **metrics})

    def on_save(self, run: ObservedRun, step: int, weights: Mapping[str, np.ndarray]) -> None:
        """Append a checkpoint, or compare it with the stored one."""
        self._writer.append(step, weights)

    def on_state(self, run: ObservedRun, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a full state."""
        last = run.config.steps

        def keep(state: int) -> bool:
            return state in self._anchors or self._states.at(state, last)

        self._writer.save_state(step, arrays, {"step": str(step)}, keep=keep)

    def on_end(self, run: ObservedRun, step: int, error: BaseException | None) -> None:
        """Make everything durable."""
        self._writer.commit()


class Completion(Observer):
    """Marks a run that has reached its last step as complete."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer

    def on_end(self, run: ObservedRun, step: int, error: BaseException | None) -> None:
        """Seal the run, if all of its schedule is stored."""
        if error is not None:
            return
        self._writer.commit()
        traj = Trajectory(self._writer.folder)
        for what in WHATS:
            if (missing := traj.first_missing(what)) is not None:
                raise CorruptRunError(
                    f"{traj.folder} has lost its {what} of step {missing} while it was trained, so it is not complete. "
                    f"Continue with: interp resume {traj.folder}"
                )
        self._writer.finish()


class ReplayProof(Observer):
    """Compares a replay with its original from the full state on, and completes it with the list of its proven steps.

    Arguments:
        original: the run that is replayed.
        start: first step to list: that at which the replay begins to store.
        writer: the replay's writer.

    Raises (in its hooks):
        CorruptRunError: the weights of a step are not bitwise those of the original.
    """

    def __init__(self, original: Trajectory, start: int, writer: RunWriter) -> None:
        self._original, self._writer = original, writer
        self._start, self._stored = start, set(original.steps.tolist())
        self._proven: list[int] = []

    def before_step(self, run: ObservedRun, step: int) -> None:
        """Compare a step that the original stored."""
        self._compare(run, step)

    def on_end(self, run: ObservedRun, step: int, error: BaseException | None) -> None:
        """Compare the last step, and complete the replay."""
        if error is None:
            self._compare(run, step)
            proven = {**self._writer.run["replay"], "proven": self._proven}
            self._writer.replace_run({**self._writer.run, "replay": proven}, complete=True)

    def _compare(self, run: ObservedRun, step: int) -> None:
        if step in self._stored:
            self._original.require_equal(step, run.weights())
            if step >= self._start:
                self._proven.append(step)


class ProgressBar(Observer):
    """Shows the step and the latest losses and accuracies; of several runs, their medians.

    Arguments:
        first, last: steps between which the loop works.
        runs: number of runs that are observed.
    """

    def __init__(self, first: int, last: int, runs: int) -> None:
        self._running = runs
        self._bar: tqdm[Any] = tqdm(
            desc=f"{runs} runs" if runs > 1 else None,
            total=last,
            initial=first,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._shown_at = time.monotonic()
        self._latest: dict[ObservedRun, dict[str, float]] = {}

    def after_step(self, run: ObservedRun, step: int, values: Tensor) -> None:
        """Advance; now and then, fetch metrics."""
        if time.monotonic() - self._shown_at > SHOW_SECONDS:
            run.metrics()
            self._show()
        self._bar.update(step + 1 - self._bar.n)

    def on_metrics(self, run: ObservedRun, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics for the next look."""
        self._latest.setdefault(run, {}).update(metrics)

    def on_end(self, run: ObservedRun, step: int, error: BaseException | None) -> None:
        """Show the last metrics, and close the bar once every run has ended."""
        self._running -= 1
        if not self._running:
            self._show()
            self._bar.close()
        elif error is not None:
            self._latest.pop(run, None)

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        texts = {}
        for split in ("train", "batch", "test"):
            values = [latest for latest in self._latest.values() if f"{split}_loss" in latest]
            if values:
                loss, accuracy = (median(one[f"{split}_{name}"] for one in values) for name in ("loss", "accuracy"))
                texts[split] = f"{loss:.2e} {accuracy:6.1%}"
        self._bar.set_postfix(texts, refresh=False)


def divergence(traj: Trajectory) -> DivergedError:
    """Error that reports the divergence noted in the run.json of `traj`."""
    step, what = traj.run["diverged"]["step"], traj.run["diverged"].get("what", "a value")
    last_good = int(traj.steps[-1]) if len(traj.steps) else None
    kept = "nothing was stored" if last_good is None else f"the last good checkpoint is step {last_good}"
    return DivergedError(
        f"At step {step} {what} is not a finite number; {kept} in {traj.folder}. "
        "A lower learning rate, a warm-up, or loss_precision float64 may help.",
        step=step,
        last_good=last_good,
    )


def record_events(agenda: Agenda, writer: RunWriter, now: int) -> None:
    """Write the events that have happened until step `now` to run.json; a run without any has no such entry.

    Events after `now`, which happened before the run was resumed there, stay: they belong to checkpoints of that time.
    """
    happened = [[step, str(event)] for step, event in agenda.happened]
    before_resume = [event for event in writer.run.get("events", []) if event[0] > now]
    if happened or before_resume:
        writer.replace_run({**writer.run, "events": happened + before_resume})


def record_continuation(writer: RunWriter, step: int, now: Mapping[str, Any]) -> None:
    """Write to run.json that the run goes on at `step`, and which conditions of the provenance `now` are others.

    An attempt at the same step that came to nothing is replaced.
    """
    run = writer.run
    earlier = continuations(run)
    if earlier and earlier[-1].step == step:
        earlier.pop()
    entry = Continuation(step, now["started"], differences(conditions(run), conditions({"provenance": now})))
    writer.replace_run({**run, "continuations": [one._asdict() for one in (*earlier, entry)]})
