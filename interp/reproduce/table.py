"""REPRODUCTIONS.md: every claim with what was expected and measured, and a small picture of every figure."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from interp.errors import InvalidArgumentError, NotAvailableError
from interp.reproduce.figures import Verdict
from interp.reproduce.running import Reproduction

__all__ = ["counts", "draw", "table"]

MARKS = {"held": "✓ held", "did not hold": "✗ did not hold", "not testable here": "– not testable here"}
LARGEST = 60_000
"""Bytes of a picture."""


def table(found: Sequence[Reproduction], pictures: str | None = None) -> str:
    """The reproductions as Markdown; `pictures` is where those of `draw` lie, seen from the file.

    Raises:
        InvalidArgumentError: there is nothing to show.
    """
    if not found:
        raise InvalidArgumentError("`found` must hold at least one reproduction; run `interp reproduce K4` first.")
    lines = [
        "# Reproductions",
        "",
        "Written by `interp reproduce --table` from real runs; `interp reproduce LABEL` redoes a row. A claim was",
        "written down before its runs and is reported as it came out. Of several seeds the median is judged, unless",
        "the claim says otherwise.",
        "",
        f"In all: {counts([verdict for one in found for verdict in one.verdicts])}.",
        "",
    ]
    for paper, of_paper in groupby(found, key=lambda one: one.figure.paper):
        lines += [f"## {paper}", ""]
        for one in of_paper:
            lines += _section(one, pictures)
    return "\n".join(lines).rstrip() + "\n"


def counts(verdicts: Sequence[Verdict]) -> str:
    """How many claims held, did not, and cannot be tested, in words.

    Example:
        >>> counts([Verdict(text="", expected="", measured=1.0, verdict="held")])
        '1 claim: 1 held'
    """
    by_verdict = Counter[str](verdict.verdict for verdict in verdicts)
    parts = [f"{by_verdict[name]} {name}" for name in MARKS if by_verdict[name]]
    return f"{len(verdicts)} claim{'s' if len(verdicts) != 1 else ''}: {', '.join(parts)}"


def draw(one: Reproduction, folder: Path) -> Path:
    """The figure as `<label>.svg`, or as PNG where that is smaller than an SVG of more than 60 kB.

    Raises:
        NotAvailableError: kaleido is not installed (the extra `images`), or the picture is too large as a PNG too.
    """
    fig = one.figure.plot(one.data)
    fig.update_layout(title=None, margin={"t": 40})
    folder.mkdir(parents=True, exist_ok=True)
    for ending, scale in (("svg", 1.0), ("png", 1.0), ("png", 0.75), ("png", 0.5), ("png", 0.35)):
        path = folder / f"{one.figure.label}.{ending}"
        try:
            fig.write_image(path, width=fig.layout.width or 760, height=fig.layout.height or 420, scale=scale)
        except (ValueError, RuntimeError) as error:  # plotly says how to install kaleido, kaleido how to get a browser
            raise NotAvailableError(
                f"Pictures need kaleido and a Chromium: pip install 'interp[images]'. ({error})"
            ) from error
        if path.stat().st_size <= LARGEST:
            return path
        path.unlink()
    raise NotAvailableError(f"The picture of {one.figure.label} is larger than {LARGEST:,} bytes.")


def _section(one: Reproduction, pictures: str | None) -> list[str]:
    seeds = one.about["seeds"]
    how = f"preset {one.preset}, {seeds} seed{'s' if seeds != 1 else ''}" if one.runs else f"preset {one.preset}"
    lines = [f"### {one.figure.label} · {one.figure.title}", ""]
    if pictures is not None:
        lines += [f"![{one.figure.label}]({pictures}/{_picture(one, pictures)})", ""]
    lines += [
        "| claim | expected | measured | verdict |",
        "| --- | --- | --- | --- |",
        *(
            f"| {_cell(v.text)} | {v.expected} | {_number(v.measured)} | {MARKS[v.verdict]}"
            f"{f' ({_cell(v.reason)})' if v.reason else ''} |"
            for v in one.verdicts
        ),
        "",
        f"`interp reproduce {one.figure.label} --preset {one.preset}`: {how}, {len(one.runs)} "
        f"run{'s' if len(one.runs) != 1 else ''}; {one.about['machine']}.",
        "",
    ]
    if one.figure.notes:
        lines += [one.figure.notes, ""]
    return lines


def _picture(one: Reproduction, pictures: str) -> str:
    for ending in ("svg", "png"):
        if (Path(pictures) / f"{one.figure.label}.{ending}").exists():
            return f"{one.figure.label}.{ending}"
    raise NotAvailableError(f"There is no picture of {one.figure.label} in {pictures}; `draw` makes it.")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
