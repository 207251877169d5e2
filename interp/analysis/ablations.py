"""Ablations by weights: the network is run again with a part of its weights removed.

`keep_only` returns a copy of the network with nothing left but some frequencies, neurons or heads. Ablations of
activations (mean, zero, resample), each with its control, are in `patching`.

Each other function takes a `CheckpointBatch` and changes weights by the functions of `circuits` and `algorithms`;
losses are cross-entropies over all inputs, in nats, to be compared with `all_loss`. They cost a pass over all inputs
for each part that is removed, which is why their measures are opt-in.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.analysis.algorithms import isolate_components, symmetricity_triples
from interp.analysis.arguments import as_examples, as_network, first_pass, require_rows
from interp.analysis.arrays import Array, as_indices
from interp.analysis.batch import CheckpointBatch
from interp.analysis.circuits import AttentionPower, ablate_neurons, attention_power, without_frequency, without_head
from interp.analysis.keys import Keys, as_key_mask
from interp.analysis.loss import accuracy, cross_entropy
from interp.analysis.operands import order_of_operands
from interp.analysis.patching import Site, resample_ablation
from interp.analysis.spectra import NEURON_SHARE, neuron_frequency
from interp.errors import InvalidArgumentError, NotAvailableError, UnknownNameError, did_you_mean
from interp.literals import is_whole
from interp.models import Network
from interp.rng import generator
from interp.tasks import Examples

__all__ = [
    "attention_periodicity",
    "circle_isolation_accuracy",
    "first_attention",
    "frequency_ablation_loss",
    "head_ablation_loss",
    "head_resample_accuracy",
    "keep_only",
    "neuron_cluster_ablation_loss",
    "symmetricity_gradients",
]

CIRCLES = 4
"""Pairs of principal components that are isolated: (1, 2), (3, 4), (5, 6), (7, 8)."""


Kept = Sequence[int] | Array | Mapping[int, Sequence[int] | Array]
"""Heads or neurons of a layer, or of several by the layer's number."""


def keep_only(
    model: Network,
    *,
    frequencies: Keys | None = None,
    heads: Kept | None = None,
    neurons: Kept | None = None,
    other: Literal["zero", "mean"] = "zero",
    examples: Examples | None = None,
) -> Network:
    """A copy of the network that has nothing but these frequencies, heads or neurons: the others are ablated.

    It is changed in its weights, and a `Network` of the same class, which measures and reports accept;
    `Network.ablation` says in words what was taken away.

    Args:
        model: network of one step, `traj.model(step)`; it is left as it is.
        frequencies: frequencies, from 1, that remain of the embedding, beside its mean over the operands. They are
            those of the order in which the operation adds (discrete logarithms for products; the operand 0, which
            has none, stays). The waves of the others have the mean 0, so that either `other` is the same.
        heads: heads that still write, from 0. A mapping names layers; layers that it does not name stay whole. A list
            is for a network with one layer of heads.
        neurons: neurons that are still read; a list is for the last hidden layer. States of a recurrence keep their way
            to the next state.
        other: "zero" (they write nothing) or "mean": they write their mean over all inputs with an answer, at the
            position of the answer of the network as it is given, by way of a bias. Scores of the two differ by orders
            of magnitude.
        examples: the task, `traj.task`, for `frequencies` and for means.

    Raises:
        InvalidArgumentError: nothing is named, an index does not exist, or `examples` or a layer is missing.
        NotAvailableError: the network does not declare what reads its heads or neurons (`Network.readers`), or means
            cannot be written by a bias: `patching.mean_ablation` then runs the network with them.

    Example:
        >>> from interp.config import Transformer
        >>> from interp.models import build_model
        >>> model = build_model(Transformer(d_model=8), 6, 3, 5, generator=torch.Generator().manual_seed(0))
        >>> kept = keep_only(model, heads=[0, 2])
        >>> kept.ablation
        'zero ablation of all heads of layer 0 but 0, 2'
        >>> kept.blocks[0].attn.W_O.abs().sum((1, 2)).bool().tolist()
        [True, False, True, False]
    """
    if frequencies is None and heads is None and neurons is None:
        raise InvalidArgumentError("Name `frequencies`, `heads` or `neurons` to keep; got none of them.")
    if other not in ("zero", "mean"):
        raise InvalidArgumentError(f'`other` must be "zero" or "mean"; got {other!r}.')
    model = as_network("model", model)
    kept, words = copy.deepcopy(model), [model.ablation] if model.ablation else []
    with torch.no_grad():
        if frequencies is not None:
            words.append(_keep_frequencies(kept, frequencies, _given(examples, "frequencies")))
        for part, wanted in (("head", heads), ("neuron", neurons)):
            for activation, chosen, layer in _layers(model, part, wanted):
                means = _means(model, activation, _given(examples, 'other="mean"')) if other == "mean" else None
                _keep_parts(kept, activation, f"{part}s", chosen, means)
                place = f"layer {layer}" if part == "head" else activation
                size = _size(model, activation)
                but = _listed(chosen) if len(chosen) <= 8 else f"{len(chosen)} of {size}"
                words.append(f"{other} ablation of all {part}s of {place} but {but}")
    kept.ablation = "; ".join(words)
    return kept


def head_ablation_loss(batch: CheckpointBatch) -> Float[Tensor, "step head"]:
    """Loss without one head: its output to the residual stream is zero, in the first layer."""
    name = "blocks.0.attn.W_O"
    heads = batch.weights[name].shape[1]
    return _losses(batch, ({name: without_head(batch.weights[name], head)} for head in range(heads)))


def frequency_ablation_loss(batch: CheckpointBatch) -> Float[Tensor, "step frequency"]:
    """Loss without one frequency of the embedding: its cosine and sine over the operands are zero."""
    tokens = batch.context.examples.operands[batch.context.residues]

    def without(k: int) -> dict[str, Tensor]:
        return _embedded(batch, tokens, lambda W_E: without_frequency(W_E, [k]))

    return _losses(batch, (without(k) for k in range(1, len(tokens) // 2 + 1)))


def circle_isolation_accuracy(batch: CheckpointBatch) -> Float[Tensor, "step circle"]:
    """Accuracy over all inputs with an embedding of two principal components only: Zhong et al. (2023).

    Where the operands have separate tables, both are so cut, each in its own components.
    """
    tokens, width = batch.context.examples.operands, batch.W_E.shape[-1]

    def only(pair: int) -> dict[str, Tensor]:
        return _embedded(batch, tokens, lambda W_E: isolate_components(W_E, (2 * pair - 1, 2 * pair)))

    labels, defined = batch.context.labels, batch.context.train | batch.context.test
    pairs = range(1, min(CIRCLES, min(len(tokens) - 1, width) // 2) + 1)
    logits = (_logits(batch, only(pair)) for pair in pairs)
    return torch.stack([accuracy(found, labels, defined) for found in logits], dim=1)


def head_resample_accuracy(batch: CheckpointBatch) -> Float[Tensor, "step head"]:
    """Accuracy with the output of one head of the first layer taken from other inputs, over `patched_inputs`."""
    context, name = batch.context, "blocks.0.attn.hook_z"
    some = context.patched_inputs
    tokens, labels = context.examples.tokens[some], context.labels[some]
    heads = batch.weights["blocks.0.attn.W_O"].shape[1]

    def accuracies(model: Network) -> Tensor:
        sites = (Site(name, heads=head) for head in range(heads))
        return torch.tensor([resample_ablation(model, tokens, labels, site, draws=1).accuracy for site in sites])

    return torch.stack(batch.each(accuracies, gradients=False))


def neuron_cluster_ablation_loss(batch: CheckpointBatch, *, random: bool = False) -> Float[Tensor, "step frequency"]:
    """Loss with the neurons of one cluster at their means, over the pairs of operands of `CheckpointBatch.logits`.

    With `random`, as many other neurons, drawn at random, are at their means (and some of the cluster where the others
    are fewer).
    """
    found = neuron_frequency(batch.neuron_power)
    losses = []
    for k in range(1, batch.neuron_power.shape[-1] + 1):
        cluster = (found.frequency == k) & (found.share > NEURON_SHARE)
        if random:
            places = torch.rand(cluster.shape[-1], generator=generator(0, "random neurons", k))
            rank = (places + cluster).argsort(-1).argsort(-1)  # others first
            cluster = rank < cluster.sum(-1, keepdim=True)
        ablated = ablate_neurons(batch.neurons, batch.W_L, batch.logits, cluster)
        losses.append(cross_entropy(ablated, batch.context.sums))
    return torch.stack(losses, dim=1)


def attention_periodicity(batch: CheckpointBatch) -> AttentionPower:
    """Dependence of the attention from '=' to the first number on the two numbers, by head and frequency."""
    return attention_power(batch.context.arrange(first_attention(batch)))


def first_attention(batch: CheckpointBatch) -> Float[Tensor, "step pair head"]:
    """Attention from '=' to the first number, for every pair."""
    tokens, name = batch.context.examples.tokens, batch.context.network.pattern

    def pattern(model: Network) -> Tensor:
        return model.run_with_cache(tokens)[1][name][:, :, -1, 0]  # [pair, head]

    return torch.stack(batch.each(pattern, gradients=False))


def symmetricity_gradients(batch: CheckpointBatch) -> tuple[Tensor, Tensor]:
    """Gradients of one logit by the embeddings of the two operands, [step, triple, d_model] each."""
    p = batch.context.p
    a, b, c = symmetricity_triples(p, count=min(100, p**3)).T
    tokens, classes = batch.context.examples.tokens[a * p + b], batch.context.examples.classes[c]

    def gradient(model: Network) -> Tensor:
        logits, cache = model.run_with_cache(tokens)
        answers = logits[:, -1] if logits.ndim == 3 else logits
        chosen = answers.gather(1, classes[:, None]).sum()  # each input has a row of its own: one sum yields all
        return torch.autograd.grad(chosen, cache[batch.context.network.embedded])[0]

    gradients = torch.stack(batch.each(gradient, gradients=True))
    first, second = batch.context.operand_positions
    return gradients[..., first, :], gradients[..., second, :]


def _given(examples: Examples | None, what: str) -> Examples:
    if examples is None:
        raise InvalidArgumentError(f"`examples` must be given for `{what}`; pass the task of the run, traj.task.")
    return as_examples("examples", examples)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _keep_frequencies(network: Network, frequencies: Keys, examples: Examples) -> str:
    """Leave these frequencies in the tables of `network`; returns what was done, in words."""
    order = order_of_operands(examples)
    if not order.are_residues:
        raise NotAvailableError(f"`frequencies` are defined where the operands are residues; got {examples.inputs}.")
    if not network.looks_up:
        raise NotAvailableError(
            f"`frequencies` are those of a table in which operands are looked up; {type(network).__name__} has none."
        )
    tokens = examples.operands[order.residues]
    for name in network.embeddings:
        table = network.get_parameter(name)
        if int(tokens.max()) >= len(table):
            raise InvalidArgumentError(
                f"`examples` must be the task of the network: it has operands up to token {int(tokens.max())}, and "
                f"`{name}` {len(table)} rows."
            )
        kept = as_key_mask(frequencies, table[tokens], name="frequencies")
        table[tokens] = without_frequency(table[tokens], ~kept)
    numbers = (kept.nonzero().squeeze(1) + 1).tolist()
    return f"frequencies {_listed(numbers)} of the embedding alone ({order.basis})"


def _layers(network: Network, part: str, wanted: Kept | None) -> Iterable[tuple[str, list[int], int]]:
    """Activation, kept indices and number of each layer of heads or neurons that is to be changed."""
    if wanted is None:
        return
    found = [name for name in network.readers if _has(network, name, part)]
    if not found:
        raise NotAvailableError(
            f"`{part}s` need a network that declares what reads them (`Network.readers`); {type(network).__name__} "
            f"names none."
        )
    if not isinstance(wanted, Mapping):
        if part == "head" and len(found) > 1:
            raise InvalidArgumentError(
                f"`heads` must name the layer, one of {len(found)}: write {{0: {list(wanted)}}}; got {wanted!r}."
            )
        wanted = {len(found) - 1: wanted}
    if not wanted:
        raise InvalidArgumentError(f"`{part}s` must name at least one layer; got {wanted!r}.")
    for layer, chosen in wanted.items():
        if not is_whole(layer) or not 0 <= layer < len(found):
            raise InvalidArgumentError(f"`{part}s` must name layers in 0..{len(found) - 1}; got {layer!r}.")
        size = _size(network, found[layer])
        yield found[layer], as_indices(f"{part}s", chosen, size), layer


def _size(network: Network, activation: str) -> int:
    """Number of parts of an activation: rows of the matrix that reads it."""
    matrix, known = network.readers[activation][0], dict(network.named_parameters())
    if matrix not in known:
        raise UnknownNameError(
            f"`{type(network).__name__}.readers` must name parameters; there is no `{matrix}`. "
            f"{did_you_mean(matrix, known)}"
        )
    return len(known[matrix])


def _has(network: Network, activation: str, part: str) -> bool:
    """Whether an activation has an axis of heads or neurons (any with a position, where nothing is declared)."""
    return part in network.activation_axes_of(activation, 3)


def _means(network: Network, activation: str, examples: Examples) -> Float[Tensor, "part *d"]:
    """Means of an activation over the inputs with an answer, at the position where it is read.

    Raises:
        NotAvailableError: later layers attend to other positions, which have other means.
    """
    inputs = examples.tokens[examples.train | examples.test]
    cache = first_pass(network, "examples", inputs)[1]
    if activation not in cache:
        raise UnknownNameError(
            f"`{type(network).__name__}.readers` must name activations; there is no `{activation}`. "
            f"{did_you_mean(activation, cache)}"
        )
    require_rows(network, activation, cache[activation], len(inputs))
    x = cache[activation].double()
    axes = network.activation_axes_of(activation, x.ndim)
    if "pos" not in axes:
        return x.mean(0)
    behind = list(network.readers)[list(network.readers).index(activation) + 1 :]
    if any(_has(network, name, "head") for name in behind):
        raise NotAvailableError(
            f'`other` must be "zero" for `{activation}`, to which a later layer attends at positions with other '
            "means; `patching.mean_ablation` runs the network with them."
        )
    return x.mean(0).select(axes.index("pos"), -1)


def _keep_parts(
    network: Network, activation: str, field: str, chosen: Sequence[int], means: Float[Tensor, "part *d"] | None
) -> None:
    """Let nothing but the chosen parts of an activation be read; the others' means go into the bias."""
    matrix, bias = network.readers[activation]
    W = network.get_parameter(matrix)
    others = torch.ones(len(W), dtype=torch.bool, device=W.device)
    others[list(chosen)] = False
    if means is not None:
        if not bias:
            raise NotAvailableError(
                f'`other` must be "zero" for `{field}` of {type(network).__name__}, which has no bias to write means '
                "by; `patching.mean_ablation` runs the network with them."
            )
        at, _, short = bias.rpartition(".")
        module = network.get_submodule(at)
        old = module._parameters[short]
        added = (means[others].flatten() @ W[others].double().flatten(0, -2)).to(W.dtype)
        trained = old is not None and old.requires_grad
        module.register_parameter(short, nn.Parameter(added if old is None else old + added, requires_grad=trained))
    W[others] = 0


def _embedded(
    batch: CheckpointBatch, tokens: Int[Tensor, " n"], change: Callable[[Tensor], Tensor]
) -> dict[str, Float[Tensor, "step token d_model"]]:
    """Embeddings with these rows changed: one table, or one for each operand."""
    tables = batch.context.network.embeddings
    changed: dict[str, Tensor] = {name: batch.weights[name].clone() for name in tables}
    for W_E in changed.values():
        W_E[:, tokens] = change(W_E[:, tokens]).to(W_E.dtype)
    return changed


def _losses(batch: CheckpointBatch, changes: Iterable[Mapping[str, Tensor]]) -> Float[Tensor, "step change"]:
    labels, defined = batch.context.labels, batch.context.train | batch.context.test
    return torch.stack([cross_entropy(_logits(batch, change), labels, defined) for change in changes], dim=1)


def _logits(batch: CheckpointBatch, changed: Mapping[str, Tensor]) -> Float[Tensor, "step input d_vocab_out"]:
    """Logits of all inputs with some parameters replaced."""
    inputs = batch.context.inputs
    return torch.stack(batch.each(lambda model: model.answer_logits(inputs), changed, gradients=False))
