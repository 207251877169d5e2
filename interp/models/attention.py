"""Attention as the transformer and the decoder share it: position by position, and with everything once per prefix.

With x_i the stream at position i, sums over the positions that a position may attend to (causal: up to itself), and the
attention rate r of Zhong et al. ("The Clock and the Pizza", 2023, https://arxiv.org/abs/2306.17844; elsewhere r = 1):

    score_h(i) = (x W_Q^h + b_Q^h) . (x_i W_K^h + b_K^h) / sqrt(d_head)
    z_h        = sum_i (r softmax_i(score_h(i)) + 1 - r) (x_i W_V^h + b_V^h)
    out        = sum_h z_h W_O^h + b_O

Three things make the way to the last position short. In the first layer x_i is the embedding of a token plus that of a
position, so that x W_Q, x W_K and x W_V are sums of two tables. Under causal attention the stream at a position depends
on the tokens up to there only (see `interp.models.prefixes`): it is computed once per prefix. And the last layer needs
keys and values of all positions, but queries and an MLP only where logits are wanted.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from interp.models.base import Activations, Answer, NeuronNetwork
from interp.models.prefixes import Level

__all__ = ["Attention", "AttentionNetwork", "answer_behind_norm", "map_through_norm", "normalised", "plus"]

EPS = 1e-5
"""Number that torch's LayerNorm adds to the variance."""

_STREAM, _HEADS, _PATTERN, _NEURONS = (
    ("pos", "d_model"),
    ("pos", "head", "d_head"),
    ("head", "pos", "key"),
    ("pos", "neuron"),
)
_ACTIVATION_AXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("hook_embed", "hook_pos_embed", "hook_resid_pre", "hook_attn_out", "hook_resid_mid"), _STREAM),
        **dict.fromkeys(("hook_mlp_out", "hook_resid_post"), _STREAM),
        **dict.fromkeys(("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z"), _HEADS),
        **dict.fromkeys(("attn.hook_attn_scores", "attn.hook_pattern"), _PATTERN),
        **dict.fromkeys(("mlp.hook_pre", "mlp.hook_post"), _NEURONS),
    }
)
"""Axes of the activations of transformer and decoder: see `Network.activation_axes`."""


class AttentionNetwork(NeuronNetwork):
    """Networks whose blocks are attention and an MLP on one stream, under HookedTransformer's names."""

    activation_axes: ClassVar[Mapping[str, tuple[str, ...]]] = _ACTIVATION_AXES
    has_block_biases: ClassVar[bool] = True
    """Whether blocks have a place for the biases b_O and b_out, which may hold None."""
    has_mlps: bool = True
    """Whether blocks have an MLP behind their attention."""

    @property
    def branches(self) -> tuple[tuple[str, ...], ...]:
        """See `Network.branches`."""
        found = _branches(len(self.blocks))
        return found if self.has_mlps else found[::2]

    @property
    def readers(self) -> Mapping[str, tuple[str, str]]:
        """See `Network.readers`."""
        found = {}
        for at in (f"blocks.{layer}." for layer in range(len(self.blocks))):
            b_O, b_out = (at + "attn.b_O", at + "mlp.b_out") if self.has_block_biases else ("", "")
            found[at + "attn.hook_z"] = (at + "attn.W_O", b_O)
            if self.has_mlps:
                found[at + "mlp.hook_post"] = (at + "mlp.W_out", b_out)
        return found

    @property
    def pre_activations(self) -> str:
        """See `Network.pre_activations`."""
        return f"blocks.{len(self.blocks) - 1}.mlp.hook_pre" if self.has_mlps else ""

    @property
    def hidden_activations(self) -> str:
        """See `Network.hidden_activations`."""
        return f"blocks.{len(self.blocks) - 1}.mlp.hook_post" if self.has_mlps else ""


@dataclass(frozen=True)
class Attention:
    """Attention of a layer: its heads, mask and rate. Weights are those of a block's `attn`; its biases may be None.

    Example:
        >>> attn = nn.Module()  # all scores 0, values and outputs the stream itself
        >>> attn.W_Q = attn.W_K = torch.zeros(1, 2, 2)
        >>> attn.W_V = attn.W_O = torch.eye(2)[None]
        >>> attn.b_Q = attn.b_K = attn.b_V = attn.b_O = None
        >>> x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> Attention(n_heads=1, d_head=2).output(x, attn, Activations(), "").tolist()
        [[[1.0, 0.0], [0.5, 0.5]]]
        >>> Attention(n_heads=1, d_head=2, causal=False).output(x, attn, Activations(), "").tolist()
        [[[0.5, 0.5], [0.5, 0.5]]]
    """

    n_heads: int
    d_head: int
    causal: bool = True
    rate: float = 1.0

    def output(
        self, x: Float[Tensor, "batch pos d_model"], attn: Any, activations: Activations, at: str
    ) -> Float[Tensor, "batch pos d_model"]:
        """The plain pass: what the heads write at every position. Names of activations begin with `at`, the block."""

        def projected(name: str) -> Tensor:
            x_W = torch.einsum("bpd,hde->bphe", x, getattr(attn, f"W_{name}"))
            return activations.keep(f"{at}attn.hook_{name.lower()}", plus(x_W, getattr(attn, f"b_{name}")))

        q, k, v = (projected(name) for name in "QKV")
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(self.d_head)
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        scores = activations.keep(f"{at}attn.hook_attn_scores", scores)
        pattern = activations.keep(f"{at}attn.hook_pattern", self._pattern(scores, dim=-1))
        z = activations.keep(f"{at}attn.hook_z", torch.einsum("bhqk,bkhe->bqhe", pattern, v))
        return activations.keep(f"{at}hook_attn_out", plus(torch.einsum("bqhe,hed->bqd", z, attn.W_O), attn.b_O))

    def last_mid(
        self,
        levels: tuple[Level, ...],
        positions: int,
        embeddings: tuple[Float[Tensor, "token d_model"], Float[Tensor, "n_ctx d_model"]],
        blocks: Sequence[Any] | nn.ModuleList,
        mid: Callable[[Any, Tensor, Tensor], Tensor],
        post: Callable[[Any, Tensor], Tensor],
        read: Callable[[Any, Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "batch positions d_model"]:
        """The fast pass: the stream between attention and MLP of the last block, at the last positions.

        `embeddings` are those of the tokens and of the positions, `mid(block, x, z)` is the stream behind the attention
        of a block and `post(block, mid)` that behind its MLP. `read(block, x)` is what queries, keys and values are
        made of, a LayerNorm of the stream; None: the stream itself, of which tables are made. More than one level is
        right where attention is causal or the only layer is the first, whose keys and values know of one position each.
        """
        *before, last = levels
        while len(last.tokens) < positions:
            last = last.continuing(before.pop())
        levels = (*before, last)
        (Q, b_Q), (KV, b_KV) = _joined(blocks[0].attn, "Q"), _joined(blocks[0].attn, "KV")
        if read is None:
            by_token, by_position = (
                torch.cat([x, F.linear(x, Q, q), F.linear(x, KV, kv)], dim=1)
                for x, q, kv in zip(embeddings, (None, b_Q), (None, b_KV))
            )
            sizes = embeddings[0].shape[1], len(Q), len(KV)
            first = [_stacked(level, by_token, by_position).split(sizes, dim=2) for level in levels]
            streams, queries, keys_values = ([parts[i] for parts in first] for i in range(3))
        else:
            streams = [_stacked(level, *embeddings) for level in levels]
            entering = [read(blocks[0], x) for x in streams]
            queries, keys_values = ([F.linear(x, *joined) for x in entering] for joined in ((Q, b_Q), (KV, b_KV)))
        for block, following in itertools.pairwise(blocks):
            mixtures = [self._mixture(q, kv) for q, kv in zip(queries, _seen(levels, keys_values))]
            streams = [post(block, mid(block, x, z)) for x, z in zip(streams, mixtures)]
            entering = streams if read is None else [read(following, x) for x in streams]
            asking = [entering[-1][:, -positions:]] if following is blocks[-1] else entering
            queries = [F.linear(x, *_joined(following.attn, "Q")) for x in asking]
            keys_values = [F.linear(x, *_joined(following.attn, "KV")) for x in entering]
        z = self._mixture(queries[-1][:, -positions:], _seen(levels, keys_values)[-1])
        return mid(blocks[-1], streams[-1][:, -positions:], z)

    def _mixture(
        self, queries: Float[Tensor, "row query z"], keys_values: Float[Tensor, "row key two_z"]
    ) -> Float[Tensor, "row query z"]:
        """z of all heads, side by side; the queries are those of the last positions.

        Products and sums are taken by hand, as matrices of this size are not worth a matrix product each, and for one
        query at a time, which leaves out what it may not attend to.
        """
        heads, mixtures = (self.n_heads, self.d_head), []
        k, v = (part.unflatten(2, heads) for part in keys_values.chunk(2, dim=2))
        for back, q in zip(range(queries.shape[1])[::-1], queries.split(1, dim=1)):
            seen = k.shape[1] - back if self.causal else k.shape[1]
            scores = (q.unflatten(2, heads) / math.sqrt(self.d_head) * k[:, :seen]).sum(-1)  # [row, key, head]
            mixtures.append((self._pattern(scores, dim=1)[..., None] * v[:, :seen]).sum(1).flatten(1))
        return torch.stack(mixtures, dim=1)

    def _pattern(self, scores: Tensor, dim: int) -> Tensor:
        pattern = scores.softmax(dim)
        if self.rate == 1:
            return pattern
        return self.rate * pattern + (1 - self.rate) * (scores > -math.inf).to(scores.dtype)


def _branches(n_layers: int) -> tuple[tuple[str, ...], ...]:
    """Attention and MLP of each layer, as `Network.branches` names them.

    >>> _branches(1)[1]
    ('blocks.0.mlp.hook_pre', 'blocks.0.mlp.hook_post', 'blocks.0.hook_mlp_out')
    """
    attention = *(f"attn.hook_{name}" for name in ("q", "k", "v", "attn_scores", "pattern", "z")), "hook_attn_out"
    mlp = "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"
    return tuple(
        tuple(f"blocks.{layer}.{name}" for name in branch) for layer in range(n_layers) for branch in (attention, mlp)
    )


def normalised(x: Float[Tensor, "*n d_model"], ln: Any) -> Float[Tensor, "*n d_model"]:
    """LayerNorm of the stream, with the gain `ln.w` and the shift `ln.b`."""
    return F.layer_norm(x, ln.w.shape, ln.w, ln.b, EPS)


def answer_behind_norm(
    mid: Float[Tensor, "batch d_model"],
    neurons: Float[Tensor, "batch neuron"],
    W_out: Float[Tensor, "neuron d_model"],
    ln: Any,
    W_U: Float[Tensor, "d_model d_vocab_out"],
    b_U: Float[Tensor, " d_vocab_out"] | None = None,
) -> Answer:
    """`Answer` of LN(mid + neurons W_out) W_U + b_U: LN divides by a scale s of each input and is linear otherwise.

    The neurons of the answer are neurons / s, as the logits see them, and W_L = (W_out without its mean over the
    stream) diag(gain) W_U.
    """
    W_L = map_through_norm(W_out, ln, W_U)
    x = torch.addmm(mid, neurons, W_out)
    scale = (x.var(dim=1, correction=0, keepdim=True) + EPS).sqrt()
    residual = plus(((mid - mid.mean(dim=1, keepdim=True)) / scale * ln.w + ln.b) @ W_U, b_U)
    neurons = neurons / scale
    return Answer(torch.addmm(residual, neurons, W_L), neurons, W_L, residual)


def map_through_norm(
    W_out: Float[Tensor, "neuron d_model"], ln: Any, W_U: Float[Tensor, "d_model d_vocab_out"]
) -> Float[Tensor, "neuron d_vocab_out"]:
    """W_L of neurons that a LayerNorm follows, up to its scale."""
    return (W_out - W_out.mean(dim=1, keepdim=True)) * ln.w @ W_U


def plus(x: Float[Tensor, "*n"], bias: Tensor | None) -> Float[Tensor, "*n"]:
    """The sum with a bias, where there is one."""
    return x if bias is None else x + bias


def _joined(attn: Any, names: str) -> tuple[Float[Tensor, "z d_model"], Float[Tensor, " z"] | None]:
    """The weights of `names` (Q, or K and V) and their biases as F.linear takes them, heads side by side."""
    W = torch.cat([getattr(attn, f"W_{name}").permute(1, 0, 2).flatten(1) for name in names], dim=1)
    biases = [getattr(attn, f"b_{name}") for name in names]
    return W.T, None if biases[0] is None else torch.cat([b.flatten() for b in biases])


def _stacked(level: Level, by_token: Tensor, by_position: Tensor) -> Float[Tensor, "row pos d"]:
    """The sum of both tables at each position of a level."""
    columns = [level.column(by_token, i) + by_position[level.first + i] for i in range(len(level.tokens))]
    return torch.stack([column.expand(level.n_rows, -1) for column in columns], dim=1)


def _seen(levels: tuple[Level, ...], keys_values: Sequence[Tensor]) -> list[Tensor]:
    """Keys and values from the first position on, for each level: those of the rows that it continues, then its own."""
    seen: list[Tensor] = []
    for level, own in zip(levels, keys_values):
        if level.parent is not None:
            old = level.parent.of(seen[-1].flatten(1)).unflatten(1, seen[-1].shape[1:])
            own = torch.cat([old, own], dim=1)
        seen.append(own)
    return seen
