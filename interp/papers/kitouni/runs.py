"""The runs of the figures of Kitouni: transformers of several widths and moduli, and a small MLP."""

from interp.config import RunConfig, recipes
from interp.papers.kit.figure import Preset
from interp.papers.kitouni.sizes import MLP_SEEDS, MODULI, SEEDS, WIDTH, WIDTHS

__all__ = ["circle_runs", "comprehension_runs", "grokking_runs", "spread_runs", "width_runs"]


def _transformer(preset: Preset, seed: int, d_model: int, p: int) -> RunConfig:
    """The recipe at another width, modulus or seed; the runs of K1 are stored densely enough to date a circle."""
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


def circle_runs(preset: Preset) -> list[RunConfig]:
    """K1."""
    return [_transformer(preset, seed, WIDTH[preset], MODULI[preset][0]) for seed in SEEDS[preset]]


def width_runs(preset: Preset) -> list[RunConfig]:
    """K2: several widths, among them that of K1."""
    p = MODULI[preset][0]
    return [_transformer(preset, seed, width, p) for width in WIDTHS[preset] for seed in SEEDS[preset]]


def spread_runs(preset: Preset) -> list[RunConfig]:
    """K3: those of K2, and an even modulus."""
    even = MODULI[preset][1]
    return width_runs(preset) + [_transformer(preset, seed, WIDTH[preset], even) for seed in SEEDS[preset]]


def _mlp(preset: Preset, recipe: str, seed: int) -> RunConfig:
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


def grokking_runs(preset: Preset) -> list[RunConfig]:
    """K4."""
    return [_mlp(preset, "simple-grokking", seed) for seed in MLP_SEEDS[preset]]


def comprehension_runs(preset: Preset) -> list[RunConfig]:
    """K5: those of K4, and others with more weight decay."""
    return grokking_runs(preset) + [_mlp(preset, "comprehension", seed) for seed in MLP_SEEDS[preset]]
