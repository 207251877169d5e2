"""Timeline of an account: its measures over the checkpoints of a run, and when each part of it was born."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.analysis.account import Account
from interp.analysis.catalogue import MEASURES
from interp.analysis.context import RunContext
from interp.analysis.measures import measure
from interp.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray

__all__ = ["births", "spread", "timeline_of"]

STEPS = 100
"""Maximum number of steps of a timeline, spread evenly over the stored ones."""
ACCOUNT = ("certified_accuracy", "certified_loss", "ideal_logits_explained", "resampled_accuracy")
MAP = "certified_margin"
CURVES = ("train_accuracy", "test_accuracy")


def timeline_of(
    traj: Trajectory, account: Account, *, steps: Sequence[int] | None = None, progress: bool = False
) -> "xarray.Dataset":
    """Measures of an account over steps, refitted at each with its keys.

    Variables over `step`: certified accuracy and loss, logits explained, accuracy with everything else resampled, train
    and test accuracy; over `step` and `pair`: `certified_margin`; over `step` and `key`: `alpha`, the coefficient of
    each key in the logits, `cluster_size`, its neurons, and `embedding_share`, its share of the squared norm of the
    embedding, where the network has them. Where the keys are those of the run's last step, values are stored beside the
    run.

    `steps`: stored steps; by default at most `STEPS` of them.
    """
    import xarray

    chosen = steps if steps is not None else spread(traj.steps)
    frequencies = account.basis == "frequency"
    by_key = ["logit_coefficient", "neuron_cluster_size"] if frequencies else ["irrep_similarity"]
    known = {*_available(traj)}
    given = None if RunContext(traj).account_keys == account.keys else account.keys
    names = [name for name in (*CURVES, *ACCOUNT, MAP, *by_key, "embedding_power") if name in known]
    data = measure(traj, names, steps=list(chosen), keys=given, progress=progress)
    found = {name: data[name] for name in (*CURVES, *ACCOUNT, MAP) if name in data}
    keys = list(account.keys)
    if "logit_coefficient" in data:
        N = account.N
        unit = np.array([np.sqrt(N**3 / (1 if 2 * k == N else 2)) for k in keys])
        found["alpha"] = _of_keys(data["logit_coefficient"].sel(frequency=keys) / unit, keys)
    if "neuron_cluster_size" in data:
        found["cluster_size"] = _of_keys(data["neuron_cluster_size"].sel(frequency=keys), keys)
    if "embedding_power" in data and frequencies:
        share = data["embedding_power"] / data["embedding_power"].sum("frequency")
        found["embedding_share"] = _of_keys(share.sel(frequency=keys), keys)
    return xarray.Dataset(found, attrs={"run": traj.folder.name, "keys": keys})


def births(timeline: "xarray.Dataset") -> Mapping[str, Mapping[Any, int | None]]:
    """Births: the first step from which a quantity stays above half its last value, for each key.

    By quantity (`alpha`, `cluster_size`, `embedding_share`) and key; None where it is not above half at the last step,
    because it is 0 there.

    >>> import xarray
    >>> alpha = xarray.DataArray([[0.0], [3.0], [1.0], [4.0], [5.0]], {"step": [0, 10, 20, 30, 40], "key": [7]})
    >>> births(xarray.Dataset({"alpha": alpha}))
    {'alpha': {7: 30}}
    """
    return {
        name: {key: _birth(timeline[name].sel(key=key)) for key in timeline["key"].values.tolist()}
        for name in ("alpha", "cluster_size", "embedding_share")
        if name in timeline
    }


def _birth(curve: "xarray.DataArray") -> int | None:
    values = curve.values
    above = values > values[-1] / 2
    if not above[-1] or values[-1] <= 0:
        return None
    below = np.flatnonzero(~above)
    return int(curve["step"].values[below[-1] + 1 if len(below) else 0])


def _of_keys(array: "xarray.DataArray", keys: Sequence[Any]) -> "xarray.DataArray":
    return array.rename(frequency="key").assign_coords(key=list(keys))


def spread(steps: np.ndarray, most: int = STEPS) -> list[int]:
    """Steps among these, at most so many, spread evenly, first and last included.

    >>> len(spread(np.arange(1000))), spread(np.arange(3))
    (100, [0, 1, 2])
    """
    if len(steps) <= most:
        return [int(step) for step in steps]
    return [int(steps[i]) for i in np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))]


def _available(traj: Trajectory) -> list[str]:
    context = RunContext(traj)
    return [name for name, item in MEASURES.items() if context.unmet(item.requires) is None]
