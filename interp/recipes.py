"""Named runs of the literature, with where each value comes from.

>>> get("nanda").task.p
113
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from interp.config import AdamW, FeedForward, Log, Modular, RunConfig, Save, Transformer
from interp.errors import UnknownNameError, did_you_mean
from interp.schedule import Every

__all__ = ["RECIPES", "Recipe", "get"]


@dataclass(frozen=True)
class Recipe:
    """A config with its source."""

    config: RunConfig
    summary: str
    """One line: what is seen."""
    source: str
    """Where the values come from, and which were chosen here because the source is silent."""


def get(name: str) -> RunConfig:
    """The config of a recipe.

    Raises:
        UnknownNameError: there is no such recipe; the message suggests one.
    """
    if name not in RECIPES:
        raise UnknownNameError(f"There is no recipe `{name}`. {did_you_mean(name, RECIPES)}")
    return RECIPES[name].config


_simple_grokking = RunConfig(
    task=Modular(p=53, train_fraction=0.6, split="torch-randperm", seed=2, encoding="operands"),
    model=FeedForward(d_model=128, d_hidden=(128,), init="torch", init_stream="split"),
    optimizer=AdamW(lr=3e-2, weight_decay=3e-2, loss_precision="float32"),
    steps=10_000,
    seed=2,
)

_nanda_transformer = Transformer(mlp_biases="trainable", init="nanda")

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "kitouni-circle": Recipe(
            RunConfig(
                task=Modular(p=59, train_fraction=0.5),
                model=Transformer(),
                optimizer=AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)),
                steps=2500,
                save=Save(state=Every(250)),  # so that any stretch is soon replayed
            ),
            "addition mod 59: token embeddings arrange themselves on a circle as the network generalises",
            "'Some thoughts on Grokking' (Kitouni), first animation: a 1-layer transformer, addition mod 59. The post "
            "states no hyper-parameters: width, heads, optimiser and betas are Nanda et al.'s, the initialisation is "
            "TransformerLens's, train fraction 0.5 and no biases were chosen here.",
        ),
        "simple-grokking": Recipe(
            _simple_grokking,
            "MLP on two embeddings mod 53, weight decay 0.03: memorises in tens of steps, generalises in thousands",
            "github.com/okitouni/simple-grokking train.py --grok: seed 2 for split and weights in one stream (rebuilt "
            "here exactly), AdamW 3e-2 with default betas, float32 cross-entropy, 10,000 full-batch steps.",
        ),
        "comprehension": Recipe(
            _simple_grokking.replace({"optimizer.weight_decay": 5.0, "steps": 1000}),
            "the same with weight decay 5: train and test accuracy rise almost together",
            "github.com/okitouni/simple-grokking train.py without --grok; 10,000 steps there, 1,000 here, since both "
            "accuracies are at 100 % long before.",
        ),
        "nanda": Recipe(
            RunConfig(
                task=Modular(p=113, train_fraction=0.3, split="python-shuffle", seed=0, outputs="tokens"),
                model=_nanda_transformer,
                optimizer=AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98), warmup_steps=10),
                steps=40_000,
                save=Save(weights=Every(10, until=1000) | Every(100), state=Every(5000)),
            ),
            "the mainline run of 'Progress measures for grokking': addition mod 113, all three phases",
            "'Progress measures for grokking via mechanistic interpretability' (Nanda et al., 2023, arXiv:2301.05217) "
            "and its code: 30 % by random.shuffle with seed 0, 114 outputs, learned MLP biases, N(0, 1/128) weights, "
            "AdamW 1e-3, weight decay 1, betas .9/.98, 10 steps of warm-up. 50,000 epochs there, of which the paper "
            "analyses 40,000.",
        ),
        "tl-demo": Recipe(
            RunConfig(
                task=Modular(p=113, train_fraction=0.3, split="torch-randperm", seed=598),
                model=Transformer(attention_biases="frozen", mlp_biases="frozen", unembed_biases="frozen", init="tl"),
                optimizer=AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)),
                steps=25_000,
                seed=999,
                save=Save(weights=Every(100), state=Every(5000)),
                log=Log(test=Every(1)),
            ),
            "TransformerLens's Grokking demo: addition mod 113, biases frozen at zero, test loss at every step",
            "TransformerLens demos/Grokking_Demo.ipynb: data seed 598, model seed 999 (its random stream is the "
            "library's own, so the initial weights have the demo's distribution, not its values), 113 outputs, no "
            "warm-up, a checkpoint every 100 epochs.",
        ),
    }
)
