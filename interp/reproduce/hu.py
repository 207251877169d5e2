"""Exploring Grokking (Hu, Zhou, Yu): modular addition by transformers, an MLP and an LSTM, at many training fractions.

    H1          accuracy against step, openai/grok's words ("symbolic" encoding), 5 to 90 %
    H2, H6      accuracy and loss, tokens (x, y, p) ("direct" encoding), 15, 30, 45 %
    H7          steps until generalisation against the training fraction, both encodings
    H3, H8; H4  the MLP's accuracy and loss; the LSTM's accuracy
    H5          best accuracy within 1800 updates against the training fraction, by optimiser

The paper calls the held-out pairs "validation", here they are "test", as everywhere in this package. Pairs are ordered,
so that a network that knows no more than a + b = b + a is right on a share alpha of the held-out pairs, alpha being the
training fraction: figures show that level, and claims about failure count the pairs whose mirror is held out too.

One reading holds throughout. Memorised and generalised are train accuracy at 99 % and test accuracy at 95 %, sustained
as in `interp.analysis.phases`; "about x" is x within a factor of two; "never" is judged of runs that went on for ten
times as long as memorising took, and failures to come by a given step only of runs that got that far.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.ndimage import median_filter
from scipy.stats import spearmanr

from interp.analysis.measures import measure
from interp.analysis.phases import sustained_step
from interp.config import AdamW, FeedForward, Interventions, Modular, RunConfig
from interp.errors import NotAvailableError
from interp.plots.style import COLOURS, SERIES, figure, step_axis
from interp.recipes import get
from interp.reproduce.figures import Claim, Figure, Preset
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["FIGURES"]

PAPER = "Exploring Grokking: Experimental and Mechanistic Investigations (Hu, Zhou, Yu)"
P = 97
"""The paper's modulus, at which its numbers of steps are to be had."""
MEMORISED, GENERALISED = 0.99, 0.95
HOLD = 5
"""Evaluations after which a threshold counts as sustained."""
LASTING = 10
"""A run that is to show that something never comes lasts so many times as long as memorising took."""
COMMUTED = 0.1
"""Accuracy on pairs whose mirror is held out, up to which a network has not generalised at all."""
POINTS = 2000
"""Of a figure, so that it stays a small file."""

Label = dict[str, Any]
Cases = list[tuple[Label, RunConfig]]
OneRun = Callable[[xr.Dataset], float]
"""A number from the curves of one run, over `step`; NaN where they cannot tell."""


# --- the runs ---------------------------------------------------------------------------------------------------------

SEEDS: Mapping[Preset, tuple[int, ...]] = {"toy": (0,), "laptop": (0,), "paper": (0, 1, 2)}
"""Seeds of split and weights together."""
CHEAP_SEEDS: Mapping[Preset, tuple[int, ...]] = {"toy": (0,), "laptop": (0, 1, 2), "paper": (0, 1, 2)}
"""Those of the MLP and the LSTM."""
SYMBOLIC: Mapping[Preset, Mapping[float, int]] = {
    "toy": dict.fromkeys((0.05, 0.3, 0.45, 0.6, 0.75, 0.9), 20),
    "laptop": {0.05: 1500, 0.3: 3000, 0.45: 6000, 0.6: 5000, 0.75: 3500, 0.9: 3000},
    "paper": dict.fromkeys((0.05, 0.3, 0.45, 0.6, 0.75, 0.9), 100_000),
}
"""Updates by training fraction."""
DIRECT: Mapping[Preset, Mapping[float, int]] = {
    "toy": dict.fromkeys((0.15, 0.3, 0.45, 0.6), 30),
    "laptop": {0.15: 5000, 0.3: 18_500, 0.35: 3500, 0.4: 2000, 0.45: 2000, 0.6: 800},
    "paper": dict.fromkeys((0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.6, 0.75, 0.9), 25_000),
}
SMALL = {"model.d_model": 16, "model.n_heads": 2, "model.d_mlp": 32}

SCHEDULES = (0.15, 0.3, 0.45)
"""Fractions of the accuracies and losses of transformer and MLP."""
LSTM_FRACTIONS = (0.3, 0.45, 0.6)
INPUTS = ("numbers", "embeddings")

UPDATES: Mapping[Preset, int] = {"toy": 20, "laptop": 1800, "paper": 1800}
"""Budget of the comparison of optimisers."""
BUDGETED: Mapping[Preset, tuple[float, ...]] = {
    "toy": (0.45,), "laptop": (0.3, 0.45, 0.75), "paper": (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
}  # fmt: skip
OPTIMISERS: Mapping[str, Mapping[str, Any]] = {
    "Adam, 3e-4": {"optimizer.lr": 3e-4},
    "Adam, 1e-3": {},
    "Adam, 3e-3": {"optimizer.lr": 3e-3},
    "Adam, update noise, full batch": {
        "interventions": Interventions(update_noise=1.0), "optimizer.batch_size": None,
    },
    "Adam, weight noise": {"interventions": Interventions(weight_noise=0.01)},
    "Adam, batches of 128": {"optimizer.batch_size": 128},
    "AdamW": {"optimizer.weight_decay": 1.0},
    "AdamW, batches of 128": {"optimizer.weight_decay": 1.0, "optimizer.batch_size": 128},
}  # fmt: skip
"""What distinguishes each from Adam with learning rate 1e-3 and batches of 512."""
DECAYED = "AdamW, full batch"
"""The ninth: the transformer of H2 itself, as far as its runs of H2 and H7 go."""
PLAIN = ("Adam, 3e-4", "Adam, 1e-3", "Adam, 3e-3")
"""Those with neither weight decay nor noise, in batches of 512."""


def _recorded(config: RunConfig, preset: Preset, seed: int, steps: int, every: int = 50, saves: int = 20) -> RunConfig:
    """The run tested every so many steps, and stored about `saves` times, where it is tested as well."""
    every = 2 if preset == "toy" else every
    return config.replace(
        {
            "steps": steps,
            "seed": seed,
            "task.seed": seed,
            "save.weights": f"every({every * max(1, round(steps / saves / every))})",
            "save.state": f"every({steps})",
            "log.train": "every(1)" if preset == "toy" else "every(10)",
            "log.test": f"every({every})",
        }
    )


def _symbolic(preset: Preset) -> Cases:
    """H1. openai/grok takes batches of half the training set where that is less than 512."""
    p = {"toy": 11, "laptop": 47, "paper": P}[preset]
    batch = 512 if preset == "paper" else 128
    base = get("hu-symbolic").replace({"task.p": p, "task.closing": preset == "paper"})
    base = base.replace(SMALL) if preset == "toy" else base
    cases: Cases = []
    for (fraction, steps), seed in product(SYMBOLIC[preset].items(), SEEDS[preset]):
        own = {
            "task.train_fraction": fraction,
            "optimizer.batch_size": min(batch, math.ceil(round(fraction * p * p) / 2)),
        }
        config = _recorded(base.replace(own), preset, seed, steps, every=100 if preset == "paper" else 50)
        cases.append(({"fraction": fraction, "seed": seed}, config))
    return cases


def _transformer(preset: Preset) -> RunConfig:
    base = get("hu-direct")
    return base.replace({"task.p": 11, "model.d_head": 8, **SMALL}) if preset == "toy" else base


def _direct(preset: Preset, fractions: Iterable[float]) -> Cases:
    """H2, H6 and H7; the same run wherever it is asked for."""
    return [
        (
            {"fraction": fraction, "seed": seed},
            _recorded(
                _transformer(preset).replace({"task.train_fraction": fraction}), preset, seed, DIRECT[preset][fraction]
            ),
        )
        for fraction, seed in product(fractions, SEEDS[preset])
    ]


def _both_encodings(preset: Preset) -> Cases:
    """H7."""
    known = {"direct": _direct(preset, DIRECT[preset]), "symbolic": _symbolic(preset)}
    return [({"encoding": name} | label, config) for name, cases in known.items() for label, config in cases]


def _by_optimiser(preset: Preset) -> Cases:
    """H5; on a laptop without those full batches that alone would cost as much as all the rest."""
    base = _transformer(preset)
    settings = base.optimizer
    assert isinstance(settings, AdamW)  # of that recipe
    base = base.replace({"optimizer": settings.replace({"weight_decay": 0.0, "batch_size": 512})})
    cases: Cases = []
    for (name, changes), fraction, seed in product(OPTIMISERS.items(), BUDGETED[preset], SEEDS[preset]):
        if preset == "laptop" and "full batch" in name and fraction > 0.5:
            continue
        config = base.replace({"task.train_fraction": fraction, **changes})
        label = {"optimiser": name, "fraction": fraction, "seed": seed}
        cases.append((label, _recorded(config, preset, seed, UPDATES[preset], saves=6)))
    far = [fraction for fraction in BUDGETED[preset] if DIRECT[preset].get(fraction, 0) >= UPDATES[preset]]
    return cases + [({"optimiser": DECAYED} | label, config) for label, config in _direct(preset, far)]


def _of_inputs(
    numbers: RunConfig, embeddings: RunConfig, fractions: Sequence[float], steps: Mapping[str, int], preset: Preset
) -> Cases:
    """A model that reads numbers, and its like that looks them up in a table."""
    every = 100 if preset == "paper" else 50
    return [
        (
            {"inputs": inputs, "fraction": fraction, "seed": seed},
            _recorded(config.replace({"task.train_fraction": fraction}), preset, seed, steps[inputs], every),
        )
        for (inputs, config), fraction, seed in product(
            zip(INPUTS, (numbers, embeddings)), fractions, CHEAP_SEEDS[preset]
        )
    ]  # fmt: skip


def _mlp(preset: Preset) -> Cases:
    """H3 and H8."""
    hidden = (32, 32) if preset == "toy" else (512, 512)
    base = get("hu-mlp").replace({"task.p": {"toy": 11, "laptop": 47, "paper": P}[preset], "model.d_hidden": hidden})
    task = base.task
    assert isinstance(task, Modular)  # of that recipe
    words = base.replace({"task": task.replace({"encoding": "operands"}), "model": FeedForward(d_hidden=hidden)})
    far = {"toy": (20, 20), "laptop": (3000, 600), "paper": (20_000, 20_000)}[preset]
    return _of_inputs(base, words, SCHEDULES, dict(zip(INPUTS, far)), preset)


def _lstm(preset: Preset) -> Cases:
    """H4."""
    base = get("hu-lstm").replace({"task.p": {"toy": 11, "laptop": 47, "paper": P}[preset]})
    words = base.replace({"model.embedding": "learned", "model.d_model": 20})
    far = {"toy": (20, 20), "laptop": (10_000, 2000), "paper": (100_000, 100_000)}[preset]
    return _of_inputs(base, words, LSTM_FRACTIONS, dict(zip(INPUTS, far)), preset)


# --- the results ------------------------------------------------------------------------------------------------------


def _curves(traj: Trajectory) -> xr.Dataset:
    """Accuracies and losses over the whole training set and the held-out pairs, at the steps of the tests."""
    metrics = traj.metrics[["train_accuracy", "test_accuracy", "train_loss", "test_loss"]]
    return metrics.dropna("step", subset=["test_accuracy"])


def _mirrors(traj: Trajectory) -> xr.Dataset:
    """Test accuracy apart for pairs with and without their mirror in the training set, at the stored steps."""
    try:
        data = measure(traj, ["test_accuracy_mirrored", "test_accuracy_unmirrored"])
    except NotAvailableError:  # too few pairs
        return xr.Dataset(coords={"step": traj.steps})
    return data.drop_attrs()


def _labelled(labels: Sequence[Label], runs: Sequence[xr.Dataset]) -> xr.Dataset:
    """All runs in one dataset over their labels and, where they have it, the steps of any; NaN where there is no run.

    >>> runs = [xr.Dataset({"best": value}) for value in (0.5, 0.7)]
    >>> _labelled([{"fraction": 0.3, "seed": 0}, {"fraction": 0.6, "seed": 0}], runs)["best"].values.tolist()
    [[0.5], [0.7]]
    """
    coords = {dim: list(dict.fromkeys(label[dim] for label in labels)) for dim in labels[0]}
    steps = [run["step"].values for run in runs if "step" in run.coords]
    grid = {"step": np.unique(np.concatenate(steps))} if steps else {}
    shape = [len(values) for values in coords.values()]
    data = xr.Dataset(coords={**coords, **grid})
    for name in dict.fromkeys(str(name) for run in runs for name in run.data_vars):
        values = np.full([*shape, *(len(step) for step in grid.values())], np.nan)
        for label, run in zip(labels, runs):
            if name in run:
                at = tuple(coords[dim].index(value) for dim, value in label.items())
                values[at] = run[name].reindex(grid).values if grid else run[name].values
        data[name] = ([*coords, *grid], values)
    return data


def _over_training(
    cases: Callable[[Preset], Cases], *, mirrors: bool = False
) -> Callable[[Sequence[Trajectory], Preset], xr.Dataset]:
    """Curves of every run, over its labels and `step`, and the modulus `p`."""

    def compute(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
        runs = [xr.merge([_curves(t), _mirrors(t)], join="outer") if mirrors else _curves(t) for t in trajs]
        return _labelled([label for label, _ in cases(preset)], runs).assign(p=trajs[0].task.p)

    return compute


def _steps_until(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """H7: steps to generalise and the last step of each run, over encoding, fraction, seed; `p` over encoding."""
    labels = [label for label, _ in _both_encodings(preset)]
    runs = [_curves(traj) for traj in trajs]
    found = [
        xr.Dataset({"generalised_step": _step(run, "test_accuracy", GENERALISED), "last_step": _last(run)})
        for run in runs
    ]
    data = _labelled(labels, found)
    modulus = {label["encoding"]: traj.task.p for label, traj in zip(labels, trajs)}
    return data.sortby("fraction").assign(p=("encoding", [modulus[name] for name in data["encoding"].values]))


def _best_within_budget(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """H5: best accuracies within the budget and steps to memorise, over optimiser, fraction, seed; and `p`."""
    found = []
    for traj in trajs:
        run = xr.merge([_curves(traj), _mirrors(traj)], join="outer").sel(step=slice(0, UPDATES[preset]))
        best = {f"best_{name}": run[name].max() for name in run.data_vars if str(name).startswith("test_accuracy")}
        memorised = _step(run, "train_accuracy", MEMORISED)
        found.append(xr.Dataset({**best, "memorised_step": memorised, "last_step": _last(run)}))
    return _labelled([label for label, _ in _by_optimiser(preset)], found).assign(p=trajs[0].task.p)


# --- numbers from the curves of one run -------------------------------------------------------------------------------


def _curve(run: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    series = run[name].dropna("step") if name in run else xr.DataArray([], {"step": []}, "step")
    return series["step"].values, series.values


def _steady(run: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The curve without its spikes: running medians over five evaluations."""
    steps, values = _curve(run, name)
    return steps, median_filter(values, size=HOLD, mode="nearest") if len(values) else values


def _last(run: xr.Dataset) -> float:
    """The last evaluation."""
    steps, _ = _curve(run, "test_accuracy")
    return float(steps[-1]) if len(steps) else math.nan


def _step(run: xr.Dataset, name: str, threshold: float, *, above: bool = True, limit: float = math.inf) -> float:
    """Where the curve passes the threshold for good; where it does not, infinite if the run lasted to `limit`."""
    steps, values = _curve(run, name)
    found = sustained_step(steps, values, threshold, hold=HOLD, above=above) if len(steps) else None
    if found is not None:
        return float(found)
    return math.inf if _last(run) >= limit else math.nan


def _lateness(run: xr.Dataset) -> float:
    """Steps to generalise over steps to memorise."""
    return _step(run, "test_accuracy", GENERALISED) / _step(run, "train_accuracy", MEMORISED)


def _promptness(limit: float) -> OneRun:
    """The same; of a run that has not generalised yet how late it is already, if that is beyond `limit`."""

    def lateness(run: xr.Dataset) -> float:
        found = _lateness(run)
        so_far = _last(run) / _step(run, "train_accuracy", MEMORISED)
        return so_far if math.isnan(found) and so_far > limit else found

    return lateness


def _reaches(name: str, threshold: float, limit: float) -> OneRun:
    """Steps to an accuracy, at the paper's modulus; infinite where a run has not come that far by step `limit`."""

    def steps(run: xr.Dataset) -> float:
        return _step(run, name, threshold, limit=limit) if int(run["p"]) == P else math.nan

    return steps


def _lasted(run: xr.Dataset) -> bool:
    """Whether the run has memorised, and gone on for long enough to tell that nothing else comes."""
    return _last(run) >= LASTING * _step(run, "train_accuracy", MEMORISED)


def _best_unmirrored(run: xr.Dataset) -> float:
    """Best accuracy on pairs whose mirror is held out too; NaN where the level of failure is that of chance, 1/p."""
    if 2 / int(run["p"]) > COMMUTED:
        return math.nan
    _, values = _curve(run, "test_accuracy_unmirrored")
    best = float(values.max()) if len(values) else math.nan
    return best if best > COMMUTED or _lasted(run) else math.nan


def _loss_ratio(run: xr.Dataset) -> float:
    """Test loss at the end over that at initialisation."""
    _, loss = _curve(run, "test_loss")
    ratio = float(loss[-1] / loss[0])
    return ratio if ratio < 1 or _lasted(run) else math.nan


def _synchrony(run: xr.Dataset) -> float:
    """Steps until the test loss is below half of its peak for good, over steps to generalise."""
    steps, loss = _curve(run, "test_loss")
    generalised = _step(run, "test_accuracy", GENERALISED)
    fallen = _step(
        run.sel(step=slice(steps[loss.argmax()], None)), "test_loss", loss.max() / 2, above=False, limit=2 * generalised
    )
    return fallen / generalised


def _half_rise_ratio(limit: float) -> OneRun:
    """Steps of the test accuracy to half of its best over those of the train accuracy to half of its own.

    NaN of runs that have not learned half of the training set. A test accuracy that stays at chance has not risen yet:
    its number is how late it is already, if that is beyond `limit`.
    """

    def ratio(run: xr.Dataset) -> float:
        _, train = _steady(run, "train_accuracy")
        _, test = _steady(run, "test_accuracy")
        if not len(train) or train.max() < 0.5:
            return math.nan
        learned = _step(run, "train_accuracy", train.max() / 2)
        if test.max() >= COMMUTED:
            return _step(run, "test_accuracy", test.max() / 2) / learned
        so_far = _last(run) / learned
        return so_far if so_far > limit else math.nan

    return ratio


def _delayed_gain(run: xr.Dataset) -> float:
    """What the test accuracy gains after twice the steps that brought the train accuracy within 5 % of its best.

    NaN of runs that have not learned nine tenths of the training set, or end before.
    """
    _, train = _steady(run, "train_accuracy")
    steps, test = _steady(run, "test_accuracy")
    if not len(train) or train.max() < 0.9:
        return math.nan
    after = test[steps >= 2 * _step(run, "train_accuracy", 0.95 * train.max())]
    return float(after.max() - after[0]) if len(after) else math.nan


def _best_train(budget: int) -> OneRun:
    """Best train accuracy, spikes apart; below 99.9 % it is known only of runs of the published length."""

    def best(run: xr.Dataset) -> float:
        _, train = _steady(run, "train_accuracy")
        found = float(train.max()) if len(train) else math.nan
        return found if found >= 0.999 or _last(run) >= budget else math.nan

    return best


def _best_test(budget: int, level: float) -> OneRun:
    """Best test accuracy, spikes apart; below `level` it is known only of runs of the published length."""

    def best(run: xr.Dataset) -> float:
        _, test = _steady(run, "test_accuracy")
        found = float(test.max()) if len(test) else math.nan
        return found if found >= level or _last(run) >= budget else math.nan

    return best


def _late_rise(budget: int, least: float) -> OneRun:
    """Test loss at the end over its minimum; below `least` it is known only of runs of the published length."""

    def rise(run: xr.Dataset) -> float:
        _, loss = _steady(run, "test_loss")
        found = float(loss[-1] / loss.min()) if len(loss) else math.nan
        return found if found >= least or _last(run) >= budget else math.nan

    return rise


# --- numbers from all runs --------------------------------------------------------------------------------------------


def _seeds(number: OneRun) -> OneRun:
    """The median over seeds, each of which must be able to tell."""
    return lambda data: float(np.median([number(data.isel(seed=i)) for i in range(data.sizes["seed"])]))


def _at(
    number: OneRun, *fractions: float, of: Callable[[list[float]], Any] = np.max, inputs: str | None = None
) -> OneRun:
    """The number of the runs at these fractions, the largest unless said otherwise, and the median over seeds."""
    where: Label = {} if inputs is None else {"inputs": inputs}
    return _seeds(lambda data: float(of([number(data.sel({"fraction": f, **where})) for f in fractions])))


def _over(above: OneRun, below: OneRun) -> OneRun:
    return lambda data: above(data) / below(data)


def _rank_correlation(data: xr.Dataset) -> float:
    """Of steps to generalise with fraction, direct encoding; NaN of fewer than three fractions that generalised."""
    steps = data["generalised_step"].sel(encoding="direct").dropna("fraction")
    if steps.size < 3:
        return math.nan
    return float(spearmanr(steps["fraction"], steps).statistic) if np.ptp(steps.values) else 0.0


def _steepening(data: xr.Dataset) -> float:
    """-d log(steps) / d log(fraction) between the two smallest fractions that generalised, less that of the largest."""
    steps = data["generalised_step"].sel(encoding="direct").dropna("fraction")
    if steps.size < 4:
        return math.nan
    slopes = -np.diff(np.log(steps.values)) / np.diff(np.log(steps["fraction"].values))
    return float(slopes[0] - slopes[-1])


def _direct_alone(data: xr.Dataset) -> float:
    """Fractions at which, in equal steps, the direct encoding generalises and the symbolic does not, less the others.

    NaN where the two were trained at different moduli.
    """
    shared = data.dropna("fraction", subset=["last_step"])
    if shared["p"].values.min() < shared["p"].values.max() or not shared.sizes["fraction"]:
        return math.nan
    generalised = shared["generalised_step"] <= shared["last_step"].min("encoding")
    if not generalised.any():
        return math.nan
    direct, symbolic = (generalised.sel(encoding=name).values for name in ("direct", "symbolic"))
    return float((direct & ~symbolic).sum() - (symbolic & ~direct).sum())


def _slowest_memory(limit: float) -> OneRun:
    """Updates to memorise, the slowest run of all; infinite where one had not by `limit`."""

    def slowest(data: xr.Dataset) -> float:
        if int(data["p"]) != P:
            return math.nan
        steps = data["memorised_step"].where(data["memorised_step"].notnull() | (data["last_step"] < limit), np.inf)
        return float(np.max(steps.values[data["last_step"].notnull().values]))

    return slowest


def _best(data: xr.Dataset) -> xr.DataArray:
    """Best accuracy on pairs whose mirror is held out, over optimiser and the fractions at which all were run.

    None where no run is right of half of them: nothing is then to be compared.
    """
    name = "best_test_accuracy_unmirrored"
    table = data[name].dropna("fraction") if name in data else xr.DataArray([[]], dims=("optimiser", "fraction"))
    return table if table.size and float(table.max()) > 0.5 else table.isel(fraction=slice(0))


def _advantage_of_decay(data: xr.Dataset) -> float:
    """Best accuracy, mean over fractions: the best optimiser with weight decay less the best without."""
    table = _best(data)
    if not table.size:
        return math.nan
    mean = table.mean("fraction")
    decayed = mean["optimiser"].str.startswith("AdamW")
    return float(mean[decayed].max() - mean[~decayed].max())


def _spread_of_rates(data: xr.Dataset) -> float:
    """Best accuracy, mean over fractions: the best less the worst learning rate of Adam."""
    table = _best(data)
    mean = table.sel(optimiser=list(PLAIN)).mean("fraction") if table.size else np.array(math.nan)
    return float(mean.max() - mean.min())


def _best_of_plain(data: xr.Dataset) -> float:
    """Best accuracy on pairs whose mirror is held out at the largest fraction, with neither decay nor noise."""
    name = "best_test_accuracy_unmirrored"
    if name not in data or int(data["p"]) != P:
        return math.nan
    return float(data[name].sel(optimiser=list(PLAIN)).isel(fraction=-1).max(skipna=False))


# --- the pictures -----------------------------------------------------------------------------------------------------


def _panels(title: str, names: Sequence[str], columns: int, *, y: str, x: str, **axis: Any) -> "go.Figure":
    """Panels side by side and below each other, each under its name, with one scale for all."""
    rows = math.ceil(len(names) / columns)
    fig = figure(title, y=y)
    fig.set_subplots(rows, columns, shared_xaxes=True, shared_yaxes=True, subplot_titles=names,
                     horizontal_spacing=0.03, vertical_spacing=0.12)  # fmt: skip
    fig.update_annotations(font_size=12)
    fig.update_xaxes(axis)
    fig.update_xaxes(title_text="")
    fig.update_xaxes(title_text=x, row=rows, col=(columns + 1) // 2)
    for row in range(2, rows + 1):
        fig.update_yaxes(title_text=y, row=row, col=1)
    height = 220 * rows
    fig.update_layout(height=height + 160, width=800, margin={"t": 110, "b": 50}, legend={"y": 1 + 24 / height})
    return fig  # with room for the panels' names below the legend


def _thinned(x: np.ndarray, n: int) -> np.ndarray:
    """Places of about `n` values, evenly spaced on a logarithmic axis, the first and the last among them."""
    if len(x) <= n:
        return np.arange(len(x))
    wanted = np.append(x[0], np.geomspace(max(x[1], 1), x[-1], n - 1))
    return np.unique([np.abs(x - value).argmin() for value in wanted])


def _drawn(data: xr.Dataset, kind: str, title: str, columns: int) -> "go.Figure":
    """Train and test curves of `kind`, accuracy or loss: a panel for each fraction (and kind of inputs), thin lines."""
    cells = [
        {dim: data[dim].values[i] for dim, i in zip(dims, place)}
        for dims in [[dim for dim in ("inputs", "fraction") if dim in data.dims]]
        for place in np.ndindex(*(data.sizes[dim] for dim in dims))
    ]
    names = [", ".join(filter(None, [f"{cell['fraction']:.0%}", str(cell.get("inputs", ""))])) for cell in cells]
    unit = {"accuracy": "accuracy (share right)", "loss": "cross-entropy (nats)"}[kind]
    place = step_axis(data["step"].values)
    axis = place.layout()
    axis.pop("title")
    fig = _panels(title, names, columns, y=unit, x="step (updates, log scale; 0 set apart)", **axis)
    curves = {
        f"train_{kind}": ("train", {"color": COLOURS["train"]}),
        f"test_{kind}": ("test", {"color": COLOURS["test"]}),
        f"test_{kind}_mirrored": ("test, mirror trained on", {"color": COLOURS["test"], "dash": "dash"}),
        f"test_{kind}_unmirrored": ("test, mirror held out", {"color": COLOURS["test"], "dash": "dot"}),
    }
    there = [name for name in curves if name in data]
    points = max(12, POINTS // (len(cells) * len(there) * data.sizes["seed"]) - 2)
    for number, cell in enumerate(cells):
        where = {"row": number // columns + 1, "col": number % columns + 1}
        for name, seed in product(there, range(data.sizes["seed"])):
            steps, values = _curve(data.sel(cell).isel(seed=seed), name)
            kept = _thinned(steps, points)
            word, line = curves[name]
            fig.add_scatter(
                x=place.place(steps[kept]), y=values[kept].astype(np.float32), name=word,
                legendgroup=word, showlegend=number == 0 and seed == 0, mode="lines",
                line={"width": 1.5, **line}, hovertemplate="%{y:.3~g}", **where,
            )  # fmt: skip
        if kind == "accuracy":
            ends = place.place([place.first, place.last])
            _commutativity(fig, ends, [cell["fraction"]] * 2, showlegend=number == 0, **where)
    if kind == "loss":
        fig.update_yaxes(type="log", exponentformat="power", nticks=5)
        return fig
    return fig.update_yaxes(range=[-0.03, 1.04])


def _commutativity(fig: "go.Figure", x: Sequence[float] | np.ndarray, fraction: Sequence[float], **where: Any) -> None:
    """The test accuracy of a network that knows no more than a + b = b + a: about the training fraction."""
    fig.add_scatter(
        x=x, y=fraction, mode="lines", name="commutativity alone", legendgroup="commutativity", hoverinfo="skip",
        line={"color": COLOURS["event"], "width": 1, "dash": "dot"}, **where,
    )  # fmt: skip


def _plot(kind: str, title: str, columns: int = 3) -> Callable[[xr.Dataset], "go.Figure"]:
    return lambda data: _drawn(data, kind, title, columns)


def _plot_steps(data: xr.Dataset) -> "go.Figure":
    """H7: a point for each run, a line through the medians over seeds; runs that ended before as open triangles."""
    fig = figure("Steps until generalisation", y="updates until test accuracy is 95 %", x="training fraction")
    for colour, name in zip((SERIES[0], SERIES[2]), data["encoding"].values):
        of = data.sel(encoding=name).dropna("fraction", how="all", subset=["last_step"])
        marker = {"color": colour, "size": 7}
        words = f"{name} encoding, p = {int(of['p'])}"
        middle = of["generalised_step"].median("seed", skipna=False).dropna("fraction")
        fig.add_scatter(x=middle["fraction"].values, y=middle.values, mode="lines", line={"color": colour, "width": 2},
                        legendgroup=words, showlegend=False, hoverinfo="skip")  # fmt: skip
        runs = of.stack(run=("fraction", "seed"))
        came = runs["generalised_step"].notnull().values
        for chosen, y, symbol, said in (
            (came, "generalised_step", "circle", words),
            (~came, "last_step", "triangle-up-open", f"{name}: not by then, the run's end"),
        ):
            fig.add_scatter(
                x=runs["fraction"].values[chosen], y=runs[y].values[chosen], mode="markers", name=said,
                legendgroup=said if symbol != "circle" else words, marker={**marker, "symbol": symbol},
                hovertemplate="%{x:.0%}: %{y:,.0f} updates",
            )  # fmt: skip
    fig.update_xaxes(range=[0, 1], tickformat=".0%")
    fig.update_yaxes(type="log", dtick=1, exponentformat="power")
    return fig.update_layout(width=640, height=440, margin={"t": 110})


def _plot_optimisers(data: xr.Dataset) -> "go.Figure":
    """H5: all held-out pairs, and those whose mirror is held out; a colour for each optimiser."""
    columns = {"best_test_accuracy": "all held-out pairs", "best_test_accuracy_unmirrored": "mirror held out too"}
    there = {name: words for name, words in columns.items() if name in data}
    fig = _panels(
        f"Best accuracy within {int(data['last_step'].max()):,} updates", list(there.values()), len(there),
        y="best test accuracy (share right)", x="training fraction",
        range=[0, 1], tickformat=".0%", tickvals=[0.25, 0.5, 0.75],
    )  # fmt: skip
    for column, name in enumerate(there, start=1):
        for i, optimiser in enumerate(data["optimiser"].values):
            runs = data[name].sel(optimiser=optimiser)
            middle = runs.median("seed", skipna=False).dropna("fraction")
            fig.add_scatter(
                x=middle["fraction"].values, y=middle.values, name=str(optimiser), legendgroup=str(optimiser),
                showlegend=column == 1, mode="lines+markers", row=1, col=column,
                line={"color": SERIES[i], "width": 1.5, "dash": "dash" if "AdamW" in str(optimiser) else "solid"},
                hovertemplate="%{x:.0%}: %{y:.3~g}",
            )  # fmt: skip
    _commutativity(fig, [0, 1], [0, 1], row=1, col=1)
    fig.update_xaxes(title_text="training fraction")
    fig.update_yaxes(range=[-0.03, 1.04])
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    return fig.update_layout(legend=legend, height=440, width=900, margin={"t": 80})


# --- the figures ------------------------------------------------------------------------------------------------------


def _configs(cases: Callable[[Preset], Cases]) -> Callable[[Preset], Sequence[RunConfig]]:
    return lambda preset: [config for _, config in cases(preset)]


def _three_fractions(preset: Preset) -> Cases:
    """H2 and H6."""
    return _direct(preset, SCHEDULES)


MEMORY = "runs that memorise their training set"
LONGER = f"runs that memorise, and last {LASTING} times as long as that takes, at p = 20 or more"
GROKKED = "runs that last until they generalise"
MODULUS = f"p = {P}, as published, and a run that gets that far"
SCALARS = (
    "The paper's direct encoding is the integers x, y and p. Its curves are those of networks that read them as "
    "numbers (here divided by p), not of networks that look them up in a table of embeddings, which memorise and do "
    "not generalise: the claims are tested on the former, the latter are shown beside. "
)
THREE_SEEDS = "Each has three seeds, that of split and weights alike. "
ONE_SEED = "The laptop preset has one seed, that of split and weights alike; the paper preset three. "

FIGURES: tuple[Figure, ...] = (
    Figure(
        paper=PAPER,
        label="H1",
        title="Accuracy of the two-layer transformer on openai/grok's words, 5 to 90 %",
        runs=_configs(_symbolic),
        compute=_over_training(_symbolic, mirrors=True),
        plot=_plot("accuracy", "Symbolic encoding: accuracy by training fraction"),
        claims=(
            Claim(
                text="5 %: no generalisation; at best 10 % right of the pairs whose mirror is held out too",
                measure=_at(_best_unmirrored, 0.05),
                at_most=COMMUTED,
                needs=LONGER,
            ),
            Claim(
                text="45 and 60 %: a delay; generalising takes at least three times as many steps as memorising",
                measure=_at(_lateness, 0.45, 0.6, of=np.min),
                at_least=3,
                unit="x",
                needs=GROKKED,
            ),
            Claim(
                text="The delay is most pronounced there: its ratio is at least that at 75 and 90 %",
                measure=_over(_at(_lateness, 0.45, 0.6), _at(_lateness, 0.75, 0.9)),
                at_least=1,
                unit="x",
                needs=GROKKED,
            ),
            Claim(
                text="45 and 60 %: about 6000 epochs, read as updates, until generalisation",
                measure=_at(_reaches("test_accuracy", GENERALISED, 12_000), 0.45, 0.6, of=np.median),
                at_least=3000,
                at_most=12_000,
                unit="updates",
                needs=MODULUS,
            ),
            *(
                Claim(
                    text=f"{fraction:.0%}: test accuracy grows almost as fast as train accuracy, at most twice as late",
                    measure=_at(_promptness(2), fraction),
                    at_most=2,
                    unit="x",
                    needs=MEMORY,
                )
                for fraction in (0.75, 0.9)
            ),
        ),
        notes="The paper says that it ran openai/grok's code, whose default is no weight decay, and lists Power et "
        "al.'s weight decay 1, which is used here; neither is known to give 6000. With it accuracy collapses now and "
        "then after generalising: what counts is sustained. Where 'epoch' is a pass over the data, 6000 would be "
        "50,000 updates and more. The laptop preset is p = 47 in batches of 128, half the training set where that is "
        "less, without the closing token; there the curve at 75 % is known to wait at the level of commutativity. "
        + ONE_SEED,
        minutes={"toy": 0.1, "laptop": 5, "paper": 600},
    ),
    Figure(
        paper=PAPER,
        label="H2",
        title="Accuracy of the one-layer transformer on tokens (x, y, p), 15, 30, 45 %",
        runs=_configs(_three_fractions),
        compute=_over_training(_three_fractions, mirrors=True),
        plot=_plot("accuracy", "Direct encoding: accuracy by training fraction"),
        claims=(
            Claim(
                text="15 %: no generalisation; at best 10 % right of the pairs whose mirror is held out too",
                measure=_at(_best_unmirrored, 0.15),
                at_most=COMMUTED,
                needs=LONGER,
            ),
            Claim(
                text="30 %: train accuracy reaches 100 % (99.9 %) at about 200 steps",
                measure=_at(_reaches("train_accuracy", 0.999, 400), 0.3),
                at_least=100,
                at_most=400,
                unit="steps",
                needs=MODULUS,
            ),
            Claim(
                text="30 %: test accuracy surges, through 50 %, at about 6,000 steps",
                measure=_at(_reaches("test_accuracy", 0.5, 12_000), 0.3),
                at_least=3000,
                at_most=12_000,
                unit="steps",
                needs=MODULUS,
            ),
            Claim(
                text="30 %: test accuracy reaches 100 % (99.9 %) at about 9,100 steps",
                measure=_at(_reaches("test_accuracy", 0.999, 18_200), 0.3),
                at_least=4550,
                at_most=18_200,
                unit="steps",
                needs=MODULUS,
            ),
            Claim(
                text="45 %: still a delay; generalising takes at least twice as many steps as memorising",
                measure=_at(_lateness, 0.45),
                at_least=2,
                unit="x",
                needs=GROKKED,
            ),
            Claim(
                text="45 %: a shorter delay than at 30 %, by a tenth at least",
                measure=_over(_at(_lateness, 0.45), _at(_lateness, 0.3)),
                at_most=0.9,
                unit="x",
                needs=GROKKED,
            ),
        ),
        notes="The initialisation, N(0, 0.64/d_model), and biases in the MLP alone were chosen here. The laptop preset "
        "keeps p = 97, since the delay does not shrink with p, and cuts the runs at 5,000, 10,000 and 2,000 steps "
        f"instead of 25,000. {ONE_SEED}",
        minutes={"toy": 0.1, "laptop": 14, "paper": 80},
    ),
    Figure(
        paper=PAPER,
        label="H3",
        title="Accuracy of the MLP, 15, 30, 45 %",
        runs=_configs(_mlp),
        compute=_over_training(_mlp),
        plot=_plot("accuracy", "MLP: accuracy by training fraction"),
        claims=(
            Claim(
                text="Train and test accuracy rise together: half of its best is at most twice as late for test",
                measure=_at(_half_rise_ratio(2), *SCHEDULES, inputs="numbers"),
                at_most=2,
                unit="x",
                needs="runs that learn half of their training set",
            ),
            Claim(
                text="No grokking: test accuracy gains at most 0.2 after twice the steps of train accuracy to its best",
                measure=_at(_delayed_gain, *SCHEDULES, inputs="numbers"),
                at_most=0.2,
                needs="runs that learn nine tenths of their training set, and go on for as long again",
            ),
            Claim(
                text="Train accuracy stays below 100 % (99.9 %) for 20,000 steps",
                measure=_at(_best_train(20_000), *SCHEDULES, inputs="numbers"),
                at_most=0.999,
                needs="20,000 steps",
            ),
        ),
        notes=SCALARS + "The laptop preset is p = 47, 3,000 steps (600 with embeddings). " + THREE_SEEDS,
        minutes={"toy": 0.1, "laptop": 5, "paper": 240},
    ),
    Figure(
        paper=PAPER,
        label="H4",
        title="Accuracy of the LSTM, 30, 45, 60 %",
        runs=_configs(_lstm),
        compute=_over_training(_lstm),
        plot=_plot("accuracy", "LSTM: accuracy by training fraction"),
        claims=(
            Claim(
                text="No grokking: test accuracy gains at most 0.2 after twice the steps of train accuracy to its best",
                measure=_at(_delayed_gain, *LSTM_FRACTIONS, inputs="numbers"),
                at_most=0.2,
                needs="runs that learn nine tenths of their training set, and go on for as long again",
            ),
            Claim(
                text="Test accuracy reaches a relatively high level, 50 % or more, within 100,000 epochs",
                measure=_at(_best_test(100_000, 0.5), *LSTM_FRACTIONS, of=np.min, inputs="numbers"),
                at_least=0.5,
                needs="100,000 epochs",
            ),
        ),
        notes=SCALARS + "Full batch, so that an epoch is an update. Adam at 1e-2 spikes: accuracies that are judged "
        "are running medians over five evaluations. The laptop preset is p = 47 and 10,000 updates (2,000 with "
        "embeddings), a tenth of the paper's. " + THREE_SEEDS,
        minutes={"toy": 0.1, "laptop": 4, "paper": 160},
    ),
    Figure(
        paper=PAPER,
        label="H5",
        title="Best accuracy within 1800 updates against the training fraction, by optimiser",
        runs=_configs(_by_optimiser),
        compute=_best_within_budget,
        plot=_plot_optimisers,
        claims=(
            Claim(
                text="Every optimiser memorises within about 200 updates, at every fraction",
                measure=_seeds(_slowest_memory(400)),
                at_most=400,
                unit="updates",
                needs=MODULUS,
            ),
            Claim(
                text="Weight decay helps most: mean over fractions, best optimiser with it less best without",
                measure=_seeds(_advantage_of_decay),
                at_least=0,
                needs="an optimiser that generalises",
            ),
            Claim(
                text="Without weight decay and noise some generalisation at the largest fraction, 20 % or more",
                measure=_seeds(_best_of_plain),
                at_least=0.2,
                needs=MODULUS,
            ),
            Claim(
                text="A poor learning rate limits generalisation: mean over fractions, best less worst rate of Adam",
                measure=_seeds(_spread_of_rates),
                at_least=0.2,
                needs="an optimiser that generalises",
            ),
        ),
        notes="Text and captions disagree on which rows are full batch. Here batches are of 512, as in Power et al.'s "
        "figure, unless the paper's list says otherwise: of 128 in two rows, full with update noise; AdamW is shown "
        "both in batches of 512 and full batch. Learning rate 1e-3 but for two rows, betas .9/.98, 10 steps of "
        "warm-up. Claims count pairs whose mirror is held out, at the stored steps (every 300), over the fractions at "
        "which all rows were run. The laptop preset has 30, 45 and 75 %, the last without full batches. " + ONE_SEED,
        minutes={"toy": 0.1, "laptop": 7.5, "paper": 110},
    ),
    Figure(
        paper=PAPER,
        label="H6",
        title="Loss of the one-layer transformer on tokens (x, y, p), 15, 30, 45 %",
        runs=_configs(_three_fractions),
        compute=_over_training(_three_fractions),
        plot=_plot("loss", "Direct encoding: loss by training fraction"),
        claims=(
            Claim(
                text="15 %: the test loss never improves; at the end it is at least that of the initialisation",
                measure=_at(_loss_ratio, 0.15),
                at_least=1,
                unit="x",
                needs=LONGER,
            ),
            Claim(
                text="30 %: loss and accuracy change together; the test loss halves as the test accuracy reaches 95 %, "
                "within half as many steps again",
                measure=_at(_synchrony, 0.3),
                at_least=2 / 3,
                at_most=1.5,
                unit="x",
                needs=GROKKED,
            ),
        ),
        notes="The runs are those of H2; the test loss is to fall below half of its peak for good.",
        minutes={"toy": 0.1, "laptop": 14, "paper": 80},
    ),
    Figure(
        paper=PAPER,
        label="H7",
        title="Steps until generalisation against the training fraction, both encodings",
        runs=_configs(_both_encodings),
        compute=_steps_until,
        plot=_plot_steps,
        claims=(
            Claim(
                text="Direct encoding: the larger the fraction, the fewer steps; rank correlation -0.9 or below",
                measure=_seeds(_rank_correlation),
                at_most=-0.9,
                needs="three fractions that generalise",
            ),
            Claim(
                text="Direct encoding: steps diverge; the exponent of their fall with the fraction is larger by 1 or "
                "more at the smallest fractions that generalise than at the largest",
                measure=_seeds(_steepening),
                at_least=1,
                needs="four fractions that generalise",
            ),
            Claim(
                text="Symbolic encoding needs a larger fraction: at one fraction or more only direct generalises",
                measure=_seeds(_direct_alone),
                at_least=1,
                unit="fractions",
                needs="both encodings at one modulus, and runs that generalise",
            ),
        ),
        notes="The paper shows this figure without a fit; a power law in the fraction has one exponent, steps that "
        "diverge at a critical fraction above 0 a growing one. The encodings are compared at equal fractions and "
        "within the steps of the shorter run; the laptop preset cannot, its symbolic runs being those of H1 with "
        f"p = 47. Its direct runs are those of H2 and three more; those at 15 and 30 % end at 5,000 and 10,000. "
        f"{ONE_SEED}",
        minutes={"toy": 0.1, "laptop": 11, "paper": 1000},
    ),
    Figure(
        paper=PAPER,
        label="H8",
        title="Loss of the MLP, 15, 30, 45 %",
        runs=_configs(_mlp),
        compute=_over_training(_mlp),
        plot=_plot("loss", "MLP: loss by training fraction"),
        claims=(
            Claim(
                text="The test loss rises late: at the end it is at least a tenth above its minimum, at each fraction",
                measure=_at(_late_rise(20_000, 1.1), *SCHEDULES, of=np.min, inputs="numbers"),
                at_least=1.1,
                unit="x",
                needs="20,000 steps",
            ),
        ),
        notes="The runs are those of H3. " + SCALARS + "Losses that are judged are running medians over five tests.",
        minutes={"toy": 0.1, "laptop": 5, "paper": 240},
    ),
)
