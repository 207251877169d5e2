"""Patching and ablation: the network is run again with an activation of another input, or with a part taken away.

Base inputs x with answers y, and for each a source input x' with answer y'. With logits L and

    d(L) = mean over inputs of L[y] - L[y']

a run on x in which a part of an activation (a `Site`) is that of x' has the effect

    (d(base) - d(patched)) / (d(base) - d(source)),

0 where nothing changed and 1 where the network answers as it does to the source (activation patching, or an interchange
intervention; the normalised logit difference of Wang et al., 2022). In path patching the site of x' reaches chosen
receivers only, by the direct way: all other branches of the network (`Network.branches`) keep their values. A receiver
goes on with what it so became, and what lies behind it follows. Several receivers take their turns in the order of the
network, so that patching the ways to all that read a site is patching the site.

An ablation puts something else in the place of a part: zero, its mean over the inputs, or its value at another input
(resample). Scores of the three differ by orders of magnitude (Miller et al., 2024): each has its own function, and
names itself.

Each result has its control: a patch that comes from other, random source inputs; the ablation of as many other parts,
chosen at random. An effect that its control shares is that of any disturbance.

All of it is `Network.run_with_changes`, and so holds for every network. Names of activations are those of
`Network.run_with_cache`.

References: Interpretability in the Wild (Wang et al., 2022), https://arxiv.org/abs/2211.00593; Localizing Model
Behavior with Path Patching (Goldowsky-Dill et al., 2023), https://arxiv.org/abs/2304.05969; How to use and interpret
activation patching (Heimersheim and Nanda, 2024), https://arxiv.org/abs/2404.15255; Transformer Circuit Faithfulness
Metrics Are Not Robust (Miller et al., 2024), https://arxiv.org/abs/2407.08734.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analysis.arguments import as_examples, as_network, as_seed, first_pass, require_rows
from interp.analysis.arrays import Array, as_indices, as_tensor
from interp.analysis.loss import accuracy, cross_entropy
from interp.errors import InvalidArgumentError, UnknownNameError, did_you_mean
from interp.literals import as_count
from interp.models import Network
from interp.rng import generator
from interp.tasks import Examples

__all__ = [
    "Ablation",
    "Effects",
    "Patching",
    "Site",
    "Sources",
    "activation_patching",
    "as_site",
    "mean_ablation",
    "path_patching",
    "resample_ablation",
    "zero_ablation",
]

DRAWS = 5
"""Number of random draws that a control, or a resample ablation, is the mean of."""

Indices = int | Sequence[int] | Array | None
"""Indices along an axis, negative ones from its end, or a mask; None stands for all."""


@dataclass(frozen=True)
class Site:
    """Part of an activation: some of its positions, heads or neurons.

    Which axes an activation has is for the network to declare (`Network.activation_axes`). An activation over pairs of
    positions, such as the attention pattern, has the positions of its queries.

    Example:
        >>> Site("blocks.0.attn.hook_z", positions=-1, heads=[0, 3]).heads
        [0, 3]
    """

    name: str
    """Name of the activation, as `Network.run_with_cache` gives it."""
    positions: Indices = None
    """Positions of the input."""
    heads: Indices = None
    """Heads, counted from 0."""
    neurons: Indices = None
    """Units of a hidden layer, counted from 0."""


def as_site(name: str, value: Site | str) -> Site:
    """The argument `name`, a site or the name of an activation, as a site; otherwise `InvalidArgumentError`.

    >>> as_site("site", "hook_embed")
    Site(name='hook_embed', positions=None, heads=None, neurons=None)
    """
    site = Site(value) if isinstance(value, str) else value
    if not isinstance(site, Site) or not isinstance(site.name, str):
        raise InvalidArgumentError(
            f"`{name}` must be the name of an activation, or a Site of that name; got {value!r}."
        )
    return site


@dataclass(frozen=True, eq=False)
class Sources:
    """Base inputs and, for each, a source input from which an activation is taken.

    Raises:
        InvalidArgumentError: these are no tensors, or their shapes differ, or all sources have the answers of their
            base inputs.
    """

    base: Int[Tensor, "input pos"]
    """Tokens of the inputs that are run."""
    source: Int[Tensor, "input pos"]
    """Tokens of the inputs that activations come from."""
    base_answers: Int[Tensor, " input"]
    """Class of the answer of each base input."""
    source_answers: Int[Tensor, " input"]
    """Class of the answer of each source input."""

    def __post_init__(self) -> None:
        for name in ("base", "source", "base_answers", "source_answers"):
            given: Any = getattr(self, name)
            classes = name.endswith("answers")
            if not isinstance(given, Tensor) or (given.ndim < 2 and not classes):
                raise InvalidArgumentError(
                    f"`{name}` must be a tensor [input{'' if classes else ', pos'}]; got {type(given).__name__}. "
                    "`Sources.of(task)` makes all four."
                )
            if classes and not _is_whole(given):
                raise InvalidArgumentError(f"`{name}` must be classes, whole numbers; got {given.dtype}.")
        if self.base.shape != self.source.shape:
            raise InvalidArgumentError(
                f"`source` must have the shape of `base`, {list(self.base.shape)}; got {list(self.source.shape)}."
            )
        for name, answers in (("base_answers", self.base_answers), ("source_answers", self.source_answers)):
            if answers.shape != self.base.shape[:1]:
                raise InvalidArgumentError(
                    f"`{name}` must have one entry for each of {len(self.base)} inputs; got {list(answers.shape)}."
                )
        if torch.equal(self.base_answers, self.source_answers):
            raise InvalidArgumentError(
                "`source_answers` must differ from `base_answers` at some inputs, or no effect can be seen; they are "
                "equal."
            )

    @staticmethod
    def of(
        examples: Examples,
        base: Int[Tensor, " input"] | None = None,
        source: Int[Tensor, " input"] | None = None,
        *,
        seed: int = 0,
    ) -> "Sources":
        """Inputs of a task by their numbers in `examples.tokens`.

        Args:
            base: base inputs; None: all that have an answer.
            source: source inputs; None: the base inputs in a random order.
            seed: seed of that order.

        Raises:
            InvalidArgumentError: an input does not exist or has no answer, or there are more of one kind than of the
                other.

        Example:
            >>> from interp.config import Modular
            >>> from interp.tasks import build_task
            >>> runs = Sources.of(build_task(Modular(p=5)), torch.tensor([0, 7]), torch.tensor([3, 9]))
            >>> runs.base.tolist(), runs.source.tolist(), runs.source_answers.tolist()
            ([[0, 0, 5], [1, 2, 5]], [[0, 3, 5], [1, 4, 5]], [3, 0])
        """
        examples, seed = as_examples("examples", examples), as_seed(seed)
        answered = examples.train | examples.test
        base = answered.nonzero().squeeze(1) if base is None else _as_inputs("base", base, answered)
        if source is None:
            source = base[torch.randperm(len(base), generator=generator(seed, "interchange"))]
        else:
            source = _as_inputs("source", source, answered)
        tokens, labels = examples.tokens, examples.labels
        return Sources(tokens[base], tokens[source], labels[base], labels[source])


@dataclass(frozen=True)
class Patching:
    """Effect of a patch on the answers, and its control: the same patch from random source inputs."""

    base: float
    """Mean logit difference d of the base inputs, nothing patched."""
    source: float
    """Mean logit difference of the source inputs, nothing patched."""
    patched: float
    """Mean logit difference of the base inputs with the patch."""
    random_source: float
    """Mean logit difference with the patch from other source inputs, drawn at random: the control."""
    base_accuracy: float
    """Share of inputs whose largest logit is still the base input's answer, 0 to 1."""
    source_accuracy: float
    """Share of inputs whose largest logit is the source input's answer, 0 to 1 (interchange accuracy)."""

    @property
    def effect(self) -> float:
        """Normalised logit difference: 0 where nothing changed, 1 where the source's answer has taken the place.

        Not a number where base and source have one difference; of a network that knows no answers it is the quotient
        of two small numbers.
        """
        return self._normalised(self.patched)

    @property
    def random_source_effect(self) -> float:
        """Effect of the control: about 0.5 where whatever comes from another input destroys the answer alike."""
        return self._normalised(self.random_source)

    def _normalised(self, difference: float) -> float:
        scale = self.base - self.source
        return (self.base - difference) / scale if scale else math.nan


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of patches of several heads over checkpoints, and of their controls: see `Patching`."""

    effect: Float[Tensor, "*steps head"]
    random_source_effect: Float[Tensor, "*steps head"]


@dataclass(frozen=True)
class Ablation:
    """Loss and accuracy with a part of an activation taken away, and without; the control takes away other parts."""

    kind: str
    """Kind of ablation: zero_ablation, mean_ablation or resample_ablation."""
    loss: float
    """Cross-entropy with the ablation, in nats."""
    accuracy: float
    """Accuracy with the ablation, 0 to 1."""
    intact_loss: float
    """Cross-entropy of the network as it is, in nats."""
    intact_accuracy: float
    """Accuracy of the network as it is, 0 to 1."""
    random_loss: float
    """Control: cross-entropy with as many parts ablated that are drawn at random, others first, in nats.

    Parts are neurons where the site names some, else heads, else positions. Not a number where there are no others."""
    random_accuracy: float
    """Control: accuracy with as many parts ablated that are drawn at random, 0 to 1."""


@torch.no_grad()
def activation_patching(
    model: Network, runs: Sources, site: Site | str, *, draws: int = DRAWS, seed: int = 0
) -> Patching:
    """Effect of an activation of the source inputs in the runs on the base inputs.

    Args:
        site: activation, or a part of one, that comes from the source inputs.
        draws: number of draws of random source inputs, of which the control is the mean.
        seed: seed of these draws.

    Raises:
        UnknownNameError: the network has no activation of that name.
        InvalidArgumentError: the activation has no such axis, position, head or neuron.

    Example:
        >>> from interp.config import Modular, Transformer
        >>> from interp.models import build_model
        >>> from interp.tasks import build_task
        >>> model = build_model(Transformer(d_model=8), 6, 3, 5, generator=torch.Generator().manual_seed(0))
        >>> runs = Sources.of(build_task(Modular(p=5)))
        >>> activation_patching(model, runs, "blocks.0.hook_resid_post").effect  # all that there is at the end
        1.0
        >>> activation_patching(model, runs, Site("blocks.0.hook_resid_post", positions=0)).effect
        0.0
    """
    cache, source, start = _both(model, runs)
    draws, seed = as_count("draws", draws), as_seed(seed)
    replaced = _part(model, cache, "site", site, len(runs.base))

    def along(values: Tensor) -> Tensor:
        return _logits(model, runs.base, {replaced.name: replaced.by(values)})

    return _patching(runs, source[replaced.name], start, along, draws, seed)


@torch.no_grad()
def path_patching(
    model: Network,
    runs: Sources,
    sender: Site | str,
    receivers: Site | str | Sequence[Site | str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Patching:
    """Effect of the direct ways from a part of an activation to others: every other reader of it sees the base inputs.

    On each way all branches of the network (`Network.branches`: heads and MLPs) keep their values, but for those that
    it begins or ends in. A network that declares none has no way around a layer, and nothing is kept.

    Args:
        sender: activation, or a part of one, that comes from the source inputs.
        receivers: activations behind it, or parts of them, to which it comes; of one head its q, k or v.
        draws: number of draws of random source inputs, of which the control is the mean.
        seed: seed of these draws.

    Raises:
        UnknownNameError: the network has no activation of that name.
        InvalidArgumentError: a receiver does not lie behind the sender, or an activation has no such part.

    Example:
        >>> from interp.config import Modular, Transformer
        >>> from interp.models import build_model
        >>> from interp.tasks import build_task
        >>> model = build_model(Transformer(d_model=8), 6, 3, 5, generator=torch.Generator().manual_seed(0))
        >>> runs, head = Sources.of(build_task(Modular(p=5))), Site("blocks.0.attn.hook_z", heads=0)
        >>> ways = ["blocks.0.mlp.hook_pre", "blocks.0.hook_resid_post"]
        >>> both = path_patching(model, runs, head, ways).effect
        >>> abs(both - activation_patching(model, runs, head).effect) < 1e-5
        True
    """
    cache, source, start = _both(model, runs)
    sent = _part(model, cache, "sender", sender, len(runs.base))
    draws, seed = as_count("draws", draws), as_seed(seed)
    chosen = receivers if isinstance(receivers, Iterable) and not isinstance(receivers, str) else [receivers]
    order = {name: at for at, name in enumerate(cache)}
    found = (_part(model, cache, "receivers", receiver, len(runs.base)) for receiver in chosen)
    ends = sorted(found, key=lambda end: order[end.name])
    for end in ends:
        if order[end.name] <= order[sent.name]:
            raise InvalidArgumentError(
                f"`receivers` must lie behind the sender `{sent.name}`; `{end.name}` is computed before it."
            )
    if not ends:
        raise InvalidArgumentError("`receivers` must name at least one activation; got none.")
    for branch in model.branches:
        if branch[-1] not in cache:
            raise UnknownNameError(
                f"`{type(model).__name__}.branches` must name activations; there is no `{branch[-1]}`. "
                f"{did_you_mean(branch[-1], cache)}"
            )

    def along(values: Tensor) -> Tensor:
        logits, current = start[0], cache
        held: dict[str, Callable[[Tensor], Tensor]] = {}
        for end in ends:
            kept = [names[-1] for names in model.branches if not {sent.name, end.name} & set(names)]
            frozen = {name: _constant(current[name]) for name in kept}
            direct = model.run_with_changes(runs.base, frozen | {sent.name: sent.by(values)})[1]
            held[end.name] = _after(held.get(end.name), end.by(direct[end.name]))
            outputs, current = model.run_with_changes(runs.base, held)
            logits = _answers(outputs)
        return logits

    return _patching(runs, source[sent.name], start, along, draws, seed)


@torch.no_grad()
def zero_ablation(
    model: Network,
    tokens: Int[Tensor, "input pos"],
    answers: Int[Tensor, " input"],
    site: Site | str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Ablation:
    """Loss and accuracy with a part of an activation at zero (masked attention scores stay masked).

    Args:
        tokens: inputs.
        answers: class of each one's answer.
        site: activation, or a part of one, that is taken away.
        draws: number of draws of as many other parts, of which the control is the mean.
        seed: seed of these draws.

    Raises:
        UnknownNameError: the network has no activation of that name.
        InvalidArgumentError: the activation has no such axis, position, head or neuron.

    Example:
        >>> from interp.config import Modular, Transformer
        >>> from interp.models import build_model
        >>> from interp.tasks import build_task
        >>> task = build_task(Modular(p=5))
        >>> model = build_model(Transformer(d_model=8), 6, 3, 5, generator=torch.Generator().manual_seed(0))
        >>> found = zero_ablation(model, task.tokens, task.labels, "blocks.0.hook_resid_post")
        >>> found.kind, round(found.loss, 4)  # log 5: nothing is left
        ('zero_ablation', 1.6094)
    """

    def zero(x: Tensor, draw: int) -> Tensor:
        return torch.where(x == -math.inf, x, 0.0)

    return _ablation("zero_ablation", zero, model, tokens, answers, site, draws, seed)


@torch.no_grad()
def mean_ablation(
    model: Network,
    tokens: Int[Tensor, "input pos"],
    answers: Int[Tensor, " input"],
    site: Site | str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Ablation:
    """Loss and accuracy with a part of an activation at its mean over the inputs, at each position its own.

    Arguments and errors are those of `zero_ablation`.

    Example:
        >>> from interp.config import Modular, Transformer
        >>> from interp.models import build_model
        >>> from interp.tasks import build_task
        >>> task = build_task(Modular(p=5))
        >>> model = build_model(Transformer(d_model=8), 6, 3, 5, generator=torch.Generator().manual_seed(0))
        >>> found = mean_ablation(model, task.tokens, task.labels, Site("hook_pos_embed", positions=-1))
        >>> found.loss == found.intact_loss  # it is the same for every input
        True
    """

    def mean(x: Tensor, draw: int) -> Tensor:
        return x.double().mean(0, keepdim=True).to(x.dtype).expand_as(x)

    return _ablation("mean_ablation", mean, model, tokens, answers, site, draws, seed)


@torch.no_grad()
def resample_ablation(
    model: Network,
    tokens: Int[Tensor, "input pos"],
    answers: Int[Tensor, " input"],
    site: Site | str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Ablation:
    """Loss and accuracy with a part of an activation at its values of other inputs, which are drawn at random.

    Arguments and errors are those of `zero_ablation`; loss and accuracy, too, are means over the draws.

    Example:
        >>> from interp.config import Modular, Transformer
        >>> from interp.models import build_model
        >>> from interp.tasks import build_task
        >>> task = build_task(Modular(p=5))
        >>> model = build_model(Transformer(d_model=8), 6, 3, 5, generator=torch.Generator().manual_seed(0))
        >>> found = resample_ablation(model, task.tokens, task.labels, Site("blocks.0.attn.hook_z", heads=0))
        >>> found.kind, found.loss != found.intact_loss
        ('resample_ablation', True)
    """

    def resampled(x: Tensor, draw: int) -> Tensor:
        return x[torch.randperm(len(x), generator=generator(seed, "resample", draw))]

    return _ablation("resample_ablation", resampled, model, tokens, answers, site, draws, seed)


# --- runs -------------------------------------------------------------------------------------------------------------


def _answers(outputs: Tensor) -> Float[Tensor, "input d_vocab_out"]:
    """Logits of the answers, at the last position."""
    return outputs[:, -1] if outputs.ndim == 3 else outputs


def _logits(model: Network, tokens: Tensor, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    return _answers(model.run_with_changes(tokens, changes)[0])


def _both(model: Network, runs: Sources) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Activations of base and source inputs, and the logits of both."""
    model = as_network("model", model)
    if not isinstance(runs, Sources):
        raise InvalidArgumentError(f"`runs` must be `Sources`, such as Sources.of(task); got {type(runs).__name__}.")
    base, cache, _ = first_pass(model, "base", runs.base)
    source, other, _ = first_pass(model, "source", runs.source)
    for name, answers in (("base_answers", runs.base_answers), ("source_answers", runs.source_answers)):
        _require_classes(name, answers, base)
    return cache, other, (base, source)


def _is_whole(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def _require_classes(name: str, answers: Tensor, logits: Tensor) -> None:
    """Demand of answers that they are classes of the logits, one for each input."""
    shape, classes = [len(logits)], logits.shape[1]
    if list(answers.shape) != shape or not _is_whole(answers):
        raise InvalidArgumentError(
            f"`{name}` must be whole numbers [input] of shape {shape}; got {answers.dtype} of shape "
            f"{list(answers.shape)}."
        )
    if not 0 <= answers.min() <= answers.max() < classes:
        raise InvalidArgumentError(
            f"`{name}` must be classes in 0..{classes - 1}, those of the logits; got {int(answers.min())}.."
            f"{int(answers.max())}."
        )


def _as_inputs(name: str, value: Int[Tensor, " input"], answered: Bool[Tensor, " all"]) -> Int[Tensor, " input"]:
    """Numbers of inputs that have an answer, in the order given; of a mask, those that it chooses."""
    given = as_tensor(name, value).cpu().numpy()
    if given.dtype == bool and given.shape == tuple(answered.shape):
        given = given.nonzero()[0]
    n = len(answered)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu" or given.min() < -n or given.max() >= n:
        raise InvalidArgumentError(
            f"`{name}` must be numbers of inputs in 0..{n - 1}, one or more whole numbers; got {value!r}."
        )
    chosen = torch.as_tensor(given.astype(np.int64))
    if not answered[chosen].all():
        without = int(chosen[~answered[chosen]][0])
        raise InvalidArgumentError(f"`{name}` must be inputs that have an answer; the input {without} has none.")
    return chosen


def _patching(
    runs: Sources,
    source: Tensor,
    start: tuple[Tensor, Tensor],
    along: Callable[[Tensor], Tensor],
    draws: int,
    seed: int,
) -> Patching:
    """Result of `along(source)`, the logits with the sources' values in place, and of those of random source inputs."""
    patched, n = along(source), len(runs.base)
    orders = [torch.randperm(n, generator=generator(seed, "random source", draw)) for draw in range(draws)]
    controls = [along(source[order]) for order in orders]

    def difference(logits: Tensor) -> float:
        base, other = (logits.gather(1, label[:, None]) for label in (runs.base_answers, runs.source_answers))
        return float((base.double() - other.double()).mean())

    return Patching(
        base=difference(start[0]),
        source=difference(start[1]),
        patched=difference(patched),
        random_source=sum(map(difference, controls)) / draws,
        base_accuracy=float(accuracy(patched, runs.base_answers)),
        source_accuracy=float(accuracy(patched, runs.source_answers)),
    )


def _ablation(
    kind: str,
    instead: Callable[[Tensor, int], Tensor],
    model: Network,
    tokens: Tensor,
    answers: Tensor,
    site: Site | str,
    draws: int,
    seed: int,
) -> Ablation:
    """Result of `instead(activation, draw)` in the place of a part, and of as many others."""
    model, draws, seed = as_network("model", model), as_count("draws", draws), as_seed(seed)
    intact, cache, tokens = first_pass(model, "tokens", tokens)
    answers = as_tensor("answers", answers).to(intact.device)
    _require_classes("answers", answers, intact)
    part = _part(model, cache, "site", site, len(tokens))

    def scores(parts: Sequence[_Part]) -> tuple[float, float]:
        found = []
        for draw, one in enumerate(parts):
            logits = _logits(model, tokens, {one.name: one.by(instead(cache[one.name], draw))})
            found.append((float(cross_entropy(logits, answers)), float(accuracy(logits, answers))))
        losses, accuracies = zip(*found)
        return sum(losses) / len(losses), sum(accuracies) / len(accuracies)

    others = [part.random(generator(seed, "random parts", draw)) for draw in range(draws)]
    loss, right = scores([part] * (draws if kind == "resample_ablation" else 1))
    random = scores(others) if part.has_others else (math.nan, math.nan)
    return Ablation(kind, loss, right, float(cross_entropy(intact, answers)), float(accuracy(intact, answers)), *random)


def _constant(values: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: values


def _after(first: Callable[[Tensor], Tensor] | None, then: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return then if first is None else lambda x: then(first(x))


def _part(model: Network, cache: Mapping[str, Tensor], name: str, site: Any, inputs: int) -> "_Part":
    """Part of an activation that can be changed input by input; `name` is that of the argument."""
    site = as_site(name, site)
    if site.name in cache:
        require_rows(model, site.name, cache[site.name], inputs)
    return _Part.of(model, cache, site)


# --- parts of activations ---------------------------------------------------------------------------------------------

_AXES = (("neuron", "neurons"), ("head", "heads"), ("pos", "positions"))
"""Axes along which a site chooses, the finest first, and the fields of `Site`."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Site in an activation of known shape: the chosen indices along each axis, by its number."""

    name: str
    shape: tuple[int, ...]
    chosen: Mapping[int, Sequence[int]]
    """Indices by axis, the finest axis first; axes that are not here are whole."""

    @staticmethod
    def of(model: Network, cache: Mapping[str, Tensor], site: Site | str) -> "_Part":
        site = as_site("site", site)
        if site.name not in cache:
            raise UnknownNameError(
                f"There is no activation `{site.name}` in {type(model).__name__}. {did_you_mean(site.name, cache)}"
            )
        shape = tuple(cache[site.name].shape)
        axes = ("input", *model.activation_axes_of(site.name, len(shape)))
        if len(axes) != len(shape):
            raise InvalidArgumentError(
                f"`{type(model).__name__}.activation_axes` must name the axes of `{site.name}` behind the batch, "
                f"{len(shape) - 1} of them; got {axes[1:]}."
            )
        chosen = {}
        for (axis, field), wanted in zip(_AXES, (site.neurons, site.heads, site.positions)):
            if wanted is not None:
                if axis not in axes:
                    raise InvalidArgumentError(
                        f"`{field}` must be left out for `{site.name}`, whose axes are {', '.join(axes)}."
                    )
                chosen[axes.index(axis)] = as_indices(field, wanted, shape[axes.index(axis)])
                if not chosen[axes.index(axis)]:
                    raise InvalidArgumentError(f"`{field}` must name at least one; got none.")
        return _Part(site.name, shape, chosen)

    def by(self, values: Tensor) -> Callable[[Tensor], Tensor]:
        """The change that puts `values`, of the whole activation, in the place of this part."""
        mask = self._mask(values.device)
        return lambda x: torch.where(mask, values, x)

    @property
    def has_others(self) -> bool:
        """Whether there are other parts than the chosen ones along the finest axis."""
        axis = next(iter(self.chosen), None)
        return axis is not None and len(self.chosen[axis]) < self.shape[axis]

    def random(self, draws: torch.Generator) -> "_Part":
        """Parts along the finest axis, as many, drawn at random: others than the chosen ones as far as they go."""
        if not self.has_others:
            return self
        axis = next(iter(self.chosen))
        own = set(self.chosen[axis])
        order = torch.randperm(self.shape[axis], generator=draws).tolist()
        others = sorted(order, key=lambda i: i in own)  # stable: still at random among either
        return _Part(self.name, self.shape, {**self.chosen, axis: others[: len(own)]})

    def _mask(self, device: torch.device) -> Bool[Tensor, "..."]:
        """Whether each entry belongs to the part, with the axes of the activation, of size 1 where it is whole."""
        mask = torch.ones([1] * len(self.shape), dtype=torch.bool, device=device)
        for axis, indices in self.chosen.items():
            along = torch.zeros(self.shape[axis], dtype=torch.bool, device=device)
            along[list(indices)] = True
            mask = mask & along.reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
        return mask
