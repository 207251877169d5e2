"""Two public training loops, written from their descriptions, as a user brings them along, without this package.

"Grokfast" (Lee et al., 2024, arXiv:2405.20233; github.com/ironjr/grokfast): multiplication mod 97, half of the pairs
with b != 0, a decoder of two layers, Adam in minibatches of 512, with or without an amplified slow gradient. And
github.com/danielmamay/grokking: addition mod 97, a decoder of two layers with LayerNorm behind each sum, AdamW.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(nn.Module):
    """Attention and MLP; LayerNorm in front of both, from which the sum goes on (Grokfast), or behind each sum."""

    def __init__(self, width: int, heads: int, normalise: str) -> None:
        super().__init__()
        self.normalise = normalise
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        if self.normalise == "in front":
            x = self.norms[0](x)
            x = x + self.attention(x, x, x, attn_mask=later, need_weights=False)[0]
            return x + self.mlp(self.norms[1](x))
        x = self.norms[0](x + self.attention(x, x, x, attn_mask=later, need_weights=False)[0])
        return self.norms[1](x + self.mlp(x))


class TwoLayers(nn.Module):
    """Logits [batch, pos, token] of `a op b =`."""

    def __init__(self, tokens: int, width: int, heads: int, normalise: str, bias: bool) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(tokens, width), nn.Embedding(5, width)
        self.layers = nn.ModuleList([Layer(width, heads, normalise) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok(tokens) + self.pos.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def equations(p: int, operation: str) -> tuple[Tensor, Tensor]:
    """Inputs `a op b =` [equation, 4] and answers; op is token p + 1, = is token p."""
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(operation == "multiply", p)).T
    answers = a * b % p if operation == "multiply" else (a + b) % p
    return torch.stack([a, torch.full_like(a, p + 1), b, torch.full_like(a, p)], 1), answers


def amplified(model: nn.Module, slow: dict[str, Tensor], alpha: float = 0.98, factor: float = 2.0) -> None:
    """Grokfast-EMA: add `factor` times the moving average of each gradient to the gradient."""
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        slow[name] = slow.get(name, gradient) * alpha + gradient * (1 - alpha)
        parameter.grad = gradient + slow[name] * factor


class Loop:
    """A public loop: its network, optimiser and data, and one update after the other.

    Arguments:
        kind: "grokfast" or "mamay".
        slow: whether the slow gradient is amplified.
    """

    def __init__(
        self, kind: str, *, p: int = 97, width: int = 128, batch: int = 512, decay: float = 0.005, slow: bool = True
    ) -> None:
        torch.manual_seed(0)
        own = kind == "grokfast"
        self.model = TwoLayers(p + 2, width, 4, normalise="in front" if own else "behind", bias=not own)
        self.inputs, self.answers = equations(p, "multiply" if own else "add")
        order = torch.randperm(len(self.inputs))
        self.train, self.test = order[: len(order) // 2], order[len(order) // 2 :]
        kinds: dict[str, Any] = {"grokfast": torch.optim.Adam, "mamay": torch.optim.AdamW}
        parameters = self.model.parameters()
        self.optimizer = kinds[kind](parameters, lr=1e-3, weight_decay=decay if own else 1.0, betas=(0.9, 0.98))
        warm_up = (lambda update: min(1, update / 10)) if own else (lambda update: min(1, 0.1 + 0.1 * update))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, warm_up)
        self.batch, self.slow = batch, {} if own and slow else None

    def epoch(self) -> Iterator[Tensor]:
        """Losses of one pass over the training set, in minibatches, each behind its update."""
        for chosen in self.train[torch.randperm(len(self.train))].split(self.batch):
            loss = F.cross_entropy(self.model(self.inputs[chosen])[:, -1], self.answers[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            if self.slow is not None:
                amplified(self.model, self.slow)
            self.optimizer.step()
            self.schedule.step()
            yield loss

    @property
    def mask(self) -> Tensor:
        """Whether an equation is trained on."""
        mask = torch.zeros(len(self.inputs), dtype=torch.bool)
        mask[self.train] = True
        return mask
