"""An explanation as lines of text and as HTML: verdict, formula, sentences beside their controls, certificate."""

import html
from typing import TYPE_CHECKING, Any

from interp.analysis.certificate import Certificate
from interp.analysis.scrubbing import Score
from interp.explanation.sentences import Scores, Sentence
from interp.explanation.words import Words

if TYPE_CHECKING:
    from interp.explanation.explaining import Explanation

__all__ = ["certificate_line", "html_of", "lines_of", "table_of"]

LEGEND = (
    "Explained: share of variance. Alone: accuracy with that part replaced by the account; without: with it removed; "
    "resampled: with all that the sentence calls irrelevant taken from other inputs. All pairs count, trained on or "
    "not."
)
KINDS = ("explained", "alone", "without", "resampled")
GREY, HOLDS, FAILS = "#8a93a0", "#1b9e77", "#d5622a"
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"
CELL = "padding:0.35em 0.7em;border-top:1px solid rgba(128,128,128,0.3);vertical-align:top"
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
        f"{what}: {keys}; {_network(explanation)}",
    ]
    if account.keys:
        lines += [f"logits: {Words(account).plain_logits()}", *_sources(account), _size(account)]
    lines.append("")
    for row, sentence in zip(table_of(explanation), explanation.sentences):
        mark = "+" if sentence.holds else "-"
        lines.append(f"{mark} {sentence.text}")
        scored = [f"{head} {value}" for head, value in zip(HEADS[2:], row[2:]) if value != "-"]
        lines.append(f"    {'; '.join(scored)}")
        lines.append(f"    holds if {sentence.rule}")
    others = ", ".join(map(str, explanation.settings.get("control", ()))) or "none"
    lines += ["", f"{LEGEND} Null: the same for keys that are none, {others}."]
    if explanation.has_timeline:
        lines += [
            f"Born (first step from which it stays above half its last value), {name.replace('_', ' ')}: "
            + ", ".join(f"{key} at {'-' if step is None else f'{step:,}'}" for key, step in of_key.items())
            for name, of_key in explanation.births.items()
        ]
    lines.append("")
    if explanation.certificate is not None:
        lines.append(certificate_line(explanation.certificate))
    lines.append(f"Left over: {explanation.left_over}")
    return lines


def _sources(account: Any) -> list[str]:
    """Line that says where each coefficient of the logits comes from; none for groups, or without pre-activations."""
    if account.basis != "frequency" or not account.has_pre_activations:
        return []
    parts = [
        f"{key}: {relu:.0%}, {harmonic:.0%}, {attention:.0%}"
        for key, (relu, harmonic, attention) in zip(account.keys, account.alpha_from)
    ]
    return [f"coefficients from the non-linearity, the second harmonic, attention: {'; '.join(parts)}"]


def certificate_line(certificate: Certificate) -> str:
    """Certificate in a sentence, with its cost."""
    bounds = f"accuracy at least {certificate.accuracy:.4f}, loss at most {certificate.loss:.3g} nats"
    exhaustive, forward = (cost / certificate.operations for cost in (certificate.exhaustive, certificate.forward))
    cost = f"{exhaustive:.1f} times fewer operations than all answers by tables, {forward:.1f} than by forward passes"
    if not certificate.compact:
        cost = f"not compact: {certificate.operations:.3g} operations, no fewer than all answers by tables"
    return f"Certificate (rank {certificate.rank}): {bounds}; {cost}."


def html_of(explanation: "Explanation") -> str:
    """Explanation as HTML without scripts: verdict, certificate, and a table of the sentences above their controls."""
    account = explanation.account
    keys = ", ".join(map(str, account.keys)) or "none"
    parts = [
        f"<h3>{html.escape(explanation.run)}, step {explanation.step:,}: {explanation.verdict}</h3>",
        f"<p>Keys: {html.escape(keys)}; {_network(explanation)}.</p>",
    ]
    if explanation.certificate is not None:
        parts.append(f"<p>{html.escape(certificate_line(explanation.certificate))}</p>")
    if account.keys:
        parts.append(
            f"<p>Logits: <code>{html.escape(Words(account).plain_logits())}</code><br>{html.escape(_size(account))}</p>"
        )
    heads = "".join(f'<th style="{CELL};text-align:left">{head}</th>' for head in ("", "sentence", *KINDS))
    rows = "".join(_row(sentence) for sentence in explanation.sentences)
    parts.append(
        f'<table style="border-collapse:collapse;font-size:90%"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f'<p style="font-size:85%;color:{GREY}">In grey: the same for keys that are none. {LEGEND} '
        "In brackets: range over permutations. Losses in nats.</p>"
    )
    parts.append(f"<p>Left over: {html.escape(str(explanation.left_over))}.</p>")
    return f'<div style="font-family:{FONT};line-height:1.4;max-width:76em">{"".join(parts)}</div>'


def _row(sentence: Sentence) -> str:
    """Row of the table: whether the sentence holds, its text, and each score above that of its control."""
    null = sentence.null
    mark = "&#10003;" if sentence.holds else "&#10007;"
    cells = [
        f'<td style="{CELL};color:{HOLDS if sentence.holds else FAILS};font-weight:bold">{mark}</td>',
        f'<td style="{CELL};min-width:16em;max-width:26em;text-align:left">{html.escape(sentence.text)}</td>',
        f'<td style="{CELL};width:9em">{_bar(sentence.explained, HOLDS)}{_bar(null.explained, GREY)}</td>',
    ]
    for score, control in ((s, n) for s, n in zip(_scores(sentence), _scores(null))):
        above = f"<div>{_two(score)}</div>" if score else ""
        below = f'<div style="color:{GREY}">{_two(control)}</div>' if control else ""
        cells.append(f'<td style="{CELL};white-space:nowrap;text-align:left">{above}{below}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _scores(scores: Sentence | Scores) -> tuple[Score | None, ...]:
    return scores.alone, scores.without, scores.resampled


def _two(score: Score) -> str:
    """Accuracy with its range, and the loss in small print."""
    accuracy, _, loss = str(score).partition(", ")
    return f'{accuracy} <span style="font-size:85%;color:{GREY}">{loss}</span>'


def _network(explanation: "Explanation") -> str:
    account, network = explanation.account, explanation.network
    pairs = (
        "" if account.p == account.N else f" over the {account.N**2:,} pairs without 0 (certificate: over all pairs)"
    )
    return f"accuracy {network.accuracy:.4f}, loss {network.loss:.3g} nats{pairs}"


def _size(account: Any) -> str:
    return f"The account has {account.numbers:,} numbers; the network has {account.parameters:,} parameters."


def _bar(value: float | None, colour: str) -> str:
    """A share as a bar with its number."""
    if value is None or value != value:
        return ""
    width = 100 * min(max(value, 0.0), 1.0)
    return (
        f'<div style="display:flex;align-items:center;gap:0.4em;white-space:nowrap">'
        f'<div style="flex:0 0 4em"><div style="height:0.6em;min-width:1px;width:{width:.1f}%;background:{colour}">'
        f"</div></div><span style='color:{colour if colour == GREY else 'inherit'}'>{_share(value)}</span></div>"
    )


def _share(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f} %"


def _score(score: Score | None) -> str:
    return "-" if score is None else str(score)
