"""Runs that several figures share, with the labels by which results tell them apart."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from interp.config import FeedForward, Modular, RunConfig
from interp.config.recipes import get
from interp.papers.hu import P
from interp.papers.kit.figure import Preset

__all__ = [
    "CHEAP_SEEDS",
    "DIRECT",
    "FRACTIONS",
    "SEEDS",
    "Cases",
    "Label",
    "configs",
    "direct_cases",
    "laptop_ends",
    "mlp_cases",
    "of_inputs",
    "recorded",
    "symbolic_cases",
    "three_fractions",
    "transformer",
]

Label = dict[str, Any]
"""Coordinates of a run in the results: fraction, seed and, if there are several, inputs, optimiser or encoding."""
Cases = list[tuple[Label, RunConfig]]
"""Runs with their labels."""
SEEDS: Mapping[Preset, tuple[int, ...]] = {"toy": (0,), "laptop": (0,), "paper": (0, 1, 2)}
"""Seeds of split and weights together."""
CHEAP_SEEDS: Mapping[Preset, tuple[int, ...]] = {"toy": (0,), "laptop": (0, 1, 2), "paper": (0, 1, 2)}
"""Seeds of the MLP and the LSTM."""
SYMBOLIC: Mapping[Preset, Mapping[float, int]] = {
    "toy": dict.fromkeys((0.05, 0.3, 0.45, 0.6, 0.75, 0.9), 20),
    "laptop": {0.05: 1500, 0.3: 3000, 0.45: 6000, 0.6: 5000, 0.75: 3500, 0.9: 3000},
    "paper": dict.fromkeys((0.05, 0.3, 0.45, 0.6, 0.75, 0.9), 100_000),
}
"""Updates by training fraction, symbolic encoding."""
DIRECT: Mapping[Preset, Mapping[float, int]] = {
    "toy": dict.fromkeys((0.15, 0.3, 0.45, 0.6), 30),
    "laptop": {0.15: 5000, 0.3: 18_500, 0.35: 9000, 0.4: 2000, 0.45: 2000, 0.6: 800},
    "paper": dict.fromkeys((0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.6, 0.75, 0.9), 25_000),
}
"""Updates by training fraction, direct encoding."""
SMALL = {"model.d_model": 16, "model.n_heads": 2, "model.d_mlp": 32}
"""Sizes of the toy transformer."""
FRACTIONS = (0.15, 0.3, 0.45)
"""Training fractions of the accuracies and losses of transformer and MLP."""
INPUTS = ("numbers", "embeddings")
"""Inputs of MLP and LSTM: numbers themselves, or their embeddings from a table."""


def configs(cases: Callable[[Preset], Cases]) -> Callable[[Preset], list[RunConfig]]:
    """Runs of labelled cases."""
    return lambda preset: [config for _, config in cases(preset)]


def recorded(config: RunConfig, preset: Preset, seed: int, steps: int, every: int = 50, saves: int = 20) -> RunConfig:
    """The run with its seed and length, tested every so many steps, and stored at about `saves` of these steps."""
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


def symbolic_cases(preset: Preset) -> Cases:
    """Transformers on openai/grok's words, which takes batches of half the training set where that is less than 512."""
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
        config = recorded(base.replace(own), preset, seed, steps, every=100 if preset == "paper" else 50)
        cases.append(({"fraction": fraction, "seed": seed}, config))
    return cases


def transformer(preset: Preset) -> RunConfig:
    """Transformer on tokens (x, y, p)."""
    base = get("hu-direct")
    return base.replace({"task.p": 11, "model.d_head": 8, **SMALL}) if preset == "toy" else base


def direct_cases(preset: Preset, fractions: Iterable[float]) -> Cases:
    """Transformers on tokens (x, y, p) at these fractions, equal runs for H2, H5, H6 and H7."""
    return [
        (
            {"fraction": fraction, "seed": seed},
            recorded(
                transformer(preset).replace({"task.train_fraction": fraction}), preset, seed, DIRECT[preset][fraction]
            ),
        )
        for fraction, seed in product(fractions, SEEDS[preset])
    ]


def three_fractions(preset: Preset) -> Cases:
    """Cases of H2 and H6."""
    return direct_cases(preset, FRACTIONS)


def laptop_ends(*fractions: float) -> str:
    """Steps after which the laptop's direct runs end, in words."""
    *some, last = (f"{DIRECT['laptop'][fraction]:,}" for fraction in fractions)
    return f"{', '.join(some)} and {last}"


def of_inputs(
    numbers: RunConfig, embeddings: RunConfig, fractions: Sequence[float], steps: Mapping[str, int], preset: Preset
) -> Cases:
    """Runs of a model that reads numbers, and of its variant that looks them up in a table of embeddings."""
    every = 100 if preset == "paper" else 50
    return [
        (
            {"inputs": inputs, "fraction": fraction, "seed": seed},
            recorded(config.replace({"task.train_fraction": fraction}), preset, seed, steps[inputs], every),
        )
        for (inputs, config), fraction, seed in product(
            zip(INPUTS, (numbers, embeddings)), fractions, CHEAP_SEEDS[preset]
        )
    ]  # fmt: skip


def mlp_cases(preset: Preset) -> Cases:
    """Cases of H3 and H8."""
    hidden = (32, 32) if preset == "toy" else (512, 512)
    base = get("hu-mlp").replace({"task.p": {"toy": 11, "laptop": 47, "paper": P}[preset], "model.d_hidden": hidden})
    task = base.task
    assert isinstance(task, Modular)  # of that recipe
    words = base.replace({"task": task.replace({"encoding": "operands"}), "model": FeedForward(d_hidden=hidden)})
    far = {"toy": (20, 20), "laptop": (3000, 600), "paper": (20_000, 20_000)}[preset]
    return of_inputs(base, words, FRACTIONS, dict(zip(INPUTS, far)), preset)
