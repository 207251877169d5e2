"""A small MLP at two weight decays, which K4 and K5 share: runs, accuracies, picture."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.config import RunConfig, recipes
from interp.milestones import curve
from interp.papers.kit.curves import GENERALISED, MEMORISED, sustained
from interp.papers.kit.figure import Preset
from interp.papers.kitouni.picture import add_commutativity, add_seeds, commutative_accuracy
from interp.plots.style import COLOURS, figure, step_axis
from interp.plots.thinning import thinned
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["SEEDS", "middle", "mlp", "picture", "results"]

SEEDS: dict[Preset, tuple[int, ...]] = {"toy": (2, 0), "laptop": (2, 0, 1), "paper": (2, 0, 1, 3, 4)}
"""Seeds of split and weights together; 2 is the seed of the published script."""
DRAWN = 81
"""Number of evaluations of each curve that are kept for the picture, about."""


def mlp(preset: Preset, recipe: str, seed: int) -> RunConfig:
    """The recipe with another seed of split and weights."""
    config = recipes.get(recipe).replace(
        {"task.seed": seed, "seed": seed, "save.weights": "log(12)", "save.state": "every(100000)"}
    )
    match preset:
        case "toy":
            toy = {"task.p": 7, "model.d_model": 16, "model.d_hidden": (16,)}
            return config.replace(toy | {"steps": 200 if recipe == "simple-grokking" else 100})
        case "laptop":
            return config
        case "paper":
            return config.replace({"steps": 10_000})


def results(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """Accuracies by weight decay and seed, thinned for the picture, and the steps from which each is sustained."""
    rows: dict[float, list[xr.Dataset]] = {}
    for traj in trajs:
        curves = {side: curve(traj, f"{side}_accuracy") for side in ("train", "test")}
        row = xr.Dataset(
            {
                "memorised_step": sustained(*curves["train"], MEMORISED),
                "generalised_step": sustained(*curves["test"], GENERALISED),
                "last_step": float(curves["test"][0][-1]),
            }
        )
        for side, (steps, values) in curves.items():
            kept = thinned(steps, DRAWN)
            row[f"{side}_accuracy"] = xr.DataArray(values[kept], {f"{side}_step": steps[kept]}, f"{side}_step")
        rows.setdefault(traj.config.optimizer.weight_decay, []).append(row)
    by_decay = [xr.concat(of_seeds, "seed") for of_seeds in rows.values()]
    data = xr.concat(by_decay, "weight_decay", join="outer").assign_coords(
        weight_decay=list(rows), seed=list(SEEDS[preset])
    )
    return data.assign_attrs(p=trajs[0].task.p, train_share=commutative_accuracy(trajs[0]))


def picture(data: xr.Dataset) -> "go.Figure":
    """Accuracies over steps; of two weight decays the higher one, next to the test accuracy of the lower one."""
    shown = data.isel(weight_decay=-1)
    decay = float(shown["weight_decay"])
    fig = figure(f"An MLP that adds mod {data.attrs['p']}, weight decay {decay:g}", y="accuracy (share right)")
    place = step_axis(np.union1d(data["train_step"].values, data["test_step"].values))
    for side in ("train", "test"):
        x = place.place(data[f"{side}_step"].values)
        add_seeds(fig, x, shown[f"{side}_accuracy"].transpose("seed", ...).values, side, COLOURS[side])
    if data.sizes["weight_decay"] > 1:
        before = data.isel(weight_decay=0)
        legend = f"test, weight decay {float(before['weight_decay']):g}"
        x = place.place(data["test_step"].values)
        add_seeds(fig, x, before["test_accuracy"].transpose("seed", ...).values, legend, COLOURS["other"])
    add_commutativity(fig, data)
    return fig.update_layout(xaxis=place.layout(), yaxis_range=[-0.03, 1.04], height=380)


def middle(data: xr.Dataset, name: str, decay: int) -> float:
    """Median over seeds of a step, at the lower (0) or higher (1) weight decay; NaN if fewer than half got there.

    A run that ended before counts as later than all others.
    """
    steps = data[name].isel(weight_decay=decay).fillna(np.inf).values
    return float(np.median(steps)) if np.isfinite(np.sort(steps)[len(steps) // 2]) else math.nan
