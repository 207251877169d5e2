"""MLP on two learned embeddings ("Some thoughts on Grokking", Kitouni; github.com/okitouni/simple-grokking).

    h_1    = act([E_a, E_b] W_1 + b_1)         or act((E_a + E_b) W_1 + b_1)
    h_n    = act(h_(n-1) W_n + b_n)
    logits = h_last W_U + b_U

The first product splits by operand, E_a W_1^a + E_b W_1^b, and each part depends on one token: the fast pass computes
it once per token and adds two rows per pair.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.config import FeedForward
from interp.models.base import Answer, Model, Pairs, Parameters, activate, draw, look_up

__all__ = ["FeedForwardModel"]


class FeedForwardModel(Model):
    """The MLP that a `FeedForward` config describes; it has a single position.

    Parameters: `embed.W_E` (and `embed_b.W_E` where the operands have separate tables), `blocks.i.mlp.W_in`,
    `blocks.i.mlp.b_in` for the hidden layers, `unembed.W_U`, `unembed.b_U`.

    Example:
        >>> model = FeedForwardModel(FeedForward(d_model=4, d_hidden=(8,)), 5, 2, 5, torch.Generator().manual_seed(0))
        >>> tokens = torch.tensor([[1, 2], [4, 4]])
        >>> torch.allclose(model.answer_logits(model.pairs(tokens)), model(tokens)[:, -1], atol=1e-6)
        True
    """

    def __init__(
        self, config: FeedForward, d_vocab: int, n_ctx: int, d_vocab_out: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config, self.d_vocab, self.n_ctx, self.d_vocab_out = config, d_vocab, n_ctx, d_vocab_out
        scale = {"tl": 0.8, "nanda": 1.0, "torch": math.nan}[config.init] / math.sqrt(config.d_model)

        def table() -> nn.Parameter:
            return draw((d_vocab, config.d_model), generator, std=1.0 if config.init == "torch" else scale)

        def layer(d_in: int, d_out: int, std: float) -> tuple[nn.Parameter, nn.Parameter | None]:
            if config.init == "torch":  # nn.Linear draws the transposed matrix, then the bias, both U(+-1/sqrt(d_in))
                weight = nn.Parameter(draw((d_out, d_in), generator, bound=1 / math.sqrt(d_in)).detach().T.contiguous())
            else:
                weight = draw((d_in, d_out), generator, std=std)
            if config.biases == "absent":
                return weight, None
            if config.biases == "frozen" or config.init != "torch":
                return weight, nn.Parameter(torch.zeros(d_out), requires_grad=config.biases == "trainable")
            return weight, draw((d_out,), generator, bound=1 / math.sqrt(d_in))

        self.embed = Parameters(W_E=table())
        self.embed_b: Any
        if config.embedding == "separate":
            self.embed_b = Parameters(W_E=table())
        self.blocks = nn.ModuleList()
        d_in = config.d_model * (2 if config.combine == "concatenate" else 1)
        for d_hidden in config.d_hidden:
            block: Any = nn.Module()
            W_in, b_in = layer(d_in, d_hidden, scale)
            block.mlp = Parameters(W_in=W_in, b_in=b_in)
            self.blocks.append(block)
            d_in = d_hidden
        W_U, b_U = layer(d_in, d_vocab_out, 1 / math.sqrt(d_vocab_out) if config.init == "nanda" else scale)
        self.unembed = Parameters(W_U=W_U, b_U=b_U)

    def run_with_cache(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch 1 d_vocab_out"], dict[str, Tensor]]:
        """See `Model.run_with_cache`."""
        tables = self._tables
        cache = {"hook_embed": torch.stack([tables[pos][tokens[:, pos]] for pos in (0, 1)], dim=1)}
        x = cache["hook_embed"]
        x = x.flatten(1) if self.config.combine == "concatenate" else x.sum(dim=1)
        for layer, block in enumerate(self.blocks):
            cache[f"blocks.{layer}.mlp.hook_pre"] = pre = _affine(x, block.mlp.W_in, block.mlp.b_in)
            cache[f"blocks.{layer}.mlp.hook_post"] = x = activate(self.config.activation, pre)
        return _affine(x, self.unembed.W_U, self.unembed.b_U)[:, None], cache

    def answer(self, pairs: Pairs) -> Answer:
        """See `Model.answer`."""
        neurons = self._neurons(pairs)
        constant = self.unembed.b_U if self.unembed.b_U is not None else neurons.new_zeros(self.d_vocab_out)
        logits = torch.addmm(constant, neurons, self.unembed.W_U)
        return Answer(logits, neurons, self.unembed.W_U, constant.expand_as(logits))

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Model.neuron_logit_map`."""
        return self.unembed.W_U

    def _neurons(self, pairs: Pairs) -> Float[Tensor, "batch neuron"]:
        first = self.blocks[0].mlp
        halves = first.W_in.chunk(2) if self.config.combine == "concatenate" else (first.W_in, first.W_in)
        rows = [table @ half for table, half in zip(self._tables, halves)]
        if first.b_in is not None:
            rows[0] = rows[0] + first.b_in  # once per token, not per pair
        x = activate(self.config.activation, look_up(rows[0], pairs, 0) + look_up(rows[1], pairs, 1))
        for block in self.blocks[1:]:
            x = activate(self.config.activation, _affine(x, block.mlp.W_in, block.mlp.b_in))
        return x

    @property
    def _tables(self) -> tuple[Tensor, Tensor]:
        second = self.embed_b if self.config.embedding == "separate" else self.embed
        return self.embed.W_E, second.W_E


def _affine(x: Float[Tensor, "batch d_in"], W: Tensor, b: Tensor | None) -> Float[Tensor, "batch d_out"]:
    return x @ W if b is None else torch.addmm(b, x, W)
