"""Reproducing figures: train what is missing, compute, judge every claim, and keep what came out.

What is kept lies beside the runs, in `<root>/reproductions/<preset>/<label>/`: the labelled results (`results.json`),
where they come from and the verdicts (`verdicts.json`) and the picture (`figure.html`). A run that is there already is
not trained again, and a figure whose runs have not changed is not computed again; its results are judged anew. Of runs
that failed nothing is kept.
"""

import importlib
import json
import math
import os
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
from interp.papers.figures import PRESETS, Figure, Preset, Verdict

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Reproduction", "figures", "reproduce", "stored"]

PAPERS = ("kitouni", "hu", "ahmed", "beck", "landmarks")
"""Modules of this family that hold figures, in the order of the tables."""


@cache
def figures() -> Mapping[str, Figure]:
    """Every figure by label.

    Example:
        >>> figures()["K4"].paper[:7]
        'Kitouni'
    """
    modules = [importlib.import_module(f"interp.papers.{name}") for name in PAPERS]
    return {figure.label: figure for module in modules for figure in module.FIGURES}


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A figure as it came out of its runs."""

    figure: Figure
    preset: Preset
    verdicts: tuple[Verdict, ...]
    runs: tuple[str, ...]
    """run_ids, in the order of the figure's configs."""
    about: Mapping[str, Any]
    """`seeds` (how many), `seconds` (of this call: training and computing), `machine`."""
    folder: Path

    @property
    def data(self) -> "xr.Dataset":
        """The labelled results that were plotted and judged."""
        import xarray

        return xarray.Dataset.from_dict(_read(self.folder / "results.json"))


def reproduce(
    label: str,
    *,
    preset: Preset = "laptop",
    root: str | Path = "checkpoints",
    workers: int | None = None,
    again: bool = False,
    progress: bool = False,
) -> Reproduction:
    """Regenerate a figure and judge its claims.

    Arguments:
        label: of the figure: "K1", "H2", ... (`figures()`).
        preset: "toy" (seconds), "laptop" (two cores, minutes) or "paper" (the published sizes).
        root: folder that holds runs; complete ones are used, partial ones are gone on with.
        workers: processes; None: one for each CPU core.
        again: compute again, also where nothing has changed.
        progress: show a bar over the runs.

    Raises:
        UnknownNameError: there is no such figure; the message suggests one.
        InvalidArgumentError: there is no such preset.
    """
    if label not in figures():
        raise UnknownNameError(f"There is no figure `{label}`. {did_you_mean(label, figures())}")
    if preset not in PRESETS:
        raise InvalidArgumentError(f"`preset` must be one of {', '.join(PRESETS)}; got {preset!r}.")
    figure, root = figures()[label], Path(root)
    folder = root / "reproductions" / preset / label
    kept = None if again else _kept(figure, preset, folder)
    if kept is not None:
        return kept
    configs = list(figure.runs(preset))
    runs = tuple(config.run_id for config in configs)
    began = time.monotonic()
    outcome = train_all(configs, root=root, workers=workers, together=figure.together, progress=progress)
    if outcome.failures:
        reason = "; ".join(f"{name}: {why}" for name, why in outcome.failures.items())
        verdicts = tuple(_undecided(claim.text, claim.expected, reason) for claim in figure.claims)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        data = figure.compute([traj for traj in outcome.trajectories if traj is not None], preset)
        verdicts = tuple(claim.judge(data) for claim in figure.claims)
        _write(folder / "results.json", data.to_dict())
        figure.plot(data).write_html(folder / "figure.html", include_plotlyjs=True)
    about = {
        "seeds": _seeds(configs),
        "seconds": round(time.monotonic() - began, 1),
        "machine": f"{os.cpu_count()} CPU cores, {platform.system()}, Python {platform.python_version()}",
    }
    found = {"runs": runs, "verdicts": [asdict(verdict) for verdict in verdicts], "about": about}
    if not outcome.failures:
        _write(folder / "verdicts.json", found)
    return Reproduction(figure=figure, preset=preset, verdicts=verdicts, runs=runs, about=about, folder=folder)


def stored(root: str | Path = "checkpoints", preset: Preset | None = None) -> list[Reproduction]:
    """What has been reproduced so far under `root`, in the order of the figures; of several presets the largest."""
    found = []
    for label, figure in figures().items():
        for size in reversed(PRESETS) if preset is None else (preset,):
            kept = _kept(figure, size, Path(root) / "reproductions" / size / label)
            if kept is not None:
                found.append(kept)
                break
    return found


def _kept(figure: Figure, preset: Preset, folder: Path) -> Reproduction | None:
    """What an earlier call left of the same runs, judged by the claims as they are; None where it does not hold what
    they need."""
    if not all((folder / name).exists() for name in ("verdicts.json", "results.json")):
        return None
    found = _read(folder / "verdicts.json")
    configs = list(figure.runs(preset))
    runs = tuple(config.run_id for config in configs)
    if tuple(found["runs"]) != runs:
        return None
    about = {**found["about"], "seeds": _seeds(configs)}
    kept = Reproduction(figure=figure, preset=preset, verdicts=(), runs=runs, about=about, folder=folder)
    data = kept.data
    try:
        return replace(kept, verdicts=tuple(claim.judge(data) for claim in figure.claims))
    except KeyError:
        return None


def _seeds(configs: Sequence[RunConfig]) -> int:
    """How many seeds: of weights and draws, and of splits or points."""
    return max(len({config.seed for config in configs}), len({config.task.seed for config in configs}))


def _undecided(text: str, expected: str, reason: str) -> Verdict:
    return Verdict(text=text, expected=expected, measured=math.nan, verdict="not testable here", reason=reason)


def _write(path: Path, content: Any) -> None:
    """JSON as Python writes and reads it (NaN and Infinity included), whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, default=lambda value: value.item()), encoding="utf-8")
    part.replace(path)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
