"""What is computed from the runs of Kitouni: order in planes of the embedding, and accuracies."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from interp.analysis.geometry import (
    angular_order,
    angular_order_null,
    circularity_of_pair,
    embedding_pca,
    plane_of_frequency,
)
from interp.analysis.measures import key_frequencies
from interp.analysis.spectra import embedding_power
from interp.papers.kit.curves import GENERALISED, MEMORISED, curve_of, sustained
from interp.papers.kit.figure import Preset
from interp.papers.kitouni.sizes import MLP_SEEDS, NEARLY, ORDERED, PAIRS, SEEDS, WIDTHS
from interp.trajectory import Trajectory

__all__ = ["accuracies", "order_by_pair", "order_by_width", "order_over_training"]


def order_over_training(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """K1: the order of the numbers in two kinds of axes over training, and when the circle came."""
    rows = []
    for traj in trajs:
        W_E, steps = _number_embeddings(traj), traj.steps
        last, own = (embedding_pca(W_E, axes=axes, components=2).coordinates for axes in ("last", "each"))
        final = angular_order(last[-1])
        k = int(final.frequency)
        order_last, order_own = (angular_order(plane, frequency=k).resultant.numpy() for plane in (last, own))
        evaluation, accuracy = curve_of(traj.metrics, "test_accuracy")
        rows.append(
            {
                "test_accuracy": ("evaluation", accuracy),
                "order_last_axes": ("step", order_last),
                "order_own_axes": ("step", order_own),
                "generalised_step": ((), sustained(evaluation, accuracy, GENERALISED)),
                "circle_step": ((), sustained(steps, order_own, ORDERED)),
                "early_step": ((), sustained(steps, order_last, NEARLY)),
                "last_step": ((), float(steps[-1])),
                "order": ((), float(final.resultant)),
                "order_correlation": ((), float(final.order_correlation)),
                "circularity": ((), float(circularity_of_pair(last[-1]).value)),
                "frequency": ((), k),
                "stride": ((), int(final.stride)),
                "winding": ((), int(final.winding)),
            }
        )
    first = trajs[0]
    data = xr.concat([xr.Dataset(row, {"step": first.steps, "evaluation": evaluation}) for row in rows], "seed")
    data = data.assign_coords(seed=[traj.config.seed for traj in trajs])
    shown = _frames(first.steps, float(data["generalised_step"][0]))
    coordinates = embedding_pca(_number_embeddings(first), components=2).coordinates[shown].float().numpy()
    data["frame_step"] = ("frame", first.steps[shown])
    data["coordinates"] = (("frame", "token", "component"), coordinates)
    return data.assign_attrs(p=first.task.p, train_share=_train_share(first))


def _frames(steps: np.ndarray, generalised: float) -> np.ndarray:
    """Where the four pictures are among the stored steps: the first, a quarter of the way, generalisation, the last."""
    if math.isnan(generalised):
        return np.linspace(0, len(steps) - 1, 4).round().astype(int)
    return np.array([np.abs(steps - at).argmin() for at in (0, generalised / 4, generalised, steps[-1])])


def order_by_width(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """K2: the order at the first and the last step in the axes of the end, by width and seed."""
    p = trajs[0].task.p
    frequencies = np.arange(1, (p - 1) // 2 + 1)
    rows = []
    for traj in trajs:
        W_E = torch.cat([_number_embeddings(traj, slice(0, 1)), _number_embeddings(traj, slice(-1, None))])
        plane = embedding_pca(W_E, axes="last", components=2).coordinates
        final = angular_order(plane[1])
        order = angular_order(plane, frequency=int(final.frequency)).resultant
        power = embedding_power(W_E)[:, : len(frequencies)]
        k = int(power[1].argmax()) + 1
        of_k = angular_order(plane_of_frequency(W_E, k, reference=W_E[1]).coordinates, frequency=k).resultant
        own = [_own_order(W_E[0], int(f)) for f in frequencies]
        rows.append(
            {
                "test_accuracy": ((), curve_of(traj.metrics, "test_accuracy")[1][-1]),
                "order_start": ((), float(order[0])),
                "order_end": ((), float(order[1])),
                "order_start_dominant": ((), float(of_k[0])),
                "order_end_dominant": ((), float(of_k[1])),
                "dominant": ((), k),
                "plane_frequency": ((), int(final.frequency)),
                "own_order": ("frequency", own),
                "power_start": ("frequency", power[0].numpy()),
                "coordinates": (("token", "component"), plane[0].float().numpy()),
            }
        )
    seeds, widths = SEEDS[preset], WIDTHS[preset]
    by_width = [
        xr.concat([xr.Dataset(row) for row in rows[i : i + len(seeds)]], "seed")
        for i in range(0, len(rows), len(seeds))
    ]
    data = xr.concat(by_width, "d_model")
    data = data.assign_coords(d_model=list(widths), seed=list(seeds), frequency=frequencies)
    data["coordinates"] = data["coordinates"].isel(seed=0, drop=True)
    chance = angular_order_null(p, generator=torch.Generator().manual_seed(0), frequency=1, probabilities=(0.95,))
    return data.assign_attrs(p=p, random_mean=chance.mean, random_upper=chance.quantiles[0].item())


def order_by_pair(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """K3: which circle each pair of components carries at the last step, and the order of key frequencies."""
    most = max(traj.task.p for traj in trajs)
    rows = []
    for traj in trajs:
        p = traj.task.p
        W_E = _number_embeddings(traj, slice(-1, None))[0]
        pca = embedding_pca(W_E, components=2 * PAIRS)
        planes = pca.coordinates.reshape(p, PAIRS, 2).transpose(0, 1)
        order = angular_order(planes)
        keys = [k for k in key_frequencies(traj) if 2 * k != p]
        own = np.full((most - 1) // 2, np.nan)
        own[[k - 1 for k in keys]] = [_own_order(W_E, k) for k in keys]
        coordinates = np.full((most, 2 * PAIRS), np.nan, dtype=np.float32)
        coordinates[:p] = pca.coordinates
        rows.append(
            {
                "p": ((), p),
                "d_model": ((), W_E.shape[-1]),
                "seed": ((), traj.config.seed),
                "test_accuracy": ((), curve_of(traj.metrics, "test_accuracy")[1][-1]),
                "order": ("pair", order.resultant.numpy()),
                "frequency": ("pair", order.frequency.numpy()),
                "stride": ("pair", order.stride.numpy()),
                "multiplicity": ("pair", order.multiplicity.numpy()),
                "variance_share": ("pair", pca.explained_variance_ratio.reshape(PAIRS, 2).sum(-1).numpy()),
                "key_order": ("key", own),
                "coordinates": (("token", "component"), coordinates),
            }
        )
    data = xr.concat([xr.Dataset(row) for row in rows], "run")
    return data.assign_coords(pair=[f"{2 * i + 1}–{2 * i + 2}" for i in range(PAIRS)], key=range(1, len(own) + 1))


def accuracies(trajs: Sequence[Trajectory], preset: Preset) -> xr.Dataset:
    """Accuracy curves by weight decay and seed, thinned evenly in log step, and the steps of both transitions."""
    rows: dict[float, list[xr.Dataset]] = {}
    for traj in trajs:
        curves = {side: curve_of(traj.metrics, f"{side}_accuracy") for side in ("train", "test")}
        row = xr.Dataset(
            {
                "memorised_step": sustained(*curves["train"], MEMORISED),
                "generalised_step": sustained(*curves["test"], GENERALISED),
                "last_step": float(curves["test"][0][-1]),
            }
        )
        for side, (steps, values) in curves.items():
            kept = _thinned(steps)
            row[f"{side}_accuracy"] = xr.DataArray(values[kept], {f"{side}_step": steps[kept]}, f"{side}_step")
        rows.setdefault(traj.config.optimizer.weight_decay, []).append(row)
    by_decay = [xr.concat(of_seeds, "seed") for of_seeds in rows.values()]
    data = xr.concat(by_decay, "weight_decay", join="outer").assign_coords(
        weight_decay=list(rows), seed=list(MLP_SEEDS[preset])
    )
    return data.assign_attrs(p=trajs[0].task.p, train_share=_train_share(trajs[0]))


def _number_embeddings(traj: Trajectory, at: slice = slice(None)) -> torch.Tensor:
    """The embeddings of the numbers, '=' left out, at stored steps: [step, token, d_model]."""
    return torch.from_numpy(np.asarray(traj.param("embed.W_E")[at])[:, : traj.task.p].astype(np.float64))


def _train_share(traj: Trajectory) -> float:
    """Share of the pairs that is trained on: also of the held-out (a, b) whose (b, a) is, nearly."""
    return float(traj.task.train.double().mean())


def _own_order(W_E: torch.Tensor, k: int) -> float:
    return float(angular_order(plane_of_frequency(W_E, k).coordinates, frequency=k).resultant)


def _thinned(steps: np.ndarray, count: int = 80) -> np.ndarray:
    """About `count` positions, evenly spaced on a logarithmic axis, the first and the last among them."""
    wanted = np.concatenate([[0], np.geomspace(1, len(steps) - 1, count)])
    return np.unique(wanted.round().astype(int))
