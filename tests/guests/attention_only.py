"""A user's model: attention without MLPs ("A Mathematical Framework for Transformer Circuits", Elhage et al., 2021).

Nothing but torch's own modules, which initialise themselves; the declarations open the measures of embeddings.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp.models import Model, Network, Sizes


@dataclass(frozen=True, kw_only=True)
class AttentionOnly(Model):
    """Decoder of attention layers alone: x + attention(x), with learned positions and no biases."""

    n_layers: int = 2
    d_model: int = 32
    n_heads: int = 2

    def _rules(self) -> None:
        self._require("n_heads", self.d_model % self.n_heads == 0, f"a divisor of d_model = {self.d_model}")

    def build(self, sizes: Sizes, generator: torch.Generator) -> Network:
        return AttentionOnlyNetwork(self, sizes)


class AttentionOnlyNetwork(Network):
    """The network of an `AttentionOnly` config."""

    embeddings = ("embed.weight",)
    read_out = "W_U"
    axes = {"embed.weight": ("token", "d_model"), "W_U": ("d_model", "d_vocab_out")}  # noqa: RUF012

    def __init__(self, config: AttentionOnly, sizes: Sizes) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.embed = nn.Embedding(sizes.d_vocab, config.d_model)
        self.position = nn.Embedding(sizes.n_ctx, config.d_model)
        self.layers = nn.ModuleList(nn.Linear(config.d_model, 4 * config.d_model) for _ in range(config.n_layers))
        self.W_U = nn.Parameter(torch.randn(config.d_model, sizes.d_vocab_out) / config.d_model**0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        for layer in self.layers:
            q, k, v, gate = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in layer(x).chunk(4, -1))
            scores = q @ k.mT / q.shape[-1] ** 0.5
            later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
            pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
            x = x + (pattern @ v * gate.sigmoid()).transpose(1, 2).flatten(2)
        return x @ self.W_U
