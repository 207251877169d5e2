"""Runs that several figures share, and the times at which their weight decay changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.config import Adam, Modular, Recurrent, RunConfig, recipes
from interp.config.events import AtEpoch, AtStep, parse_event
from interp.papers.kit.figure import Preset

__all__ = [
    "FRACTIONS",
    "TIMES",
    "base",
    "by_fraction",
    "constant",
    "decay_after",
    "decayed",
    "event",
    "net_of",
    "regularised",
    "removed",
    "task_of",
    "without_decay",
]

FRACTIONS = (0.3, 0.5, 0.7)
"""Training fractions of A2, A3 and A71 to A74."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Steps or epochs at which weight decay is removed, and at which it begins."""

    unit: str
    early: tuple[int, ...]
    between: tuple[int, ...]
    """Removals that are not in the essay: while the norm is on its way."""
    late: tuple[int, ...]
    begin: int

    def phase_of(self, config: RunConfig) -> str:
        """early, between or late for a run that loses its weight decay then; otherwise empty."""
        if decay_after(config) != 0:
            return ""
        when = parse_event(config.events[0]).when
        assert isinstance(when, AtStep | AtEpoch)
        at = when.step if isinstance(when, AtStep) else when.epoch
        return next(phase for phase in ("early", "between", "late") if at in getattr(self, phase))


TIMES: dict[Preset, Times] = {
    "toy": Times(unit="step", early=(5,), between=(10,), late=(15,), begin=10),
    "laptop": Times(
        unit="step", early=(500, 2000, 5000), between=(7000, 9000, 11_000), late=(15_500, 18_000), begin=3000
    ),
    "paper": Times(
        unit="epoch", early=(60, 70, 97, 200), between=(1000, 1500, 2000), late=(3495, 3690, 3850, 4270), begin=2000
    ),
}
EPOCHS = 6000
"""Length of the paper preset."""
LARGE: dict[str, Any] = {"save.weights": "every(20000)", "save.state": "every(100000)", "log.test": "every(2000)"}
SMALL: dict[str, Any] = {
    "optimizer.batch_size": 64, "save.weights": "every(500)", "save.state": "every(10000)", "log.train": "every(50)",
    "log.test": "every(250)",
}  # fmt: skip
LSTM: dict[str, Any] = SMALL | {"optimizer.lr": 3e-3, "model.d_model": 64, "model.d_hidden": 64}
RNN: dict[str, Any] = SMALL | {"optimizer.lr": 1e-3, "optimizer.weight_decay": 0.3, "task.p": 47}
TOY: dict[str, Any] = {
    "task.p": 11, "task.seed": 1, "model.d_model": 8, "model.d_hidden": 8, "optimizer.batch_size": 16,
    "optimizer.lr": 1e-2, "optimizer.weight_decay": 0.1, "steps": 20, "save.weights": "every(5)",
    "save.state": "every(20)", "log.train": "every(10)", "log.test": "every(5)",
}  # fmt: skip


def base(cell: str, preset: Preset, laptop: dict[str, Any], fraction: float = 0.7) -> RunConfig:
    """Net of a preset; `laptop` holds the fields of the laptop's that differ from figure to figure."""
    config = recipes.get(f"ahmed-{cell}").replace({"task.train_fraction": fraction})
    match preset:
        case "toy":
            return config.replace(TOY)
        case "laptop":
            return config.replace((LSTM if cell == "lstm" else RNN) | laptop)
        case "paper":
            return config.replace(LARGE | {"steps": EPOCHS * _steps_per_epoch(config)})


def _steps_per_epoch(config: RunConfig) -> int:
    """Updates per pass over the training set; an incomplete last batch is dropped.

    >>> _steps_per_epoch(recipes.get("ahmed-lstm").replace({"task.train_fraction": 0.5}))
    199
    """
    task = task_of(config)
    assert config.optimizer.batch_size is not None
    return int(task.train_fraction * task.p**2) // config.optimizer.batch_size


def task_of(config: RunConfig) -> Modular:
    """Task of a run, which is modular in every run of the essay."""
    assert isinstance(config.task, Modular)
    return config.task


def net_of(config: RunConfig) -> Recurrent:
    """Model of a run, which is recurrent in every run of the essay."""
    assert isinstance(config.model, Recurrent)
    return config.model


def decay_after(config: RunConfig) -> float | None:
    """Weight decay after the event of a run; None without an event."""
    if not config.events:
        return None
    (event,) = map(parse_event, config.events)
    return float(dict(event.changes)["optimizer.weight_decay"])


def decayed(cell: str, preset: Preset, fraction: float, seed: int = 0) -> RunConfig:
    """AdamW without dropout: the nets of A2 and A3, which A71, A73 and A78 compare theirs to."""
    laptop = {"task.p": 47, "optimizer.weight_decay": 0.3, "steps": 26_000} if cell == "lstm" else {"steps": 50_000}
    return base(cell, preset, laptop, fraction).replace({"seed": seed, "task.seed": seed} if seed else {})


def by_fraction(cell: str, preset: Preset) -> list[RunConfig]:
    """Runs of A2 and A3; two seeds where they are cheap."""
    seeds = range(2 if (cell, preset) == ("lstm", "laptop") else 1)
    return [decayed(cell, preset, fraction, seed) for seed in seeds for fraction in FRACTIONS]


def constant(preset: Preset) -> RunConfig:
    """LSTM whose weight decay A4 to A7 change, unchanged."""
    laptop = {"task.p": 31, "optimizer.weight_decay": 0.1, "steps": 22_000}
    return base("lstm", preset, laptop, 0.5 if preset == "paper" else 0.7)


def removed(preset: Preset, *phases: str) -> list[RunConfig]:
    """Runs of A5 and A6 that lose their weight decay in these phases."""
    times = TIMES[preset]
    whens = [when for phase in phases for when in getattr(times, phase)]
    return [constant(preset).replace({"events": (event(times, when, 0.0),)}) for when in whens]


def event(times: Times, when: int, decay: float) -> str:
    """Event that sets the weight decay."""
    return f"{times.unit} {when}: optimizer.weight_decay={decay!r}"


def regularised(cell: str, preset: Preset, *, decay: bool, dropouts: Sequence[float]) -> list[RunConfig]:
    """Runs of A71 to A74: Adam or AdamW, with dropout or without, by fraction."""
    small = {"task.p": 47, "optimizer.weight_decay": 0.3, "steps": 14_000} if cell == "lstm" else {"steps": 30_000}
    # no RNN is known to generalise from 30 % in the laptop's time, with decay either, so that nothing would follow
    fractions = FRACTIONS[1:] if (cell, preset) == ("rnn", "laptop") else FRACTIONS
    chosen = []
    for dropout in dropouts:
        for fraction in fractions:
            config = base(cell, preset, small, fraction).replace({"model.dropout": dropout})
            old = config.optimizer
            assert isinstance(old, Adam)
            plain_adam = Adam(lr=old.lr, betas=old.betas, eps=old.eps, batch_size=old.batch_size)
            chosen.append(config if decay else config.replace({"optimizer": plain_adam}))
    return chosen


def without_decay(cell: str, preset: Preset) -> list[RunConfig]:
    """Runs of A71 and A73: Adam, and controls with weight decay."""
    fitted = regularised(cell, preset, decay=False, dropouts=(0.0, 0.5))
    fractions = dict.fromkeys(task_of(config).train_fraction for config in fitted)
    return [*fitted, *(decayed(cell, preset, fraction) for fraction in fractions)]
