"""Transformers of several widths and moduli, which K1, K2 and K3 share: runs, embeddings, medians."""

import math

import numpy as np
import torch

from interp.analysis.geometry import angular_order, plane_of_frequency
from interp.config import RunConfig, recipes
from interp.papers.kit.figure import Preset
from interp.trajectory import Trajectory

__all__ = [
    "MODULI",
    "ORDERED",
    "SEEDS",
    "WIDTH",
    "WIDTHS",
    "median",
    "number_embeddings",
    "own_order",
    "transformer",
    "width_runs",
]

ORDERED = 0.9
"""Order from which the numbers count as lying on a circle."""
MODULI: dict[Preset, tuple[int, int]] = {"toy": (11, 10), "laptop": (59, 58), "paper": (59, 58)}
"""The post's prime, and an even number, on whose circles two numbers may share a place."""
SEEDS: dict[Preset, tuple[int, ...]] = {"toy": (0, 1), "laptop": (0, 1, 2), "paper": (0, 1, 2, 3, 4)}
"""Seeds of split and weights together."""
WIDTH: dict[Preset, int] = {"toy": 16, "laptop": 128, "paper": 128}
"""Width of K1 and of the runs with an even modulus."""
WIDTHS: dict[Preset, tuple[int, ...]] = {
    "toy": (8, 16), "laptop": (32, 64, 128, 256), "paper": (32, 64, 128, 256, 512),
}  # fmt: skip


def transformer(preset: Preset, seed: int, d_model: int, p: int) -> RunConfig:
    """The recipe at another width, modulus or seed; runs of K1 are stored densely enough to date a circle."""
    film = (d_model, p) == (WIDTH[preset], MODULI[preset][0])
    config = recipes.get("kitouni-circle").replace(
        {
            "task.p": p,
            "task.seed": seed,
            "seed": seed,
            "model.d_model": d_model,
            "model.d_head": d_model // 4,
            "model.d_mlp": 4 * d_model,
            "save.weights": "log(16) | every(50)" if film else "log(8)",
            "save.state": "every(100000)",
            "log.train": "every(10)",
            "log.test": "every(50)",
        }
    )
    match preset:
        case "toy":
            return config.replace({"task.train_fraction": 0.7, "steps": 60, "log.test": "every(5)"})
        case "laptop":
            return config.replace({"steps": 2500 if d_model <= 128 else 2000})
        case "paper":
            return config.replace({"steps": 5000, "save.weights": "log(16) | every(100)" if film else "log(8)"})


def width_runs(preset: Preset) -> list[RunConfig]:
    """Several widths, among them that of K1: the runs of K2, and of K3 among others."""
    p = MODULI[preset][0]
    return [transformer(preset, seed, width, p) for width in WIDTHS[preset] for seed in SEEDS[preset]]


def number_embeddings(traj: Trajectory, at: slice = slice(None)) -> torch.Tensor:
    """Embeddings of the numbers, '=' left out, at stored steps: [step, token, d_model]."""
    return torch.from_numpy(np.asarray(traj.param("embed.W_E")[at])[:, : traj.task.p].astype(np.float64))


def own_order(W_E: torch.Tensor, k: int) -> float:
    """Order of the numbers in the plane of frequency k of the embedding itself."""
    return float(angular_order(plane_of_frequency(W_E, k).coordinates, frequency=k).resultant)


def median(values: np.ndarray) -> float:
    """Median of the finite values; NaN without any."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan
