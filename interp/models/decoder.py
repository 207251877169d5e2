"""Decoder with LayerNorm behind each part ("Grokking", Power et al., 2022, https://arxiv.org/abs/2201.02177, A.1.2).

github.com/openai/grok trains two such layers, without biases, on `<|eos|> a o b =`. With x the residual stream at a
position, LN the LayerNorm with its gain and shift, and heads h that see this position i and those before:

    x      = E_token + P_i,   P_i[2n] = sin(i / 10000^(2n/d)),   P_i[2n+1] = cos(i / 10000^(2n/d))
    z_h    = sum_(j <= i) softmax_j(x W_Q^h . x_j W_K^h / sqrt(d_head)) x_j W_V^h
    x_mid  = LN_1(x + sum_h z_h W_O^h)
    x_post = LN_2(x_mid + act(x_mid W_in) W_out)
    logits = x_post W_U

The stream at a position depends on the tokens up to there only, so that before the second operand it takes as many
values as there are numbers (see `interp.models.attention` for the fast pass).

The last LayerNorm stands between neurons and logits. It divides by a scale s of its own for each input and is linear
otherwise: logits = (neurons / s) W_L + ..., W_L = (W_out without its mean over the stream) diag(gain) W_U. `Answer`
has neurons / s, the neurons as the logits see them.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.config import Decoder
from interp.models.attention import Attention, AttentionNetwork, answer_behind_norm, map_through_norm, normalised
from interp.models.base import Activations, Answer, Batch, Parameters, activate, draw
from interp.models.prefixes import PrefixBatch, prefix_batch

__all__ = ["DecoderNetwork"]


class DecoderNetwork(AttentionNetwork):
    """The decoder that a `Decoder` config describes.

    Parameters: `embed.W_E`, and per layer `blocks.i.attn.W_Q`, `W_K`, `W_V`, `W_O`, `blocks.i.ln1.w`, `ln1.b`,
    `blocks.i.mlp.W_in`, `W_out`, `blocks.i.ln2.w`, `ln2.b`; `unembed.W_U`. Drawn in the order of the published code.

    Inputs may be shorter than `n_ctx`: those of equations read up to '=' are, where the model also learns what follows
    the answer.

    Example:
        >>> config = Decoder(d_model=8, n_heads=2, d_mlp=16)
        >>> model = DecoderNetwork(config, 9, 5, 9, torch.Generator().manual_seed(0))
        >>> tokens = torch.tensor([[0, 4, 2, 5, 1], [0, 8, 2, 8, 1], [0, 4, 2, 6, 1]])
        >>> torch.allclose(model.answer_logits(model.prepare(tokens)), model(tokens)[:, -1], atol=1e-6)
        True
    """

    has_block_biases: ClassVar[bool] = False
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "embed.W_E": ("token", "d_model"),
            "attn.W_Q": ("head", "d_model", "d_head"),
            "attn.W_K": ("head", "d_model", "d_head"),
            "attn.W_V": ("head", "d_model", "d_head"),
            "attn.W_O": ("head", "d_head", "d_model"),
            "ln1.w": ("d_model",),
            "ln1.b": ("d_model",),
            "ln2.w": ("d_model",),
            "ln2.b": ("d_model",),
            "mlp.W_in": ("d_model", "neuron"),
            "mlp.W_out": ("neuron", "d_model"),
            "unembed.W_U": ("d_model", "d_vocab_out"),
        }
    )

    def __init__(self, config: Decoder, d_vocab: int, n_ctx: int, d_vocab_out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.d_vocab, self.n_ctx, self.d_vocab_out = config, d_vocab, n_ctx, d_vocab_out
        d, heads = config.d_model, config.n_heads
        self.attention = Attention(heads, d_head := d // heads)

        def linear(d_in: int, d_out: int) -> Tensor:  # nn.Linear draws the transposed matrix
            return draw((d_out, d_in), generator, bound=1 / math.sqrt(d_in)).detach().T

        def parameter(x: Tensor) -> nn.Parameter:
            return nn.Parameter(x.contiguous())

        def norm() -> Parameters:
            return Parameters(w=nn.Parameter(torch.ones(d)), b=nn.Parameter(torch.zeros(d)))

        self.embed = Parameters(W_E=draw((d_vocab, d), generator, std=1.0))
        self.positions: Tensor
        self.register_buffer("positions", _waves(n_ctx, d), persistent=False)
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            block: Any = nn.Module()
            by_head = [[linear(d, d_head) for _ in "QKV"] for _ in range(heads)]
            W_Q, W_K, W_V = (parameter(torch.stack(of_heads)) for of_heads in zip(*by_head))
            W_O = parameter(linear(d, d).unflatten(0, (heads, d_head)))
            block.attn = Parameters(W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O, b_Q=None, b_K=None, b_V=None, b_O=None)
            block.ln1 = norm()
            W_in, W_out = parameter(linear(d, config.d_mlp)), parameter(linear(config.d_mlp, d))
            block.mlp = Parameters(W_in=W_in, W_out=W_out)
            block.ln2 = norm()
            self.blocks.append(block)
        self.unembed = Parameters(W_U=parameter(linear(d, d_vocab_out)))

    # --- the plain pass -----------------------------------------------------------------------------------------------

    def plain_pass(
        self, tokens: Int[Tensor, "batch pos"], activations: Activations
    ) -> Float[Tensor, "batch pos d_vocab_out"]:
        """See `Network.plain_pass`; `hook_resid_mid` and `hook_resid_post` lie behind the LayerNorms."""
        keep, n_ctx = activations.keep, tokens.shape[1]
        embedded = keep("hook_embed", self.embed.W_E[tokens])
        x = embedded + keep("hook_pos_embed", self.positions[:n_ctx].expand(len(tokens), -1, -1))
        for layer, block in enumerate(self.blocks):
            at, mlp = f"blocks.{layer}.", block.mlp
            x = keep(at + "hook_resid_pre", x)
            written = self.attention.output(x, block.attn, activations, at)
            x = keep(at + "hook_resid_mid", normalised(x + written, block.ln1))
            post = keep(at + "mlp.hook_post", activate(self.config.activation, keep(at + "mlp.hook_pre", x @ mlp.W_in)))
            written = keep(at + "hook_mlp_out", post @ mlp.W_out)
            x = keep(at + "hook_resid_post", normalised(x + written, block.ln2))
        return x @ self.unembed.W_U

    # --- the fast pass ------------------------------------------------------------------------------------------------

    def prepare(self, tokens: Int[Tensor, "batch pos"]) -> PrefixBatch:
        """See `Network.prepare`."""
        return prefix_batch(super().prepare(tokens), self.d_vocab)

    def last_logits(self, batch: Batch, positions: int) -> Float[Tensor, "batch positions d_vocab_out"]:
        """See `Network.last_logits`."""
        mid = self._last_mid(batch, positions)
        neurons = self._neurons(self.blocks[-1], mid)
        x = torch.addmm(mid.flatten(0, 1), neurons.flatten(0, 1), self.blocks[-1].mlp.W_out)
        return (normalised(x, self.blocks[-1].ln2) @ self.unembed.W_U).unflatten(0, mid.shape[:2])

    def answer_logits(self, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
        """See `Network.answer_logits`."""
        return self.last_logits(batch, 1)[:, 0]

    def answer(self, batch: Batch) -> Answer:
        """See `Network.answer`; the neurons are divided by the scale of the last LayerNorm."""
        block, mid = self.blocks[-1], self._last_mid(batch, 1)[:, 0]
        return answer_behind_norm(mid, self._neurons(block, mid), block.mlp.W_out, block.ln2, self.unembed.W_U)

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Network.neuron_logit_map`; up to the scale of the last LayerNorm."""
        return map_through_norm(self.blocks[-1].mlp.W_out, self.blocks[-1].ln2, self.unembed.W_U)

    def _last_mid(self, batch: Batch, positions: int) -> Float[Tensor, "batch positions d_model"]:
        """x_mid of the last layer, at the last positions."""
        assert isinstance(batch, PrefixBatch)
        embeddings = self.embed.W_E, self.positions
        return self.attention.last_mid(batch.levels, positions, embeddings, self.blocks, self._mid, self._post)

    def _mid(
        self, block: Any, x: Float[Tensor, "row pos d_model"], z: Float[Tensor, "row pos z"]
    ) -> Float[Tensor, "row pos d_model"]:
        return normalised(x + z @ block.attn.W_O.flatten(0, 1), block.ln1)

    def _post(self, block: Any, mid: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        return normalised(mid + self._neurons(block, mid) @ block.mlp.W_out, block.ln2)

    def _neurons(self, block: Any, mid: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row neuron"]:
        return activate(self.config.activation, mid @ block.mlp.W_in)


def _waves(n_ctx: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """Sine and cosine by turns, with wavelengths from 2 pi to 2 pi 10^4."""
    even = torch.arange(d_model, dtype=torch.float64) // 2 * 2
    angle = torch.arange(n_ctx, dtype=torch.float64)[:, None] / 10_000 ** (even / d_model)
    return torch.where(torch.arange(d_model) % 2 == 0, angle.sin(), angle.cos()).to(torch.get_default_dtype())
