"""REPRODUCTIONS.md: every claim with its expected and measured number, and a small picture of every figure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from interp.config.recipes import RECIPES
from interp.errors import InvalidArgumentError
from interp.milestones import curve
from interp.papers.kit.curves import GENERALISED, HOLD, MEMORISED, sustained
from interp.papers.kit.figure import Verdict
from interp.papers.kit.running import Reproduction
from interp.plots.images import write_pictures
from interp.trajectory import Trajectory

__all__ = ["counts", "draw", "finished_recipes", "table"]

MARKS = {"held": "✓ held", "did not hold": "✗ did not hold", "not testable here": "– not testable here"}


def finished_recipes(root: str | Path = "checkpoints") -> dict[str, Trajectory]:
    """Recipes whose runs under `root` are complete, by name."""
    folders = {name: Path(root) / recipe.config.run_id for name, recipe in RECIPES.items()}
    trajs = {name: Trajectory(folder) for name, folder in folders.items() if (folder / "run.json").exists()}
    return {name: traj for name, traj in trajs.items() if traj.complete}


def table(
    found: Sequence[Reproduction], pictures: str | None = None, recipes: Mapping[str, Trajectory] | None = None
) -> str:
    """Reproductions as Markdown, followed by the runs of `recipes`; `pictures` is the folder that `draw` wrote.

    Raises:
        InvalidArgumentError: there is nothing to show.
    """
    if not found:
        raise InvalidArgumentError("`found` must hold at least one reproduction; run `interp reproduce K4` first.")
    lines = [
        "# Reproductions",
        "",
        "Written by `interp reproduce --table` from real runs; `interp reproduce LABEL` redoes a row. A claim was",
        "written down before its runs and is reported as it came out. Of several seeds the median is judged (of two,",
        "their mean), unless the claim says otherwise.",
        "",
        f"In all: {counts([verdict for one in found for verdict in one.verdicts])}.",
        "",
    ]
    for paper, of_paper in groupby(found, key=lambda one: one.figure.paper):
        lines += [f"## {paper}", ""]
        for one in of_paper:
            lines += _section(one, pictures)
    if recipes:
        lines += _recipes(recipes)
    return "\n".join(lines).rstrip() + "\n"


def counts(verdicts: Sequence[Verdict]) -> str:
    """Numbers of claims that held, did not hold and cannot be tested, in words.

    Example:
        >>> counts([Verdict(text="", expected="", measured=1.0, verdict="held")])
        '1 claim: 1 held'
    """
    by_verdict = Counter[str](verdict.verdict for verdict in verdicts)
    parts = [f"{by_verdict[name]} {name}" for name in MARKS if by_verdict[name]]
    return f"{len(verdicts)} claim{'s' if len(verdicts) != 1 else ''}: {', '.join(parts)}"


def draw(found: Sequence[Reproduction], folder: Path) -> dict[str, Path]:
    """Pictures of the figures, named by their labels, of at most 60 kB (`interp.plots.images.write_pictures`).

    Raises:
        NotAvailableError: kaleido is not installed (the extra `images`), or a picture is too large.
    """
    drawable = [one for one in found if (one.folder / "results.json").exists()]  # not those whose runs failed
    figures = {one.figure.label: one.figure.picture(one.data) for one in drawable}
    for fig in figures.values():
        fig.update_layout(title=None, margin={"t": 40})
    return write_pictures(figures, folder)


def _section(one: Reproduction, pictures: str | None) -> list[str]:
    seeds = one.about["seeds"]
    how = f"preset {one.preset}, {seeds} seed{'s' if seeds != 1 else ''}" if one.runs else f"preset {one.preset}"
    lines = [f"### {one.figure.label} · {one.figure.title}", ""]
    if pictures is not None and (picture := _picture(one, pictures)):
        lines += [f"![{one.figure.label}]({pictures}/{picture})", ""]
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


def _recipes(trajs: Mapping[str, Trajectory]) -> list[str]:
    rows = []
    for name, traj in trajs.items():
        train, test = curve(traj, "train_accuracy"), curve(traj, "test_accuracy")
        passed = [sustained(*train, MEMORISED), sustained(*test, GENERALISED)]
        cells = ["–" if math.isnan(step) else f"{step:,.0f}" for step in passed]
        ends = f"{train[1][-1]:.2f}, {test[1][-1]:.2f}"
        rows.append(f"| {name} | {RECIPES[name].summary} | {' | '.join(cells)} | {ends} | {traj.config.steps:,} |")
    return [
        "## Recipes, run to their last step",
        "",
        "`interp train RECIPE` redoes a row. Steps from which an accuracy is reached and held for "
        f"{HOLD} more evaluations.",
        "",
        f"| recipe | what its source describes | train accuracy {MEMORISED:.0%} | test accuracy {GENERALISED:.0%} | "
        "at the end: train, test | steps |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Not run to the end here: {', '.join(name for name in RECIPES if name not in trajs) or 'none'}.",
        "",
    ]


def _picture(one: Reproduction, pictures: str) -> str | None:
    names = (f"{one.figure.label}.{ending}" for ending in ("svg", "png"))
    return next((name for name in names if (Path(pictures) / name).exists()), None)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
