"""The runs of the figures of Hu et al., with the labels by which they are told apart."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from interp.config import AdamW, FeedForward, Interventions, Modular, RunConfig
from interp.config.recipes import get
from interp.papers.hu.sizes import Cases, P
from interp.papers.kit.figure import Preset

__all__ = [
    "LSTM_FRACTIONS",
    "PLAIN",
    "SCHEDULES",
    "UPDATES",
    "cases_of_both_encodings",
    "direct_cases",
    "lstm_cases",
    "mlp_cases",
    "optimiser_cases",
    "symbolic_cases",
]


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
    "laptop": {0.15: 5000, 0.3: 18_500, 0.35: 9000, 0.4: 2000, 0.45: 2000, 0.6: 800},
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


def symbolic_cases(preset: Preset) -> Cases:
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


def direct_cases(preset: Preset, fractions: Iterable[float]) -> Cases:
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


def cases_of_both_encodings(preset: Preset) -> Cases:
    """H7."""
    known = {"direct": direct_cases(preset, DIRECT[preset]), "symbolic": symbolic_cases(preset)}
    return [({"encoding": name} | label, config) for name, cases in known.items() for label, config in cases]


def optimiser_cases(preset: Preset) -> Cases:
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
    return cases + [({"optimiser": DECAYED} | label, config) for label, config in direct_cases(preset, far)]


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


def mlp_cases(preset: Preset) -> Cases:
    """H3 and H8."""
    hidden = (32, 32) if preset == "toy" else (512, 512)
    base = get("hu-mlp").replace({"task.p": {"toy": 11, "laptop": 47, "paper": P}[preset], "model.d_hidden": hidden})
    task = base.task
    assert isinstance(task, Modular)  # of that recipe
    words = base.replace({"task": task.replace({"encoding": "operands"}), "model": FeedForward(d_hidden=hidden)})
    far = {"toy": (20, 20), "laptop": (3000, 600), "paper": (20_000, 20_000)}[preset]
    return _of_inputs(base, words, SCHEDULES, dict(zip(INPUTS, far)), preset)


def lstm_cases(preset: Preset) -> Cases:
    """H4."""
    base = get("hu-lstm").replace({"task.p": {"toy": 11, "laptop": 47, "paper": P}[preset]})
    words = base.replace({"model.embedding": "learned", "model.d_model": 20})
    far = {"toy": (20, 20), "laptop": (10_000, 2000), "paper": (100_000, 100_000)}[preset]
    return _of_inputs(base, words, LSTM_FRACTIONS, dict(zip(INPUTS, far)), preset)
