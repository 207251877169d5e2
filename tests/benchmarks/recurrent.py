"""The training step of a recurrent model as torch's own modules make it."""

import itertools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from interp.config import Recurrent
from interp.training.state import TrainState

__all__ = ["make"]


class Plain(nn.Module):
    """nn.Embedding, nn.LSTM or nn.RNN, and nn.Linear on the last state."""

    def __init__(self, config: Recurrent, d_vocab: int, d_vocab_out: int) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "rnn": nn.RNN}[config.cell]
        self.embedding = nn.Embedding(d_vocab, config.d_model)
        self.recurrent = kind(config.d_model, config.d_hidden, config.n_layers, batch_first=True)
        self.readout = nn.Linear(config.d_hidden, d_vocab_out)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.readout(self.recurrent(self.embedding(tokens))[0][:, -1])


def make(session: TrainState) -> Callable[[], None]:
    """A step on the session's training pairs or its next minibatch: forward, loss, backward, torch's AdamW."""
    config, task = session.config, session.task
    assert isinstance(config.model, Recurrent)
    model = Plain(config.model, task.d_vocab, task.d_vocab_out)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, weight_decay=1.0)
    all_tokens, all_labels = task.tokens[task.train], task.labels[task.train]
    steps = itertools.count()

    def step() -> None:
        tokens, labels = all_tokens, all_labels
        if session.minibatches:
            batch = session.batch_indices(next(steps))
            tokens, labels = tokens[batch], labels[batch]
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(tokens), labels).backward()
        optimizer.step()

    return step
