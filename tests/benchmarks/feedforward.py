"""The training step of the MLP as the published script makes it ("Some thoughts on Grokking", Kitouni)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from interp.config import FeedForward
from interp.training.state import TrainState

__all__ = ["make"]


class Plain(nn.Module):
    """nn.Embedding for both operands, and nn.Linear with ReLU on the two side by side."""

    def __init__(self, config: FeedForward, d_vocab: int, d_vocab_out: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(d_vocab, config.d_model)
        widths = [2 * config.d_model, *config.d_hidden]
        layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], d_vocab_out))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layers(self.embedding(tokens).flatten(1))


def make(session: TrainState) -> Callable[[], None]:
    """A full-batch step on the session's training pairs with AdamW, and the loss and accuracy of both splits."""
    config, task = session.config, session.task
    assert isinstance(config.model, FeedForward)
    model = Plain(config.model, task.d_vocab, task.d_vocab_out)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    inputs, answers = task.tokens[task.train], task.labels[task.train]
    held_out, held_out_answers = task.tokens[task.test], task.labels[task.test]

    def step() -> None:
        optimizer.zero_grad()
        logits = model(inputs)
        loss = F.cross_entropy(logits, answers)
        loss.backward()
        optimizer.step()
        accuracy = (logits.argmax(1) == answers).float().mean()
        with torch.no_grad():
            logits = model(held_out)
            test_loss = F.cross_entropy(logits, held_out_answers)
            test_accuracy = (logits.argmax(1) == held_out_answers).float().mean()
        for number in (loss, accuracy, test_loss, test_accuracy):
            number.item()

    return step
