"""Accounts of several runs beside each other: what they have in common is a candidate for universality.

"A Toy Model of Universality" (Chughtai et al., 2023) asks whether networks of other seeds learn the same algorithm with
other keys. A sentence is called universal here if it holds in all runs, in each of its own keys, and its accuracies lie
within twice the largest range over permutations; that rule is ours.
"""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from interp.analysis.account import phase_coherence
from interp.errors import InvalidArgumentError
from interp.explanation.explaining import Explanation, own_folder

if TYPE_CHECKING:
    import xarray

__all__ = ["COLUMNS", "compare_explanations", "comparison_lines", "save_comparison"]

COLUMNS: Mapping[str, str] = {
    "keys": "number of key frequencies or irreps",
    "from_non_linearity": "share of the logits' coefficients that the non-linearity makes of the first harmonic",
    "from_harmonic": "share that the second harmonic adds",
    "from_attention": "share that attention's products add; with the two before it adds up to 1",
    "harmonic_ratio": "amplitude of the second harmonic over that of the first",
    "harmonic_phase": "phase of the second harmonic less twice that of the first [rad]; pi: it cancels a - b",
    "coherence": "agreement of the read-outs' phases with the sums of the operands' phases, 0 to 1, of the worst key",
    "certified_accuracy": "lower bound on the accuracy that the account proves",
    "resampled_accuracy": "accuracy with everything outside the account taken from other inputs",
    "verdict": "explained, in part, or none",
}
"""Columns of a comparison, and what they say."""


def compare_explanations(explanations: Sequence[Explanation]) -> "xarray.Dataset":
    """Explanations of several runs as a dataset over `run`, with `universal` over `sentence`.

    Variables over `run` are those of `COLUMNS`, each with its `description`; shares are weighted by alpha, phases by
    amplitude. NaN where a run has no such part.

    Raises:
        InvalidArgumentError: there are fewer than two explanations.
    """
    import xarray

    if len(explanations) < 2:
        raise InvalidArgumentError(f"`explanations` must be two or more; got {len(explanations)}.")
    rows = [_row(one) for one in explanations]
    data = xarray.Dataset(
        {name: ("run", [row[name] for row in rows], {"description": COLUMNS[name]}) for name in COLUMNS},
        {"run": [one.run for one in explanations]},
    )
    names = [
        s.id for s in explanations[0].sentences if all(s.id in {t.id for t in one.sentences} for one in explanations)
    ]
    universal = [_universal([one.sentence(name) for one in explanations]) for name in names]
    return data.assign(universal=("sentence", universal)).assign_coords(sentence=names)


def comparison_lines(table: "xarray.Dataset") -> list[str]:
    """Lines of text of a comparison: its table, what each column says, and which sentences are universal."""
    shown = _frame(table).to_string(na_rep="-", float_format="{:.6g}".format, line_width=160)
    legend = [f"  {name}: {text}" for name, text in COLUMNS.items()]
    return [*shown.splitlines(), "", *legend, "", _universals(table)]


def save_comparison(table: "xarray.Dataset", folder: str | Path) -> Path:
    """Write a comparison into a folder as comparison.json and index.html, which links to `<run>/index.html`.

    Raises:
        InvalidArgumentError: `folder` is a file or a run.
    """
    folder = own_folder(folder)
    values = {name: [_plain(value) for value in table[name].values.tolist()] for name in ("run", *COLUMNS)}
    universal = dict(zip(table["sentence"].values.tolist(), table["universal"].values.tolist()))
    text = json.dumps(values | {"universal": universal}, indent=2, allow_nan=False)
    (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
    links = "".join(
        f'<li><a href="{quote(run)}/index.html">{html.escape(run)}</a></li>' for run in table["run"].values.tolist()
    )
    legend = "".join(f"<dt><code>{name}</code></dt><dd>{html.escape(text)}</dd>" for name, text in COLUMNS.items())
    shown = _frame(table).to_html(na_rep="-", float_format="{:.4g}".format, border=0)
    (folder / "index.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>Runs explained</title>'
        '<div style="font-family:system-ui,sans-serif;line-height:1.4;max-width:90em">'
        f'<h3>Accounts of {table.sizes["run"]} runs</h3><ul>{links}</ul><div style="overflow-x:auto">{shown}</div>'
        f"<p>{html.escape(_universals(table))}.</p><dl>{legend}</dl></div>\n",
        encoding="utf-8",
    )
    return folder


def _frame(table: "xarray.Dataset") -> Any:
    """The columns as a data frame, without digits that rounding makes."""
    frame = table[list(COLUMNS)].to_dataframe()
    numbers = frame.select_dtypes("number").columns
    frame[numbers] = frame[numbers].round(6) + 0.0  # no -0
    return frame.astype({"keys": int})


def _universals(table: "xarray.Dataset") -> str:
    names = table["sentence"].values[table["universal"].values]
    return (
        "Universal (hold in all runs, in each of its own keys, with accuracies within twice the largest range over "
        f"permutations): {', '.join(names) or 'none'}"
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


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
