"""Configs of optimisers, and of interventions in an update."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from interp.config.base import Record, added_field
from interp.errors import ConfigError
from interp.literals import read_value

__all__ = ["SGD", "Adam", "AdamW", "Interventions", "Muon", "freezes", "parse_settings", "settings_of", "with_frozen"]


def freezes(frozen: Sequence[str], name: str) -> bool:
    """Whether the patterns `frozen` freeze the parameter `name`: the last that matches counts.

    >>> [freezes(("embed.*", "!embed.b"), name) for name in ("embed.W", "embed.b", "mlp.W")]
    [True, False, False]
    """
    matching = [one for one in frozen if fnmatchcase(name, one.removeprefix("!"))]
    return bool(matching) and not matching[-1].startswith("!")


def with_frozen(frozen: Sequence[str], pattern: str, freeze: bool) -> tuple[str, ...]:
    """Patterns once the parameters of `pattern` are frozen, or trained again.

    >>> with_frozen(("embed.*",), "embed.W", False), with_frozen(("embed.*",), "*", False)
    (('embed.*', '!embed.W'), ())
    """
    kept = [one for one in frozen if one.removeprefix("!") != pattern and pattern != "*"]
    kept += [pattern] if freeze else [f"!{pattern}"]
    while kept and kept[0].startswith("!"):  # of what is trained anyway
        kept.pop(0)
    return tuple(kept)


def settings_of(name: str, parameters: Sequence[str], weight_decay: float) -> tuple[float, float]:
    """Weight decay of the parameter `name`, and its learning rate over that of the optimiser, by written settings.

    >>> written = ("embed.*: weight_decay=0, lr_factor=0.1", "*.b: lr_factor=2")
    >>> [settings_of(name, written, 1.0) for name in ("embed.W", "embed.b", "mlp.W")]
    [(0.0, 0.1), (0.0, 2.0), (1.0, 1.0)]
    """
    found = {"weight_decay": weight_decay, "lr_factor": 1.0}
    for pattern, values in map(parse_settings, parameters):
        if fnmatchcase(name, pattern):
            found |= values
    return found["weight_decay"], found["lr_factor"]


def parse_settings(text: str) -> tuple[str, dict[str, float]]:
    """Pattern of names and settings of parameters in their written form.

    >>> parse_settings("embed.*: weight_decay=0, lr_factor=0.1")
    ('embed.*', {'weight_decay': 0.0, 'lr_factor': 0.1})

    Raises:
        ConfigError: the text has another form, or a setting is no number >= 0.
    """
    pattern, _, assignments = text.partition(":")
    values: dict[str, float] = {}
    for part in re.split(r"[\s,]+", assignments.strip()):
        name, _, value = part.partition("=")
        number = read_value(value)
        known = name in ("weight_decay", "lr_factor") and name not in values
        if not (pattern.strip() and known and isinstance(number, int | float) and 0 <= number < math.inf):
            raise ConfigError(
                f"`optimizer.parameters` must be settings such as `embed.*: weight_decay=0 lr_factor=0.1`, either or "
                f"both, numbers >= 0; got `{text}`."
            )
        values[name] = float(number)
    return pattern.strip(), {name: values[name] for name in ("weight_decay", "lr_factor") if name in values}


@dataclass(frozen=True, kw_only=True)
class _Optimizer(Record):
    lr: float = 1e-3
    """Learning rate."""
    weight_decay: float = 0.0
    warmup_steps: int = 0
    """Update n (from 0) has learning rate lr * min(n / warmup_steps, 1): the first update of a warm-up has rate 0."""
    batch_size: int | None = None
    """Pairs per step; None: the whole training set."""
    loss_precision: Literal["float64", "float32"] = "float64"
    """Precision of the log-softmax; float32 makes late training unstable (Nanda et al., appendix)."""
    loss: Literal["cross-entropy", "stablemax", "exponential", "mse"] = added_field("cross-entropy")
    """Loss that is minimised; stablemax: cross-entropy with StableMax for the softmax ("Grokking at the edge of
    numerical stability", Prieto et al., 2025); exponential: e^z, of the logit z of points (Beck et al.); mse: squared
    error of the logits, which are to be 1 at the answer and 0 elsewhere, mean over the classes ("Omnigrok", Liu et al.,
    2022; "Grokking modular arithmetic", Gromov, 2023). Others than cross-entropy are logged as batch_loss: train_loss
    and test_loss are cross-entropies always."""
    anneal_steps: int | None = added_field(None)
    """Updates, after the warm-up, in which half a cosine leads from lr to anneal_to * lr; None: lr stays."""
    anneal_to: float = added_field(0.1)
    """Share of lr that is left in the end, in [0, 1]; 0.1 is that of github.com/openai/grok."""
    frozen: tuple[str, ...] = added_field(())
    """Names of parameters that are not trained, as patterns such as embed.*; behind ! such as are. The last counts."""
    parameters: tuple[str, ...] = added_field(())
    """Settings of single parameters, by patterns of their names: "embed.*: weight_decay=0 lr_factor=0.1". `lr_factor`
    multiplies the learning rate. Of several that match, the last counts, for each of the two."""

    decay = "to_zero"
    """Form of weight decay: a field of AdamW alone."""
    memory = ""
    """Kind of the state that is kept from update to update; a branch goes on with one of its own kind only."""

    @property
    def relative_lr(self) -> float:
        """Learning rate, over `lr`, of the parameters that a network leaves to AdamW (see `Network.muon_turns`)."""
        return 1.0

    def _rules(self) -> None:
        self._require("lr", self.lr > 0, "> 0")
        self._require("anneal_steps", self.anneal_steps is None or self.anneal_steps >= 1, ">= 1, or None")
        self._require("anneal_to", 0 <= self.anneal_to <= 1, "a share in [0, 1]")
        self._require("weight_decay", self.weight_decay >= 0, ">= 0")
        self._require("warmup_steps", self.warmup_steps >= 0, ">= 0")
        self._require(
            "frozen", all(name.strip("!") for name in self.frozen), "names of parameters, or patterns of them"
        )
        written = (
            f"{pattern}: {' '.join(f'{key}={x!r}' for key, x in values.items())}"
            for pattern, values in map(parse_settings, self.parameters)
        )
        object.__setattr__(self, "parameters", tuple(written))  # equal settings have equal JSON
        self._require("batch_size", self.batch_size is None or self.batch_size >= 1, ">= 1, or None for a full batch")


@dataclass(frozen=True, kw_only=True)
class Adam(_Optimizer):
    """Adam; `weight_decay` is the coupled kind: L2 in the gradient."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    memory = "moments of Adam"

    def _rules(self) -> None:
        super()._rules()
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        self._require("eps", self.eps >= 0, ">= 0")


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: each step multiplies every trained parameter by 1 - lr * weight_decay."""

    weight_decay: float = 1.0
    decay: Literal["to_zero", "to_init", "jiggle"] = added_field("to_zero")
    """Effect of weight decay on a parameter W, as in github.com/openai/grok: to_zero is W (1 - lr wd); to_init draws it
    to its initial value, W + lr wd (W_0 - W); jiggle is W exp(lr wd x) with one x of N(0, 1) per tensor and update."""

    def _rules(self) -> None:
        super()._rules()
        plain = self.decay == "to_zero" or not self.parameters
        self._require("parameters", plain, f"empty where `decay` is {self.decay}, which acts on all parameters alike")


@dataclass(frozen=True, kw_only=True)
class SGD(_Optimizer):
    """Gradient descent with momentum; `weight_decay` is L2 in the gradient."""

    lr: float = 1e-1
    momentum: float = 0.0

    memory = "momentum"

    def _rules(self) -> None:
        super()._rules()
        self._require("momentum", 0 <= self.momentum < 1, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Muon(_Optimizer):
    """Orthogonalised momentum for the matrices of the blocks, AdamW for all else ("Muon", Jordan et al., 2024).

    https://kellerjordan.github.io/posts/muon, where the defaults come from; on grokking, "Muon Optimizer Accelerates
    Grokking" (Tveit et al., 2025). `weight_decay` is decoupled, in both parts.
    """

    lr: float = 2e-2
    momentum: float = 0.95
    iterations: int = 5
    """Newton-Schulz iterations; 0 leaves the momentum as it is, which is gradient descent: the control."""
    adam_lr: float = 3e-4
    """Learning rate of AdamW's part: embeddings, unembedding, biases. Warm-up and annealing act on both rates."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-10

    memory = "momentum of Muon"

    @property
    def relative_lr(self) -> float:
        """See `_Optimizer.relative_lr`."""
        return self.adam_lr / self.lr

    def _rules(self) -> None:
        super()._rules()
        self._require("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._require("iterations", self.iterations >= 0, ">= 0")
        self._require("adam_lr", self.adam_lr > 0, "> 0")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        self._require("eps", self.eps >= 0, ">= 0")


@dataclass(frozen=True, kw_only=True)
class Interventions(Record):
    """Interventions in an update besides its optimiser; none by default."""

    update_noise: float = 0.0
    """nu: every update becomes W - lr (Delta + nu e), e of N(0, 1) ("Grokking", Power et al., 2022, appendix A.1.2)."""
    weight_noise: float = 0.0
    """Standard deviation of the noise on all trained weights during the pass of an update (ibid.; 0.01 there)."""
    orthogonal_gradient: bool = False
    """OrthoGrad: of each tensor's gradient only the part orthogonal to the tensor, at the old norm (Prieto et al.)."""
    grokfast: Literal["off", "ema", "ma"] = "off"
    """Amplify the slow part of the gradient, a moving average: g + lambda mean(g) ("Grokfast", Lee et al., 2024)."""
    grokfast_lambda: float = 2.0
    """Amplification; 2 with ema and 5 with ma in the paper."""
    grokfast_alpha: float = 0.98
    """Memory of ema, in [0, 1)."""
    grokfast_window: int = 100
    """Updates that ma looks back on, the present one included."""
    norm: float | None = None
    """After each update all trained weights are scaled together to the norm that is `norm` times the initial one
    ("Omnigrok", Liu et al., 2023, where weight decay is 0 then); None: free."""

    def _rules(self) -> None:
        self._require("update_noise", self.update_noise >= 0, "a standard deviation >= 0")
        self._require("weight_noise", self.weight_noise >= 0, "a standard deviation >= 0")
        self._require("grokfast_lambda", self.grokfast_lambda >= 0, ">= 0")
        self._require("grokfast_alpha", 0 <= self.grokfast_alpha < 1, "in [0, 1)")
        self._require("grokfast_window", self.grokfast_window >= 1, ">= 1")
        self._require("norm", self.norm is None or self.norm > 0, "> 0, or None to leave the norm free")
