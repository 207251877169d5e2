"""Ablations: the network is run again at each checkpoint with a part of its weights removed.

Each function takes a `CheckpointBatch` and changes weights by the functions of `circuits` and `algorithms`; losses are
cross-entropies over all inputs, in nats, to be compared with `all_loss`. They cost a pass over all inputs for each part
that is removed, which is why their measures are opt-in.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.algorithms import isolate_components, symmetricity_triples
from interp.analysis.batch import CheckpointBatch
from interp.analysis.circuits import AttentionPower, ablate_neurons, attention_power, without_frequency, without_head
from interp.analysis.loss import accuracy, cross_entropy
from interp.analysis.spectra import NEURON_SHARE, neuron_frequency
from interp.models import Network

__all__ = [
    "attention_periodicity",
    "circle_isolation_accuracy",
    "frequency_ablation_loss",
    "head_ablation_loss",
    "neuron_cluster_ablation_loss",
    "symmetricity_gradients",
]

CIRCLES = 4
"""Pairs of principal components that are isolated: (1, 2), (3, 4), (5, 6), (7, 8)."""


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


def neuron_cluster_ablation_loss(batch: CheckpointBatch) -> Float[Tensor, "step frequency"]:
    """Loss with the neurons of one cluster at their means, over the pairs of operands of `CheckpointBatch.logits`."""
    found = neuron_frequency(batch.neuron_power)
    losses = []
    for k in range(1, batch.neuron_power.shape[-1] + 1):
        cluster = (found.frequency == k) & (found.share > NEURON_SHARE)
        ablated = ablate_neurons(batch.neurons, batch.W_L, batch.logits, cluster)
        losses.append(cross_entropy(ablated, batch.context.sums))
    return torch.stack(losses, dim=1)


def attention_periodicity(batch: CheckpointBatch) -> AttentionPower:
    """Dependence of the attention from '=' to the first number on the two numbers, by head and frequency."""
    tokens, name = batch.context.examples.tokens, batch.context.network.pattern

    def pattern(model: Network) -> Tensor:
        return model.run_with_cache(tokens)[1][name][:, :, -1, 0]  # [pair, head]

    return attention_power(batch.context.arrange(torch.stack(batch.each(pattern, gradients=False))))


def symmetricity_gradients(batch: CheckpointBatch) -> tuple[Tensor, Tensor]:
    """Gradients of one logit by the embeddings of the two operands, [step, triple, d_model] each."""
    p = batch.context.p
    a, b, c = symmetricity_triples(p, count=min(100, p**3)).T
    tokens, classes = batch.context.examples.tokens[a * p + b], batch.context.examples.classes[c]

    def gradient(model: Network) -> Tensor:
        logits, cache = model.run_with_cache(tokens)
        chosen = logits[:, -1].gather(1, classes[:, None]).sum()  # each input has a row of its own: one sum yields all
        return torch.autograd.grad(chosen, cache[batch.context.network.embedded])[0]

    gradients = torch.stack(batch.each(gradient, gradients=True))
    first, second = batch.context.operand_positions
    return gradients[..., first, :], gradients[..., second, :]


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
