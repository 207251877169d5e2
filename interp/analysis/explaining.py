"""Accounts and certificates of a run's networks: from a network at a step to the arrays that `account` speaks of.

The account of a step finds keys in three ways: shares of the logits, the two-of-three criteria of `keys` (for a group,
`irreps.key_irreps`), and the certificate: a weak key without which the certificate proves as much is dropped.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis import spectra
from interp.analysis.account import (
    IRREP_SHARE,
    KEY_SHARE,
    Account,
    Circuit,
    empty_account,
    fit_account,
    key_shares,
    variance_explained,
)
from interp.analysis.advising import advice
from interp.analysis.bases import Symmetry, all_keys, double
from interp.analysis.certificate import Certificate, certify
from interp.analysis.context import RunContext
from interp.analysis.scrubbing import Scrubbed
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.models import Network
from interp.models.tables import PairTables

__all__ = ["PERMUTATIONS", "RANK", "Examined", "candidate_keys", "control_keys", "other_keys"]

PERMUTATIONS = 3
"""Permutations of the inputs for an accuracy with resampled parts, at each step."""
RANK = 4
"""Directions in each cluster of a certificate, unless another number is asked for."""
SUFFERS = 0.005
"""Certified accuracy that a weak key must be worth to stay."""
SAME = 1e-3
"""Largest difference of the tables' logits from the network's in its own precision, relative to the largest logit."""
WEAK = 10
"""A key with less than this many times the threshold's share of the logits is dropped if the certificate allows."""

Keys = tuple[Any, ...]


class Examined:
    """A network of a run as accounts and certificates take it: its arrays in the order in which the operation adds.

    Raises:
        NotAvailableError: the operation is no sum and no group, or the network tells no neurons or is of a kind that
            has no account; the message says which condition fails.
    """

    def __init__(self, context: RunContext, network: Network) -> None:
        if context.operation is None and context.group is None:
            raise NotAvailableError(
                "An account needs an operation that is a sum in some order of the operands, or the product of a finite "
                f"group; this run is {context.description}."
            )
        unmet = context.unmet(("operand pairs", "neurons", "answers are operands"))
        if unmet is not None:
            raise NotAvailableError(f"An account {unmet.rule}; this run is {context.description}.")
        self.context, self.network = context, network
        self.operation = context.operation or "product"
        """add, subtract, or product."""
        order = context.residues.numpy()
        self.first = order
        """Operands in the order of the account, as first operand."""
        self.second = order[-np.arange(len(order)) % len(order)] if self.operation == "subtract" else order
        """Operands as second operand: in the opposite order for subtraction."""

    @cached_property
    def tables(self) -> PairTables | None:
        """Tables of the network in the natural order of the operands; None where the network has none to tell."""
        if not self.network.has_tables:
            return None
        return self.network.pair_tables(self.context.examples.tokens)

    @cached_property
    def arranged(self) -> PairTables | None:
        """Tables in the order of the account; None where the network has none to tell."""
        return None if self.tables is None else self.tables.arranged(self.first, self.second, self.columns)

    @cached_property
    def circuit(self) -> Circuit:
        """The network on the grid of the account."""
        if self.arranged is not None:
            x, W, bypass = self.arranged.pre_activations(), self.arranged.W_L, self.arranged.bypass()
            hidden, activation = self.arranged.activate(x), self.arranged.activation
        else:
            with torch.no_grad():
                answer = self.network.answer(self.context.inputs)
            hidden = self._grid(answer.neurons)
            bypass = self._grid(answer.residual_logits)[..., self.columns]
            W = answer.neuron_logit_map.detach().double().numpy()[:, self.columns]
            x, activation = np.zeros((*hidden.shape[:2], 0)), "none"
        i = np.arange(len(hidden))
        found = Circuit(
            activation=activation,
            x=x,
            hidden=hidden,
            W=W,
            bypass=bypass,
            logits=hidden @ W + bypass,
            answers=(i[:, None] + i) % len(i) if self.context.operation is not None else self.context.group.table,
            symmetry=self.symmetry,
        )
        if self.arranged is not None:
            self._require_equal(found.logits)
        return found

    def _require_equal(self, logits: Float[np.ndarray, "N N C"]) -> None:
        """Demand that these logits are the network's: a user's `pair_tables` may be of another."""
        expected = self.outputs(self.network)
        size, difference = float(np.abs(expected).max()), float(np.abs(logits - expected).max())
        if not difference <= SAME * (1 + size):
            raise InvalidArgumentError(
                f"`{type(self.network).__name__}.pair_tables` must give the logits of the network itself; got others, "
                f"by up to {difference:.3g} where the largest is {size:.3g}."
            )

    @property
    def symmetry(self) -> Symmetry:
        """Family and size of the group whose product is the answer: ("cyclic", N) for sums."""
        group = self.context.group
        return ("cyclic", len(self.first)) if self.context.operation is not None else (group.family, group.n)

    @property
    def neurons(self) -> int:
        """Number of neurons."""
        return len(self.network.neuron_logit_map())

    @cached_property
    def columns(self) -> Int[np.ndarray, " C"]:
        """Outputs in the order of the account: elements as answers, then all others."""
        classes = self.context.examples.classes.numpy()[self.first]
        return np.concatenate([classes, np.setdiff1d(np.arange(self.context.examples.d_vocab_out), classes)])

    def outputs(self, network: Network) -> Float[np.ndarray, "N N C"]:
        """Logits of another network of the same shape, in the order of the account."""
        with torch.no_grad():
            logits = network.answer_logits(self.context.inputs)
        return self._grid(logits)[..., self.columns]

    def embedding_power(self) -> Float[np.ndarray, " frequency"]:
        """Squared norm of the embedding of the operands at each frequency."""
        table = self.network.state_dict()[self.network.embeddings[0]]
        return spectra.embedding_power(self.context.select(table, 0).double()).numpy()

    def _grid(self, x: Float[Tensor, "input d"]) -> Float[np.ndarray, "N N d"]:
        return self.context.grid(x).detach().double().numpy()[self.first[:, None], self.second]

    def account(self, keys: Keys, cluster: Int[np.ndarray, " n"] | None = None, *, sources: bool = True) -> Account:
        """Account with these keys, by least squares; an empty one without keys. Arguments: see `fit_account`."""
        if not keys:
            return empty_account(self.circuit, **self.described)
        tables, attention = self.arranged, None
        if tables is not None and tables.scores is not None and tables.rate > 0:
            attention = np.stack(tables.attention())
        return fit_account(self.circuit, keys, attention=attention, cluster=cluster, sources=sources, **self.described)

    @property
    def described(self) -> dict[str, Any]:
        """Task and size of the network, as an account states them."""
        return {
            "p": self.context.p,
            "operation": self.operation,
            "elements": self.first,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
        }

    def certificate(self, account: Account, rank: int = RANK) -> Certificate:
        """Certificate of the network by an account of it, over all pairs that have an answer.

        Raises:
            NotAvailableError: the network tells no tables.
        """
        tables = self.tables or self.network.pair_tables(self.context.examples.tokens)  # the latter says why it cannot
        W = tables.W_L[:, self.columns]
        W_norm = np.linalg.norm(W - W[:, : len(self.first)].mean(1, keepdims=True), axis=1)
        weights, embeddings = self.network.state_dict(), self.network.embeddings
        return certify(
            tables,
            advice(account, rank, W_norm),
            self.context.grid(self.context.labels).numpy(),
            defined=self.context.grid(self.context.train | self.context.test).numpy(),
            d_model=weights[embeddings[0]].shape[-1] if embeddings else None,
        )

    def keys(self, named: Sequence[int] | Sequence[str] = ()) -> Keys:
        """Keys of the network: candidates by share of the logits, and `named`, without those that prove nothing.

        Where the certificate proves nothing at all it cannot tell keys apart, and all stay.
        """
        found = every = candidate_keys(self.circuit, named)
        if self.tables is None or len(found) < 2:
            return found
        shares = dict(zip(all_keys(self.symmetry), key_shares(self.circuit)[0]))
        limit = WEAK * _threshold(self.circuit)
        weak = [key for key in sorted(found, key=shares.__getitem__) if shares[key] < limit]
        proved = self.certificate(self.account(found, sources=False)).accuracy if weak else 0.0
        for key in weak:
            without = tuple(other for other in found if other != key)
            if not without:
                continue
            accuracy = self.certificate(self.account(without, sources=False)).accuracy
            if accuracy > proved - SUFFERS:
                found, proved = without, accuracy
        return found if proved or not weak else every

    def bounds(self, keys: Keys) -> tuple[float, float, Float[np.ndarray, " pair"]]:
        """Certified accuracy, loss [nats] and margins, by an account with these keys."""
        certificate = self.certificate(self.account(keys, sources=False))
        return certificate.accuracy, certificate.loss, certificate.margin.ravel()

    def scores(self, keys: Keys) -> tuple[float, float]:
        """Share of the logits that the network of an account with these keys explains, and resampled accuracy."""
        account = self.account(keys, sources=False)
        explained = variance_explained(self.circuit, account)[1]
        return explained, Scrubbed(self.circuit).resampled(account, PERMUTATIONS).accuracy


def candidate_keys(circuit: Circuit, named: Sequence[int] | Sequence[str] = ()) -> Keys:
    """Keys by their share of the squared logits, above `KEY_SHARE` or `IRREP_SHARE`, and those in `named`.

    >>> t = np.arange(7)
    >>> L = 3 * np.cos(2 * np.pi * 2 * (t[:, None, None] + t[:, None] - t) / 7)
    >>> none = np.zeros((7, 7, 0))
    >>> circuit = Circuit("relu", none, none, np.zeros((0, 7)), L, L, (t[:, None] + t) % 7, ("cyclic", 7))
    >>> candidate_keys(circuit), candidate_keys(circuit, named=[3])
    ((2,), (2, 3))
    """
    shares, every = key_shares(circuit)[0], all_keys(circuit.symmetry)
    chosen = {*named, *(key for key, share in zip(every, shares) if share > _threshold(circuit))}
    return tuple(key for key in every if key in chosen)


def other_keys(circuit: Circuit, keys: Keys, seed: int | Sequence[int] = 0) -> Keys:
    """Random keys, as many as in `keys`, that are neither in it nor a double or half of one, as far as there are.

    They are the controls of an account: whatever is said of its keys is computed for them, too.
    """
    N, every = circuit.N, all_keys(circuit.symmetry)
    if circuit.basis == "frequency":
        doubles = {k: double(k, N) for k in every}
        near = {*keys, *(doubles[k] for k in keys), *(k for k in every if doubles[k] in keys)}
    else:
        near = {*keys, every[0]}
    left = [key for key in every if key not in near]
    chosen = np.random.default_rng(seed).permutation(len(left))[: len(keys)]
    return tuple(left[i] for i in sorted(chosen))


def control_keys(circuit: Circuit, keys: Keys, seed: int = 0, draws: int = 1) -> tuple[Keys, ...]:
    """Distinct draws of `other_keys`, at most so many: fewer where there are not so many, none where there are none.

    >>> t = np.arange(11)
    >>> L = np.cos(2 * np.pi * 2 * (t[:, None, None] + t[:, None] - t) / 11)
    >>> none = np.zeros((11, 11, 0))
    >>> circuit = Circuit("relu", none, none, np.zeros((0, 11)), L, L, (t[:, None] + t) % 11, ("cyclic", 11))
    >>> sorted(control_keys(circuit, (2,), draws=5))  # of 1 .. 5, 4 is the double of 2, and 1 its half
    [(3,), (5,)]
    """
    found = dict.fromkeys(other_keys(circuit, keys, (seed, draw) if draw else seed) for draw in range(8 * draws))
    return tuple(other for other in found if other)[:draws]


def _threshold(circuit: Circuit) -> float:
    return KEY_SHARE if circuit.basis == "frequency" else IRREP_SHARE
