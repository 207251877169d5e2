"""Scores of an account: a network evaluated with parts of it replaced by the account, removed, or resampled.

Resampling is causal scrubbing ("Causal Scrubbing: a method for rigorously testing interpretability hypotheses", Chan et
al., 2022): what an account calls irrelevant is taken from another input. With x^, W^ an account's pre-activations and
read-out, h = act(x) the neurons, W~ the centred neuron-logit map, R what passes by the neurons, and pi, pi' random
permutations of the inputs u, the logits of the resampled network are

    L_s(u) = act(x^(u) + (x - x^)(pi u)) W^ + h(pi u) (W~ - W^) + R(pi' u),

and its converse act(x^(pi u) + (x - x^)(u)) W + R(u) keeps only what the account leaves out. All inputs are
enumerated, so that scores have no sampling error but that of the permutations.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.account import PARTS, Account, Circuit
from interp.models.base import activate

__all__ = ["Score", "Scrubbed", "mean_score"]


@dataclass(frozen=True)
class Score:
    """Loss, accuracy and agreement of logits over all pairs; of several permutations, their mean and range.

    >>> mean_score([Score(1.0, 0.5, 0.5), Score(3.0, 0.7, 0.9)])
    Score(loss=2.0, accuracy=0.6, agreement=0.7, low=0.5, high=0.7)
    """

    loss: float
    """Cross-entropy [nats]."""
    accuracy: float
    """Share of pairs answered correctly, 0 to 1."""
    agreement: float
    """Share of pairs in which the largest logit is that of the network, 0 to 1."""
    low: float = np.nan
    """Smallest accuracy over permutations; NaN where there are none."""
    high: float = np.nan
    """Largest accuracy over permutations; NaN where there are none."""

    def __str__(self) -> str:
        between = "" if np.isnan(self.low) else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.accuracy:.3f}{between}, loss {self.loss:.2g}"


def mean_score(scores: Iterable[Score]) -> Score:
    """Mean of the scores of several permutations, with the range of their accuracies."""
    scores = list(scores)
    loss, accuracy, agreement = (
        float(np.mean([getattr(score, name) for score in scores])) for name in ("loss", "accuracy", "agreement")
    )
    accuracies = [score.accuracy for score in scores]
    return Score(loss, accuracy, agreement, min(accuracies), max(accuracies))


class Scrubbed:
    """A network on pairs, to be evaluated with its parts exchanged; products are in float32, losses in float64.

    `pairs`: places of the pairs among all; None is all of them.
    """

    def __init__(self, circuit: Circuit, pairs: Int[np.ndarray, " input"] | None = None) -> None:
        self.circuit, self._pairs = circuit, pairs
        self.inputs = circuit.N**2 if pairs is None else len(pairs)
        """Number of pairs."""
        self.answers = self._of_pairs(circuit.answers)
        """Place of the right answer of each pair."""
        self.logits = self.flat(circuit.logits)
        self.hidden, self.bypass = self.flat(circuit.hidden), self.flat(circuit.bypass)
        self.W = torch.from_numpy(circuit.W).float()
        self.W_centred = torch.from_numpy(circuit.W_centred).float()
        self._choices = self.logits.argmax(-1)

    def flat(self, x: Float[np.ndarray, "N N d"]) -> Float[Tensor, "input d"]:
        """An array of all pairs as a list of inputs."""
        return self._of_pairs(x).float()

    def _of_pairs(self, x: np.ndarray) -> Tensor:
        listed = x.reshape(-1, *x.shape[2:])
        return torch.from_numpy(np.ascontiguousarray(listed if self._pairs is None else listed[self._pairs]))

    @cached_property
    def x(self) -> Float[Tensor, "input n"]:
        """Pre-activations."""
        return self.flat(self.circuit.x)

    @cached_property
    def spread(self) -> float:
        """Squared distances of the pre-activations from their means over all pairs."""
        mean = torch.from_numpy(self.circuit.x.mean((0, 1)))
        return float((self._of_pairs(self.circuit.x) - mean).square().sum())

    @cached_property
    def centred(self) -> Float[Tensor, "input N"]:
        """Logits of the elements, minus their mean."""
        return self.flat(self.circuit.centred)

    def act(self, x: Float[Tensor, "input n"]) -> Float[Tensor, "input n"]:
        """The non-linearity."""
        return activate(self.circuit.activation, x)

    def score(self, logits: Float[Tensor, "input C"]) -> Score:
        """Loss, accuracy and agreement of logits."""
        chosen = logits.argmax(-1)
        return Score(
            loss=float(torch.nn.functional.cross_entropy(logits.double(), self.answers)),
            accuracy=float((chosen == self.answers).double().mean()),
            agreement=float((chosen == self._choices).double().mean()),
        )

    def permutations(self, count: int, seed: int) -> list[tuple[Int[Tensor, " input"], Int[Tensor, " input"]]]:
        """Pairs of random permutations of the inputs."""
        generator = torch.Generator().manual_seed(seed)
        n = self.inputs
        return [(torch.randperm(n, generator=generator), torch.randperm(n, generator=generator)) for _ in range(count)]

    def resampled(
        self, account: Account, count: int = 10, seed: int = 0, *, x_ideal: Float[Tensor, "input n"] | None = None
    ) -> Score:
        """Score of L_s, the network of which everything outside the account comes from other inputs.

        `x_ideal`: the account's pre-activations, where they are known.
        """
        x_ideal = self.flat(account.pre_activations(PARTS)) if x_ideal is None else x_ideal
        W_ideal = torch.from_numpy(account.read_out(self.W.shape[1])).float()
        rest, W_rest = self.x - x_ideal, self.W_centred - W_ideal
        outside = self.hidden @ W_rest
        return mean_score(
            self.score(self.act(x_ideal + rest[pi]) @ W_ideal + outside[pi] + self.bypass[other])
            for pi, other in self.permutations(count, seed)
        )

    def converse(
        self, account: Account, count: int = 10, seed: int = 0, *, x_ideal: Float[Tensor, "input n"] | None = None
    ) -> Score:
        """Score of the network of which only what lies outside the account's pre-activations is kept."""
        x_ideal = self.flat(account.pre_activations(PARTS)) if x_ideal is None else x_ideal
        rest = self.x - x_ideal
        return mean_score(
            self.score(self.act(x_ideal[pi] + rest) @ self.W + self.bypass) for pi, _ in self.permutations(count, seed)
        )
