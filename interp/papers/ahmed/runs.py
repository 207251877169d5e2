"""The runs of the figures of Ahmed, and when their weight decay changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.config import Adam, Modular, Recurrent, RunConfig, recipes
from interp.config.events import AtEpoch, AtStep, parse_event
from interp.papers.kit.figure import Preset

__all__ = [
    "TIMES",
    "begun",
    "by_fraction",
    "decay_after",
    "net_of",
    "regularised",
    "removed_early",
    "removed_late",
    "scaled",
    "task_of",
    "without",
    "without_decay",
]

FRACTIONS = (0.3, 0.5, 0.7)


@dataclass(frozen=True, kw_only=True)
class _Times:
    """When the weight decay changes, in steps or epochs: where it is taken away, and where it sets in."""

    unit: str
    early: tuple[int, ...]
    between: tuple[int, ...]
    """Not in the essay: while the norm is on its way."""
    late: tuple[int, ...]
    begin: int

    def phase_of(self, config: RunConfig) -> str:
        """early, between or late where the run loses its weight decay at such a time, or nothing."""
        if decay_after(config) != 0:
            return ""
        when = parse_event(config.events[0]).when
        assert isinstance(when, AtStep | AtEpoch)
        at = when.step if isinstance(when, AtStep) else when.epoch
        return next(phase for phase in ("early", "between", "late") if at in getattr(self, phase))


TIMES: dict[Preset, _Times] = {
    "toy": _Times(unit="step", early=(5,), between=(10,), late=(15,), begin=10),
    "laptop": _Times(
        unit="step", early=(500, 2000, 5000), between=(7000, 9000, 11_000), late=(15_500, 18_000), begin=3000
    ),
    "paper": _Times(
        unit="epoch", early=(60, 70, 97, 200), between=(1000, 1500, 2000), late=(3495, 3690, 3850, 4270), begin=2000
    ),
}
EPOCHS = 6000
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


def _base(cell: str, preset: Preset, laptop: dict[str, Any], fraction: float = 0.7) -> RunConfig:
    """The net of a preset, with what the laptop's differs in from figure to figure."""
    config = recipes.get(f"ahmed-{cell}").replace({"task.train_fraction": fraction})
    match preset:
        case "toy":
            return config.replace(TOY)
        case "laptop":
            return config.replace((LSTM if cell == "lstm" else RNN) | laptop)
        case "paper":
            return config.replace(LARGE | {"steps": EPOCHS * _steps_per_epoch(config)})


def _steps_per_epoch(config: RunConfig) -> int:
    """Updates in one pass; a last batch that would be incomplete is dropped.

    >>> _steps_per_epoch(recipes.get("ahmed-lstm").replace({"task.train_fraction": 0.5}))
    199
    """
    task = task_of(config)
    assert config.optimizer.batch_size is not None
    return int(task.train_fraction * task.p**2) // config.optimizer.batch_size


def task_of(config: RunConfig) -> Modular:
    """The task, which is modular in every run of the essay."""
    assert isinstance(config.task, Modular)
    return config.task


def net_of(config: RunConfig) -> Recurrent:
    """The model, which is recurrent in every run of the essay."""
    assert isinstance(config.model, Recurrent)
    return config.model


def decay_after(config: RunConfig) -> float | None:
    """The weight decay behind the event of a run; None where it has no event."""
    if not config.events:
        return None
    (event,) = map(parse_event, config.events)
    return float(dict(event.changes)["optimizer.weight_decay"])


def _decayed(cell: str, preset: Preset, fraction: float, seed: int = 0) -> RunConfig:
    """AdamW without dropout: the nets of A2 and A3, to which A71 to A74 and A78 compare theirs."""
    laptop = {"task.p": 47, "optimizer.weight_decay": 0.3, "steps": 26_000} if cell == "lstm" else {"steps": 50_000}
    return _base(cell, preset, laptop, fraction).replace({"seed": seed, "task.seed": seed} if seed else {})


def by_fraction(cell: str, preset: Preset) -> list[RunConfig]:
    """A2 and A3; two seeds where they are cheap."""
    seeds = range(2 if (cell, preset) == ("lstm", "laptop") else 1)
    return [_decayed(cell, preset, fraction, seed) for seed in seeds for fraction in FRACTIONS]


def _constant(preset: Preset) -> RunConfig:
    """The LSTM whose weight decay is changed in A4 to A7, unchanged."""
    laptop = {"task.p": 31, "optimizer.weight_decay": 0.1, "steps": 22_000}
    return _base("lstm", preset, laptop, 0.5 if preset == "paper" else 0.7)


def without(preset: Preset) -> list[RunConfig]:
    """A4: with weight decay and without; without it for longer too, where there is the time."""
    never = _constant(preset).replace({"optimizer.weight_decay": 0.0})
    longer = [never.replace({"steps": 2 * never.steps})] if preset == "paper" else []
    return [_constant(preset), never, *longer]


def _removed(preset: Preset, *phases: str) -> list[RunConfig]:
    times = TIMES[preset]
    whens = [when for phase in phases for when in getattr(times, phase)]
    return [_constant(preset).replace({"events": (_event(times, when, 0.0),)}) for when in whens]


def removed_early(preset: Preset) -> list[RunConfig]:
    """A5: weight decay never removed, removed early, and removed in between."""
    return [_constant(preset), *_removed(preset, "early", "between")]


def removed_late(preset: Preset) -> list[RunConfig]:
    """A6."""
    return _removed(preset, "late")


def begun(preset: Preset) -> list[RunConfig]:
    """A7: weight decay that sets in late, and twice of it."""
    constant, times = _constant(preset), TIMES[preset]
    never = constant.replace({"optimizer.weight_decay": 0.0})
    decays = [factor * constant.optimizer.weight_decay for factor in (1, 2)]
    return [never.replace({"events": (_event(times, times.begin, decay),)}) for decay in decays]


def _event(times: _Times, when: int, decay: float) -> str:
    return f"{times.unit} {when}: optimizer.weight_decay={decay!r}"


def regularised(cell: str, preset: Preset, *, decay: bool, dropouts: Sequence[float]) -> list[RunConfig]:
    """A71 to A74: Adam or AdamW, with dropout or without, by fraction."""
    small = {"task.p": 47, "optimizer.weight_decay": 0.3, "steps": 14_000} if cell == "lstm" else {"steps": 30_000}
    # no RNN is known to generalise from 30 % in the laptop's time, with decay either, so that nothing would follow
    fractions = FRACTIONS[1:] if (cell, preset) == ("rnn", "laptop") else FRACTIONS
    chosen = []
    for dropout in dropouts:
        for fraction in fractions:
            config = _base(cell, preset, small, fraction).replace({"model.dropout": dropout})
            old = config.optimizer
            assert isinstance(old, Adam)
            plain_adam = Adam(lr=old.lr, betas=old.betas, eps=old.eps, batch_size=old.batch_size)
            chosen.append(config if decay else config.replace({"optimizer": plain_adam}))
    return chosen


def without_decay(cell: str, preset: Preset) -> list[RunConfig]:
    """A71 and A73: Adam, and the runs with weight decay that show what could have been."""
    fitted = regularised(cell, preset, decay=False, dropouts=(0.0, 0.5))
    fractions = dict.fromkeys(task_of(config).train_fraction for config in fitted)
    return [*fitted, *(_decayed(cell, preset, fraction) for fraction in fractions)]


def scaled(preset: Preset) -> list[RunConfig]:
    """A78: for each cell the initial weights unscaled, and times 5."""
    lstm = _base("lstm", preset, {"task.p": 59, "optimizer.weight_decay": 0.1, "steps": 20_000})
    rnn = _decayed("rnn", preset, 0.7)
    shorter = {"steps": 30_000} if preset == "laptop" else {}
    small = [lstm.replace({"model.init_scale": 1.0}), rnn.replace({"model.init_scale": 1.0, **shorter})]
    return [small[0], lstm, small[1], rnn]
