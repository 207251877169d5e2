"""An explanation as lines of text and as HTML: verdict, formula, sentences beside their controls, certificate."""

import html
from typing import TYPE_CHECKING, Any

from interp.analysis.certificate import Certificate
from interp.analysis.scrubbing import Score

if TYPE_CHECKING:
    from interp.explanation.explaining import Explanation

__all__ = ["certificate_line", "html_of", "lines_of", "table_of"]

HEADS = ("holds", "sentence", "explained", "null", "alone", "without", "resampled", "null resampled")


def table_of(explanation: "Explanation") -> list[tuple[str, ...]]:
    """Rows of the sentences under `HEADS`: shares in per cent, accuracies with their losses."""
    return [
        (
            "yes" if sentence.holds else "no",
            sentence.text,
            _share(sentence.explained),
            _share(sentence.null.explained),
            _score(sentence.alone),
            _score(sentence.without),
            _score(sentence.resampled),
            _score(sentence.null.resampled),
        )
        for sentence in explanation.sentences
    ]


def lines_of(explanation: "Explanation") -> list[str]:
    """Lines of text of an explanation."""
    account = explanation.account
    what = "key frequencies" if account.basis == "frequency" else "key irreps"
    keys = ", ".join(map(str, account.keys)) or "none"
    lines = [
        f"{explanation.run}, step {explanation.step:,}: {explanation.verdict.upper()}",
        f"{what}: {keys}; accuracy {explanation.network.accuracy:.4f}, loss {explanation.network.loss:.3g} nats",
    ]
    if account.keys:
        lines += [f"logits: {plain_formula(explanation)}", _size(account)]
    lines.append("")
    for row, sentence in zip(table_of(explanation), explanation.sentences):
        mark = "+" if sentence.holds else "-"
        lines.append(f"{mark} {sentence.text}")
        scored = [f"{head} {value}" for head, value in zip(HEADS[2:], row[2:]) if value != "-"]
        lines.append(f"    {'; '.join(scored)}")
    lines.append("")
    if explanation.certificate is not None:
        lines.append(certificate_line(explanation.certificate))
    lines.append(f"Left over: {explanation.left_over}")
    return lines


def certificate_line(certificate: Certificate) -> str:
    """Certificate in a sentence, with its cost."""
    bounds = f"accuracy at least {certificate.accuracy:.4f}, loss at most {certificate.loss:.3g} nats"
    exhaustive, forward = (cost / certificate.operations for cost in (certificate.exhaustive, certificate.forward))
    cost = f"{exhaustive:.1f} times fewer operations than all answers by tables, {forward:.1f} than by forward passes"
    if not certificate.compact:
        cost = f"not compact: {certificate.operations:.3g} operations, no fewer than all answers by tables"
    return f"Certificate (rank {certificate.rank}): {bounds}; {cost}."


def plain_formula(explanation: "Explanation") -> str:
    """Logits of the account without LaTeX."""
    account = explanation.account
    if account.basis == "irrep":
        return " + ".join(f"{x:.3g} chi_{k}(a b c^-1)" for k, x in zip(account.keys, account.alpha))
    a, b, c = ("log a", "log b", "log c") if len(account.elements) < account.p else ("a", "b", "c")
    sign = "-" if account.operation == "subtract" else "+"
    N = account.N
    return " + ".join(f"{x:.3g} cos(2 pi {k}/{N} ({a} {sign} {b} - {c}))" for k, x in zip(account.keys, account.alpha))


def html_of(explanation: "Explanation") -> str:
    """Explanation as HTML without scripts: a heading, the sentences as a table with bars, the certificate."""
    rows = []
    for row, sentence in zip(table_of(explanation), explanation.sentences):
        bars = "".join(
            _bar(value, colour)
            for value, colour in ((sentence.explained, "#2a6f97"), (sentence.null.explained, "#b0b0b0"))
        )
        cells = "".join(f"<td>{html.escape(value)}</td>" for value in row[2:])
        rows.append(
            f"<tr><td>{'&#10003;' if sentence.holds else '&#10007;'}</td>"
            f'<td style="text-align:left;max-width:28em">{html.escape(sentence.text)}</td>'
            f'<td style="width:8em">{bars}</td>{cells}</tr>'
        )
    account = explanation.account
    keys = ", ".join(map(str, account.keys)) or "none"
    heads = "".join(f"<th>{head}</th>" for head in ("holds", "sentence", "", *HEADS[2:]))
    parts = [
        f"<h3>{html.escape(explanation.run)}, step {explanation.step:,}: {explanation.verdict}</h3>",
        f"<p>Keys: {html.escape(keys)}. Accuracy {explanation.network.accuracy:.4f}, "
        f"loss {explanation.network.loss:.3g} nats.</p>",
    ]
    if account.keys:
        parts.append(
            f"<p>Logits: <code>{html.escape(plain_formula(explanation))}</code><br>{html.escape(_size(account))}</p>"
        )
    if rows:
        parts.append(
            f'<table style="font-size:90%"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        )
    if explanation.certificate is not None:
        parts.append(f"<p>{html.escape(certificate_line(explanation.certificate))}</p>")
    parts.append(f"<p>Left over: {html.escape(str(explanation.left_over))}</p>")
    return "".join(parts)


def _size(account: Any) -> str:
    return f"The account has {account.numbers:,} numbers; the network has {account.parameters:,} parameters."


def _bar(value: float | None, colour: str) -> str:
    if value is None or value != value:
        return ""
    width = 100 * min(max(value, 0.0), 1.0)
    return f'<div style="height:0.5em;margin:1px;width:{width:.1f}%;background:{colour}"></div>'


def _share(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f} %"


def _score(score: Score | None) -> str:
    return "-" if score is None else str(score)
