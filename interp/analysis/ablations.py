"""What happens to the answers when a part of the network is taken away: the network is run again with changed weights.

Each function takes a `CheckpointBatch`, a few checkpoints, and changes weights by the functions of `circuits` and
`algorithms`; losses are cross-entropies over all pairs, in nats, to be compared with `all_loss`. They cost a pass over
all pairs for each thing that is taken away, which is why their measures come by name only.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.algorithms import isolate_components, symmetricity_triples
from interp.analysis.circuits import AttentionPower, ablate_neurons, attention_power, without_frequency, without_head
from interp.analysis.context import CheckpointBatch
from interp.analysis.loss import accuracy, cross_entropy
from interp.analysis.spectra import neuron_frequency
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
SHARE = 0.85
"""Of its variance, that puts a neuron into the cluster of a frequency (Nanda et al., 2023)."""


def head_ablation_loss(view: CheckpointBatch) -> Float[Tensor, "step head"]:
    """Loss without one head: what it writes into the residual stream is zero, in the first layer."""
    name = "blocks.0.attn.W_O"
    heads = view.weights[name].shape[1]
    return _losses(view, ({name: without_head(view.weights[name], head)} for head in range(heads)))


def frequency_ablation_loss(view: CheckpointBatch) -> Float[Tensor, "step frequency"]:
    """Loss without one frequency of the embedding: its cosine and sine over the numbers are zero."""
    tokens = view.source.traj.task.operands[view.source.elements]

    def without(k: int) -> dict[str, Tensor]:
        return _embedded(view, tokens, lambda W_E: without_frequency(W_E, [k]))

    return _losses(view, (without(k) for k in range(1, len(tokens) // 2 + 1)))


def circle_isolation_accuracy(view: CheckpointBatch) -> Float[Tensor, "step circle"]:
    """Accuracy over all pairs with an embedding of two principal components only: Zhong et al. (2023).

    Where the operands have separate tables, both are so cut, each in its own components.
    """
    tokens, width = view.source.traj.task.operands, view.weights["embed.W_E"].shape[-1]

    def only(pair: int) -> dict[str, Tensor]:
        return _embedded(view, tokens, lambda W_E: isolate_components(W_E, (2 * pair - 1, 2 * pair)))

    labels, defined = view.source.labels, view.source.train | view.source.test
    pairs = range(1, min(CIRCLES, min(len(tokens) - 1, width) // 2) + 1)
    logits = (_logits(view, only(pair)) for pair in pairs)
    return torch.stack([accuracy(found, labels, defined) for found in logits], dim=1)


def neuron_cluster_ablation_loss(view: CheckpointBatch) -> Float[Tensor, "step frequency"]:
    """Loss with the neurons of one cluster at their means, over the pairs of operands of `CheckpointBatch.logits`."""
    found = neuron_frequency(view.neuron_power)
    losses = []
    for k in range(1, view.neuron_power.shape[-1] + 1):
        cluster = (found.frequency == k) & (found.share > SHARE)
        ablated = ablate_neurons(view.neurons, view.W_L, view.logits, cluster)
        losses.append(cross_entropy(ablated, view.source.sums))
    return torch.stack(losses, dim=1)


def attention_periodicity(view: CheckpointBatch) -> AttentionPower:
    """How the attention from '=' to the first number depends on the two numbers, by head and frequency."""
    tokens, p = view.source.traj.task.tokens, view.source.p

    def pattern(model: Network) -> Tensor:
        with torch.no_grad():
            return model.run_with_cache(tokens)[1]["blocks.0.attn.hook_pattern"][:, :, -1, 0]  # [pair, head]

    attention = torch.stack(view.each(pattern)).unflatten(1, (p, p))
    return attention_power(view.source.arranged(attention, -2, -3))


def symmetricity_gradients(view: CheckpointBatch) -> tuple[Tensor, Tensor]:
    """Gradients of one logit by the embeddings of the two operands, [step, triple, d_model] each."""
    p = view.source.p
    a, b, c = symmetricity_triples(p, count=min(100, p**3)).T
    tokens = view.source.traj.task.tokens[a * p + b]

    def gradient(model: Network) -> Tensor:
        logits, cache = model.run_with_cache(tokens)
        classes = view.source.traj.task.operands[c]
        chosen = (
            logits[:, -1].gather(1, classes[:, None]).sum()
        )  # each input has its own row, so that one sum yields all
        return torch.autograd.grad(chosen, cache["hook_embed"])[0]

    gradients = torch.stack(view.each(gradient))
    first, second = view.source.operand_positions
    return gradients[..., first, :], gradients[..., second, :]


def _embedded(
    view: CheckpointBatch, tokens: Int[Tensor, " n"], change: Callable[[Tensor], Tensor]
) -> dict[str, Float[Tensor, "step token d_model"]]:
    """The embeddings with these rows changed: one table, or one for each operand."""
    tables = [name for name in ("embed.W_E", "embed_b.W_E") if name in view.weights]
    changed: dict[str, Tensor] = {name: view.weights[name].clone() for name in tables}
    for W_E in changed.values():
        W_E[:, tokens] = change(W_E[:, tokens]).to(W_E.dtype)
    return changed


def _losses(view: CheckpointBatch, changes: Iterable[Mapping[str, Tensor]]) -> Float[Tensor, "step change"]:
    labels, defined = view.source.labels, view.source.train | view.source.test
    return torch.stack([cross_entropy(_logits(view, change), labels, defined) for change in changes], dim=1)


def _logits(view: CheckpointBatch, changed: Mapping[str, Tensor]) -> Float[Tensor, "step p p d_vocab_out"]:
    """Logits of all pairs with some parameters replaced."""
    p, pairs = view.source.p, view.source.pairs

    def answer(model: Network) -> Tensor:
        return model.answer_logits(pairs).reshape(p, p, -1)

    with torch.no_grad():
        return torch.stack(view.each(answer, changed))
