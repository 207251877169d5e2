"""Sweeps: a grid over any fields of a config becomes a queue of runs, and its runs one labelled table.

`interp.execution.queue` trains the grid, and the columns of the table are the columns of `interp.compare`: sustained
crossings, censored where a run ends first. The four learning phases (not the training phases of a single run,
`interp.milestones.phases`) sort whole runs, as in Towards Understanding Grokking (Liu et al., 2022, arXiv:2205.10343,
table 1).
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from interp.analysis.curves import first_step
from interp.config import RunConfig, recipes
from interp.errors import ConfigError, InvalidArgumentError
from interp.execution.queue import Outcome, train_all
from interp.literals import as_probability, read_value
from interp.milestones.comparison import milestone_row, steps_over_runs
from interp.milestones.criterion import GENERALISED, HOLD, MEMORISED, Criterion
from interp.milestones.finding import find
from interp.milestones.sources import CURVES, curve, evaluations
from interp.trajectory import Trajectory

__all__ = [
    "PHASES",
    "Outcome",
    "Sweep",
    "learning_phase",
    "parse_grid",
    "sweep",
    "train_all",
]

PHASES: Final = ("comprehension", "grokking", "memorisation", "confusion")
"""The learning phases of Liu et al. (2022), from generalising at once to not even memorising."""
LEARNING_LEVEL: Final = 0.9
"""Accuracy whose first evaluation decides the learning phase, as Liu et al. have it: a threshold of theirs alone."""


@dataclass(frozen=True)
class Sweep:
    """The runs of a grid: `configs` and `trajectories` in the order of the product of `axes`, the last one fastest."""

    axes: Mapping[str, tuple[Any, ...]]
    """Values by the dotted name of a field; `seed` is always the last."""
    configs: tuple[RunConfig, ...]
    trajectories: tuple[Trajectory | None, ...]
    failures: Mapping[str, str]
    """Reasons by run_id."""

    def results(
        self,
        *,
        hold: int | None = HOLD,
        train_threshold: float = MEMORISED.level,
        test_threshold: float = GENERALISED.level,
        probabilities: Sequence[float] = (0.25, 0.5, 0.75),
        generator: np.random.Generator | None = None,
    ) -> xr.Dataset:
        """Table of the runs: steps at which each memorised and generalised, its last values, quantiles over seeds.

        Arguments:
            hold, train_threshold, test_threshold, probabilities, generator: as for `interp.compare`.

        Returns:
            Over the axes: `memorised_step` and `generalised_step`, each in (`..._after`, `..._step`], with
            `..._censored`, true where a complete run ends before; `delay` from the one to the other with `..._lower`
            and `..._upper` (`Lag`); `last_step`, the last evaluation; `train_loss`, `test_loss` [nats],
            `train_accuracy`, `test_accuracy` as logged last, `best_test_accuracy`; `learning_phase`; `run`, the
            name of the folder; `complete`. Over the axes but `seed`, and over `phase`: `phase_share`, the
            share of complete runs. Over the axes but `seed`, and over `quantile`: `steps_to_memorise` and
            `steps_to_generalise` with `..._lower` and `..._upper`, infinite where too few runs have
            (`bootstrap_over_seeds`). NaN and "" where a run failed.
        """
        as_probability("train_threshold", train_threshold)
        as_probability("test_threshold", test_threshold)
        memorised, generalised = Criterion(train_threshold, hold), Criterion(test_threshold, hold)
        shape = tuple(len(values) for values in self.axes.values())
        rows = [_row(traj, memorised, generalised) if traj else dict(FAILED) for traj in self.trajectories]
        data = xr.Dataset(coords={name: _coordinate(values) for name, values in self.axes.items()})
        data["run"] = (tuple(self.axes), np.array([config.run_id for config in self.configs]).reshape(shape))
        for name in FAILED:
            data[name] = (tuple(self.axes), np.array([row[name] for row in rows]).reshape(shape))
        cells = [rows[i : i + shape[-1]] for i in range(0, len(rows), shape[-1])]
        outer, dims = shape[:-1], tuple(self.axes)[:-1]
        shares = np.array([_shares(row["learning_phase"] for row in cell) for cell in cells])
        data["phase_share"] = ((*dims, "phase"), shares.reshape(*outer, len(PHASES)))
        for verb, participle in (("memorise", "memorised"), ("generalise", "generalised")):
            bands = np.array([_band(cell, participle, generator, probabilities) for cell in cells])
            for i, side in enumerate(("", "_lower", "_upper")):
                values = bands[:, i].reshape(*outer, len(probabilities))
                data[f"steps_to_{verb}{side}"] = ((*dims, "quantile"), values, {"units": "steps"})
        return data.assign_coords(quantile=list(probabilities), phase=list(PHASES)).assign_attrs(
            train_threshold=train_threshold, test_threshold=test_threshold, hold="to the end" if hold is None else hold
        )

    def to_dataframe(self, **settings: Any) -> Any:
        """A row for each run, with its place in the grid, as a pandas data frame; `settings` are those of `results`."""
        data = self.results(**settings)
        return data.drop_dims(["quantile", "phase"]).to_dataframe(dim_order=list(self.axes)).reset_index()


def sweep(
    base: RunConfig | str,
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: Sequence[int] | None = None,
    root: str | Path = "checkpoints",
    progress: bool = False,
    **resources: Any,
) -> Sweep:
    """Train every combination of a grid: `sweep("nanda", {"task.train_fraction": [0.3, 0.4], "steps": [9000]})`.

    Arguments:
        base: a config, or the name of a recipe.
        grid: values by the dotted name of a field, or of a whole part (`optimizer`); `parse_grid` reads it from text.
        seeds: of the initial weights and later draws, for every combination; None: the base's, or those of the grid's
            axis `seed`. (The seed of the split is `task.seed`, an axis like others.)
        root, progress, resources: as for `train_all` (`workers`, `executor`, `together`, `device`, ...).

    Raises:
        UnknownNameError: there is no such recipe.
        ConfigError: there is no such field, or a combination breaks a rule; the message names it.
        InvalidArgumentError: an axis is empty or names a value twice.
        KeyboardInterrupt: as `train_all`.
    """
    base = recipes.get(base) if isinstance(base, str) else base
    if seeds is not None and "seed" in grid:
        raise InvalidArgumentError("`seeds` must not be given where `grid` has an axis `seed`; leave one of them out.")
    one = {name for name, values in grid.items() if isinstance(values, str) or not isinstance(values, Iterable)}
    grid = {name: [values] if name in one else list(values) for name, values in grid.items()}
    axes = {name: tuple(values) for name, values in grid.items() if name != "seed"}
    axes["seed"] = tuple(grid.get("seed", (base.seed,)) if seeds is None else seeds)
    for name, values in axes.items():
        words = [str(value) for value in values]
        if not words or len(set(words)) < len(words):
            raise InvalidArgumentError(
                f"`{name}` must have one value or more in the grid, each once; got {', '.join(words) or 'none'}."
            )
    configs = []
    for values in itertools.product(*axes.values()):
        changes = dict(zip(axes, values))
        try:
            configs.append(base.replace(changes))
        except ConfigError as error:
            where = ", ".join(f"{name}={value}" for name, value in changes.items())
            raise ConfigError(f"{error} (In the grid at {where}.)") from error
    if len(axes["seed"]) > 1 and not all(config.draws for config in configs):
        raise ConfigError(
            "Runs that differ in `seed` alone would be one and the same here: initial weights do not come from it, and "
            "nothing is drawn later. Let `task.seed` differ instead."
        )
    outcome = train_all(configs, root=root, progress=progress, **resources)
    return Sweep(axes, tuple(configs), outcome.trajectories, outcome.failures)


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """The grid that words such as `task.train_fraction=0.3,0.5` write.

    Forms of the values, joined by commas: as in JSON, or plain words; `0..4`, whole numbers with both ends;
    `log(1e-4, 1e-2, 5)`, so many numbers in equal ratios, to six digits.

    Raises:
        ConfigError: where a word is none of these, or a field is named twice.

    >>> parse_grid(["task.train_fraction=0.3,0.5", "seed=0..2", "optimizer.lr=log(1e-4, 1e-2, 3)"])
    {'task.train_fraction': [0.3, 0.5], 'seed': [0, 1, 2], 'optimizer.lr': [0.0001, 0.001, 0.01]}
    >>> parse_grid(["save.weights=every(5, until=9),log(200)", "model.d_hidden=[64],[64, 64]"])
    {'save.weights': ['every(5, until=9)', 'log(200)'], 'model.d_hidden': [(64,), (64, 64)]}
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        parts = [part.strip() for part in re.split(r",(?![^([]*[)\]])", text)]
        if not equals or not name.strip() or not all(parts):
            raise ConfigError(f"`{word}` is no axis of a grid; write FIELD=VALUE,VALUE,... or FIELD=0..4.")
        if name in grid:
            raise ConfigError(f"`{name}` must be named once in a grid; got it twice. Join its values by commas.")
        grid[name] = [value for part in parts for value in _values(part, word)]
    return grid


def learning_phase(train_step: float | None, test_step: float | None, *, within: float = 1e5, gap: float = 1e3) -> str:
    """The learning phase of Liu et al. (2022, table 1), from the first steps with accuracies of 90 %.

    Neither within 10^5 steps: confusion; the training accuracy alone: memorisation; both, the test accuracy less than
    10^3 steps later: comprehension, else grokking. None: not reached (by the end of the run, if that is sooner).

    >>> learning_phase(100, 5000), learning_phase(100, 900), learning_phase(100, None), learning_phase(None, None)
    ('grokking', 'comprehension', 'memorisation', 'confusion')
    """
    if train_step is None or train_step > within:
        return "confusion"
    if test_step is None or test_step > within:
        return "memorisation"
    return "comprehension" if test_step - train_step < gap else "grokking"


FAILED: Final[Mapping[str, Any]] = {
    "complete": False,
    **{
        f"{name}_{part}": False if part == "censored" else np.nan
        for name in ("memorised", "generalised")
        for part in ("step", "after", "censored")
    },
    **dict.fromkeys(("delay", "delay_lower", "delay_upper", "last_step"), np.nan),
    **dict.fromkeys(("train_loss", "test_loss", "train_accuracy", "test_accuracy", "best_test_accuracy"), np.nan),
    "learning_phase": "",
}
"""Columns of a run that failed."""


def _row(traj: Trajectory, memorised: Criterion, generalised: Criterion) -> dict[str, Any]:
    """The columns of `Sweep.results` for one run."""
    source = evaluations(traj)
    found = find(source, memorised=memorised, generalised=generalised, with_phases=False)
    accuracies = {who: curve(source, f"{who}_accuracy") for who in ("train", "test")}
    reached = {
        who: first_step(*series, LEARNING_LEVEL) if len(series[0]) else None for who, series in accuracies.items()
    }
    return {
        "complete": True,
        **milestone_row(found),
        **{name: found.last.get(name, np.nan) for name in CURVES},
        "best_test_accuracy": float(accuracies["test"][1].max(initial=-np.inf)),
        "learning_phase": learning_phase(reached["train"], reached["test"]),
    }


def _band(
    rows: Sequence[Mapping[str, Any]], name: str, generator: np.random.Generator | None, probabilities: Sequence[float]
) -> np.ndarray:
    """Quantiles over the complete runs of a cell and the ends of their intervals, [3, quantile]; NaN where none is."""
    there = [row for row in rows if row["complete"]]
    if not there:
        return np.full((3, len(probabilities)), np.nan)
    found = steps_over_runs(there, name, generator=generator, probabilities=probabilities)
    return np.array([found.steps, *zip(*found.intervals)])


def _shares(found: Iterator[str]) -> list[float]:
    counts = Counter(phase for phase in found if phase)
    return [counts[phase] / counts.total() if counts else np.nan for phase in PHASES]


def _coordinate(values: Sequence[Any]) -> np.ndarray:
    """Numbers, or words where one of the values is none."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return np.array(values if numbers else ["unset" if value is None else str(value) for value in values])


def _values(text: str, word: str) -> list[Any]:
    if ends := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text):
        first, last = int(ends[1]), int(ends[2])
        if first > last:
            raise ConfigError(f"`{word}` must count upwards; got {text}.")
        return list(range(first, last + 1))
    if spaced := re.fullmatch(r"log\(([^,()]+),([^,()]+),\s*(\d+)\s*\)", text):
        try:
            low, high, n = float(spaced[1]), float(spaced[2]), int(spaced[3])
        except ValueError:
            raise ConfigError(f"`{word}` must have numbers in log(FROM, TO, COUNT); got {text}.") from None
        if not 0 < low < high or n < 2:
            raise ConfigError(f"`{word}` must have 0 < FROM < TO and COUNT >= 2 in log(FROM, TO, COUNT); got {text}.")
        return [float(f"{value:.6g}") for value in np.geomspace(low, high, n)]
    return [read_value(text)]
