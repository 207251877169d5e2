"""MLP on two learned embeddings ("Some thoughts on Grokking", Kitouni; github.com/okitouni/simple-grokking).

    x      = [E_a, E_b]   or   E_a + E_b   or   E_a * E_b (elementwise)
    h_1    = act(x W_1 + b_1)
    h_n    = act(h_(n-1) W_n + b_n)
    logits = h_last W_U + b_U

The first product splits by operand, E_a W_1^a + E_b W_1^b, and each part depends on one token: the fast pass computes
it once per token and adds two rows per pair. Where operands are multiplied it cannot, but with no hidden layer at all,
logits = (E_a * E_b) W_U, there is nothing to save: the bilinear model of "A Toy Model of Universality" (Chughtai et
al., 2023; github.com/bilal-chughtai/rep-theory), whose neurons are the products.

With one-hot operands ("Grokking at the Edge of Numerical Stability", Prieto et al., 2025) W_1 has a row for each token
at each position, and h_1 adds two of them. These rows are what an embedding is, so the matrix is called `embed.W_E`,
[2 d_vocab, d_hidden], the first operand's tokens first, and every measure of embeddings applies to it. Operands that
are read as numbers have no embedding.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.config import FeedForward
from interp.errors import ConfigError, NotAvailableError
from interp.models.base import (
    Activations,
    Answer,
    Batch,
    NeuronNetwork,
    Parameters,
    activate,
    draw,
    look_up,
    numbers_of_tokens,
)
from interp.models.tables import TABLED, PairTables, dot_error, operand_tokens, require_unscaled, sum_tables

__all__ = ["FeedForwardNetwork"]


class FeedForwardNetwork(NeuronNetwork):
    """The MLP that a `FeedForward` config describes; it has a single position.

    Parameters: `embed.W_E` (and `embed_b.W_E` where the operands have separate tables), `blocks.i.mlp.W_in`,
    `blocks.i.mlp.b_in` for the hidden layers, `unembed.W_U`, `unembed.b_U`. With one-hot operands `embed.W_E` stands in
    the place of `blocks.0.mlp.W_in`; a model that reads numbers has no `embed.W_E`.

    Example:
        >>> model = FeedForwardNetwork(FeedForward(d_model=4, d_hidden=(8,)), 5, 2, 5, torch.Generator().manual_seed(0))
        >>> tokens = torch.tensor([[1, 2], [4, 4]])
        >>> torch.allclose(model.answer_logits(model.prepare(tokens)), model(tokens)[:, -1], atol=1e-6)
        True
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "embed.W_E": ("token", "d_model"),
            "embed_b.W_E": ("token", "d_model"),
            "mlp.W_in": ("d_in", "neuron"),
            "mlp.b_in": ("neuron",),
            "unembed.W_U": ("neuron", "d_vocab_out"),
            "unembed.b_U": ("d_vocab_out",),
        }
    )
    activation_axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "hook_embed": ("pos", "d_operand"),
            "hook_product": ("neuron",),
            "mlp.hook_pre": ("neuron",),
            "mlp.hook_post": ("neuron",),
        }
    )

    def __init__(
        self, config: FeedForward, d_vocab: int, n_ctx: int, d_vocab_out: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        if n_ctx != 2 and config.embedding != "scalars":
            raise ConfigError(
                f"A FeedForward model reads two operands at two positions; the task has {n_ctx}. Choose a model of "
                "sequences, such as Transformer."
            )
        self.config, self.d_vocab, self.n_ctx, self.d_vocab_out = config, d_vocab, n_ctx, d_vocab_out
        self.has_tables = config.activation in TABLED and config.output_scale == 1
        scale = {"tl": 0.8, "nanda": 1.0, "fan-in": 1.0, "torch": math.nan}[config.init] / math.sqrt(config.d_model)

        def table() -> nn.Parameter:
            return draw((d_vocab, config.d_model), generator, std=1.0 if config.init == "torch" else scale)

        def layer(d_in: int, d_out: int, std: float) -> tuple[nn.Parameter, nn.Parameter | None]:
            if config.init == "torch":  # nn.Linear draws the transposed matrix, then the bias, both U(+-1/sqrt(d_in))
                weight = nn.Parameter(draw((d_out, d_in), generator, bound=1 / math.sqrt(d_in)).detach().T.contiguous())
            else:
                weight = draw((d_in, d_out), generator, std=1 / math.sqrt(d_in) if config.init == "fan-in" else std)
            if config.biases == "absent":
                return weight, None
            if config.biases == "frozen" or config.init != "torch":
                return weight, nn.Parameter(torch.zeros(d_out), requires_grad=config.biases == "trainable")
            return weight, draw((d_out,), generator, bound=1 / math.sqrt(d_in))

        operands = 2 if config.combine == "concatenate" else 1
        self.embed: Any = None
        self.embed_b: Any = None
        match config.embedding:
            case "one-hot":
                d_in = d_vocab * operands
            case "scalars":
                d_in = n_ctx
            case _:
                d_in = config.d_model * operands
                self.embed = Parameters(W_E=table())
        if config.embedding == "separate":
            self.embed_b = Parameters(W_E=table())
        self.blocks = nn.ModuleList()
        for d_hidden in config.d_hidden:
            block: Any = nn.Module()
            W_in, b_in = layer(d_in, d_hidden, scale)
            if config.embedding == "one-hot" and not self.blocks:
                self.embed = Parameters(W_E=W_in)
                block.mlp = Parameters(W_in=None, b_in=b_in)
            else:
                block.mlp = Parameters(W_in=W_in, b_in=b_in)
            self.blocks.append(block)
            d_in = d_hidden
        W_U, b_U = layer(d_in, d_vocab_out, 1 / math.sqrt(d_vocab_out) if config.init == "nanda" else scale)
        self.unembed = Parameters(W_U=W_U, b_U=b_U)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """See `Network.embeddings`."""
        return super().embeddings if self.embed_b is None else ("embed.W_E", "embed_b.W_E")

    @property
    def readers(self) -> Mapping[str, tuple[str, str]]:
        """See `Network.readers`; without a hidden layer the products of the embeddings are the neurons."""
        n = len(self.blocks)
        layers = [f"blocks.{layer}.mlp.hook_post" for layer in range(n)] or ["hook_product"]
        matrices = [(f"blocks.{layer}.mlp.W_in", f"blocks.{layer}.mlp.b_in") for layer in range(1, n)]
        return dict(zip(layers, [*matrices, ("unembed.W_U", "unembed.b_U")]))

    @property
    def looks_up(self) -> bool:
        """See `Network.looks_up`; rows of one-hot inputs differ from operand to operand."""
        return self.config.embedding in ("shared", "separate")

    @property
    def pre_activations(self) -> str:
        """See `Network.pre_activations`; a bilinear model has no non-linearity."""
        return f"blocks.{len(self.blocks) - 1}.mlp.hook_pre" if self.blocks else ""

    @property
    def hidden_activations(self) -> str:
        """See `Network.hidden_activations`; those of a bilinear model are the products of the embeddings."""
        return f"blocks.{len(self.blocks) - 1}.mlp.hook_post" if self.blocks else "hook_product"

    def operand_embeddings(self, weights: Mapping[str, Tensor]) -> Float[Tensor, "*step token column"]:
        """See `Network.operand_embeddings`: embeddings times the first layer's weights (Chughtai et al., 2023)."""
        if self.config.embedding == "one-hot" or self.config.combine == "product":
            return super().operand_embeddings(weights)
        W_in = weights["blocks.0.mlp.W_in"]
        halves = W_in.chunk(2, dim=-2) if self.config.combine == "concatenate" else (W_in, W_in)
        first, second = weights[self.embeddings[0]], weights[self.embeddings[-1]]
        return torch.cat([first @ halves[0], second @ halves[1]], dim=-1)

    def plain_pass(
        self, tokens: Int[Tensor, "batch pos"], activations: Activations
    ) -> Float[Tensor, "batch 1 d_vocab_out"]:
        """See `Network.plain_pass`; `hook_embed` are the operands as they are read, one-hot or numbers included."""
        x = activations.keep("hook_embed", self._operands(tokens))
        match self.config.combine:
            case "concatenate":
                x = x.flatten(1)
            case "sum":
                x = x.sum(dim=1)
            case "product":
                x = activations.keep("hook_product", x.prod(dim=1))
        for layer, block in enumerate(self.blocks):
            W_in = self.embed.W_E if block.mlp.W_in is None else block.mlp.W_in
            pre = activations.keep(f"blocks.{layer}.mlp.hook_pre", _affine(x, W_in, block.mlp.b_in))
            x = activations.keep(f"blocks.{layer}.mlp.hook_post", activate(self.config.activation, pre))
        return _affine(x, self._W_U, self._b_U)[:, None]

    def answer(self, batch: Batch) -> Answer:
        """See `Network.answer`."""
        neurons = self._neurons(batch)
        W_U, b_U = self._W_U, self._b_U
        constant = b_U if b_U is not None else neurons.new_zeros(self.d_vocab_out)
        logits = torch.addmm(constant, neurons, W_U)
        return Answer(logits, neurons, W_U, constant.expand_as(logits))

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Network.neuron_logit_map`."""
        return self._W_U

    def pair_tables(self, tokens: Int[Tensor, "pair pos"]) -> PairTables:
        """See `Network.pair_tables`; for one hidden layer behind a sum or a concatenation of embeddings."""
        if self.config.combine == "product" and not self.blocks:
            raise NotAvailableError(
                "Tables of pairs need one hidden layer behind a sum of embeddings; this bilinear model multiplies its "
                "operands and has no hidden layer."
            )
        if len(self.blocks) != 1:
            raise NotAvailableError(f"Tables of pairs need one hidden layer; this MLP has {len(self.blocks)}.")
        if self.config.combine == "product" or self.config.embedding == "scalars":
            found = "multiplies operands" if self.config.combine == "product" else "reads operands as numbers"
            raise NotAvailableError(f"Tables of pairs need a sum of embeddings; this MLP {found}.")
        require_unscaled(self.config.output_scale)
        *operands, _ = operand_tokens(tokens)
        mlp, one_hot = self.blocks[0].mlp, self.config.embedding == "one-hot"
        rows, rounding = [], {}
        for name, (pos, token) in zip(("first", "second"), operands):
            half = self._halves(mlp)[pos].detach().double()
            if one_hot:
                rows.append(half[token])
                continue
            table = self._tables[pos].detach().double()[token]
            rows.append(table @ half)
            rounding[name] = dot_error(len(half)) * float((table.abs() @ half.abs()).max())
        d_z = 0 if one_hot else len(mlp.W_in)
        return sum_tables(
            rows, mlp.b_in, self.unembed.W_U, self.unembed.b_U, self.config.activation, d_z=d_z, rounding=rounding
        )

    def _operands(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_operand"]:
        """Operands as they are read, at each position."""
        match self.config.embedding:
            case "one-hot":
                return F.one_hot(tokens, self.d_vocab).to(self.unembed.W_U.dtype)
            case "scalars":
                return self._numbers[tokens][..., None]
        return torch.stack([table[tokens[:, pos]] for pos, table in enumerate(self._tables)], dim=1)

    def _neurons(self, batch: Batch) -> Float[Tensor, "batch neuron"]:
        blocks = list(self.blocks)
        if self.config.combine == "product":
            x = torch.mul(*(look_up(table, batch, pos) for pos, table in enumerate(self._tables)))
        elif self.config.embedding == "scalars":
            x = self._numbers[batch.tokens]
        else:
            rows = self._rows(blocks.pop(0).mlp)
            x = self._activated(look_up(rows[0], batch, 0).add_(look_up(rows[1], batch, 1)))
        for block in blocks:
            x = self._activated(_affine(x, block.mlp.W_in, block.mlp.b_in))
        return x

    def _activated(self, pre: Float[Tensor, "batch neuron"]) -> Float[Tensor, "batch neuron"]:
        """The non-linearity, written over what nobody else reads."""
        return pre.relu_() if self.config.activation == "relu" else activate(self.config.activation, pre)

    def _rows(self, first: Any) -> list[Float[Tensor, "token neuron"]]:
        """Contribution of each token to the first layer, at either position; the first one includes the bias."""
        halves = self._halves(first)
        rows = [*halves] if first.W_in is None else [table @ half for table, half in zip(self._tables, halves)]
        if first.b_in is not None:
            rows[0] = rows[0] + first.b_in  # once per token, not per pair
        return rows

    def _halves(self, first: Any) -> tuple[Tensor, ...]:
        """Weights of the first layer for the operand at either position."""
        W_in = self.embed.W_E if first.W_in is None else first.W_in
        return W_in.chunk(2) if self.config.combine == "concatenate" else (W_in, W_in)

    @property
    def _W_U(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """Read-out as the logits see it, times the output scale."""
        W_U: Tensor = self.unembed.W_U
        return W_U if self.config.output_scale == 1 else self.config.output_scale * W_U

    @property
    def _b_U(self) -> Float[Tensor, " d_vocab_out"] | None:
        b_U: Tensor | None = self.unembed.b_U
        return b_U if b_U is None or self.config.output_scale == 1 else self.config.output_scale * b_U

    @property
    def _numbers(self) -> Float[Tensor, " token"]:
        return numbers_of_tokens(self.d_vocab, self.config.scalars, self.unembed.W_U)

    @property
    def _tables(self) -> tuple[Tensor, Tensor]:
        second = self.embed_b if self.config.embedding == "separate" else self.embed
        return self.embed.W_E, second.W_E


def _affine(x: Float[Tensor, "batch d_in"], W: Tensor, b: Tensor | None) -> Float[Tensor, "batch d_out"]:
    return x @ W if b is None else torch.addmm(b, x, W)
