"""Logistic regression: one logit, S.x + b, of an input x in R^d, which belongs to the class -1 where it is negative.

Weights, logits and losses are float64, so that late updates, of one part in 10^9, are not lost; points are float32, and
so are the products with them, which read little else than memory.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.config import Logistic
from interp.errors import ConfigError
from interp.models.base import Activations, Answer, Batch, NeuronNetwork

__all__ = ["LogisticNetwork", "gradients", "logits"]


class LogisticNetwork(NeuronNetwork):
    """The model that a `Logistic` config describes. Parameters: `S` [n_ctx] and `b` [1]; it has no embedding.

    Example:
        >>> model = LogisticNetwork(Logistic(initial_bias=-1.0), 3, 1, torch.Generator().manual_seed(0))
        >>> model(torch.ones(2, 3)).squeeze().tolist()
        [-1.0, -1.0]
    """

    read_out: ClassVar[str] = ""

    def __init__(self, config: Logistic, n_ctx: int, d_vocab_out: int, generator: torch.Generator) -> None:
        super().__init__()
        if d_vocab_out != 1:
            raise ConfigError(f"A Logistic model has one logit, whose sign is the answer; the task has {d_vocab_out}.")
        self.config, self.d_vocab, self.n_ctx, self.d_vocab_out = config, 0, n_ctx, 1
        self.embed, self.blocks, self.unembed = None, (), None
        direction = torch.randn(n_ctx, generator=generator, dtype=torch.float64)
        self.S = nn.Parameter(config.initial_norm * direction / direction.norm())
        self.b = nn.Parameter(torch.full((1,), config.initial_bias, dtype=torch.float64))

    def plain_pass(
        self, tokens: Float[Tensor, "batch pos"], activations: Activations
    ) -> Float[Tensor, "batch 1 d_vocab_out"]:
        """See `Network.plain_pass`; there is nothing between input and logit."""
        x = activations.keep("hook_embed", tokens)
        return (x.to(self.S.dtype) @ self.S + self.b)[:, None, None]

    def prepare(self, tokens: Float[Tensor, "batch pos"]) -> Batch:
        """See `Network.prepare`; there are no look-ups to prepare."""
        return Batch(tokens, None)

    def answer_logits(self, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
        """See `Network.answer_logits`."""
        return logits(batch.tokens, self.S, self.b)[:, None]

    def answer(self, batch: Batch) -> Answer:
        """See `Network.answer`; the neurons are the coordinates of the input."""
        W_L = self.neuron_logit_map()
        return Answer(self.answer_logits(batch), batch.tokens.to(W_L.dtype), W_L, self.b.expand(len(batch.tokens), 1))

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Network.neuron_logit_map`."""
        return self.S[:, None]


def logits(
    points: Float[Tensor, "*members batch d"], S: Float[Tensor, "*members d"], b: Float[Tensor, "*members 1"]
) -> Float[Tensor, "*members batch"]:
    """S.x + b of each point, in the type of b; the product is of the points' type."""
    return _rows_times(S.to(points.dtype), points.mT).to(b.dtype) + b


def gradients(
    points: Float[Tensor, "*members batch d"], slopes: Float[Tensor, "*members batch"]
) -> dict[str, Float[Tensor, "*members n"]]:
    """Gradient of the mean loss by S and by b, from the slope of each point's loss: means of slope x, and of slope.

    Beck et al. (2024), equation 3.
    """
    by_S = _rows_times(slopes.to(points.dtype), points).to(slopes.dtype)
    return {"S": by_S / slopes.shape[-1], "b": slopes.mean(-1, keepdim=True)}


def _rows_times(x: Float[Tensor, "*members m"], A: Float[Tensor, "*members m n"]) -> Float[Tensor, "*members n"]:
    """x A of each member; a batched product with a column on the right would take eight times as long."""
    return x @ A if x.ndim == 1 else (x[..., None, :] @ A)[..., 0, :]
