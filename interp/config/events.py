"""Events: changes of hyper-parameters during a run, at a step, at an epoch, or when a metric passes a threshold.

An event has a written form, which configs hold and the command line reads: a time, a colon, and assignments.

>>> str(parse_event("epoch 200 : optimizer.weight_decay = 0"))
'epoch 200: optimizer.weight_decay=0'
>>> parse_event("test_accuracy >= 0.99: optimizer.weight_decay=0.02, optimizer.lr=1e-4").changes
(('optimizer.weight_decay', 0.02), ('optimizer.lr', 0.0001))

Besides fields, an event can change which parameters are trained, and end the run:

>>> str(parse_event("step 500: freeze=embed.*")), str(parse_event("step 900: unfreeze=embed.W_E"))
('step 500: freeze=embed.*', 'step 900: unfreeze=embed.W_E')
>>> parse_event("test_accuracy >= 0.99 for 500: stop").stops
True

Names of parameters are patterns, in which `*` stands for any characters. A frozen parameter keeps its value, and the
optimiser keeps its memory of it, until it is unfrozen. A run that stops is complete at the step of the event.

An event at step n changes the update that leaves step n and all later ones; the weights of step n are as without it.
An epoch is one pass through the training set: one step with a full batch. A threshold is compared with its metric
wherever that is logged, until it is first passed: metrics of step n trigger the event at step n + 1, since the training
pass of step n is over only then. With `for N` it must have held wherever the metric was logged over N steps.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from interp.errors import ConfigError
from interp.literals import read_value, write_value

__all__ = ["Agenda", "AtEpoch", "AtStep", "Event", "Threshold", "is_stop", "parse_event"]

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

    With `hold`, the step after it has been so wherever it was logged over that many steps.

    >>> Threshold("test_accuracy", ">=", 0.99).met_by({"train_accuracy": 1.0, "test_accuracy": 0.99})
    True
    """

    metric: str
    sign: str
    value: float
    hold: int = 0

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.value!r}" + (f" for {self.hold}" if self.hold else "")

    def met_by(self, record: Mapping[str, float]) -> bool:
        """Whether the metrics of one step reach the threshold; False where the metric is missing."""
        if self.metric not in record:
            return False
        value = record[self.metric]
        return value >= self.value if self.sign == ">=" else value <= self.value


@dataclass(frozen=True)
class Event:
    """New values of config fields, by dotted paths, from `when` on; `freeze` and `unfreeze` have patterns of names."""

    when: AtStep | AtEpoch | Threshold
    changes: tuple[tuple[str, Any], ...]
    stops: bool = False
    """Whether the run ends."""

    def __str__(self) -> str:
        changes = [f"{path}={write_value(value)}" for path, value in self.changes]
        return f"{self.when}: {', '.join([*changes, *(['stop'] if self.stops else [])])}"


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
        self._held: dict[str, int] = {}
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

    @property
    def stopped(self) -> bool:
        """Whether an event that ends the run has happened."""
        return any(event.stops for _, event in self.happened)

    @property
    def held(self) -> dict[str, int]:
        """Steps since which thresholds with a `hold` have been met, by the event; of those that are met at present."""
        return dict(self._held)

    @property
    def holding(self) -> bool:
        """Whether an event waits for a metric to hold, so that earlier metrics must be recalled on a resumption."""
        return any(isinstance(event.when, Threshold) and event.when.hold for event in self._watched)

    def observe(self, step: int, record: Mapping[str, float]) -> None:
        """Compare the metrics of `step` with the thresholds; events that they trigger are due at the next step."""
        for event in [event for event in self._watched if self._meets(event, step, record)]:
            self._watched.remove(event)
            self._held.pop(str(event), None)
            self._scheduled.append((step + 1, event))

    def recall(self, held: Mapping[str, int], records: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Remember what was held, and metrics since, before the run goes on; an event that they trigger has happened.

        >>> agenda = Agenda([parse_event("test_loss<=1 for 20: stop")], 1)
        >>> agenda.recall({}, [(10, {"test_loss": 1.5}), (20, {"test_loss": 0.5}), (30, {"test_loss": 0.4})])
        >>> agenda.held
        {'test_loss<=1.0 for 20: stop': 20}
        """
        self._held = {str(event): held[str(event)] for event in self._watched if str(event) in held}
        for step, record in records:
            for event in self._watched:
                self._meets(event, step, record)

    def _meets(self, event: Event, step: int, record: Mapping[str, float]) -> bool:
        """Whether a threshold is met, and has been for as long as it must; keeps since when."""
        when = event.when
        if not isinstance(when, Threshold) or when.metric not in record:
            return False
        if not when.met_by(record):
            self._held.pop(str(event), None)
            return False
        return not when.hold or step - self._held.setdefault(str(event), step) >= when.hold

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

    Forms: `step 200: PATH=VALUE`, `epoch 60: PATH=VALUE, PATH=VALUE`, `test_accuracy>=0.99 for 500: PATH=VALUE`, where
    values are written as in JSON, or as plain words; in place of the assignments `freeze=PATTERN`, `unfreeze=PATTERN`,
    or `stop`.

    Raises:
        ConfigError: the text has none of these forms.

    >>> str(parse_event("step 9: optimizer.weight-decay=0"))
    'step 9: optimizer.weight_decay=0'
    >>> parse_event("step 200: optimizer.betas=[0.9, 0.98]")
    Event(when=AtStep(step=200), changes=(('optimizer.betas', (0.9, 0.98)),), stops=False)
    """
    when, colon, changes = text.partition(":")
    trigger = _parse_when(when.strip())
    if trigger is not None and changes.strip() == "stop":
        return Event(trigger, (), stops=True)
    assignments = [part.partition("=") for part in re.split(r",(?=\s*[\w.-]+\s*=)", changes)]
    if not colon or trigger is None or not all(path.strip() and value.strip() for path, _, value in assignments):
        raise ConfigError(
            f"`{text}` is no event; write `step 200: optimizer.weight_decay=0`, `epoch 60: ...`, or "
            f"`test_accuracy>=0.99 for 500: stop` (any of {', '.join(METRICS)}, with >= or <=); behind the colon stand "
            "assignments, `freeze=PATTERN`, `unfreeze=PATTERN` or `stop`."
        )
    # fields may be spelt like flags: weight-decay
    assigned = ((path.strip().replace("-", "_"), read_value(value.strip())) for path, _, value in assignments)
    return Event(trigger, tuple(assigned))


def is_stop(text: str) -> bool:
    """Whether an event in its written form ends the run; any other text does not.

    >>> is_stop("test_accuracy>=0.99 for 500: stop"), is_stop("step 3: optimizer.lr=1"), is_stop("")
    (True, False, False)
    """
    return text.rpartition(":")[2].strip() == "stop"


def _parse_when(text: str) -> AtStep | AtEpoch | Threshold | None:
    if count := re.fullmatch(r"(step|epoch)\s+(\d+)", text):
        return AtStep(int(count[2])) if count[1] == "step" else AtEpoch(int(count[2]))
    threshold = re.fullmatch(r"(\w+)\s*(>=|<=)\s*([-+.\deE]+)(?:\s+for\s+(\d+))?", text)
    if threshold and threshold[1] in METRICS:
        try:
            return Threshold(threshold[1], threshold[2], float(threshold[3]), int(threshold[4] or 0))
        except ValueError:
            return None
    return None
