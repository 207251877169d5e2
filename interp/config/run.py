"""A run: its stages together, and when it is saved and measured."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from interp.config.base import Record, added_field
from interp.config.declared import ModelConfig, TaskConfig
from interp.config.events import Event, parse_event
from interp.config.models import Transformer
from interp.config.optimizers import SGD, Adam, AdamW, Interventions, Muon, with_frozen
from interp.config.origins import Branch, StoredWeights
from interp.config.recorded import RecordedOptimizer
from interp.config.schedule import Every, Schedule
from interp.config.tasks import Modular
from interp.errors import ConfigError

__all__ = ["Log", "RunConfig", "Save"]


@dataclass(frozen=True, kw_only=True)
class Save(Record):
    """Schedules of storage: weights densely, the full state (optimiser moments too) sparsely."""

    weights: Schedule = Every(1, until=100) | Every(10)
    state: Schedule = Every(1000)

    def _rules(self) -> None:
        _require_steps(self, "state")


@dataclass(frozen=True, kw_only=True)
class Log(Record):
    """Schedules of metrics: the training pass yields loss and accuracy for nothing; the test pass costs a forward."""

    train: Schedule = Every(1)
    test: Schedule = Every(10)

    def _rules(self) -> None:
        _require_steps(self, "train")
        _require_steps(self, "test")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Record):
    """A run: everything that its weights are a function of, and when they are saved."""

    task: TaskConfig = field(default_factory=Modular)
    model: ModelConfig = field(default_factory=Transformer)
    optimizer: AdamW | Adam | SGD | Muon | RecordedOptimizer = field(default_factory=AdamW)
    steps: int = 10_000
    """Optimiser updates."""
    seed: int = 0
    """Seed of the initial weights and of every later draw; `task.seed` is that of the split."""
    save: Save = field(default_factory=Save)
    log: Log = field(default_factory=Log)
    interventions: Interventions = added_field(Interventions())
    events: tuple[str, ...] = added_field(())
    """Changes of `optimizer` and `interventions` in the course of the run: "step 200: optimizer.weight_decay=0",
    "epoch 60: ...", "test_accuracy>=0.99 for 500: stop", "step 500: freeze=embed.*" (see `interp.config.events`)."""
    origin: Branch | StoredWeights | None = added_field(None)
    """Stored weights of another run with which this one begins; None: initial weights of its own, at step 0."""

    def _rules(self) -> None:
        least = self.first_step + 1
        self._require("steps", self.steps >= least, f">= {least}" + (", beyond the fork" if least > 1 else ""))
        self._require("seed", 0 <= self.seed < 2**63, "in 0 .. 2^63-1")
        object.__setattr__(self, "events", tuple(map(self._canonical, self.events)))  # equal events have equal JSON
        for part in (self.task, self.model):
            if not re.fullmatch(r"[\w.+-]+", part.slug):
                raise ConfigError(
                    f"`{type(part).__name__}.slug` is a part of a folder's name and must be letters, digits and any of "
                    f"_ . + -; got {part.slug!r}."
                )
        if self.task.encoding not in self.model.encodings or (self.task.needs_plane and not self.model.is_plane):
            self._refuse_encoding()
        if self.optimizer.loss not in self.task.losses:
            raise ConfigError(f"{self.task.loss_rule}; got {self.optimizer.loss}.")
        if self.task.reads_answer and self.model.sees_later:
            raise ConfigError(f"{self.task.answer_rule}: `model.attention` must be causal; got bidirectional.")
        if self.model.init_stream == "split" and not self.task.shuffles_inputs:
            raise ConfigError(
                "`model.init_stream` split continues the stream that shuffled all inputs: `task.hold_out` must be "
                f"pairs; got {type(self.task).__name__} with another rule."
            )
        if self.model.init_stream == "split" and self.task.split != "torch-randperm":
            raise ConfigError(
                "`model.init_stream` split continues torch's stream: `task.split` must be torch-randperm; "
                f"got {self.task.split}."
            )

    def _refuse_encoding(self) -> None:
        if (self.task.encoding == "points") != ("points" in self.model.encodings) or self.task.needs_plane:
            raise ConfigError(
                "Points are classified by logistic regression, and nothing else is: `task` Gaussian and `model` "
                f"Logistic belong together; got {type(self.task).__name__} and {type(self.model).__name__}."
            )
        raise ConfigError(
            f"{self.model.encoding_rule}: `task.encoding` must be {', or '.join(self.model.encodings)}; "
            f"got {self.task.encoding}."
        )

    def after(self, event: Event) -> "RunConfig":
        """The config that is in force once `event` has happened.

        >>> RunConfig().after(parse_event("step 200: optimizer.weight_decay=0")).optimizer.weight_decay
        0.0
        """
        return self.replace(self._changed_parts(event))

    def _canonical(self, text: str) -> str:
        """The event as it is written when its values have become those of the fields: 0 is 0.0 where a float is due."""
        event = parse_event(text)
        parts = self._changed_parts(event)
        self.replace({"events": (), **parts})  # the rules of the whole hold afterwards, too
        values = []
        for path, value in event.changes:
            part, _, name = path.partition(".")
            values.append((path, getattr(parts[part], name) if name else value))
        return str(Event(event.when, tuple(values), event.stops))

    def _changed_parts(self, event: Event) -> dict[str, Record]:
        """The optimiser and the interventions as `event` makes them, where it does."""
        changes: dict[str, dict[str, Any]] = {}
        frozen = self.optimizer.frozen
        for path, value in event.changes:
            part, _, name = path.partition(".")
            if path in ("freeze", "unfreeze"):
                if not isinstance(value, str):
                    raise ConfigError(f"`{path}` must be a pattern of parameters' names, as embed.*; got {value!r}.")
                frozen = with_frozen(frozen, value, path == "freeze")
                changes.setdefault("optimizer", {})["frozen"] = frozen
                continue
            if part not in ("optimizer", "interventions") or not name or name == "batch_size":
                raise ConfigError(
                    f"`{path}` cannot change in the course of a run ({event}); events change fields of `optimizer` "
                    "(batch_size excepted) and of `interventions`, or freeze, unfreeze and stop."
                )
            changes.setdefault(part, {})[name] = value
        return {part: getattr(self, part).replace(values) for part, values in changes.items()}

    @property
    def first_step(self) -> int:
        """Step at which the run begins: 0, or that of the fork."""
        return 0 if self.origin is None else self.origin.first_step

    @property
    def anchors(self) -> tuple[int, ...]:
        """Steps whose weights and full state are stored whatever the schedules say: the first one after an origin."""
        return () if self.origin is None else (self.first_step,)

    @property
    def stages(self) -> tuple["RunConfig", ...]:
        """The config as the run begins, and after each of its events, in the order in which they are written."""
        stages = [self]
        for event in self.events:
            stages.append(stages[-1].after(parse_event(event)))
        return tuple(stages)

    @property
    def draws(self) -> tuple[str, ...]:
        """Draws that `seed` decides; without any, runs of all seeds are one and the same run.

        >>> RunConfig().draws
        ('initial weights',)
        >>> RunConfig().replace({"optimizer.batch_size": 64, "interventions.update_noise": 0.1}).draws
        ('initial weights', 'minibatches', 'update noise')
        """
        stages = self.stages
        drawn = {
            "initial weights": self.model.draws_weights and self.origin is None,
            "minibatches": self.optimizer.batch_size is not None,
            "dropout": self.model.dropout > 0,
            "update noise": any(stage.interventions.update_noise for stage in stages),
            "weight noise": any(stage.interventions.weight_noise for stage in stages),
            "jiggle": any(stage.optimizer.decay == "jiggle" for stage in stages),
        }
        return tuple(name for name, is_drawn in drawn.items() if is_drawn)

    @property
    def run_id(self) -> str:
        """Readable slug and first 8 hex digits of the SHA-256 of the canonical JSON: the run folder's name."""
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:8]
        return f"{self.task.slug}-{self.model.slug}-seed{self.seed}-{digest}"


def _require_steps(part: Save | Log, name: str) -> None:
    """A budget of bytes is one for weights, whose size is known; nothing else can be planned by it."""
    if "dense(" in str(getattr(part, name)):
        raise ConfigError(
            f"`{type(part).__name__}.{name}` must name steps, as in every(100), log(50) or steps(3, 5); a budget is "
            f"one for `save.weights` alone; got {getattr(part, name)}."
        )
