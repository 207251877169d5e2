"""Figure H5: best accuracy within a budget of updates by optimiser and training fraction."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.config import AdamW, Interventions
from interp.milestones.sources import CURVES, curves
from interp.papers.hu import PAPER, P
from interp.papers.hu.claims import MODULUS, ONE_SEED, OneRun, over_seeds
from interp.papers.hu.curves import accuracy_by_mirror, add_commutativity, labelled, panels
from interp.papers.hu.runs import DIRECT, SEEDS, Cases, configs, direct_cases, recorded, transformer
from interp.papers.kit.curves import MEMORISED, last_evaluation, step_of
from interp.papers.kit.figure import Claim, Figure, Preset
from interp.plots.style import SERIES
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["FIGURE"]

UPDATES: Mapping[Preset, int] = {"toy": 20, "laptop": 1800, "paper": 1800}
"""Budget of the comparison."""
FRACTIONS: Mapping[Preset, tuple[float, ...]] = {
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
"""Optimisers as changes of Adam with learning rate 1e-3 and batches of 512."""
DECAYED = "AdamW, full batch"
"""Ninth optimiser: that of the runs of H2 and H7, at their fractions."""
PLAIN = ("Adam, 3e-4", "Adam, 1e-3", "Adam, 3e-3")
"""Optimisers with neither weight decay nor noise, in batches of 512."""


def _cases(preset: Preset) -> Cases:
    """Runs of each optimiser; on a laptop without the full batches that alone would cost as much as all the rest."""
    base = transformer(preset)
    settings = base.optimizer
    assert isinstance(settings, AdamW)  # of that recipe
    base = base.replace({"optimizer": settings.replace({"weight_decay": 0.0, "batch_size": 512})})
    cases: Cases = []
    for (name, changes), fraction, seed in product(OPTIMISERS.items(), FRACTIONS[preset], SEEDS[preset]):
        if preset == "laptop" and "full batch" in name and fraction > 0.5:
            continue
        config = base.replace({"task.train_fraction": fraction, **changes})
        label = {"optimiser": name, "fraction": fraction, "seed": seed}
        cases.append((label, recorded(config, preset, seed, UPDATES[preset], saves=6)))
    far = [fraction for fraction in FRACTIONS[preset] if DIRECT[preset].get(fraction, 0) >= UPDATES[preset]]
    return cases + [({"optimiser": DECAYED} | label, config) for label, config in direct_cases(preset, far)]


def results(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """Best accuracies within the budget and steps to memorise, over optimiser, fraction, seed; and `p`."""
    found = []
    for traj in trajs:
        run = xr.merge([curves(traj, CURVES), accuracy_by_mirror(traj)], join="outer")
        run = run.sel(step=slice(0, UPDATES[preset]))
        best = {f"best_{name}": run[name].max() for name in run.data_vars if str(name).startswith("test_accuracy")}
        memorised = step_of(run, "train_accuracy", MEMORISED)
        found.append(xr.Dataset({**best, "memorised_step": memorised, "last_step": last_evaluation(run)}))
    return labelled([label for label, _ in _cases(preset)], found).assign(p=trajs[0].task.p)


def picture(data: xr.Dataset) -> "go.Figure":
    """Best accuracy on all held-out pairs, and on pairs whose mirror is held out; a colour for each optimiser."""
    columns = {"best_test_accuracy": "all held-out pairs", "best_test_accuracy_unmirrored": "mirror held out too"}
    there = {name: words for name, words in columns.items() if name in data}
    fig = panels(
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
    add_commutativity(fig, [0, 1], [0, 1], row=1, col=1)
    fig.update_xaxes(title_text="training fraction")
    fig.update_yaxes(range=[-0.03, 1.04])
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    return fig.update_layout(legend=legend, height=440, width=900, margin={"t": 80})


def _slowest_memory(limit: float) -> OneRun:
    """Updates to memorise of the slowest run; infinite where one had not memorised by `limit`."""

    def slowest(data: xr.Dataset) -> float:
        if int(data["p"]) != P:
            return math.nan
        steps = data["memorised_step"].where(data["memorised_step"].notnull() | (data["last_step"] < limit), np.inf)
        return float(np.max(steps.values[data["last_step"].notnull().values]))

    return slowest


def _best(data: xr.Dataset) -> xr.DataArray:
    """Best accuracy on pairs whose mirror is held out, over optimiser and the fractions at which all were run.

    Empty where no run has more than half of them right: then there is nothing to compare.
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


FIGURE = Figure(
    paper=PAPER,
    label="H5",
    title="Best accuracy within 1800 updates against the training fraction, by optimiser",
    runs=configs(_cases),
    results=results,
    picture=picture,
    claims=(
        Claim(
            text="Every optimiser memorises within about 200 updates, at every fraction",
            measure=over_seeds(_slowest_memory(400)),
            at_most=400,
            unit="updates",
            needs=MODULUS,
        ),
        Claim(
            text="Weight decay helps most: mean over fractions, best optimiser with it less best without",
            measure=over_seeds(_advantage_of_decay),
            at_least=0,
            needs="an optimiser that generalises",
        ),
        Claim(
            text="Without weight decay and noise some generalisation at the largest fraction, 20 % or more",
            measure=over_seeds(_best_of_plain),
            at_least=0.2,
            needs=MODULUS,
        ),
        Claim(
            text="A poor learning rate limits generalisation: mean over fractions, best less worst rate of Adam",
            measure=over_seeds(_spread_of_rates),
            at_least=0.2,
            needs="an optimiser that generalises",
        ),
    ),
    notes="Text and captions disagree on which rows are full batch. Here batches are of 512, as in Power et al.'s "
    "figure, unless the paper's list says otherwise: of 128 in two rows, full with update noise; AdamW is shown "
    "both in batches of 512 and full batch. Learning rate 1e-3 but for two rows, betas .9/.98, 10 steps of "
    "warm-up. Claims count pairs whose mirror is held out, at the stored steps (every 300; full "
    "batch, whose runs are those of H2, every 900 at 30 % and every 100 at 45 %), over the fractions at which all "
    "rows were run. The laptop preset has 30, 45 and 75 %, the last without full batches. " + ONE_SEED,
    minutes={"toy": 0.1, "laptop": 7.5, "paper": 110},
)
