"""Idealised network of an account: neurons and read-out from its numbers alone, as a `Network`."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.analysis.account import Account
from interp.models import Answer, Batch, Network
from interp.models.base import activate

__all__ = ["IdealNetwork"]


@dataclass(frozen=True, eq=False)
class Reading:
    """Places of operands and answers in the inputs and outputs of a task."""

    positions: tuple[int, int]
    """Positions of the operands."""
    first: Int[np.ndarray, " token"]
    """Place of each token, as first operand, in the account's elements; -1 where it is none."""
    second: Int[np.ndarray, " token"]
    """Place of each token as second operand."""
    columns: Int[np.ndarray, " C"]
    """Outputs in the order of the account."""


class IdealNetwork(Network):
    """The network L^ = act(x^) W^ of an account, and nothing else; measures of models take it.

    Its parameters are the coefficients of the account: `beta`, `first`, `second`, `product`, `readout`. An operand that
    is no element of the account (0 in products) leaves the pre-activations at `beta`.
    """

    beta: Tensor
    first: Tensor
    second: Tensor
    product: Tensor
    readout: Tensor
    waves: Tensor
    harmonics: Tensor
    answers: Tensor

    has_neurons: ClassVar[bool] = True
    axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "beta": ("neuron",),
            "first": ("neuron", "coefficient"),
            "second": ("neuron", "coefficient"),
            "product": ("neuron", "coefficient"),
            "readout": ("neuron", "coefficient"),
        }
    )

    def __init__(self, account: Account, reading: Reading) -> None:
        super().__init__()
        functions = account.functions
        self.reading, self.activation, self.outputs = reading, account.activation, len(reading.columns)
        self.d_vocab, self.d_vocab_out, self.n_ctx = len(reading.first), self.outputs, max(reading.positions) + 1
        for name in ("beta", "first", "second", "product", "readout"):
            self.register_parameter(name, nn.Parameter(torch.from_numpy(getattr(account, name)).float()))

        def of_neurons(waves: list[np.ndarray]) -> Float[Tensor, "place neuron f"]:
            """Functions of an operand as each neuron reads them; 0 at the last place, of tokens that are no element."""
            table = np.zeros((account.N + 1, len(account.beta), waves[0].shape[1]))
            for k in range(functions.clusters):
                table[: account.N, functions.members(account.cluster, k)] = waves[k][:, None]
            return torch.from_numpy(table).float()

        self.register_buffer("waves", of_neurons(functions.first), persistent=False)
        self.register_buffer("harmonics", of_neurons(functions.second), persistent=False)
        self.register_buffer("answers", torch.from_numpy(functions.answers).float(), persistent=False)

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Network.neuron_logit_map`."""
        ordered = self.readout @ self.answers.T
        W = ordered.new_zeros(len(ordered), self.outputs)
        return W.index_copy(1, torch.from_numpy(self.reading.columns[: len(self.answers)]), ordered)

    def answer(self, batch: Batch) -> Answer:
        """See `Network.answer`."""
        i, j = self.reading.positions
        a, b = (
            torch.from_numpy(places)[batch.tokens[:, at]]
            for places, at in ((self.reading.first, i), (self.reading.second, j))
        )
        x = self.beta + self._read(self.first, self.waves, a, b) + self._read(self.second, self.harmonics, a, b)
        if self.product.shape[1]:
            pairs = self.product.unflatten(1, (self.waves.shape[2], -1))
            x = x + torch.einsum("umi,mij,umj->um", self.waves[a], pairs, self.waves[b])
        neurons, W = activate(self.activation, x), self.neuron_logit_map()
        logits = neurons @ W
        return Answer(logits, neurons, W, torch.zeros_like(logits))

    def answer_logits(self, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
        """See `Network.answer_logits`."""
        return self.answer(batch).logits

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch d_vocab_out"]:
        """Logits of the account."""
        return self.answer(Batch(tokens, None)).logits

    @staticmethod
    def _read(coefficients: Tensor, waves: Tensor, a: Tensor, b: Tensor) -> Tensor:
        of_a, of_b = coefficients.chunk(2, dim=1)
        table_a, table_b = ((waves * part).sum(-1) for part in (of_a, of_b))  # [place, neuron]
        return table_a[a] + table_b[b]
