"""Accounts of several runs beside each other: what they have in common is a candidate for universality.

"A Toy Model of Universality" (Chughtai et al., 2023) asks whether networks of other seeds learn the same algorithm with
other keys. A sentence is called universal here if it holds in all runs, and its accuracies lie within twice the largest
range over permutations; that rule is ours.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.analysis.account import phase_coherence
from interp.errors import InvalidArgumentError
from interp.explanation.explaining import Explanation

if TYPE_CHECKING:
    import xarray

__all__ = ["compare_explanations"]


def compare_explanations(explanations: Sequence[Explanation]) -> "xarray.Dataset":
    """Explanations of several runs as a dataset over `run`, with `universal` over `sentence`.

    Variables over `run`: number of keys, share of the logits' alpha from the non-linearity, the second harmonic and
    attention (weighted by alpha), amplitude of the second harmonic over the first and its phase phi2 - 2 phi [rad]
    (amplitude-weighted mean), smallest coherence of phases, certified accuracy, resampled accuracy, verdict. NaN where
    a run has no such part.

    Raises:
        InvalidArgumentError: there are fewer than two explanations.
    """
    import xarray

    if len(explanations) < 2:
        raise InvalidArgumentError(f"`explanations` must be two or more; got {len(explanations)}.")
    rows = [_row(one) for one in explanations]
    data = xarray.Dataset(
        {name: ("run", [row[name] for row in rows]) for name in rows[0]}, {"run": [one.run for one in explanations]}
    )
    names = [
        s.id for s in explanations[0].sentences if all(s.id in {t.id for t in one.sentences} for one in explanations)
    ]
    universal = [_universal([one.sentence(name) for one in explanations]) for name in names]
    return data.assign(universal=("sentence", universal)).assign_coords(sentence=names)


def _row(one: Explanation) -> dict[str, float | str | int]:
    account, nan = one.account, float("nan")
    weights = np.abs(account.alpha) / np.abs(account.alpha).sum() if len(account.keys) else np.zeros(0)
    sources = weights @ account.alpha_from if len(account.keys) else np.full(3, nan)
    row: dict[str, float | str | int] = {
        "keys": len(account.keys),
        "from_non_linearity": float(sources[0]),
        "from_harmonic": float(sources[1]),
        "from_attention": float(sources[2]),
        "harmonic_ratio": nan,
        "harmonic_phase": nan,
        "coherence": nan,
        "certified_accuracy": nan if one.certificate is None else one.certificate.accuracy,
        "resampled_accuracy": nan,
        "verdict": one.verdict,
    }
    if account.keys and account.basis == "frequency" and account.has_pre_activations:
        first, phase = account.waves("first")
        second, phase2 = account.waves("second")
        row["harmonic_ratio"] = float(second.sum() / first.sum()) if first.sum() else nan
        row["harmonic_phase"] = float(np.angle((second * np.exp(1j * (phase2 - 2 * phase))).sum()) % (2 * np.pi))
        row["coherence"] = float(phase_coherence(account).min())
    for sentence in one.sentences:
        if sentence.id == "whole" and sentence.resampled is not None:
            row["resampled_accuracy"] = sentence.resampled.accuracy
    return row


def _universal(sentences: Sequence) -> bool:
    scores = [sentence.resampled or sentence.alone for sentence in sentences]
    if not all(sentence.holds for sentence in sentences) or any(score is None for score in scores):
        return False
    ranges = [score.high - score.low for score in scores if np.isfinite(score.high)]
    accuracies = [score.accuracy for score in scores]
    return bool(max(accuracies) - min(accuracies) <= 2 * max(ranges, default=0.0))
