"""Named runs of the literature, with where each value comes from.

>>> get("nanda").task.p
113
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from interp.config import (
    SGD,
    Adam,
    AdamW,
    Decoder,
    FeedForward,
    Gaussian,
    Group,
    Interventions,
    Log,
    Logistic,
    Modular,
    Operations,
    Recurrent,
    RunConfig,
    Save,
    Symbolic,
    Transformer,
)
from interp.config.base import flat
from interp.config.schedule import Every, LogSpaced
from interp.errors import UnknownNameError, did_you_mean

__all__ = ["RECIPES", "Recipe", "get", "nearest"]


@dataclass(frozen=True)
class Recipe:
    """A config with its source."""

    config: RunConfig
    summary: str
    """Summary of what is seen, in one line."""
    source: str
    """Source of the values, and which were chosen here because the source is silent."""


def get(name: str) -> RunConfig:
    """The config of a recipe, or of a user's own: `module:NAME` is a `RunConfig` in a module that has been imported.

    Raises:
        UnknownNameError: there is no such recipe; the message suggests one.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        config = getattr(sys.modules.get(module), attribute, None)
        if not isinstance(config, RunConfig):
            raise UnknownNameError(
                f"There is no RunConfig `{attribute}` in an imported module `{module}`: `import {module}` first, or "
                f"`interp --import {module} ...` on the command line."
            )
        return config
    if name not in RECIPES:
        raise UnknownNameError(f"There is no recipe `{name}`. {did_you_mean(name, RECIPES)}")
    return RECIPES[name].config


def nearest(config: RunConfig) -> tuple[str, dict[str, Any]]:
    """The recipe from which a config differs in the fewest fields, and these fields by their dotted names.

    >>> nearest(get("nanda").replace({"task.p": 59, "seed": 3}))
    ('nanda', {'task.p': 59, 'seed': 3})
    >>> [nearest(get(name)) for name in ("clock", "pizza")]  # they differ in a field of which one has the default
    [('clock', {}), ('pizza', {})]
    """
    fields = flat(config.to_dict())
    changes: dict[str, dict[str, Any]] = {}
    for name, recipe in RECIPES.items():
        own = _fields(name)
        differ = {key: value for key, value in fields.items() if own.get(key, _default(recipe.config, key)) != value}
        gone = {key: _default(config, key) for key in own if key not in fields}
        changes[name] = differ | {key: value for key, value in gone.items() if value != own[key]}
    name = min(changes, key=lambda name: len(changes[name]))
    return name, changes[name]


@cache
def _fields(name: str) -> dict[str, Any]:
    """The fields of a recipe as in its JSON: without those that came later and have their default."""
    return flat(RECIPES[name].config.to_dict())


def _default(config: RunConfig, path: str) -> Any:
    """Value of a field that a config's JSON leaves out; None where there is no such field."""
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part, None)
    return value


_kitouni = RunConfig(
    task=Modular(p=59, train_fraction=0.5),
    model=Transformer(),
    optimizer=AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)),
    steps=2500,
    save=Save(state=Every(250)),  # so that any stretch is soon replayed
)
_kitouni_small = {
    "task.p": 31, "task.train_fraction": 0.7, "model.d_model": 64, "model.d_head": 16, "model.d_mlp": 128,
    "optimizer.lr": 3e-3, "optimizer.weight_decay": 2.0, "steps": 600,
    "save.weights": "every(1, until=20) | every(10)", "save.state": "every(100)",
}  # fmt: skip

_simple_grokking = RunConfig(
    task=Modular(p=53, train_fraction=0.6, split="torch-randperm", seed=2, encoding="operands"),
    model=FeedForward(d_model=128, d_hidden=(128,), init="torch", init_stream="split"),
    optimizer=AdamW(lr=3e-2, weight_decay=3e-2, loss_precision="float32"),
    steps=10_000,
    seed=2,
)

_nanda_transformer = Transformer(mlp_biases="trainable", init="nanda")

_POWER = AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98), warmup_steps=10, batch_size=512)
_SPARSE = Save(weights=LogSpaced(200) | Every(500), state=Every(5000))
_power = RunConfig(
    task=Symbolic(operation="divide", train_fraction=0.5, closing=True),
    model=Decoder(),
    optimizer=_POWER,
    steps=100_000,
    save=_SPARSE,
    log=Log(train=Every(10), test=Every(100)),
)
_POWER_SOURCE = (
    "'Grokking' (Power et al., 2022, arXiv:2201.02177) and github.com/openai/grok: two layers with LayerNorm behind "
    "each part, width 128, 4 heads, sinusoidal positions, AdamW 1e-3, weight decay 1, betas .9/.98, 10 steps of "
    "warm-up, batches of 512, 100,000 updates, loss on the answer and the closing token, split by RandomState(0). "
    "A last, incomplete batch of an epoch is left out here, which the published code takes."
)
_HU = "'Exploring Grokking' (Hu, Zhou, Yu), p = 97"

_pizza = RunConfig(
    task=Modular(p=59, train_fraction=0.8, encoding="operands"),
    model=Transformer(attention="bidirectional", attention_rate=0.0, mlp_biases="trainable", init="nanda"),
    optimizer=AdamW(lr=1e-3, weight_decay=2.0, betas=(0.9, 0.98), warmup_steps=10),
    steps=20_000,
    save=Save(weights=Every(10, until=1000) | Every(100), state=Every(2000)),
)
_PIZZA_SOURCE = (
    "'The Clock and the Pizza' (Zhong et al., 2023, arXiv:2306.17844), github.com/fjzzq2002/pizza: p = 59, 80 %, no "
    "'=', no mask, AdamW 1e-3, weight decay 2, betas .9/.98, 10 steps of warm-up, 20,000 steps. Their split is drawn "
    "without a seed; their W_in starts at N(0, 1/d_mlp), here as all weights at N(0, 1/d_model)."
)

_chughtai = RunConfig(
    task=Group(family="symmetric", n=5, train_fraction=0.4, seed=2, encoding="operands"),
    model=FeedForward(embedding="separate", d_model=256, d_hidden=(128,), biases="absent", init="fan-in"),
    optimizer=AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)),
    steps=250_000,
    save=Save(weights=LogSpaced(500), state=Every(25_000)),
    log=Log(train=Every(10), test=Every(100)),
)
_CHUGHTAI_SOURCE = (
    "'A Toy Model of Universality' (Chughtai et al., 2023, arXiv:2302.03025), github.com/bilal-chughtai/rep-theory: "
    "embeddings of 256, 128 neurons, no biases, AdamW 1e-3, weight decay 1, betas .9/.98, full batch, 250,000 epochs. "
    "Their elements are in another order, so that the split is one of its kind."
)

_ahmed = RunConfig(
    task=Modular(p=113, train_fraction=0.7, encoding="sentence"),
    model=Recurrent(cell="lstm", init_scale=5.0),
    optimizer=AdamW(lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), batch_size=32),
    steps=1_674_000,
    save=_SPARSE,
    log=Log(train=Every(10), test=Every(500)),
)
_AHMED_SOURCE = (
    "'Grokking in neural networks and the role of regularization' (Ahmed, AIMS essay): embedding and state of 128, all "
    "weights times 5 at the start, AdamW with weight decay 0.01, batches of 32, 6,000 epochs, 70 %. The learning rate "
    "is not stated; 1e-3 was chosen here."
)
_ahmed_small = {
    "task.p": 31, "model.d_model": 64, "model.d_hidden": 64,
    "optimizer.lr": 3e-3, "optimizer.weight_decay": 0.1, "optimizer.batch_size": 64,
}  # fmt: skip

_BECK_SOURCE = (
    "'Grokking at the Edge of Linear Separability' (Beck et al., 2024, arXiv:2410.04489): N = 400, d / N = 0.45, zero "
    "initial weights. Standard deviation 5 and learning rate 0.05 are chosen here: they show what figure 1 describes."
)
_beck = RunConfig(
    task=Gaussian(n=400, d=180, sigma=5.0),
    model=Logistic(),
    optimizer=SGD(lr=0.05),
    steps=40_000,
    save=Save(weights=LogSpaced(200), state=Every(20_000)),
    log=Log(train=LogSpaced(400), test=LogSpaced(400)),
)

_prieto = RunConfig(
    task=Modular(p=113, train_fraction=0.4, seed=42, encoding="operands"),
    model=FeedForward(embedding="one-hot", d_hidden=(200, 200), biases="absent"),
    optimizer=AdamW(lr=1e-2, weight_decay=0.0, betas=(0.9, 0.999), loss_precision="float32"),
    steps=300,
    seed=42,
    interventions=Interventions(orthogonal_gradient=True),
)
_prieto_plain = {
    "interventions.orthogonal_gradient": False,
    "save.weights": "log(200) | every(1000)",
    "save.state": "every(10000)",
}
_PRIETO_SOURCE = (
    "'Grokking at the edge of numerical stability' (Prieto et al., 2025, arXiv:2501.04697), figure {figure}, and its "
    "code: one-hot inputs, two layers of 200, no biases, torch's initialisation, no weight decay, 40 %, full batch, "
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "kitouni-circle": Recipe(
            _kitouni,
            "addition mod 59: token embeddings arrange themselves on a circle as the network generalises",
            "'Some thoughts on Grokking' (Kitouni), first animation: a 1-layer transformer, addition mod 59. The post "
            "states no hyper-parameters: width, heads, optimiser and betas are Nanda et al.'s, the initialisation is "
            "TransformerLens's, train fraction 0.5 and no biases were chosen here.",
        ),
        "kitouni-circle-small": Recipe(
            _kitouni.replace(_kitouni_small),
            "the same mod 31 by a network half as wide: generalises in seconds, to try things out",
            "Chosen here: 70 %, width 64, 128 neurons, learning rate 3e-3, weight decay 2, 600 steps.",
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
        "power": Recipe(
            _power, "the first grokking: division mod 97 by a decoder that reads words, minibatches", _POWER_SOURCE
        ),
        "power-s5": Recipe(
            _power.replace({"task.operation": "compose"}), "the same on permutations of five things", _POWER_SOURCE
        ),
        "hu-symbolic": Recipe(
            _power.replace({"task.operation": "add", "task.train_fraction": 0.6}),
            "addition mod 97 in openai/grok's words, 60 %: the delay is most pronounced between 45 and 60 %",
            f"{_HU}, figure 1; model and optimiser as follows. {_POWER_SOURCE}",
        ),
        "hu-direct": Recipe(
            RunConfig(
                task=Modular(p=97, train_fraction=0.3),
                model=Transformer(mlp_biases="trainable"),
                optimizer=AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98), warmup_steps=10),
                steps=25_000,
                save=Save(weights=Every(10, until=1000) | Every(100), state=Every(5000)),
            ),
            "addition mod 97 in tokens (a, b, =), 30 %: validation surges long after training is done",
            f"{_HU}, figure 2: one layer, 4 heads of 32, width 128, 512 neurons, full batch, the optimiser of Power et "
            "al.; the initialisation was chosen here.",
        ),
        "hu-mlp": Recipe(
            RunConfig(
                task=Modular(p=97, train_fraction=0.3),
                model=FeedForward(embedding="scalars", d_hidden=(512, 512)),
                optimizer=Adam(lr=1e-3),
                steps=20_000,
                save=_SPARSE,
            ),
            "an MLP that reads the numbers themselves, no weight decay: no delay, and no perfect memory",
            f"{_HU}, figures 3 and 8: two layers of 512, Adam 1e-3. That the inputs are the numbers a, b, p, divided "
            "by p, is a reading of the text, which does not say.",
        ),
        "hu-lstm": Recipe(
            RunConfig(
                task=Modular(p=97, train_fraction=0.45),
                model=Recurrent(cell="lstm", embedding="scalars", d_hidden=20),
                optimizer=Adam(lr=1e-2),
                steps=100_000,
                save=_SPARSE,
                log=Log(train=Every(10), test=Every(100)),
            ),
            "an LSTM that reads the numbers themselves, no weight decay: no grokking",
            f"{_HU}, figure 4: 20 hidden units, Adam 1e-2, 100,000 epochs; inputs as in hu-mlp.",
        ),
        "ahmed-lstm": Recipe(_ahmed, "an LSTM with large initial weights, sentences of words", _AHMED_SOURCE),
        "ahmed-rnn": Recipe(
            _ahmed.replace({"model.cell": "rnn"}), "the same with a recurrent network of tanh units", _AHMED_SOURCE
        ),
        "ahmed-lstm-small": Recipe(
            _ahmed.replace({**_ahmed_small, "steps": 26_000}),
            "the LSTM at p = 31 with ten times the weight decay: groks in minutes on a laptop",
            f"{_AHMED_SOURCE} Here p = 31, embedding and state of 64, learning rate 3e-3, weight decay 0.1, batches of "
            "64.",
        ),
        "pizza": Recipe(_pizza, "addition mod 59 without attention (rate 0): a pizza", _PIZZA_SOURCE),
        "clock": Recipe(
            _pizza.replace({"model.attention_rate": 1.0}), "the same with full attention: a clock", _PIZZA_SOURCE
        ),
        "chughtai-s5": Recipe(_chughtai, "permutations of five things by an MLP: irreps as features", _CHUGHTAI_SOURCE),
        "chughtai-bilinear": Recipe(
            _chughtai.replace({"model.combine": "product", "model.d_hidden": ()}),
            "the same by a bilinear model, products of the two embeddings read out",
            _CHUGHTAI_SOURCE.replace("128 neurons", "256 products and no neurons"),
        ),
        "omnigrok": Recipe(
            RunConfig(
                task=Modular(p=113, train_fraction=0.3, seed=42, outputs="tokens"),
                model=_nanda_transformer,
                optimizer=AdamW(lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98)),
                steps=2000,
                seed=42,
                interventions=Interventions(norm=0.8),
            ),
            "weights held at 0.8 of their initial norm: test accuracy follows train accuracy at once",
            "'Omnigrok' (Liu et al., 2023, arXiv:2210.01117), modular addition: Nanda et al.'s transformer, weight "
            "decay 0, norm projected after every step (there it is 0.8 from the start, here from step 1). They "
            "compute in float64.",
        ),
        "operations": Recipe(
            RunConfig(
                task=Operations(p=97, operations=("add", "subtract", "multiply"), train_fraction=0.3),
                model=_nanda_transformer,
                optimizer=AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)),
                steps=30_000,
            ),
            "three operations mod 97 in one network: a token names the operation",
            "One network for several operations as in 'Interpreting Grokked Transformers in Complex Modular "
            "Arithmetic' (Furuta et al., 2024, arXiv:2402.16726); the transformer and optimiser of Nanda et al., all "
            "other values are chosen here.",
        ),
        "prieto-orthograd": Recipe(
            _prieto,
            "no weight decay, gradients orthogonal to the weights: generalises at once",
            f"{_PRIETO_SOURCE.format(figure=1)}AdamW 1e-2, float32 softmax, 300 steps. Betas and epsilon are torch's "
            "defaults, since their wrapper builds its optimiser without those of the command line.",
        ),
        "prieto-stablemax": Recipe(
            _prieto.replace(
                {
                    **_prieto_plain,
                    "optimizer.loss": "stablemax",
                    "optimizer.loss_precision": "float64",
                    "optimizer.eps": 1e-25,
                    "steps": 80_000,
                }
            ),
            "no weight decay, StableMax in the place of the softmax: groks",
            f"{_PRIETO_SOURCE.format(figure=1)}AdamW 1e-2, betas .9/.999, epsilon 1e-25, float64 loss, 80,000 steps.",
        ),
        "prieto-softmax": Recipe(
            _prieto.replace(
                {
                    **_prieto_plain,
                    "optimizer.lr": 5e-4,
                    "optimizer.betas": (0.9, 0.99),
                    "optimizer.eps": 1e-30,
                    "steps": 20_000,
                }
            ),
            "their control: float32 softmax collapses and learning stops",
            f"{_PRIETO_SOURCE.format(figure=2)}AdamW 5e-4, betas .9/.99, epsilon 1e-30, float32 softmax, 20,000 steps.",
        ),
        "beck": Recipe(
            _beck,
            "logistic regression on points of one class, next to the edge of separability: memorises, then generalises",
            _BECK_SOURCE,
        ),
        "beck-adam": Recipe(
            _beck.replace(
                {
                    "task.n": 1000,
                    "task.d": 480,
                    "task.sigma": 1.0,
                    "optimizer": Adam(lr=0.01, betas=(0.8, 0.9), eps=1e-16),
                    "steps": 2000,
                }
            ),
            "the same by Adam, which groks where gradient descent does not: sigma = 1",
            "'Grokking at the Edge of Linear Separability' (Beck et al., 2024, arXiv:2410.04489), figure 5: Adam with "
            "betas .8/.9. There lambda is .495 and N = 4000; N = 1000, lambda .48, the learning rate and eps 1e-16, "
            "with which the second moment is never outweighed, are chosen here.",
        ),
    }
)
