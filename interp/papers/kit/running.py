"""Reproducing a figure: train missing runs, compute the results, judge every claim, and store all of it.

A reproduction is stored beside the runs, in `<root>/reproductions/<preset>/<label>/`: labelled results in
`results.json`, run ids and verdicts in `verdicts.json`, the picture in `figure.html`. Complete runs are not trained
again, and a figure whose runs have not changed is not computed again; its stored results are judged anew. If a run
fails, nothing is stored.
"""

import importlib
import json
import math
import os
import pkgutil
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.config import RunConfig
from interp.errors import InvalidArgumentError, UnknownNameError, did_you_mean
from interp.execution.sweeps import train_all
from interp.papers.kit.figure import PRESETS, Figure, Preset, Verdict
from interp.store.opening import write_file

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PAPERS", "Reproduction", "figures", "figures_of", "reproduce", "stored"]

PAPERS = ("kitouni", "hu", "ahmed", "beck", "nanda", "zhong")
"""Papers in the order of the tables; each is a package of `interp.papers`."""


@cache
def figures() -> Mapping[str, Figure]:
    """Every figure by label.

    Example:
        >>> figures()["K4"].paper[:7]
        'Kitouni'
    """
    return {figure.label: figure for paper in PAPERS for figure in figures_of(paper)}


def figures_of(paper: str) -> tuple[Figure, ...]:
    """Figures of one of the `PAPERS`: the `FIGURE` of every module `fig<number>`, by number.

    Example:
        >>> [figure.label for figure in figures_of("nanda")]
        ['N1']
    """
    package = importlib.import_module(f"interp.papers.{paper}")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    numbers = sorted(int(name.removeprefix("fig")) for name in names if name.startswith("fig"))
    return tuple(importlib.import_module(f"{package.__name__}.fig{number}").FIGURE for number in numbers)


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A figure with the results and verdicts of its runs."""

    figure: Figure
    preset: Preset
    verdicts: tuple[Verdict, ...]
    runs: tuple[str, ...]
    """Run ids, in the order of the figure's configs."""
    about: Mapping[str, Any]
    """`seeds` (their number), `seconds` (training and computing in this call), `machine`."""
    folder: Path

    @property
    def data(self) -> "xr.Dataset":
        """Labelled results that were drawn and judged."""
        import xarray

        return xarray.Dataset.from_dict(_read(self.folder / "results.json"))


def reproduce(
    figure: str | Figure,
    *,
    preset: Preset = "laptop",
    root: str | Path = "checkpoints",
    workers: int | None = None,
    again: bool = False,
    progress: bool = False,
) -> Reproduction:
    """Regenerate a figure and judge its claims.

    Arguments:
        figure: label of a figure, "K1", "H2", ... (`figures()`), or a `Figure` of your own.
        preset: "toy" (seconds), "laptop" (two cores, minutes) or "paper" (the published sizes).
        root: folder that holds runs; complete ones are used, partial ones are resumed.
        workers: number of processes; None: one for each CPU core.
        again: compute the results again, even if nothing has changed.
        progress: show a progress bar over the runs.

    Raises:
        UnknownNameError: there is no figure with this label; the message suggests one.
        InvalidArgumentError: there is no such preset, or your figure has the label of another one.
    """
    figure, root = _found(figure), Path(root)
    if preset not in PRESETS:
        raise InvalidArgumentError(f"`preset` must be one of {', '.join(PRESETS)}; got {preset!r}.")
    folder = root / "reproductions" / preset / figure.label
    earlier = None if again else _stored(figure, preset, folder)
    if earlier is not None:
        return earlier
    configs = list(figure.runs(preset))
    runs = tuple(config.run_id for config in configs)
    start = time.monotonic()
    outcome = train_all(configs, root=root, workers=workers, together=figure.ensemble_size, progress=progress)
    if outcome.failures:
        reason = "; ".join(f"{name}: {why}" for name, why in outcome.failures.items())
        verdicts = tuple(_undecided(claim.text, claim.expected, reason) for claim in figure.claims)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        data = figure.results([traj for traj in outcome.trajectories if traj is not None], preset)
        verdicts = tuple(claim.judge(data) for claim in figure.claims)
        _write(folder / "results.json", data.to_dict())
        write_file(folder / "figure.html", figure.picture(data).to_html(include_plotlyjs=True))
    about = {
        "seeds": _seeds(configs),
        "seconds": round(time.monotonic() - start, 1),
        "machine": f"{os.cpu_count()} CPU cores, {platform.system()}, Python {platform.python_version()}",
    }
    if not outcome.failures:
        content = {"runs": runs, "verdicts": [asdict(verdict) for verdict in verdicts], "about": about}
        _write(folder / "verdicts.json", content)
    return Reproduction(figure=figure, preset=preset, verdicts=verdicts, runs=runs, about=about, folder=folder)


def stored(root: str | Path = "checkpoints", preset: Preset | None = None) -> list[Reproduction]:
    """Reproductions stored under `root`, in the order of the figures; the largest preset of each, or `preset`."""
    found = []
    for label, figure in figures().items():
        for size in reversed(PRESETS) if preset is None else (preset,):
            earlier = _stored(figure, size, Path(root) / "reproductions" / size / label)
            if earlier is not None:
                found.append(earlier)
                break
    return found


def _found(figure: str | Figure) -> Figure:
    """The figure with a label, or a figure whose label is not taken."""
    if isinstance(figure, str):
        if figure not in figures():
            raise UnknownNameError(f"There is no figure `{figure}`. {did_you_mean(figure, figures())}")
        return figures()[figure]
    if figures().get(figure.label, figure) is not figure:
        raise InvalidArgumentError(
            f"`figure.label` must not be the label of another figure; got {figure.label!r}, which is "
            f"{figures()[figure.label].title!r}. Choose another label."
        )
    return figure


def _stored(figure: Figure, preset: Preset, folder: Path) -> Reproduction | None:
    """Stored results of the figure's runs, judged by its present claims; None where they are missing, come from other
    runs or lack a variable that a claim needs."""
    if not all((folder / name).exists() for name in ("verdicts.json", "results.json")):
        return None
    content = _read(folder / "verdicts.json")
    configs = list(figure.runs(preset))
    runs = tuple(config.run_id for config in configs)
    if tuple(content["runs"]) != runs:
        return None
    about = {**content["about"], "seeds": _seeds(configs)}
    found = Reproduction(figure=figure, preset=preset, verdicts=(), runs=runs, about=about, folder=folder)
    data = found.data
    try:
        return replace(found, verdicts=tuple(claim.judge(data) for claim in figure.claims))
    except KeyError:
        return None


def _seeds(configs: Sequence[RunConfig]) -> int:
    """Number of seeds: of weights and draws, or of splits or points, whichever is larger."""
    return max(len({config.seed for config in configs}), len({config.task.seed for config in configs}))


def _undecided(text: str, expected: str, reason: str) -> Verdict:
    return Verdict(text=text, expected=expected, measured=math.nan, verdict="not testable here", reason=reason)


def _write(path: Path, content: Any) -> None:
    """Write JSON as Python reads it (NaN and Infinity included)."""
    write_file(path, json.dumps(content, default=lambda value: value.item()))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
