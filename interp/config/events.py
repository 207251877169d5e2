"""Events: changes of hyper-parameters during a run, at a step, at an epoch, or when a metric passes a threshold.

An event has a written form, which configs hold and the command line reads: a time, a colon, and assignments.

>>> str(parse_event("epoch 200 : optimizer.weight_decay = 0"))
'epoch 200: optimizer.weight_decay=0'
>>> parse_event("test_accuracy >= 0.99: optimizer.weight_decay=0.02, optimizer.lr=1e-4").changes
(('optimizer.weight_decay', 0.02), ('optimizer.lr', 0.0001))

An event at step n changes the update that leaves step n and all later ones; the weights of step n are as without it.
An epoch is one pass through the training set: one step with a full batch. A threshold is compared with its metric
wherever that is logged, until it is first passed: metrics of step n trigger the event at step n + 1, since the training
pass of step n is over only then.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from interp.errors import ConfigError
from interp.literals import read_value, write_value

__all__ = ["Agenda", "AtEpoch", "AtStep", "Event", "Threshold", "parse_event"]

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "batch_loss", "batch_accuracy")
"""Metrics on which a threshold may be set."""


@dataclass(frozen=True)
class AtStep:
    """The time at which `step` updates are completed."""

    step: int

    def __str__(self) -> str:
        return f"step {self.step}"


@dataclass(frozen=True)
class AtEpoch:
    """The time at which the training set has been passed through `epoch` times."""

    epoch: int

    def __str__(self) -> str:
        return f"epoch {self.epoch}"


@dataclass(frozen=True)
class Threshold:
    """The step after a metric was first logged at or above `value` (sign ">="), or at or below it ("<=").

    >>> Threshold("test_accuracy", ">=", 0.99).met_by({"train_accuracy": 1.0, "test_accuracy": 0.99})
    True
    """

    metric: str
    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.value!r}"

    def met_by(self, record: Mapping[str, float]) -> bool:
        """Whether the metrics of one step reach the threshold; False where the metric is missing."""
        if self.metric not in record:
            return False
        value = record[self.metric]
        return value >= self.value if self.sign == ">=" else value <= self.value


@dataclass(frozen=True)
class Event:
    """New values of config fields, by dotted paths, from `when` on."""

    when: AtStep | AtEpoch | Threshold
    changes: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return f"{self.when}: {', '.join(f'{path}={write_value(value)}' for path, value in self.changes)}"


class Agenda:
    """Schedule of a run's events: those that have happened, and those due at a step.

    Arguments:
        events: events of the config; at one step they happen in this order.
        steps_per_epoch: updates in one pass through the training set.

    Example:
        >>> agenda = Agenda([parse_event("epoch 2: optimizer.lr=1"), parse_event("test_loss<=0.5: optimizer.lr=2")], 3)
        >>> agenda.observe(4, {"test_loss": 0.4})
        >>> [(step, str(event)) for step in range(9) for event in agenda.pop_due(step)]
        [(5, 'test_loss<=0.5: optimizer.lr=2'), (6, 'epoch 2: optimizer.lr=1')]
    """

    def __init__(self, events: Iterable[Event], steps_per_epoch: int) -> None:
        self.happened: list[tuple[int, Event]] = []
        """Events so far, each with its step."""
        self._scheduled: list[tuple[int, Event]] = []
        self._watched: list[Event] = []
        for event in events:
            match event.when:
                case AtStep(step):
                    self._scheduled.append((step, event))
                case AtEpoch(epoch):
                    self._scheduled.append((epoch * steps_per_epoch, event))
                case Threshold():
                    self._watched.append(event)

    @property
    def watching(self) -> bool:
        """Whether an event waits for a metric; while one does, the metrics of every step must be given to `observe`."""
        return bool(self._watched)

    def observe(self, step: int, record: Mapping[str, float]) -> None:
        """Compare the metrics of `step` with the thresholds; events that they trigger are due at the next step."""
        for event in [event for event in self._watched if _meets(event, record)]:
            self._watched.remove(event)
            self._scheduled.append((step + 1, event))

    def pop_due(self, step: int) -> list[Event]:
        """Events of `step`, which count as happened from now on."""
        now = [event for at, event in self._scheduled if at == step]
        if now:
            self._scheduled = [(at, event) for at, event in self._scheduled if at != step]
            self.happened += [(step, event) for event in now]
        return now

    def restore(self, recorded: Iterable[tuple[int, str]], now: int) -> list[tuple[int, Event]]:
        """Continue a run at step `now`; `recorded` are its events by step. Returns those up to `now`, in order."""
        for step, event in [(step, parse_event(text)) for step, text in recorded if step <= now]:
            if event in self._watched:
                self._watched.remove(event)
            self.happened.append((step, event))
        self._scheduled = [(at, event) for at, event in self._scheduled if at > now]
        return self.happened

    def replay(self, recorded: Iterable[tuple[int, str]], now: int) -> None:
        """Trigger thresholds at their recorded steps instead of by metrics, which a replay logs at other steps."""
        texts = [str(event) for event in self._watched]
        self._scheduled += [(step, parse_event(text)) for step, text in recorded if step > now and text in texts]
        self._watched = []


def parse_event(text: str) -> Event:
    """Event with the written form `text`; the inverse of `str`.

    Forms: `step 200: PATH=VALUE`, `epoch 60: PATH=VALUE, PATH=VALUE`, `test_accuracy>=0.99: PATH=VALUE`, where values
    are written as in JSON, or as plain words.

    Raises:
        ConfigError: the text has none of these forms.

    >>> str(parse_event("step 9: optimizer.weight-decay=0"))
    'step 9: optimizer.weight_decay=0'
    >>> parse_event("step 200: optimizer.betas=[0.9, 0.98]")
    Event(when=AtStep(step=200), changes=(('optimizer.betas', (0.9, 0.98)),))
    """
    when, colon, changes = text.partition(":")
    assignments = [part.partition("=") for part in re.split(r",(?=\s*[\w.-]+\s*=)", changes)]
    trigger = _parse_when(when.strip())
    if not colon or trigger is None or not all(path.strip() and value.strip() for path, _, value in assignments):
        raise ConfigError(
            f"`{text}` is no event; write `step 200: optimizer.weight_decay=0`, `epoch 60: ...`, or "
            f"`test_accuracy>=0.99: ...` (any of {', '.join(METRICS)}, with >= or <=)."
        )
    # fields may be spelt like flags: weight-decay
    assigned = ((path.strip().replace("-", "_"), read_value(value.strip())) for path, _, value in assignments)
    return Event(trigger, tuple(assigned))


def _parse_when(text: str) -> AtStep | AtEpoch | Threshold | None:
    if count := re.fullmatch(r"(step|epoch)\s+(\d+)", text):
        return AtStep(int(count[2])) if count[1] == "step" else AtEpoch(int(count[2]))
    threshold = re.fullmatch(r"(\w+)\s*(>=|<=)\s*([-+.\deE]+)", text)
    if threshold and threshold[1] in METRICS:
        try:
            return Threshold(threshold[1], threshold[2], float(threshold[3]))
        except ValueError:
            return None
    return None


def _meets(event: Event, record: Mapping[str, float]) -> bool:
    return isinstance(event.when, Threshold) and event.when.met_by(record)
