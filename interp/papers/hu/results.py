"""What is computed from the runs of Hu et al.: curves of all of them in one dataset, steps, best accuracies."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from interp.analysis.measures import measure
from interp.errors import NotAvailableError
from interp.papers.hu.runs import UPDATES, cases_of_both_encodings, optimiser_cases
from interp.papers.hu.sizes import Cases, Label
from interp.papers.kit.curves import GENERALISED, MEMORISED, last_evaluation, step_of, tested
from interp.papers.kit.figure import Preset
from interp.trajectory import Trajectory

__all__ = ["best_within_budget", "over_training", "steps_until"]


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


def over_training(
    cases: Callable[[Preset], Cases], *, mirrors: bool = False
) -> Callable[[Sequence[Trajectory], Preset], xr.Dataset]:
    """Curves of every run, over its labels and `step`, and the modulus `p`."""

    def compute(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
        runs = [xr.merge([tested(t), _mirrors(t)], join="outer") if mirrors else tested(t) for t in trajs]
        return _labelled([label for label, _ in cases(preset)], runs).assign(p=trajs[0].task.p)

    return compute


def steps_until(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """H7: steps to generalise and the last step of each run, over encoding, fraction, seed; `p` over encoding."""
    labels = [label for label, _ in cases_of_both_encodings(preset)]
    runs = [tested(traj) for traj in trajs]
    found = [
        xr.Dataset({"generalised_step": step_of(run, "test_accuracy", GENERALISED), "last_step": last_evaluation(run)})
        for run in runs
    ]
    data = _labelled(labels, found)
    modulus = {label["encoding"]: traj.task.p for label, traj in zip(labels, trajs)}
    return data.sortby("fraction").assign(p=("encoding", [modulus[name] for name in data["encoding"].values]))


def best_within_budget(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """H5: best accuracies within the budget and steps to memorise, over optimiser, fraction, seed; and `p`."""
    found = []
    for traj in trajs:
        run = xr.merge([tested(traj), _mirrors(traj)], join="outer").sel(step=slice(0, UPDATES[preset]))
        best = {f"best_{name}": run[name].max() for name in run.data_vars if str(name).startswith("test_accuracy")}
        memorised = step_of(run, "train_accuracy", MEMORISED)
        found.append(xr.Dataset({**best, "memorised_step": memorised, "last_step": last_evaluation(run)}))
    return _labelled([label for label, _ in optimiser_cases(preset)], found).assign(p=trajs[0].task.p)
