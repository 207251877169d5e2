"""Grokking in neural networks and the role of regularization (Ahmed, AIMS essay, 2024): recurrent nets.

An LSTM or an RNN reads the sentence `<sos> a + b mod =`, all its initial weights times 5; decoupled weight decay draws
them back, at a rate per step, so that the norm falls roughly as

    |theta| ~ exp(-lr wd t),

and what grokking waits for is the product lr wd t. The essay's decay of 0.01 takes hundreds of thousands of steps. The
laptop preset takes 0.1 (or 0.3) and a tenth (a thirtieth) of the time; that is good for the time of grokking and not
for its shape, which the lower decay smears out, and where decay and gradient balance is another norm too.

Figures are named as in the essay without the chapter: A2 is figure 5.2, A78 figure 7.8. Each row of panels is a
setting, as in the essay's appendix, with loss, accuracy and weight norm, and a line where the weight decay changes.

What its words mean here, fixed before the runs:

- A net has fitted at the first sustained training accuracy of 99 %, and generalised at that of 95 % on held-out pairs;
  the delay is the quotient of the two steps. It groks if the delay is at least 2; a net that has fitted and has not
  generalised by its end has not grokked.
- Where accuracy is below that, commutativity may be all it has learned: (b, a) is trained on for a share of the
  held-out (a, b) that is the training fraction. "Poor" and "half-way" are read off the other pairs, at stored steps.
- Something is earlier, or more of a thing, by a tenth at least: evaluations are too far apart to tell less.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp import recipes
from interp.analysis.measures import measure
from interp.analysis.phases import sustained_step
from interp.config import Adam, Modular, Recurrent, RunConfig
from interp.events import AtEpoch, AtStep, parse_event
from interp.plots.style import COLOURS, StepAxis, figure, plain, step_axis
from interp.reproduce.figures import Claim, Figure, Preset

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.trajectory import Trajectory

__all__ = ["FIGURES"]

PAPER = "Grokking in neural networks and the role of regularization (Ahmed, AIMS essay, 2024)"
FRACTIONS = (0.3, 0.5, 0.7)
ESSAY_DECAY = 0.01
FITTED, GENERALISED, HALF_WAY = 0.99, 0.95, 0.5
HOLD, STORED_HOLD = 5, 2
"""Further evaluations, and further stored steps (half as dense, or less), for which a level must be held."""
DELAYED, MORE, POOR, HARMLESS = 2.0, 1.1, 0.5, -0.05
"""Least delay that is grokking; least quotient that is more; accuracy that is poor; loss of accuracy that is none."""
LOGGED = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
STORED = ("weight_norm", "test_accuracy_unmirrored")


# --- what is trained --------------------------------------------------------------------------------------------------


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
        if _decay_after(config) != 0:
            return ""
        when = parse_event(config.events[0]).when
        assert isinstance(when, AtStep | AtEpoch)
        at = when.step if isinstance(when, AtStep) else when.epoch
        return next(phase for phase in ("early", "between", "late") if at in getattr(self, phase))


_TIMES: dict[Preset, _Times] = {
    "toy": _Times(unit="step", early=(5,), between=(10,), late=(15,), begin=10),
    "laptop": _Times(
        unit="step", early=(500, 2000, 5000), between=(7000, 9000, 11_000), late=(15_500, 18_000), begin=3000
    ),
    "paper": _Times(
        unit="epoch", early=(60, 70, 97, 200), between=(1000, 1500, 2000), late=(3495, 3690, 3850, 4270), begin=2000
    ),
}
EPOCHS = 6000
_LARGE: dict[str, Any] = {"save.weights": "every(20000)", "save.state": "every(100000)", "log.test": "every(2000)"}
_SMALL: dict[str, Any] = {
    "optimizer.batch_size": 64, "save.weights": "every(500)", "save.state": "every(10000)", "log.train": "every(50)",
    "log.test": "every(250)",
}  # fmt: skip
_LSTM: dict[str, Any] = _SMALL | {"optimizer.lr": 3e-3, "model.d_model": 64, "model.d_hidden": 64}
_RNN: dict[str, Any] = _SMALL | {"optimizer.lr": 1e-3, "optimizer.weight_decay": 0.3, "task.p": 47}
_TOY: dict[str, Any] = {
    "task.p": 11, "task.seed": 1, "model.d_model": 8, "model.d_hidden": 8, "optimizer.batch_size": 16,
    "optimizer.lr": 1e-2, "optimizer.weight_decay": 0.1, "steps": 20, "save.weights": "every(5)",
    "save.state": "every(20)", "log.train": "every(10)", "log.test": "every(5)",
}  # fmt: skip


def _base(cell: str, preset: Preset, laptop: dict[str, Any], fraction: float = 0.7) -> RunConfig:
    """The net of a preset, with what the laptop's differs in from figure to figure."""
    config = recipes.get(f"ahmed-{cell}").replace({"task.train_fraction": fraction})
    match preset:
        case "toy":
            return config.replace(_TOY)
        case "laptop":
            return config.replace((_LSTM if cell == "lstm" else _RNN) | laptop)
        case "paper":
            return config.replace(_LARGE | {"steps": EPOCHS * _steps_per_epoch(config)})


def _steps_per_epoch(config: RunConfig) -> int:
    """Updates in one pass; a last batch that would be incomplete is dropped.

    >>> _steps_per_epoch(recipes.get("ahmed-lstm").replace({"task.train_fraction": 0.5}))
    199
    """
    task = _task(config)
    assert config.optimizer.batch_size is not None
    return int(task.train_fraction * task.p**2) // config.optimizer.batch_size


def _task(config: RunConfig) -> Modular:
    assert isinstance(config.task, Modular)
    return config.task


def _net(config: RunConfig) -> Recurrent:
    assert isinstance(config.model, Recurrent)
    return config.model


def _decayed(cell: str, preset: Preset, fraction: float, seed: int = 0) -> RunConfig:
    """AdamW without dropout: the nets of A2 and A3, to which A71 to A74 and A78 compare theirs."""
    laptop = {"task.p": 47, "optimizer.weight_decay": 0.3, "steps": 26_000} if cell == "lstm" else {"steps": 50_000}
    return _base(cell, preset, laptop, fraction).replace({"seed": seed, "task.seed": seed} if seed else {})


def _by_fraction(cell: str, preset: Preset) -> list[RunConfig]:
    seeds = range(2 if (cell, preset) == ("lstm", "laptop") else 1)
    return [_decayed(cell, preset, fraction, seed) for seed in seeds for fraction in FRACTIONS]


def _constant(preset: Preset) -> RunConfig:
    """The LSTM whose weight decay is changed in A4 to A7, unchanged."""
    laptop = {"task.p": 31, "optimizer.weight_decay": 0.1, "steps": 22_000}
    return _base("lstm", preset, laptop, 0.5 if preset == "paper" else 0.7)


def _without(preset: Preset) -> list[RunConfig]:
    never = _constant(preset).replace({"optimizer.weight_decay": 0.0})
    longer = [never.replace({"steps": 2 * never.steps})] if preset == "paper" else []
    return [_constant(preset), never, *longer]


def _removed(preset: Preset, *phases: str) -> list[RunConfig]:
    times = _TIMES[preset]
    whens = [when for phase in phases for when in getattr(times, phase)]
    return [_constant(preset).replace({"events": (_event(times, when, 0.0),)}) for when in whens]


def _removed_early(preset: Preset) -> list[RunConfig]:
    return [_constant(preset), *_removed(preset, "early", "between")]


def _removed_late(preset: Preset) -> list[RunConfig]:
    return _removed(preset, "late")


def _begun(preset: Preset) -> list[RunConfig]:
    constant, times = _constant(preset), _TIMES[preset]
    never = constant.replace({"optimizer.weight_decay": 0.0})
    decays = [factor * constant.optimizer.weight_decay for factor in (1, 2)]
    return [never.replace({"events": (_event(times, times.begin, decay),)}) for decay in decays]


def _event(times: _Times, when: int, decay: float) -> str:
    return f"{times.unit} {when}: optimizer.weight_decay={decay!r}"


def _regularised(cell: str, preset: Preset, *, decay: bool, dropouts: Sequence[float]) -> list[RunConfig]:
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


def _without_decay(cell: str, preset: Preset) -> list[RunConfig]:
    """A71 and A73: Adam, and the runs with weight decay that show what could have been."""
    fitted = _regularised(cell, preset, decay=False, dropouts=(0.0, 0.5))
    fractions = dict.fromkeys(_task(config).train_fraction for config in fitted)
    return [*fitted, *(_decayed(cell, preset, fraction) for fraction in fractions)]


def _scaled(preset: Preset) -> list[RunConfig]:
    lstm = _base("lstm", preset, {"task.p": 59, "optimizer.weight_decay": 0.1, "steps": 14_000})
    rnn = _decayed("rnn", preset, 0.7)
    shorter = {"steps": 30_000} if preset == "laptop" else {}
    small = [lstm.replace({"model.init_scale": 1.0}), rnn.replace({"model.init_scale": 1.0, **shorter})]
    return [small[0], lstm, small[1], rnn]


# --- results ----------------------------------------------------------------------------------------------------------


def _results(trajs: Sequence["Trajectory"], preset: Preset, *, panel: Callable[[RunConfig], str]) -> xr.Dataset:
    """The curves over (run, step), NaN where nothing was evaluated or stored, and what each run is.

    Arguments:
        panel: names the row in which a run is drawn, "" if it is there to compare with; over its seeds medians are
            taken.

    Returns:
        `LOGGED` and `STORED`; coordinates over `run`: panel, phase, cell, seed, train_fraction, init_scale, dropout,
        weight_decay (at the start), event_step and decay_after, from then on (NaN without an event).
    """
    configs = [traj.config for traj in trajs]
    data = xr.concat(
        [_curves(traj) for traj in trajs], dim="run", join="outer", data_vars="all", coords="different",
        compat="equals", combine_attrs="drop",
    )  # fmt: skip
    nets = [_net(config) for config in configs]
    columns: dict[str, list[Any]] = {
        "panel": [panel(config) for config in configs],
        "phase": [_TIMES[preset].phase_of(config) for config in configs],
        "cell": [net.cell for net in nets],
        "seed": [config.seed for config in configs],
        "train_fraction": [_task(config).train_fraction for config in configs],
        "init_scale": [net.init_scale for net in nets],
        "dropout": [net.dropout for net in nets],
        "weight_decay": [config.optimizer.weight_decay for config in configs],
        "event_step": [float(traj.events[0][0]) if traj.events else math.nan for traj in trajs],
        "decay_after": [math.nan if (after := _decay_after(config)) is None else after for config in configs],
    }
    data = data.assign_coords({name: ("run", np.array(column)) for name, column in columns.items()})
    return data.assign_attrs(preset=preset, scaling=_scaling(configs))


def _curves(traj: "Trajectory") -> xr.Dataset:
    """The four logged curves at the steps of the test pass, and the two measures at the stored ones."""
    logged = traj.metrics[list(LOGGED)].dropna("step", subset=["test_accuracy"])
    return logged.merge(measure(traj, STORED), join="outer", combine_attrs="drop").astype(np.float32)


def _scaling(configs: Sequence[RunConfig]) -> str:
    """What the weight decay of a preset stands for; nothing where it is the essay's.

    >>> _scaling([_constant("laptop")])
    "weight decay 0.1 stands for the essay's 0.01, time divided by 10"
    """
    units: dict[str, float] = {}
    for config in configs:
        for decay in filter(None, (config.optimizer.weight_decay, _decay_after(config))):
            units[config.model.slug] = min(decay, units.get(config.model.slug, math.inf))
    found = {unit: [slug for slug in units if units[slug] == unit] for unit in units.values() if unit != ESSAY_DECAY}
    return "; ".join(
        f"weight decay {unit:g}{f' ({slugs[0].upper()})' if len(found) > 1 else ''} stands for the essay's "
        f"{ESSAY_DECAY:g}, time divided by {unit / ESSAY_DECAY:.0f}"
        for unit, slugs in found.items()
    )


def _decay_after(config: RunConfig) -> float | None:
    """The weight decay behind the event of a run; None where it has no event."""
    if not config.events:
        return None
    (event,) = map(parse_event, config.events)
    return float(dict(event.changes)["optimizer.weight_decay"])


def _panel_of_fraction(config: RunConfig) -> str:
    return f"{_task(config).train_fraction:.0%} trained on"


def _panel_of_schedule(config: RunConfig) -> str:
    before = config.optimizer.weight_decay
    if not config.events:
        return f"weight decay {before:g} throughout, {config.steps:,} steps"
    unit, number = str(parse_event(config.events[0]).when).split()
    return f"weight decay {before:g} until {unit} {int(number):,}, then {_decay_after(config):g}"


def _panel_of_regularisation(config: RunConfig) -> str:
    dropped = f"dropout {_net(config).dropout:g}" if _net(config).dropout else "no dropout"
    kind = f"AdamW, weight decay {config.optimizer.weight_decay:g}" if config.optimizer.weight_decay else "Adam"
    return f"{kind}, {dropped}, {_task(config).train_fraction:.0%} trained on"


def _panel_without_decay(config: RunConfig) -> str:
    return "" if config.optimizer.weight_decay else _panel_of_regularisation(config)


def _panel_of_scale(config: RunConfig) -> str:
    scale = _net(config).init_scale
    return f"{_net(config).slug.upper()}, initial weights {'unscaled' if scale == 1 else f'times {scale:g}'}"


# --- numbers ----------------------------------------------------------------------------------------------------------


def _reached(run: xr.Dataset, name: str, threshold: float) -> float:
    """The step from which a curve is sustained at the threshold; infinite where it is not by the end of the run."""
    curve = run[name].dropna("step")
    hold = STORED_HOLD if name in STORED else HOLD
    step = sustained_step(curve["step"].values, curve.values, threshold, hold=hold)
    return math.inf if step is None else float(step)


def _fitted(run: xr.Dataset) -> float:
    """The step at which the training set is fitted; NaN where it is not."""
    step = _reached(run, "train_accuracy", FITTED)
    return step if 0 < step < math.inf else math.nan


def _generalised(run: xr.Dataset) -> float:
    return _reached(run, "test_accuracy", GENERALISED)


def _last(run: xr.Dataset) -> float:
    return float(run["test_accuracy"].dropna("step")["step"].values[-1])


def _delay(run: xr.Dataset) -> float:
    """Steps to generalise over steps to fit; infinite where the run ends first, NaN where it has not fitted."""
    return _generalised(run) / _fitted(run)


def _delay_begun(run: xr.Dataset) -> float:
    """The same, of a run whose weight decay begins with the event; NaN where it had generalised before."""
    return _delay(run) if _generalised(run) > float(run["event_step"]) else math.nan


def _least_delay(run: xr.Dataset) -> float:
    """What the delay is at least, for all that is known of a run that may have ended before it generalised."""
    return min(_generalised(run), _last(run)) / _fitted(run)


def _rise(run: xr.Dataset) -> float:
    """Steps from half-way to generalised; NaN where it has not generalised."""
    late = _generalised(run)
    return max(late - _reached(run, "test_accuracy_unmirrored", HALF_WAY), 0.0) if late < math.inf else math.nan


def _rise_over_wait(run: xr.Dataset) -> float:
    """The rise over the wait for it, which begins when the training set is fitted; infinite without a wait."""
    wait = _generalised(run) - _rise(run) - _fitted(run)
    return math.inf if wait <= 0 else _rise(run) / wait


def _rise_over_all(run: xr.Dataset) -> float:
    """The share of the way to generalisation that the rise takes, 0 to 1."""
    return _rise(run) / _generalised(run)


def _held(run: xr.Dataset) -> float:
    """The highest accuracy that is held, on pairs whose mirror is held out too."""
    values = run["test_accuracy_unmirrored"].dropna("step").values
    if len(values) <= STORED_HOLD:
        return math.nan
    return float(np.lib.stride_tricks.sliding_window_view(values, STORED_HOLD + 1).min(-1).max())


def _level(run: xr.Dataset, name: str, before: float = math.inf) -> float:
    """The median of the last values before a step, or before the end."""
    curve = run[name].dropna("step")
    hold = STORED_HOLD if name in STORED else HOLD
    known = curve.values[curve["step"].values <= before][-hold - 1 :]
    return float(np.median(known)) if len(known) else math.nan


def _final(run: xr.Dataset) -> float:
    return _level(run, "test_accuracy_unmirrored")


def _lost(run: xr.Dataset) -> float:
    """Accuracy at the end less that at the event; NaN for a run that has not generalised for good by then."""
    event = float(run["event_step"])
    return _level(run, "test_accuracy") - _level(run, "test_accuracy", event) if _generalised(run) < event else math.nan


def _growth(run: xr.Dataset) -> float:
    """By how much the norm grows in each half of what comes after the event, at least, as a factor."""
    norm = run["weight_norm"].dropna("step")
    after = norm.values[norm["step"].values >= float(run["event_step"])]
    if len(after) < 3:
        return math.nan
    middle = after[len(after) // 2]
    return float(min(middle / after[0], after[-1] / middle))


def _end_norm(run: xr.Dataset) -> float:
    return float(run["weight_norm"].dropna("step").values[-1])


def _medians(data: xr.Dataset, of: Callable[[xr.Dataset], float]) -> dict[str, float]:
    """The median over the seeds of each panel, in order; NaN as soon as one seed is."""
    values = np.array([of(data.isel(run=i)) for i in range(data.sizes["run"])])
    panels = data["panel"].values
    return {str(name): float(np.median(values[panels == name])) for name in dict.fromkeys(panels.tolist())}


def _where(data: xr.Dataset, **wanted: object) -> xr.Dataset:
    """The runs whose coordinates have these values."""
    return data.isel(run=np.logical_and.reduce([data[name].values == value for name, value in wanted.items()]))


# --- claims -----------------------------------------------------------------------------------------------------------


def _smallest_delay(data: xr.Dataset, of: Callable[[xr.Dataset], float] = _delay) -> float:
    """Over panels; 0 where one has fitted and never generalised."""
    delays = list(_medians(data, of).values())
    return math.nan if np.isnan(delays).any() else min(0.0 if delay == math.inf else delay for delay in delays)


def _largest_delay(data: xr.Dataset) -> float:
    """Over the panels that have fitted; 0 where none of them generalised."""
    delays = [delay for delay in _medians(data, _delay).values() if not math.isnan(delay)]
    return max((0.0 if delay == math.inf else delay for delay in delays), default=math.nan)


def _slowest_rise(data: xr.Dataset) -> float:
    """The largest quotient of rise and wait, over the panels that generalised."""
    return max((rise for rise in _medians(data, _rise_over_wait).values() if not math.isnan(rise)), default=math.nan)


def _quotient(one: tuple[float, float], other: tuple[float, float]) -> float:
    """A quotient of two times that may be known from below only (infinite, with the least they can be); NaN where that
    leaves open whether it is `MORE` or less.

    >>> _quotient((3000.0, 3000.0), (1000.0, 1000.0)), _quotient((math.inf, 3000.0), (1000.0, 1000.0))
    (3.0, 3.0)
    >>> _quotient((1000.0, 1000.0), (math.inf, 3000.0)), _quotient((math.inf, 3000.0), (math.inf, 1000.0))
    (0.3333333333333333, nan)
    """
    low = one[1] / other[0]
    high = math.inf if one[0] == math.inf else one[0] / other[1]
    return low if low >= MORE else high if high < MORE else math.nan


def _more_pronounced(data: xr.Dataset) -> float:
    """The least quotient of the delays of a fraction and the next larger one; NaN where the claim stands or falls with
    one that is not known."""
    ordered = data.isel(run=np.argsort(-data["train_fraction"].values, kind="stable"))
    delays, bounds = _medians(ordered, _delay), _medians(ordered, _least_delay)
    quotients = [_quotient((delays[s], bounds[s]), (delays[large], bounds[large])) for large, s in pairwise(delays)]
    least = min((quotient for quotient in quotients if not math.isnan(quotient)), default=math.nan)
    return least if least < MORE or not np.isnan(quotients).any() else math.nan


def _how_much_later(slow: xr.Dataset, fast: xr.Dataset, since: Callable[[xr.Dataset], float]) -> float:
    """The quotient of the steps that two settings take to generalise, counted from where `since` says."""

    def time(data: xr.Dataset, step: Callable[[xr.Dataset], float]) -> float:
        taken = [step(data.isel(run=i)) - since(data.isel(run=i)) for i in range(data.sizes["run"])]
        return float(np.median(taken)) if min(taken) > 0 else math.nan

    def known(run: xr.Dataset) -> float:
        return min(_generalised(run), _last(run))

    one, other = ((time(data, _generalised), time(data, known)) for data in (slow, fast))
    return _quotient(one, other)


def _doubled_decay(data: xr.Dataset) -> float:
    """Steps from the event to generalisation with the lower decay, over those with the doubled one."""
    slow, fast = (_where(data, decay_after=decay) for decay in sorted(set(data["decay_after"].values.tolist())))
    return _how_much_later(slow, fast, lambda run: float(run["event_step"]))


def _highest(data: xr.Dataset, of: Callable[[xr.Dataset], float], **wanted: object) -> float:
    """The highest accuracy of the wanted runs, as far as they can tell: those that have fitted their training set, for
    longer than the run with the same fraction whose weight decay was never changed needed to generalise."""
    control = data.isel(
        run=(data["weight_decay"].values > 0) & (data["dropout"].values == 0) & np.isnan(data["event_step"].values)
    )
    chosen, values = _where(data, **wanted), []
    for panel in dict.fromkeys(chosen["panel"].values.tolist()):
        runs = _where(chosen, panel=panel)
        same = _where(control, train_fraction=runs["train_fraction"].values[0])
        needed = [_generalised(same.isel(run=i)) for i in range(same.sizes["run"])]
        fitted, last = _medians(runs, _fitted)[panel], _medians(runs, _last)[panel]
        if needed and not math.isnan(fitted) and float(np.median(needed)) <= last:
            values.append(_medians(runs, of)[panel])
    return max(values, default=math.nan)


def _smallest(data: xr.Dataset, of: Callable[[xr.Dataset], float]) -> float:
    """The smallest number of all panels that have one."""
    values = [value for value in _medians(data, of).values() if not math.isnan(value)]
    return min(values, default=math.nan)


def _norm_without(data: xr.Dataset) -> float:
    """The norm at the end without weight decay over that with it."""
    without, with_decay = (data.isel(run=(data["weight_decay"].values > 0) == decays) for decays in (False, True))
    return min(_medians(without, _end_norm).values()) / max(_medians(with_decay, _end_norm).values())


def _delays_by_scale(data: xr.Dataset, cell: str) -> float:
    return _smallest_delay(_where(data, cell=cell, init_scale=5.0))


def _faster_unscaled(data: xr.Dataset, cell: str) -> float:
    scaled, unscaled = (_where(data, cell=cell, init_scale=scale) for scale in (5.0, 1.0))
    return _how_much_later(scaled, unscaled, lambda run: 0.0)


def _more_gradual_unscaled(data: xr.Dataset, cell: str) -> float:
    shares = [_medians(_where(data, cell=cell, init_scale=scale), _rise_over_all) for scale in (1.0, 5.0)]
    (unscaled,), (scaled,) = (share.values() for share in shares)
    return unscaled / scaled if scaled else math.inf if unscaled else math.nan


_FITTING = "runs that fit their training set"
_CONTROL = "runs that fit their training set, and one with weight decay that generalises in the same time"
_GENERALISING = "runs that generalise"


def _claims_by_fraction(net: str) -> tuple[Claim, ...]:
    return (
        Claim(
            text=f"The {net} groks at 30, 50 and 70 %: validation reaches 95 % after at least twice the steps that "
            "training takes to 99 % (0: never).",
            measure=_smallest_delay, at_least=DELAYED, unit="x", needs=_FITTING,
        ),
        Claim(
            text="The improvement is sudden: from 50 % to 95 % validation accuracy takes no longer than the wait "
            "before it.",
            measure=_slowest_rise, at_most=1.0, unit="of the wait", needs=_GENERALISING,
        ),
        Claim(
            text="The smaller the fraction, the more pronounced: its delay (steps to validation over steps to training "
            "accuracy) is longer than that of the next larger one.",
            measure=_more_pronounced, at_least=MORE, unit="x",
            needs="runs that generalise at each fraction, or are longer",
        ),
    )  # fmt: skip


def _claim_without(net: str, dropout: float) -> Claim:
    return Claim(
        text=f"The {net} does not generalise without weight decay, {'dropout' if dropout else 'no dropout'}: on pairs "
        "whose mirror is held out too, no accuracy above 50 % is held.",
        measure=partial(_highest, of=_held, weight_decay=0.0, dropout=dropout), at_most=POOR, unit="accuracy",
        needs=_CONTROL,
    )  # fmt: skip


def _claim_dropout(net: str) -> Claim:
    return Claim(
        text=f"With weight decay and dropout the {net} groks, at one fraction at least: validation reaches 95 % after "
        "at least twice the steps that training takes to 99 % (0: never).",
        measure=_largest_delay, at_least=DELAYED, unit="x", needs=_FITTING,
    )  # fmt: skip


def _claims_by_scale(net: str) -> tuple[Claim, ...]:
    cell = net.lower()
    return (
        Claim(
            text=f"{net}, all initial weights times 5: groks, validation reaches 95 % after at least twice the steps "
            "that training takes to 99 % (0: never).",
            measure=partial(_delays_by_scale, cell=cell), at_least=DELAYED, unit="x", needs=_FITTING,
        ),
        Claim(
            text=f"{net}: with unscaled weights generalisation is faster, in fewer steps than with weights times 5.",
            measure=partial(_faster_unscaled, cell=cell), at_least=MORE, unit="x", needs=_GENERALISING,
        ),
        Claim(
            text=f"{net}: with unscaled weights generalisation is more gradual, from 50 % to 95 % validation accuracy "
            "in a larger share of the steps it takes.",
            measure=partial(_more_gradual_unscaled, cell=cell), at_least=MORE, unit="x",
            needs="runs that generalise with either initialisation",
        ),
    )  # fmt: skip


# --- the picture ------------------------------------------------------------------------------------------------------

COLUMNS: tuple[
    tuple[str, tuple[tuple[str, str, str, str], ...], dict[str, Any]], ...
] = (  # heading, curves as (variable, legend, colour, dash), layout of the axis
    (
        "cross-entropy (nats)",
        (("train_loss", "train", "train", "solid"), ("test_loss", "held out", "test", "solid")),
        {"type": "log", "exponentformat": "power", "nticks": 4},
    ),
    (
        "accuracy (share right)",
        (
            ("train_accuracy", "train", "train", "solid"),
            ("test_accuracy", "held out", "test", "solid"),
            ("test_accuracy_unmirrored", "(b, a) held out too", "test", "dot"),
        ),
        {"range": [-0.04, 1.06], "tickvals": [0, 0.5, 1]},
    ),
    ("weight norm (l2)", (("weight_norm", "weight norm", "norm", "solid"),), {"rangemode": "tozero", "nticks": 4}),
)
POINTS = 2000
"""Of a figure, about, however many curves it has."""
ROW, TOP, BOTTOM = 118, 112, 52
"""Heights in pixels of a row of panels and of the margins."""


def _plot(data: xr.Dataset, *, title: str) -> "go.Figure":
    """A row for each panel: loss, accuracy and weight norm over steps; a line for each seed; events dotted."""
    drawn = data.isel(run=data["panel"].values != "")
    panels = list(dict.fromkeys(drawn["panel"].values.tolist()))
    axis = step_axis(data["step"].values)
    points = max(20, POINTS // (drawn.sizes["run"] * sum(len(curves) for _, curves, _ in COLUMNS)))
    heading = f"{title}<br><sup>{plain(data.attrs['scaling'])}</sup>"
    fig = figure(heading, y="", height=TOP + BOTTOM + ROW * len(panels))  # each column has its unit as its heading
    fig.update_layout(margin={"t": TOP, "b": BOTTOM}, showlegend=True)
    fig.update_layout(legend={"y": 1 + 40 / (ROW * len(panels))})
    for row, panel in enumerate(panels):
        runs = _where(drawn, panel=panel)
        for column, (unit, curves, look) in enumerate(COLUMNS):
            suffix = _suffix(row, column)
            x, y = f"x{suffix}", f"y{suffix}"
            _lay_out(fig, axis, (row, len(panels)), column, look)
            for name, legend, colour, dash in curves:
                for i in range(runs.sizes["run"]):
                    series = _thinned(runs[name].isel(run=i).dropna("step"), axis, points)
                    positive = look.get("type") == "log"
                    fig.add_scatter(
                        x=axis.place(series["step"].values),
                        y=np.where(series.values > 0, series.values, np.nan) if positive else series.values,
                        xaxis=x, yaxis=y, mode="lines", name=legend, legendgroup=legend,
                        line={"color": COLOURS[colour], "width": 1.3, "dash": dash},
                        showlegend=row == i == 0 and name not in ("train_accuracy", "test_accuracy"),  # as the loss
                        hovertemplate="%{y:.3~g}",
                    )  # fmt: skip
            _mark_event(fig, runs, axis, suffix)
            if row == 0:
                fig.add_annotation(
                    text=unit, xref=f"{x} domain", x=0.5, yref="paper", y=1, yanchor="bottom", yshift=16,
                    showarrow=False,
                )  # fmt: skip
        fig.add_annotation(
            text=plain(panel), xref="paper", x=0, xanchor="left", yref=f"y{_suffix(row, 0)} domain", y=1,
            yanchor="bottom", yshift=0, showarrow=False, font={"size": 11},
        )  # fmt: skip
    return fig


def _suffix(row: int, column: int) -> str:
    """What the axes of a panel are numbered with, row by row; the first ones have no number."""
    number = 1 + row * len(COLUMNS) + column
    return "" if number == 1 else str(number)


def _lay_out(fig: "go.Figure", axis: StepAxis, row: tuple[int, int], column: int, look: dict[str, Any]) -> None:
    """The axes of a panel and their place on the paper; steps are numbered below the last row only."""
    (i, rows), suffix = row, _suffix(row[0], column)
    width, gap = 0.27, 0.095
    left, high, last = column * (width + gap), 1 - i / rows, i == rows - 1
    fig.update_layout(
        {
            f"xaxis{suffix}": {
                **axis.layout(),
                "domain": [left, left + width],
                "anchor": f"y{suffix}",
                "showticklabels": last,
                "title": {"text": "step (log scale; 0 set apart)" if last else ""},
            },
            f"yaxis{suffix}": {**look, "domain": [high - 0.74 / rows, high], "anchor": f"x{suffix}"},
        }
    )


def _mark_event(fig: "go.Figure", runs: xr.Dataset, axis: StepAxis, suffix: str) -> None:
    """A dotted line where the weight decay of a panel's runs changes; what becomes of it, the panel's name says."""
    step = float(runs["event_step"].values[0])
    if math.isnan(step):
        return
    x = float(axis.place(step))
    fig.add_shape(
        type="line", xref=f"x{suffix}", yref=f"y{suffix} domain", x0=x, x1=x, y0=0, y1=1, name="event", layer="above",
        line={"color": COLOURS["event"], "width": 1.2, "dash": "dot"},
    )  # fmt: skip


def _thinned(curve: xr.DataArray, axis: StepAxis, points: int) -> xr.DataArray:
    """About so many points of a curve, evenly spaced on the axis; the first and the last are kept."""
    if curve.size <= points:
        return curve
    place = np.log(axis.place(curve["step"].values))
    wanted = np.linspace(place[0], place[-1], points)
    return curve.isel(step=np.unique(np.abs(place[:, None] - wanted).argmin(axis=0)))


# --- the figures ------------------------------------------------------------------------------------------------------

_SIZE = (
    "The essay's learning rate is lost; the paper preset takes 1e-3, which lr wd t makes likely. Laptop: batches of 64 "
    "(the essay: 32); "
)
_LSTM_SIZE = "LSTM and embeddings of 64, learning rate 3e-3. "
_RNN_SIZE = (
    "tanh RNN and embeddings of 128, p = 47, learning rate 1e-3, weight decay 0.3 for 0.01, time divided by 30; no "
    "lower one is known to make it grok, and that of the essay was not tried. "
)
_BY_FRACTION_LSTM = "p = 47, weight decay 0.3 for 0.01, time divided by 30"
_SCHEDULED = (
    f"{_SIZE}{_LSTM_SIZE}p = 31, one seed, 70 % of the pairs (the essay: 50 %). Weight decay 0.1 stands for 0.01, time "
    "divided by 10, which is right for the time of grokking and not for its shape. "
)
_ADAM = (
    "'Adam' has no weight decay at all, neither decoupled nor as L2 in the gradient. A run counts only if it has "
    "fitted its training set, which dropout makes slow with large initial weights, and if the same net with weight "
    "decay and no dropout has generalised in as many steps (those runs are not drawn). "
)


def _figure(
    label: str,
    title: str,
    runs: Callable[[Preset], Sequence[RunConfig]],
    panel: Callable[[RunConfig], str],
    claims: tuple[Claim, ...],
    *,
    notes: str,
    minutes: tuple[float, float],
) -> Figure:
    """A figure of the essay; `minutes` of the laptop and of the paper preset."""
    return Figure(
        paper=PAPER,
        label=label,
        title=title,
        runs=runs,
        compute=partial(_results, panel=panel),
        plot=partial(_plot, title=title),
        claims=claims,
        notes=notes.strip(),
        together=8,
        minutes={"toy": 0.1, "laptop": minutes[0], "paper": minutes[1]},
    )


FIGURES: tuple[Figure, ...] = (
    _figure(
        "A2",
        "LSTM by training fraction",
        partial(_by_fraction, "lstm"),
        _panel_of_fraction,
        _claims_by_fraction("LSTM"),
        notes=f"{_SIZE}{_LSTM_SIZE}{_BY_FRACTION_LSTM}; two seeds. The delay is a quotient, so that epochs and steps "
        "give the same; a fraction that has not generalised by its end enters with the least its delay can be.",
        minutes=(1.8, 150),
    ),
    _figure(
        "A3",
        "RNN by training fraction",
        partial(_by_fraction, "rnn"),
        _panel_of_fraction,
        _claims_by_fraction("RNN"),
        notes=f"{_SIZE}{_RNN_SIZE}One seed. How much of a delay there is depends on p (hardly any at p = 59); at 30 % "
        "no run is known to generalise in this time.",
        minutes=(1.5, 60),
    ),
    _figure(
        "A4",
        "LSTM without weight decay",
        _without,
        _panel_of_schedule,
        (
            _claim_without("LSTM", 0.0),
            Claim(
                text="Without weight decay the weight norm ends above that with it.",
                measure=_norm_without,
                at_least=MORE,
                unit="x",
            ),
        ),
        notes=f"{_SCHEDULED}'Never' is as far as run: the essay's second panel, much longer, is twice as long in the "
        "paper preset (how long is not stated) and left out on the laptop.",
        minutes=(0.8, 200),
    ),
    _figure(
        "A5",
        "LSTM, weight decay removed early",
        _removed_early,
        _panel_of_schedule,
        (
            Claim(
                text="Weight decay removed early: generalisation is poor, on pairs whose mirror is held out too the "
                "accuracy at the end is 50 % at most.",
                measure=partial(_highest, of=_final, phase="early"),
                at_most=POOR,
                unit="accuracy",
                needs=_CONTROL,
            ),
            Claim(
                text="The weight norm keeps growing after the removal, in the first and in the second half of what is "
                "left of the run.",
                measure=partial(_smallest, of=_growth),
                at_least=1.0,
                unit="x in each half",
                needs="two stored steps and more behind the removal",
            ),
        ),
        notes=f"{_SCHEDULED}The essay removes it at epochs 60, 70, 97 and 200, long before anything else happens. The "
        "removals in between, while the norm is on its way to that at which the net generalises, are not in the essay "
        "and are not judged by the first claim: they show which removal is too early.",
        minutes=(1.7, 400),
    ),
    _figure(
        "A6",
        "LSTM, weight decay removed late",
        _removed_late,
        _panel_of_schedule,
        (
            Claim(
                text="Weight decay removed after grokking: validation accuracy at the end is not below that at the "
                "removal by more than 5 points.",
                measure=partial(_smallest, of=_lost),
                at_least=HARMLESS,
                unit="accuracy",
                needs="runs that have generalised for good before the removal",
            ),
        ),
        notes=f"{_SCHEDULED}The essay removes it at epochs 3495, 3690, 3850 and 4270. Levels are medians of six "
        "evaluations, so that a spike of the loss is no loss of generalisation.",
        minutes=(0.8, 200),
    ),
    _figure(
        "A7",
        "LSTM, weight decay begun late",
        _begun,
        _panel_of_schedule,
        (
            Claim(
                text="Weight decay that sets in after the training set is fitted leads to grokking nevertheless: "
                "validation reaches 95 % after at least twice the steps that training takes to 99 % (0: never).",
                measure=partial(_smallest_delay, of=_delay_begun),
                at_least=DELAYED,
                unit="x",
                needs="runs that fit their training set and have not generalised when weight decay sets in",
            ),
            Claim(
                text="Twice the weight decay: grokking is earlier, in fewer steps after it sets in.",
                measure=_doubled_decay,
                at_least=MORE,
                unit="x",
                needs=_GENERALISING,
            ),
        ),
        notes=f"{_SCHEDULED}When it sets in is not stated in the essay; epoch 2000 of the paper preset is a choice.",
        minutes=(0.8, 100),
    ),
    _figure(
        "A71",
        "RNN, Adam, without and with dropout",
        partial(_without_decay, "rnn"),
        _panel_without_decay,
        tuple(_claim_without("RNN", dropout) for dropout in (0.0, 0.5)),
        notes=f"{_ADAM}{_SIZE}{_RNN_SIZE}One seed; 50 and 70 % only, as in this time no RNN is known to generalise "
        "from 30 %.",
        minutes=(2.7, 180),
    ),
    _figure(
        "A72",
        "RNN, AdamW with dropout",
        partial(_regularised, "rnn", decay=True, dropouts=(0.5,)),
        _panel_of_regularisation,
        (_claim_dropout("RNN"),),
        notes=f"{_SIZE}{_RNN_SIZE}One seed. The essay does not say at which fractions it groks.",
        minutes=(0.8, 60),
    ),
    _figure(
        "A73",
        "LSTM, Adam, without and with dropout",
        partial(_without_decay, "lstm"),
        _panel_without_decay,
        tuple(_claim_without("LSTM", dropout) for dropout in (0.0, 0.5)),
        notes=f"{_ADAM}{_SIZE}{_LSTM_SIZE}{_BY_FRACTION_LSTM}; one seed.",
        minutes=(2.1, 450),
    ),
    _figure(
        "A74",
        "LSTM, AdamW with dropout",
        partial(_regularised, "lstm", decay=True, dropouts=(0.5,)),
        _panel_of_regularisation,
        (_claim_dropout("LSTM"),),
        notes=f"{_SIZE}{_LSTM_SIZE}{_BY_FRACTION_LSTM}; one seed. The essay does not say at which fractions it groks.",
        minutes=(0.6, 150),
    ),
    _figure(
        "A78",
        "Initial weights, unscaled and times 5",
        _scaled,
        _panel_of_scale,
        (*_claims_by_scale("RNN"), *_claims_by_scale("LSTM")),
        notes=f"{_SIZE}{_LSTM_SIZE}p = 59 (at p = 31 the unscaled one has a delay too), weight decay 0.1 for 0.01, "
        f"time divided by 10; {_RNN_SIZE}One seed each; 70 %. The initial norm is the whole difference, so 'faster' is "
        "in steps to a validation accuracy of 95 %.",
        minutes=(1.5, 195),
    ),
)
"""A2 to A7, A71 to A74 (the appendix's figures 7.1 to 7.4) and A78."""
