"""Loops and networks of a user's own, as plain PyTorch, to be recorded."""

import torch
from torch import nn
from torch.nn import functional as F

import interp

NAMES = {
    "embed.weight": "embed.W_E",
    "hidden.weight": ("blocks.0.mlp.W_in", "T"),
    "hidden.bias": "blocks.0.mlp.b_in",
    "out.weight": ("unembed.W_U", "T"),
    "out.bias": "unembed.b_U",
}
"""Names of this package for the parameters of `MLP`."""


class MLP(nn.Module):
    """The network of simple-grokking: one table, two operands side by side, one hidden layer."""

    def __init__(self, p=7, d=16, d_hidden=24):
        super().__init__()
        self.embed = nn.Embedding(p, d)
        self.hidden = nn.Linear(2 * d, d_hidden)
        self.act = nn.ReLU()
        self.out = nn.Linear(d_hidden, p)

    def forward(self, x):
        return self.out(self.act(self.hidden(self.embed(x).flatten(1))))


def sums(p=7, seed=0):
    """All pairs, their sums mod p, and a mask of 60 % of them."""
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    train = torch.zeros(p * p, dtype=torch.bool)
    train[torch.randperm(p * p, generator=torch.Generator().manual_seed(seed))[: int(0.6 * p * p)]] = True
    return pairs, pairs.sum(1) % p, train


def task(p=7):
    """`sums` as a task."""
    pairs, answers, train = sums(p)
    return interp.tasks.table(pairs, answers, train=train, answers_are="residues", p=p)


def made(p=7, seed=0, kind=MLP, **sizes):
    """A network and its optimiser, from a seed."""
    torch.manual_seed(seed)
    model = kind(p, **sizes)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def update(model, opt, p=7):
    """One update on all training pairs; its loss."""
    pairs, answers, train = sums(p)
    loss = F.cross_entropy(model(pairs[train]).float(), answers[train])
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss
