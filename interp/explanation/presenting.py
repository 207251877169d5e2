"""An explanation as lines of text and as HTML: verdict, formula, sentences beside their controls, certificate."""

import html
import re
from typing import TYPE_CHECKING

from interp.analysis.account import Account
from interp.analysis.certificate import Certificate
from interp.analysis.scrubbing import Score
from interp.explanation.sentences import ANY_KEYS, PAIRS, Scores, Sentence, always_right
from interp.explanation.words import Words

if TYPE_CHECKING:
    from interp.explanation.explaining import Explanation

__all__ = ["certificate_line", "formula_html", "html_of", "lines_of", "table_of"]

LEGEND = (
    "Explained: share of variance. Alone: accuracy with that part replaced by the account; without: with it removed; "
    "resampled: with all that the sentence calls irrelevant taken from other inputs. All pairs count, trained on or "
    "not."
)
KINDS = ("explained", "alone", "without", "resampled")
CLOCK, PIZZA = 0.5, 0.1
"""Shares of a coefficient that attention brings, above which it is called clock-like and below which pizza-like."""
SYMBOLS = {
    "alpha": "α", "beta": "β", "chi": "χ", "phi": "φ", "psi": "ψ", "rho": "ρ", "sum": "∑", "geq": "≥", "quad": " ",
    "ldots": "…", "top": "T", "approx": "≈", "lvert": "|", "rvert": "|",
}  # fmt: skip
"""Characters that stand for commands of LaTeX."""
GREY, HOLDS, FAILS = "#8a93a0", "#1b9e77", "#d5622a"
BIRTHS = ("#1b9e77", "#7570b3", "#d5622a")
"""Colours of births by coefficient, cluster size and embedding share."""
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
            _share(sentence.null.explained, sentence.null_range),
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
        f"{explanation.run}, step {explanation.step:,}: {explanation.verdict.upper()}{_limit(explanation)}",
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
    lines += ["", f"{LEGEND} {_controls(explanation)}"]
    if explanation.has_timeline:
        lines += [
            f"Born (first step from which it stays above half its last value), {name.replace('_', ' ')}: "
            + ", ".join(f"{key} at {'-' if step is None else f'{step:,}'}" for key, step in of_key.items())
            for name, of_key in explanation.births.items()
        ]
    lines.append("")
    if explanation.certificate is not None:
        lines.append(certificate_line(explanation.certificate))
    lines += [f"Left over: {explanation.left_over}", f"Verdict: {explanation.rule}"]
    return lines


def _limit(explanation: "Explanation") -> str:
    return f" ({explanation.limit})" if explanation.limit else ""


def _controls(explanation: "Explanation") -> str:
    """Sentence about the controls: how many there are, and their keys."""
    controls = explanation.settings.get("controls", ())
    if not controls:
        return "Null: there are no other keys, so that there is no control."
    listed = "; ".join(", ".join(map(str, keys)) for keys in controls)
    return (
        f"Null: the same for keys that are none, as mean (and range) over {len(controls)} draws of them, {listed}, on "
        f"at most {PAIRS:,} pairs."
    )


def _sources(account: Account) -> list[str]:
    """Line that says where each coefficient of the logits comes from; none for groups, or without pre-activations."""
    if account.basis != "frequency" or not account.has_pre_activations:
        return []
    parts = [
        f"{key}: {relu:.0%}, {harmonic:.0%}, {attention:.0%}{_algorithm(account, attention)}"
        for key, (relu, harmonic, attention) in zip(account.keys, account.alpha_from)
    ]
    rule = f" (clock-like above {CLOCK:.0%} from attention, pizza-like below {PIZZA:.0%})" if _attends(account) else ""
    return [f"coefficients from the non-linearity, the second harmonic, attention: {'; '.join(parts)}{rule}"]


def _attends(account: Account) -> bool:
    """Whether the network has heads, which could multiply."""
    return account.attention.shape[1] > 0


def _algorithm(account: Account, attention: float) -> str:
    """Name of the algorithm by which a frequency's coefficient comes about, where the account decides it.

    A clock multiplies by attention, a pizza by the non-linearity ("The Clock and the Pizza", Zhong et al., 2023). With
    shares of both, or without attention, it is neither.
    """
    if not _attends(account) or PIZZA <= attention <= CLOCK:
        return ""
    return ", clock-like" if attention > CLOCK else ", pizza-like"


def certificate_line(certificate: Certificate) -> str:
    """Certificate in a sentence, with its cost."""
    bounds = f"accuracy at least {certificate.accuracy:.4f}, loss at most {certificate.loss:.3g} nats"
    exhaustive, forward = (cost / certificate.operations for cost in (certificate.exhaustive, certificate.forward))
    cost = f"{exhaustive:.1f} times fewer operations than all answers by tables, {forward:.1f} than by forward passes"
    if not certificate.compact:
        cost = f"not compact: {certificate.operations:.3g} operations, no fewer than all answers by tables"
    return f"Certificate (rank {certificate.rank}): {bounds}; {cost}."


def formula_html(formula: str) -> str:
    """A formula of an account as HTML: the LaTeX of `Words`, with subscripts and superscripts as tags.

    >>> formula_html(r"\\hat x_m = \\beta_m + A'_m \\cos(2 w_k a + \\phi'_m)")
    "x\u0302<sub>m</sub> = β<sub>m</sub> + A'<sub>m</sub> cos(2 w<sub>k</sub> a + φ'<sub>m</sub>)"
    """
    text = html.escape(formula, quote=False)
    text = re.sub(r"\\(?:mathrm|text|operatorname)\{([^{}]*)\}", r"\1", text.replace(r"\mathrel{+}", "+"))
    text = re.sub(r"\\hat ?(\w)", "\\1\u0302", text)
    text = re.sub(r"\\bar ?(\w)", "\\1\u0304", text)
    text = text.replace(r"\{", "&#123;").replace(r"\}", "&#125;").replace(r"\,", " ").replace("-", "\u2212")
    text = re.sub(r"(\d)(\\cos)", r"\1 \2", text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda found: SYMBOLS.get(found[1], found[1]), text)
    for mark, tag in (("_", "sub"), (r"\^", "sup")):
        text = re.sub(rf"{mark}(?:\{{([^{{}}]*)\}}|(\w))", rf"<{tag}>\1\2</{tag}>", text)
    return text


def html_of(explanation: "Explanation") -> str:
    """Explanation as HTML without scripts: verdict, certificate, and a table of the sentences above their controls."""
    account = explanation.account
    keys = ", ".join(map(str, account.keys)) or "none"
    parts = [
        f"<h3>{html.escape(explanation.run)}, step {explanation.step:,}: {explanation.verdict}"
        f"{_limit(explanation)}</h3>",
        f"<p>Keys: {html.escape(keys)}; {_network(explanation)}.</p>",
    ]
    if explanation.certificate is not None:
        parts.append(f"<p>{html.escape(certificate_line(explanation.certificate))}</p>")
    if account.keys:
        sources = "".join(f"<br>{html.escape(line[0].upper() + line[1:])}." for line in _sources(account))
        where = f", w<sub>k</sub> = 2πk/{account.N}" if account.basis == "frequency" else ""
        logits = f"{formula_html(Words(account).logits())}{where}"
        parts.append(f"<p>Logits: {logits}{sources}<br>{html.escape(_size(account))}</p>")
    heads = "".join(f'<th style="{CELL};text-align:left">{head}</th>' for head in ("", "sentence", *KINDS))
    rows = "".join(_row(sentence) for sentence in explanation.sentences)
    parts.append(
        f'<table style="border-collapse:collapse;font-size:90%"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f'<p style="font-size:85%;color:{GREY}">{LEGEND} In brackets: range over permutations. Losses in nats. '
        f"In grey: the null. {html.escape(_controls(explanation))}</p>"
    )
    if explanation.has_timeline and explanation.births:
        parts.append(_births(explanation))
    parts.append(f"<p>Left over: {html.escape(str(explanation.left_over))}.</p>")
    parts.append(f'<p style="font-size:85%;color:{GREY}">Verdict: {html.escape(explanation.rule)}</p>')
    return f'<div style="font-family:{FONT};line-height:1.4;max-width:76em">{"".join(parts)}</div>'


def _row(sentence: Sentence) -> str:
    """Row of the table: whether the sentence holds, its text, and each score above that of its control."""
    null = sentence.null
    mark = "&#10003;" if sentence.holds else "&#10007;"
    cells = [
        f'<td style="{CELL};color:{HOLDS if sentence.holds else FAILS};font-weight:bold">{mark}</td>',
        f'<td style="{CELL};min-width:16em;max-width:26em;text-align:left">{html.escape(sentence.text)}'
        f"{_formula(sentence)}</td>",
        f'<td style="{CELL};width:9em">{_bar(sentence.explained, HOLDS)}'
        f"{_bar(null.explained, GREY, sentence.null_range)}</td>",
    ]
    for kind, score, control in zip(KINDS[1:], _scores(sentence), _scores(null)):
        above = f"<div>{_two(score)}</div>" if score else ""
        note = f" {ANY_KEYS}" if always_right(sentence.id, kind) else ""
        below = f'<div style="color:{GREY}">{_two(control)}{note}</div>' if control else ""
        cells.append(f'<td style="{CELL};white-space:nowrap;text-align:left">{above}{below}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _formula(sentence: Sentence) -> str:
    return f'<div style="color:{GREY}">{formula_html(sentence.formula)}</div>' if sentence.formula else ""


def _births(explanation: "Explanation") -> str:
    """Births of the keys as an SVG: a row for each key, a mark for each quantity at its first step."""
    births, last = explanation.births, max(explanation.step, 1)
    keys, left, width, row = explanation.account.keys, 90, 480, 22
    height = row * len(keys) + 34

    def place(step: int) -> float:
        return left + width * step / last

    parts = []
    for i, key in enumerate(keys):
        y, name = row * i + 16, html.escape(str(key))
        parts.append(f'<text x="0" y="{y + 4}">{name}</text>')
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="{GREY}" stroke-opacity="0.4"/>')
        for (quantity, of_key), colour in zip(births.items(), BIRTHS):
            step = of_key.get(key)
            if step is not None:
                label = f"{quantity.replace('_', ' ')} of {name}: step {step:,}"
                parts.append(
                    f'<circle cx="{place(step):.1f}" cy="{y}" r="6" fill="{colour}" fill-opacity="0.75">'
                    f"<title>{label}</title></circle>"
                )
    for step, anchor in ((0, "start"), (last, "end")):
        parts.append(f'<text x="{place(step):.1f}" y="{height - 6}" text-anchor="{anchor}">{step:,}</text>')
    legend = ", ".join(
        f'<span style="color:{colour}">{name.replace("_", " ")}</span>' for name, colour in zip(births, BIRTHS)
    )
    return (
        f"<p>Births, the first steps from which a quantity stays above half its last value: {legend}.</p>"
        f'<svg role="img" aria-label="Births of the keys over steps" width="{left + width + 10}" height="{height}" '
        f'font-size="12" fill="currentColor">{"".join(parts)}</svg>'
    )


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


def _size(account: Account) -> str:
    return f"The account has {account.numbers:,} numbers; the network has {account.parameters:,} parameters."


def _bar(value: float | None, colour: str, between: tuple[float, float] | None = None) -> str:
    """A share as a bar with its number and its range."""
    if value is None or value != value:
        return ""
    width = 100 * min(max(value, 0.0), 1.0)
    return (
        f'<div style="display:flex;align-items:center;gap:0.4em;white-space:nowrap">'
        f'<div style="flex:0 0 4em"><div style="height:0.6em;min-width:1px;width:{width:.1f}%;background:{colour}">'
        f"</div></div><span style='color:{colour if colour == GREY else 'inherit'}'>{_share(value, between)}</span>"
        "</div>"
    )


def _share(value: float | None, between: tuple[float, float] | None = None) -> str:
    if value is None or value != value:
        return "-"
    first, *ends = (round(100 * share, 1) + 0.0 for share in (value, *(between or ())))  # no -0.0
    return f"{first:.1f} %" + (f" ({ends[0]:.1f} to {ends[1]:.1f})" if ends else "")


def _score(score: Score | None) -> str:
    return "-" if score is None else str(score)
