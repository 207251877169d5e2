"""Runs side by side: their configs, the steps at which each memorised and generalised, and measures that foretell it.

Two kinds of care separate the table from a column of final accuracies. A run that has not generalised when it ends is
right-censored: it bounds its transition from below, and enters the quantiles over runs as such (`quantiles`). And only
the future can be foretold: `predictors` looks at each run up to one early step, leaves out the runs that had
generalised by then, and uses nothing of a later step, least of all the key frequencies.

Predicting Grokking Long Before it Happens (Notsawo et al., 2023, arXiv:2306.13253) predicts from the
oscillations of the early training loss, Progress measures for grokking via mechanistic interpretability (Nanda et al.,
2023, arXiv:2301.05217) from the circuits that form inside. `prediction` scores both in the same way.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from interp.analysis import progress
from interp.analysis.batch import CheckpointBatch
from interp.analysis.catalogue import MEASURES
from interp.analysis.context import RunContext
from interp.analysis.loss import cross_entropy
from interp.analysis.measures import key_frequencies, measure
from interp.config.base import flat
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.literals import as_count, as_probability
from interp.milestones.criterion import (
    GENERALISED,
    HOLD,
    MEMORISED,
    Criterion,
    Lag,
    Transition,
    lag,
)
from interp.milestones.finding import Milestones, find
from interp.milestones.prediction import lead_times, score_predictors, spectral_signature
from interp.milestones.quantiles import SeedQuantiles, bootstrap_over_seeds
from interp.milestones.sources import curve, defined
from interp.trajectory import Trajectory, as_trajectory

__all__ = ["EARLY_MEASURES", "LAST_STEP_MEASURES", "compare", "milestone_row", "predictors", "steps_over_runs"]

LAST_STEP_MEASURES: Final = (
    "train_accuracy",
    "test_accuracy",
    "test_accuracy_mirrored",
    "test_accuracy_unmirrored",
    "test_loss",
    "weight_norm",
    "circularity",
    "circle_order_correlation",
    "gini_embedding",
    "effective_rank_embedding",
    "gradient_symmetricity",
    "distance_irrelevance",
    "trig_loss_ratio",
)
"""Measures that `compare` takes at the last stored step."""

EARLY_MEASURES: Final[Mapping[str, bool]] = {
    "test_accuracy": True,
    "test_accuracy_mirrored": True,
    "test_loss": False,
    "weight_norm": False,
    "circularity": True,
    "gini_embedding": True,
    "effective_rank_embedding": False,
    "rqi": True,
}
"""Measures that `predictors` scores, and whether high values are the warning (its lead times need a side in advance);
none of them depends on a later step."""

SIGNATURE_FIELDS: Final = ("activity", "fast", "mobility")
"""Fields of the spectral signature of the train loss that `predictors` scores, as `train_loss_activity` and so on."""


def compare(
    runs: Sequence[Trajectory | str | Path],
    *,
    hold: int | None = HOLD,
    train_threshold: float = MEMORISED.level,
    test_threshold: float = GENERALISED.level,
    circle_threshold: float = 0.9,
    probabilities: Sequence[float] = (0.25, 0.5, 0.75),
    generator: np.random.Generator | None = None,
) -> xr.Dataset:
    """Table of two runs or more (or their folders), complete or still growing.

    Arguments:
        hold: further evaluations for which a threshold must be held (`criterion`); None: to the end of the run.
        train_threshold, test_threshold: accuracies in [0, 1] at which a run has memorised and generalised.
        circle_threshold: `circle_resultant` in [0, 1] at which the tokens lie in order on a circle.
        probabilities: probabilities of the quantiles over runs.
        generator: draws the runs for the intervals of the quantiles; None: the same draws at every call.

    Returns:
        Over `run`: `seed`, `task`, `model`; the config fields in which the runs differ, by their dotted names;
        `memorised_step` and `generalised_step`, each in (`..._after`, `..._step`], with `..._censored`, true where it
        was not sustained by the end of the run; `last_step`, the last evaluation; `delay`, from the one to the other,
        and `circle_lag`, from order on the circle (PC 1-2 of the last step) to generalisation, each with `..._lower`
        and `..._upper` (`criterion.Lag`); `key_frequencies` as words; `LAST_STEP_MEASURES` at the last stored step.
        Over `quantile`: `steps_to_generalise` with `..._lower` and `..._upper`, infinite where too few runs have
        generalised (`quantiles.bootstrap_over_seeds`). NaN and "" where something is not defined for a run, as
        everything about generalising for an imported run of which no pair is known to have been held out.

    Raises:
        InvalidArgumentError: fewer than two runs, or one of them twice.
        NotAvailableError: a run has no checkpoint yet.
    """
    trajs = [as_trajectory(run) for run in runs]
    names = _names(trajs)
    as_probability("train_threshold", train_threshold)
    as_probability("test_threshold", test_threshold)
    as_probability("circle_threshold", circle_threshold)
    memorised, generalised = Criterion(train_threshold, hold), Criterion(test_threshold, hold)
    rows = []
    for traj in trajs:
        if not len(traj.steps):
            raise NotAvailableError(f"{traj.folder.name} has no checkpoint yet, so there is nothing to compare.")
        found = find(traj, memorised=memorised, generalised=generalised, with_phases=False)
        circle = lag(_ordered(traj, Criterion(circle_threshold, hold)), found.generalised)
        last = measure(traj, defined(traj, LAST_STEP_MEASURES), steps=[int(traj.steps[-1])])
        rows.append(
            {
                "seed": traj.config.seed if traj.kind.seeded else np.nan,
                "task": traj.config.task.slug,
                "model": traj.config.model.slug,
                **milestone_row(found),
                **_lag("circle_lag", circle),
                "key_frequencies": _keys(traj),
                **{name: float(last[name][0]) if name in last else np.nan for name in LAST_STEP_MEASURES},
            }
        )
    data = xr.Dataset(coords={"run": names})
    configs = _differences([_known_fields(traj) for traj in trajs])
    for name in ("seed", "task", "model"):
        data[name] = ("run", np.array([row[name] for row in rows]))
    for name, values in configs.items():
        data[name] = ("run", values)
    for name in list(rows[0])[3:]:
        meaning = (
            {"long_name": f"{MEASURES[name].meaning}, at the last stored step"} if name in LAST_STEP_MEASURES else {}
        )
        data[name] = ("run", np.array([row[name] for row in rows]), meaning)

    over_runs = steps_over_runs(rows, "generalised", generator=generator, probabilities=probabilities)
    data = data.assign_coords(quantile=list(over_runs.probabilities))
    data["steps_to_generalise"] = ("quantile", np.array(over_runs.steps))
    for i, side in enumerate(("lower", "upper")):
        data[f"steps_to_generalise_{side}"] = ("quantile", np.array([interval[i] for interval in over_runs.intervals]))
    return data.assign_attrs(
        train_threshold=train_threshold, test_threshold=test_threshold, circle_threshold=circle_threshold,
        hold="to the end" if hold is None else hold, generalised=over_runs.reached, differ=list(configs),
    )  # fmt: skip


def predictors(
    runs: Sequence[Trajectory | str | Path],
    *,
    until: int,
    hold: int | None = HOLD,
    test_threshold: float = GENERALISED.level,
    period: float = 20.0,
    generator: np.random.Generator | None = None,
) -> xr.Dataset:
    """Scores of early measures: how well each tells, at step `until`, whether a run generalises later.

    Runs that had generalised by `until` are left out, since nothing is left to foretell. A run that had not generalised
    when it ended counts as one that does not generalise, so that runs should be about equally long.

    Arguments:
        until: an early step that every run has reached; measures are taken at the last checkpoint not after it.
        hold, test_threshold: criterion of generalising, as for `compare`.
        period: in steps; faster oscillations of the train loss are `fast` (`prediction.spectral_signature`).
        generator: draws the runs for the intervals; None: the same draws at every call.

    Returns:
        Over `run`: `generalised` and `generalised_step`. Over `feature` (`EARLY_MEASURES`, `train_loss_activity`,
        `..._fast`, `..._mobility`, and `trig_loss_ratio` with the key frequencies of step `until`): `auc` with
        `auc_lower`, `auc_upper` and `p_value` (`prediction.score_predictors`), the shares `detected` and
        `false_alarms` of `prediction.lead_times`. Over both: the `value` and the `lead_time` in steps. NaN where a
        feature is not defined for every run, and where there are too few runs of a kind; `attrs["undefined"]` then
        says why.

    Raises:
        InvalidArgumentError: fewer than two runs or one of them twice, a step that not every run has reached, or no two
            runs that had not generalised by then, or a run that holds no pairs out.
    """
    trajs = [as_trajectory(run) for run in runs]
    names = _names(trajs)
    as_count("until", until, minimum=1)
    as_probability("test_threshold", test_threshold)
    blind = [name for name, traj in zip(names, trajs) if not traj.task.held_out]
    if blind:
        raise InvalidArgumentError(
            f"`runs` must hold pairs out, or nothing can generalise later; of {blind[0]} all pairs are trained on, "
            "or its split is not known."
        )
    tests = [curve(traj, "test_accuracy") for traj in trajs]
    reached = min(int(min(steps[-1], traj.steps[-1])) for traj, (steps, _) in zip(trajs, tests))
    earliest = max(int(traj.steps[0]) for traj in trajs)
    if not earliest <= until <= reached:
        raise InvalidArgumentError(
            f"`until` must be a step that every run has reached, {earliest}..{reached}; got {until}."
        )
    ends = [Criterion(test_threshold, hold).transition(*test).upper for test in tests]
    open_ = [i for i, end in enumerate(ends) if end is None or end > until]
    if len(open_) < 2:
        raise InvalidArgumentError(
            f"`until` must leave at least two runs that have not generalised by then; got {until}, which leaves "
            f"{len(open_)} of {len(trajs)}. Pass an earlier step."
        )
    kept, steps = [trajs[i] for i in open_], [ends[i] for i in open_]
    seen = [_seen(traj, until, period) for traj in kept]
    features = list(dict.fromkeys(name for row in seen for name in row))
    value = np.array([[row.get(name, np.nan) for name in features] for row in seen])
    grokked = np.array([step is not None for step in steps])

    scores = {name: np.full(len(features), np.nan) for name in SCORE_COLUMNS}
    lead = np.full(value.shape, np.nan)
    undefined = _undefined(grokked)
    whole = np.isfinite(value).all(axis=0)
    if grokked.any() and not grokked.all():
        draws = np.random.default_rng(0) if generator is None else generator
        columns = {name: value[:, i] for i, name in enumerate(features) if whole[i]}
        for name, score in score_predictors(columns, grokked, generator=draws).items():
            at = features.index(name)
            for key, number in zip(SCORE_COLUMNS, (score.auc, *score.interval, score.p_value)):
                scores[key][at] = number
    if 2 <= grokked.sum() <= len(kept) - 2:
        warn = [name for name in EARLY_MEASURES if name in features and whole[features.index(name)]]
        curves = [measure(traj, warn) for traj in kept]
        for name in warn:
            values = [curve[name].values for curve in curves]
            if not all(np.isfinite(x).all() for x in values):
                continue
            found = lead_times([curve["step"].values for curve in curves], values, steps, above=EARLY_MEASURES[name])
            at = features.index(name)
            lead[:, at] = _floats(found.steps)
            scores["detected"][at], scores["false_alarms"][at] = found.detected, found.false_alarms
    return xr.Dataset(
        {
            "generalised": ("run", grokked),
            "generalised_step": ("run", _floats(steps)),
            "value": (("run", "feature"), value),
            **{name: ("feature", column) for name, column in scores.items()},
            "lead_time": (("run", "feature"), lead),
        },
        coords={"run": [names[i] for i in open_], "feature": features},
        attrs={
            "until": until,
            "left_out": [name for i, name in enumerate(names) if i not in open_],
            "undefined": undefined,
        },
    )


SCORE_COLUMNS: Final = ("auc", "auc_lower", "auc_upper", "p_value", "detected", "false_alarms")


# --- one run ---


def milestone_row(found: Milestones) -> dict[str, float | bool]:
    """The columns about milestones in a table of runs; NaN and False where something is not known.

    Each transition lies in (`..._after`, `..._step`]; `..._censored`: the run ended before. `last_step`: the last
    evaluation of the test accuracy, or of the train accuracy where nothing is held out.
    """
    row: dict[str, float | bool] = {}
    for who, name in (("train", "memorised"), ("test", "generalised")):
        seen = found.accuracies.get(who)
        after, step = _floats([None, None] if seen is None else [seen.sustained.lower, seen.sustained.upper])
        row |= {f"{name}_after": float(after), f"{name}_step": float(step)}
        row[f"{name}_censored"] = seen is not None and seen.step is None
    row["last_step"] = float([np.nan, *(seen.end for seen in found.accuracies.values())][-1])
    return row | _lag("delay", found.delay)


def _ordered(traj: Trajectory, criterion: Criterion) -> Transition:
    """Interval in which the tokens came to lie in order on a circle (PC 1-2 of the last step)."""
    if not defined(traj, ["circle_resultant"]):
        return Transition(None, None)
    order = measure(traj, ["circle_resultant"])["circle_resultant"]
    return criterion.transition(order["step"].values, order.values)


def _keys(traj: Trajectory) -> str:
    try:
        return ", ".join(map(str, key_frequencies(traj)))
    except NotAvailableError:
        return ""


def _seen(traj: Trajectory, until: int, period: float) -> dict[str, float]:
    """Features of a run that are known at step `until`."""
    step = int(traj.steps[np.searchsorted(traj.steps, until, "right") - 1])
    early = measure(traj, defined(traj, list(EARLY_MEASURES)), steps=[step])
    found = {name: float(early[name][0]) for name in EARLY_MEASURES if name in early}
    loss = traj.metrics.get("train_loss")
    if loss is not None:
        loss = loss.dropna("step")
        try:
            signature = spectral_signature(loss["step"].values, loss.values, until=until, period=period)
            found |= {f"train_loss_{name}": getattr(signature, name) for name in SIGNATURE_FIELDS}
        except InvalidArgumentError:  # logged too seldom, or not evenly
            pass
    if RunContext(traj).unmet(("answer is a sum",)) is None:
        found["trig_loss_ratio"] = _trig_loss_ratio(traj, step)
    return found


def _trig_loss_ratio(traj: Trajectory, step: int) -> float:
    """Test loss over restricted loss with the key frequencies of this step; the measure takes those of the last."""
    context = RunContext(traj)
    batch = CheckpointBatch(context, np.array([traj.position(step)]))
    restricted = progress.restricted_loss_logit(
        batch.logits, context.sums, batch.own_keys[0], operation=batch.operation
    )
    test = cross_entropy(batch.logits, context.sums, context.sums_tested)
    return float(progress.trig_loss_ratio(test, restricted))


# --- many runs ---


def steps_over_runs(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    *,
    generator: np.random.Generator | None,
    probabilities: Sequence[float],
) -> SeedQuantiles:
    """Quantiles of the steps to a transition over one run or more.

    A level that is passed and not yet held may still turn out to have been sustained from its first evaluation on:
    such a run is known to be late only up to the last evaluation that fails, and is censored there.

    Arguments:
        rows: columns of each run, as from `milestone_row`.
        name: `memorised` or `generalised`.
        generator: draws the runs for the intervals; None: the same draws at every call.
        probabilities: of the quantiles.
    """
    steps = [None if np.isnan(row[f"{name}_step"]) else row[f"{name}_step"] for row in rows]
    ends = [
        np.nan_to_num(row[f"{name}_after"]) if step is None else max(row["last_step"], step)
        for row, step in zip(rows, steps)
    ]
    return bootstrap_over_seeds(
        steps, ends,
        generator=np.random.default_rng(0) if generator is None else generator, probabilities=probabilities,
        resamples=1000 if len(rows) > 1 else 1,  # of one run all draws are the same
    )  # fmt: skip


def _names(trajs: Sequence[Trajectory]) -> list[str]:
    """The folders' names, or their paths where two have one name."""
    if len(trajs) < 2:
        raise InvalidArgumentError(f"`runs` must be at least two runs; got {len(trajs)}. One run has a report.")
    folders = [traj.folder.resolve() for traj in trajs]
    twice = [folder.name for i, folder in enumerate(folders) if folder in folders[:i]]
    if twice:
        raise InvalidArgumentError(f"`runs` must be different runs; got {twice[0]} twice.")
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(traj.folder) for traj in trajs]


def _known_fields(traj: Trajectory) -> dict[str, Any]:
    """The config as JSON, without what an import does not know: seeds and fraction where its split is not known."""
    config = traj.config.to_dict()
    if not traj.kind.seeded and not traj.task.held_out:
        config["task"] = {name: x for name, x in config["task"].items() if name not in ("seed", "train_fraction")}
    if traj.config.origin is not None:
        config["origin"] = str(traj.config.origin)
    return config


def _differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The fields in which configs differ, but for the seed: numbers, or words where one of them is none."""
    leaves = [flat(config) for config in configs]
    names = dict.fromkeys(name for config in leaves for name in config)
    found = {}
    for name in names:
        values = [config.get(name, "") for config in leaves]
        if name != "seed" and any(value != values[0] for value in values):
            numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            found[name] = np.array(values if numbers else [_word(value) for value in values])
    return found


def _word(value: Any) -> str:
    return "unset" if value is None else str(value)


def _undefined(grokked: np.ndarray) -> str:
    """Why some scores are not defined; empty where all are."""
    runs, some = len(grokked), int(grokked.sum())
    if some in (0, runs):
        what = "None" if some == 0 else "Each"
        return f"{what} of these {runs} runs generalises later: there is nothing to tell apart, and no AUC."
    if min(some, runs - some) < 2:
        return f"Lead times need two runs of each kind; {some} of these {runs} runs generalise later."
    return ""


def _lag(name: str, found: Lag) -> dict[str, float]:
    step, lower, upper = _floats([found.step, found.lower, found.upper])
    return {name: float(step), f"{name}_lower": float(lower), f"{name}_upper": float(upper)}


def _floats(values: Sequence[int | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
