"""Sentences of an account: each says a thing about the network, with scores, controls, and whether it holds.

Scores of a sentence, all over every pair of operands:

    explained    share of the variance of what the sentence speaks of
    alone        the network with that part replaced by the account
    without      the network with that part removed
    resampled    the network in which all that the sentence calls irrelevant comes from other inputs (causal scrubbing)
    null         the same for accounts with as many other frequencies, or irreps, that are not key: mean and range of
                 several draws

Restricted logits give the right answer whatever the network does: for a network that only memorised, `alone` of the
sentence about the keys is 1. No sentence is to be believed for its `alone`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from interp.analysis.ablations import keep_only
from interp.analysis.account import PARTS, Account, Part, key_shares, phase_coherence
from interp.analysis.bases import double
from interp.analysis.certificate import Certificate
from interp.analysis.explaining import Examined
from interp.analysis.scrubbing import Score, Scrubbed, mean_score
from interp.explanation.words import Words

__all__ = ["ANY_KEYS", "CERTIFIED", "KEPT", "PAIRS", "Scores", "Sentence", "always_right", "sentences_of"]

CERTIFIED = 0.95
"""Certified accuracy from which a network is called explained."""
KEPT = 0.99
"""Share of the network's accuracy that must be kept for a part to be called irrelevant, or a replacement equal."""
GAIN = 0.01
"""Share of the idealised logits that a part of the pre-activations must explain to be called a part of the account."""
ANY_KEYS = "(with any keys)"
"""Note beside a score that says nothing about the keys: see `always_right`."""
KEYLESS = ("attention", "bypass")
"""Sentences that speak of no key, so that other keys are no control."""
FEW = 3
"""Permutations of the inputs for a sentence about one part."""
PAIRS = 1000
"""Pairs, at most, on which a control is evaluated: the standard error of an accuracy of 0.02 is 0.004."""


@dataclass(frozen=True)
class Scores:
    """Scores of a sentence; None where the network has no such part, or nothing can be replaced."""

    explained: float | None = None
    alone: Score | None = None
    without: Score | None = None
    resampled: Score | None = None


@dataclass(frozen=True)
class Sentence:
    """Sentence of an account with its scores, those of its control, and whether it holds.

    Attributes:
        id: name of the sentence: keys, readout, first, second, product, phases, attention, embedding, bypass, whole,
            certificate.
        text: the sentence, in words.
        formula: the sentence in LaTeX; empty where it has no formula.
        explained: share of the variance of what it speaks of, at most 1; None where that is not defined.
        alone: loss [nats], accuracy and agreement [0 to 1] of the network with that part replaced by the account; None
            where that is not defined, as for the next two.
        without: scores of the network with that part removed.
        resampled: scores of the network with all that the sentence calls irrelevant taken from other inputs.
        null: scores for as many keys that are none: means of several draws of them, with the range of each accuracy.
        null_range: smallest and largest `explained` of these draws; None where it is not defined.
        holds: whether the sentence holds, by `rule`.
        rule: condition under which it holds, in words.
    """

    id: str
    text: str
    formula: str
    explained: float | None = None
    alone: Score | None = None
    without: Score | None = None
    resampled: Score | None = None
    null: Scores = Scores()
    null_range: tuple[float, float] | None = None
    holds: bool = False
    rule: str = field(default="", compare=False)


def sentences_of(
    examined: Examined,
    scrubbed: Scrubbed,
    account: Account,
    others: Sequence[Account],
    certificate: Certificate | None,
    other_certificates: Sequence[Certificate],
    *,
    permutations: int,
    seed: int,
) -> tuple[Sentence, ...]:
    """Sentences of an account, in the order in which one reads them; `others` are accounts of the controls' keys."""
    if not account.keys:
        return (_no_key(examined, others, seed),)
    speaker = _Speaker(examined, scrubbed, account, permutations, seed)
    said = list(speaker.said())
    spoken = [name for name, *_ in said if name not in KEYLESS]
    controls = []
    some = _some_pairs(examined, seed) if others else scrubbed
    for other in others:
        control = _Speaker(examined, some, other, 1, seed)
        controls.append({name: control.scores(name) for name in spoken})
    found = [
        Sentence(
            id=name,
            text=text,
            formula=formula,
            explained=scores.explained,
            alone=scores.alone,
            without=scores.without,
            resampled=scores.resampled,
            null=_mean([control[name] for control in controls if name in control]),
            null_range=_range([control[name] for control in controls if name in control]),
            rule=rule,
        )
        for name, text, formula, scores, rule in said
    ]
    if certificate is not None and certificate.compact:
        cost = certificate.exhaustive / certificate.operations
        nulls = [Scores(explained=other.accuracy) for other in other_certificates]
        found.append(
            Sentence(
                id="certificate",
                text=f"The account proves that {certificate.right.sum()} pairs are answered right, a share of "
                f"{certificate.accuracy:.4f}, with {cost:.1f} times fewer operations than computing all answers.",
                formula=r"L_{y} - L_{c} \geq [\text{lead} + R + \sum_k z_k E_k^\top W_k s]_y - [\ldots]_c"
                r" - \sum_k e_k \lvert D_k[y] - D_k[c] \rvert - \text{slack} > 0",
                explained=certificate.accuracy,
                null=_mean(nulls),
                null_range=_range(nulls),
                rule=f"the certified accuracy is at least {CERTIFIED}",
            )
        )
    return tuple(
        _judged(sentence, speaker.network.accuracy, 1 / examined.circuit.N, speaker.gains) for sentence in found
    )


def always_right(id: str, kind: str) -> bool:
    """Whether a score of a sentence is near 1 whichever keys are named: logits restricted to any frequencies are right.

    >>> always_right("keys", "alone"), always_right("keys", "resampled")
    (True, False)
    """
    return id == "keys" and kind == "alone"


def _some_pairs(examined: Examined, seed: int) -> Scrubbed:
    """The network on at most `PAIRS` pairs, drawn at random."""
    chosen = np.random.default_rng(seed).permutation(examined.circuit.N**2)[:PAIRS]
    return Scrubbed(examined.circuit, np.sort(chosen))


def _mean(draws: Sequence[Scores]) -> Scores:
    """Means of the scores of several controls, with the ranges of their accuracies; None where one has no score."""

    def mean(kind: str) -> Score | None:
        scores = [getattr(draw, kind) for draw in draws]
        return None if not scores or None in scores else mean_score(scores)

    explained = [draw.explained for draw in draws if draw.explained is not None]
    return Scores(float(np.mean(explained)) if explained else None, mean("alone"), mean("without"), mean("resampled"))


def _range(draws: Sequence[Scores]) -> tuple[float, float] | None:
    """Smallest and largest share that several controls explain."""
    explained = [draw.explained for draw in draws if draw.explained is not None]
    return (min(explained), max(explained)) if explained else None


def _no_key(examined: Examined, others: Sequence[Account], seed: int) -> Sentence:
    """Sentence about a network without keys, with the scores of other frequencies or irreps as its null."""
    shares = key_shares(examined.circuit)[0]
    what = examined.circuit.basis
    some = _some_pairs(examined, seed)
    nulls = [_Speaker(examined, some, other, 1, seed).scores("keys") for other in others]
    return Sentence(
        id="keys",
        text=f"No {what} is key: the largest has {shares.max():.2g} of the squared logits.",
        formula="",
        explained=float(shares.max()),
        null=_mean(nulls),
        null_range=_range(nulls),
        rule="never",
    )


def _judged(sentence: Sentence, accuracy: float, chance: float, gains: dict[str, float]) -> Sentence:
    """The sentence with whether it holds, by its rule; none holds of a network near chance."""
    kept = KEPT * accuracy
    nulls = sentence.null_range
    beats = nulls is None or sentence.explained is None or sentence.explained > nulls[1]
    match sentence.id:
        case "certificate":
            holds = sentence.explained is not None and sentence.explained >= CERTIFIED
        case "first" | "second" | "product":
            holds = beats and gains[sentence.id] >= GAIN
        case "attention" | "embedding" | "phases":
            holds = beats and sentence.alone is not None and sentence.alone.accuracy >= kept
        case _:
            holds = beats and sentence.resampled is not None and sentence.resampled.accuracy >= kept
            holds = holds and sentence.without is not None and sentence.without.accuracy < kept  # which can fail
    return replace(sentence, holds=bool(holds and accuracy > 2 * chance))


class _Speaker:
    """An account of a network, whose sentences are scored one by one."""

    def __init__(self, examined: Examined, scrubbed: Scrubbed, account: Account, permutations: int, seed: int) -> None:
        self.examined, self.account, self.scrubbed = examined, account, scrubbed
        self.permutations, self.seed = permutations, seed
        circuit = examined.circuit
        self.circuit = circuit
        self.outputs = circuit.W.shape[1]
        self.W_ideal = torch.from_numpy(account.read_out(self.outputs)).float()
        self.network = scrubbed.score(scrubbed.logits)
        self.gains: dict[str, float] = {}
        """Share of the idealised logits that each part of the pre-activations adds."""
        self.has_x = circuit.x.shape[-1] > 0
        if self.has_x:
            self._measure_parts()

    def _measure_parts(self) -> None:
        circuit, centred, spread = self.circuit, self.scrubbed.centred, self.scrubbed.spread
        total = float(centred.square().sum())
        before_x, before_logits, self.x_parts, self.shares = None, 0.0, {}, {}
        for i, name in enumerate(PARTS):
            if i and not getattr(self.account, name).shape[1]:
                continue
            x = self.scrubbed.flat(self.account.pre_activations(PARTS[: i + 1]))
            logits = self.scrubbed.act(x) @ self.W_ideal
            ideal = logits[:, : circuit.N] - logits[:, : circuit.N].mean(1, keepdim=True)
            explained = 1 - float((centred - ideal).square().sum()) / total if total else 0.0
            share = 1 - float((self.scrubbed.x - x).double().square().sum()) / spread if spread else 0.0
            self.x_parts[name] = x
            self.shares[name] = share if before_x is None else share - before_x
            self.gains[name] = explained - before_logits
            before_x, before_logits = share, explained
            self.ideal_logits, self.ideal_explained, self.ideal_x = logits, explained, x

    def said(self) -> Iterator[tuple[str, str, str, Scores, str]]:
        """Name, text, formula, scores and rule of each sentence."""
        words, account = Words(self.account), self.account
        alone = f"alone keeps {KEPT} of the accuracy and more is explained than by any control"
        kept = f"resampled keeps {KEPT} of the accuracy and more is explained than by any control"
        kept += ", and without does not keep it"
        neurons, pattern = (f"{kind} keeps {KEPT} of the accuracy" for kind in ("resampled", "alone"))
        neurons += ", and without does not keep it"
        yield "keys", words.keys(), words.logits(), self.scores("keys"), kept
        yield "readout", words.readout(), words.readout_formula(), self.scores("readout"), kept
        if not self.has_x:
            yield "bypass", words.bypass(), r"L \approx h W_L", self.scores("bypass"), neurons
            return
        part = f"it adds {GAIN} to the share of the logits that the idealised network explains, and more is explained "
        part += "than by any control"
        yield "first", words.first(), words.first_formula(), self.scores("first"), part
        if account.basis == "frequency":
            yield "second", words.second(), words.second_formula(), self.scores("second"), part
            yield "product", words.product(), words.product_formula(), self.scores("product"), part
            yield "phases", words.phases(), r"\chi_m = \phi_m + \psi_m", self.scores("phases"), alone
        if account.attention.shape[1]:
            yield (
                "attention",
                words.attention(),
                r"A_h(a, b) = \bar A_h + f_h(a) + g_h(b)",
                self.scores("attention"),
                pattern,
            )
        if account.basis == "frequency" and self.examined.context.has_operand_table:
            yield "embedding", words.embedding(), "", self.scores("embedding"), alone
        yield "bypass", words.bypass(), r"L \approx h W_L", self.scores("bypass"), neurons
        yield "whole", words.whole(), r"\hat L = \mathrm{act}(\hat x) \hat W", self.scores("whole"), kept

    def scores(self, name: str) -> Scores:
        """Scores of a sentence; empty where the network has no such part."""
        s, scrubbed = self.scrubbed, self.scrubbed
        W, W_rest = s.W, s.W_centred - self.W_ideal
        match name:
            case "keys":
                formula = s.flat(self.account.formula_logits(self.outputs))
                rest = s.logits - formula
                share = key_shares(self.circuit)[0][self.account.functions.places].sum()
                return self._scores(float(share), formula, rest, lambda pi: formula + rest[pi])
            case "readout":
                alone, outside = s.hidden @ self.W_ideal, s.hidden @ W_rest
                total = float(s.W_centred[:, : self.circuit.N].square().sum())
                share = float(self.W_ideal.square().sum()) / total if total else 0.0
                return self._scores(
                    share, alone + s.bypass, outside + s.bypass, lambda pi: alone + outside[pi] + s.bypass
                )
            case "bypass":
                neurons, L = s.hidden @ W, s.logits[:, : self.circuit.N]
                R = s.bypass[:, : self.circuit.N]
                centred_R, centred_L = (x - x.mean(1, keepdim=True) for x in (R, L))
                share = 1 - float(centred_R.square().sum() / centred_L.square().sum().clamp(min=1e-30))
                return self._scores(share, neurons, s.bypass, lambda pi: neurons + s.bypass[pi])
            case "first" | "second" | "product" if self.has_x and name in self.x_parts:
                x = self.x_parts[name]
                part = x - (torch.from_numpy(self.account.beta).float() if name == "first" else self._before(name))
                rest = s.x - x
                return self._scores(
                    self.shares[name],
                    s.act(x) @ W + s.bypass,
                    s.act(s.x - part) @ W + s.bypass,
                    lambda pi: s.act(x + rest[pi]) @ W + s.bypass,
                )
            case "phases" if self.has_x:
                return self._phases()
            case "attention" if self.has_x and self.account.attention.shape[1]:
                return self._attention()
            case "embedding" if self.has_x:
                return self._embedding()
            case "whole" if self.has_x:
                return Scores(
                    self.ideal_explained,
                    scrubbed.score(self.ideal_logits),
                    scrubbed.converse(self.account, self.permutations, self.seed, x_ideal=self.ideal_x),
                    scrubbed.resampled(self.account, self.permutations, self.seed, x_ideal=self.ideal_x),
                )
        return Scores()

    def _scores(
        self,
        explained: float,
        alone: torch.Tensor,
        without: torch.Tensor,
        resampled: Callable[[torch.Tensor], torch.Tensor],
    ) -> Scores:
        s = self.scrubbed
        few = min(FEW, self.permutations)
        return Scores(
            explained,
            s.score(alone),
            s.score(without),
            mean_score(s.score(resampled(pi)) for pi, _ in s.permutations(few, self.seed)),
        )

    def _before(self, name: Part) -> torch.Tensor:
        names = list(self.x_parts)
        return self.x_parts[names[names.index(name) - 1]]

    def _phases(self) -> Scores:
        """Read-outs at the own frequency with the phases that the account says, without them, and exchanged."""
        s, account, N = self.scrubbed, self.account, self.circuit.N
        rho, chi = account.own_readout()
        said = account.waves()[1].sum(1)
        angles = 2 * np.pi * np.outer(np.array(account.keys)[account.cluster], np.arange(N)) / N

        def logits(phase: np.ndarray | None) -> torch.Tensor:
            W = self.circuit.W.copy()
            W[:, :N] -= rho[:, None] * np.cos(angles + chi[:, None])
            if phase is not None:
                W[:, :N] += rho[:, None] * np.cos(angles + phase[:, None])
            return s.hidden @ torch.from_numpy(W).float() + s.bypass

        generator, exchanged = np.random.default_rng(self.seed), []
        for _ in range(min(FEW, self.permutations)):
            # what the sentence calls irrelevant is how far a phase lies from the sum: exchanged within the cluster
            away = chi - said
            for k in range(len(account.keys)):
                own = np.flatnonzero(account.cluster == k)
                away[own] = away[generator.permutation(own)]
            exchanged.append(s.score(logits(said + away)))
        coherence = phase_coherence(account)
        return Scores(float(coherence.min()), s.score(logits(said)), s.score(logits(None)), mean_score(exchanged))

    def _attention(self) -> Scores:
        """Attention as mean + f(a) + g(b), and its mean alone."""
        s, N, tables = self.scrubbed, self.circuit.N, self.examined.arranged
        assert tables is not None
        mean, f, g = np.split(np.moveaxis(self.account.attention, 2, 0), [1, N + 1])  # [places, operand, head]
        additive = np.moveaxis(mean + f[:, None] + g[None], 2, 0)  # [operand, a, b, head]
        true = np.stack(tables.attention())
        spread = np.square(true - true.mean((1, 2), keepdims=True)).sum()
        share = 1 - np.square(true - additive).sum() / spread if spread else 1.0
        constant = np.broadcast_to(true.mean((1, 2), keepdims=True), true.shape)

        def replaced(attention: np.ndarray) -> Score:
            x, R = (s.flat(part((attention[0], attention[1]))) for part in (tables.pre_activations, tables.bypass))
            return s.score(s.act(x) @ s.W + R)

        return Scores(float(share), replaced(additive), replaced(constant))

    def _embedding(self) -> Scores:
        """The embedding on the account's frequencies and their doubles, and without the former."""
        context, N = self.examined.context, self.circuit.N
        if not context.has_operand_table:
            return Scores()
        keys = {int(k) for k in self.account.keys}
        doubles = {double(k, N) for k in keys} - {0}
        every = set(range(1, N // 2 + 1))
        kept, left = sorted(keys | doubles), sorted(every - keys)
        power = self.examined.embedding_power()
        share = float(power[[k - 1 for k in kept]].sum() / power.sum()) if power.sum() else 0.0
        return Scores(share, *(self._keeping(frequencies) for frequencies in (kept, left)))

    def _keeping(self, frequencies: list[int]) -> Score:
        examined = self.examined
        kept = keep_only(examined.network, frequencies=frequencies, examples=examined.context.examples)
        return self.scrubbed.score(self.scrubbed.flat(examined.outputs(kept)))
