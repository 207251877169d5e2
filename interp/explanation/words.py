"""Words and formulas of an account: its sentences in plain English and in LaTeX."""

from dataclasses import dataclass

import numpy as np

from interp.analysis.account import Account

__all__ = ["Words"]


@dataclass(frozen=True)
class Words:
    """Texts and formulas of the sentences of an account."""

    account: Account

    @property
    def _list(self) -> str:
        return ", ".join(map(str, self.account.keys))

    @property
    def _total(self) -> str:
        """Argument of the cosines: a + b - c, or of logarithms."""
        a, b, c = ("log a", "log b", "log c") if self.account.p > self.account.N else ("a", "b", "c")
        return f"{a} {'-' if self.account.operation == 'subtract' else '+'} {b} - {c}"

    @property
    def _waves(self) -> bool:
        return self.account.basis == "frequency"

    def keys(self) -> str:
        """Sentence about the logits."""
        if self._waves:
            return f"The logits are a sum of cosines cos(w_k({self._total})), with k = {self._list}."
        return f"The logits are a sum of the characters chi(a b c^-1) of the irreps {self._list}."

    def logits(self) -> str:
        """Logits of the account, in LaTeX."""
        a = self.account
        if not self._waves:
            return " + ".join(f"{x:.3g}\\,\\chi_{{\\mathrm{{{k}}}}}(a b c^{{-1}})" for k, x in zip(a.keys, a.alpha))
        total = self._total.replace("log", "\\log ")
        return " + ".join(f"{x:.3g}\\cos w_{{{k}}}({total})" for k, x in zip(a.keys, a.alpha))

    def plain_logits(self) -> str:
        """Logits of the account without LaTeX."""
        a = self.account
        if not self._waves:
            return " + ".join(f"{x:.3g} chi_{k}(a b c^-1)" for k, x in zip(a.keys, a.alpha))
        return " + ".join(f"{x:.3g} cos(2 pi {k}/{a.N} ({self._total}))" for k, x in zip(a.keys, a.alpha))

    def readout(self) -> str:
        """Sentence about the read-out."""
        what = "cosines and sines of the key frequencies" if self._waves else "the matrix entries of the key irreps"
        return f"The read-out of the neurons consists of {what} over the answers."

    def readout_formula(self) -> str:
        """Read-out, in LaTeX."""
        if self._waves:
            return r"\hat W_m(c) = \sum_k \rho_{mk} \cos(w_k c + \chi_{mk})"
        return r"\hat W_m(c) = \sum_\rho \operatorname{tr}(M_{m\rho}\, \rho(c^{-1}))"

    def first(self) -> str:
        """Sentence about the first harmonic, with the sizes of the clusters."""
        if not self._waves:
            return "Each neuron reads a function of a plus a function of b, made of matrix entries of key irreps."
        account = self.account
        reads = account.first.any(1) & account.readout.any(1)
        sizes = np.bincount(account.cluster[reads], minlength=len(account.keys))
        listed = ", ".join(f"{size} of frequency {k}" for k, size in zip(account.keys, sizes))
        if not reads.all():
            listed += f"; {(~reads).sum()} read or write no wave"
        return f"Each neuron reads one wave of a plus one wave of b of its cluster's frequency: {listed}."

    def first_formula(self) -> str:
        """First harmonic, in LaTeX."""
        if not self._waves:
            return r"\hat x_m = \beta_m + u_m(a) + v_m(b)"
        return r"\hat x_m = \beta_m + A_m \cos(w_k a + \phi_m) + B_m \cos(w_k b + \psi_m)"

    def second(self) -> str:
        """Sentence about the second harmonic."""
        return "Each neuron reads twice its frequency, too, which cancels what the non-linearity leaves of a - b."

    def second_formula(self) -> str:
        """Second harmonic, in LaTeX."""
        return r"\hat x_m \mathrel{+}= A'_m \cos(2 w_k a + \phi'_m) + B'_m \cos(2 w_k b + \psi'_m)"

    def product(self) -> str:
        """Sentence about the products."""
        return "Attention multiplies: each neuron reads products of waves of a and of b of its frequency."

    def product_formula(self) -> str:
        """Products, in LaTeX."""
        return r"\hat x_m \mathrel{+}= \sum_{i, j} P_{mij} \{\cos, \sin\}_i(w_k a) \{\cos, \sin\}_j(w_k b)"

    def phases(self) -> str:
        """Sentence about the phases."""
        return "The phase of each neuron's read-out is the sum of the phases of its two waves."

    def attention(self) -> str:
        """Sentence about the attention."""
        return "Attention to each operand is a mean plus a function of a plus a function of b."

    def embedding(self) -> str:
        """Sentence about the embedding."""
        return "Of the embedding, the key frequencies and their doubles are used."

    def bypass(self) -> str:
        """Sentence about the part that passes by the neurons."""
        return "The logits come from the neurons: what passes by them does not matter."

    def whole(self) -> str:
        """Sentence about the idealised network."""
        return "The idealised network, from the account's numbers alone, is what the network computes."
