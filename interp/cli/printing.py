"""Printing: outcome, state and size of runs, and tables, as the commands show them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.config import RunConfig, recipes
from interp.errors import printable
from interp.literals import write_value

if TYPE_CHECKING:
    from interp.analysis.keys import GivenKeys
    from interp.plots import Panel
    from interp.trajectory import Trajectory

__all__ = [
    "as_csv",
    "as_table",
    "described",
    "in_words",
    "last_accuracies",
    "origin",
    "print_diagnosis",
    "print_outcome",
    "print_state",
    "size_on_disk",
    "summarise",
]


FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of what a spreadsheet takes for a formula."""


def print_state(folder: Path) -> None:
    """Print how far a run has got, before it is continued."""
    from interp.trajectory import load

    traj = load(folder)
    if traj.kind.no_continuation:
        return  # resume refuses it, with the reason
    if traj.complete and traj.problems:
        print(f"{folder} was complete and is damaged; `interp verify {folder}` says what is lost")
    elif traj.diverged is not None:
        print(f"{folder} has diverged, and would again")
    elif traj.kind.stretch:
        print(f"{folder} is a replay of {traj.run['replay']['of']}")
    elif traj.complete:
        print(f"{folder} is complete; its `interp train ...` with `--existing overwrite` trains it again")
    else:
        print(f"Continuing {folder}, stored up to step {traj.steps[-1] if len(traj.steps) else 'none'}")


def print_outcome(traj: "Trajectory") -> None:
    """Print outcome, folder, size and device of a run."""
    from interp.milestones import find
    from interp.milestones.words import describe

    print(f"Run:       {traj.folder}")
    config = None if traj.complete else traj.config.to_dict()
    metrics = traj.metrics
    print(f"Outcome:   {' '.join(describe(find((metrics, None)), metrics, config))}")
    happened = {what for _, what in traj.events}
    if traj.stopped is not None:
        print(f"Stopped:   at step {traj.stopped:,}, by an event of its config")
    for event in (str(event) for event in traj.config.events):
        if traj.complete and event not in happened:
            print(f"Event:     did not happen: {event}")
    print(f"On disk:   {size_on_disk(traj)}")
    facts = [str(traj.provenance[key]) for key in ("device_name", "device", "update") if key in traj.provenance]
    print(f"Ran on:    {', '.join(facts)}")


def print_diagnosis(traj: "Trajectory") -> None:
    """Print, of a complete run that has not generalised, the first thing that stands in the way, in one line."""
    from interp.milestones import diagnose

    if traj.complete and (found := diagnose(traj)).outcome != "generalised":
        print(printable(f"Diagnosis: {found.summary} More: interp diagnose {traj.folder}"))


def summarise(
    traj: "Trajectory",
    output: Path | None = None,
    panels: Sequence["Panel | str"] = (),
    keys: "GivenKeys | None" = None,
) -> None:
    """Write the report and print the five lines that sum a run up."""
    from interp.analysis.measures import measure
    from interp.milestones import find
    from interp.milestones.words import describe, headline
    from interp.reporting.page import report

    data = measure(traj, keys=keys, progress=True)
    path = report(traj, output, data=data, panels=panels, progress=True)
    found = find((data, traj.metrics), with_phases=False)
    numbers = {label: value for label, value, _ in headline(found, data)}
    print(f"Report:           {path.resolve().as_uri()}")
    said = describe(found, data)
    print(f"Accuracy:         {said[0] if said else 'not known'}")
    if traj.diverged is not None:
        print(f"Diverged:         at step {traj.diverged:,}; what there is lies before it")
    elif not traj.complete:
        print(f"Unfinished:       stored up to step {traj.steps[-1]:,} of {traj.config.steps:,}; all this may change")
    by = ", given" if data.attrs.get("keys") == "given" else ""
    if "Key irreps" in numbers:
        print(f"Key irreps:       {numbers['Key irreps']}{by}")
    else:
        print(f"Key frequencies:  {numbers.get('Key frequencies', 'not defined for this task')}{by}")
    if "Circularity" in numbers:
        order = f"; order of the tokens on the circle {numbers[at]}" if (at := "Order on the circle") in numbers else ""
        print(f"Circularity:      {numbers['Circularity']} over components 1 to 4{order} (1 is perfect)")
    print(f"On disk:          {size_on_disk(traj)} in {traj.folder}")


def last_accuracies(traj: "Trajectory") -> str:
    """Last logged train and test accuracies."""
    last = traj.last_metrics("train_accuracy", "test_accuracy")
    return ", ".join(f"{name.removesuffix('_accuracy')} {value:.1%}" for name, value in last.items())


def origin(traj: "Trajectory") -> str:
    """Origin of a run: an import, a branch with its changes, or the nearest recipe with its own; and the time."""
    if traj.kind.words:
        return traj.kind.words
    began = str(traj.provenance.get("started", ""))[:16].replace("T", " ")
    changes = traj.run.get("origin", {}).get("changes", [])
    words = f"{traj.config.origin}: {', '.join(changes)}" if changes else described(traj.config)
    return f"{words}; {began}"


def described(config: RunConfig) -> str:
    """Nearest recipe with the changed fields; of a user's own task or model, the classes, which no recipe has."""
    data = config.to_dict()
    kinds = [data["task"]["kind"], data["model"]["kind"]]
    if any(":" in kind for kind in kinds):
        return " with ".join(kinds)
    name, changes = recipes.nearest(config)
    begins = [] if config.origin is None else [str(config.origin)]
    return ", ".join([*begins, name, *changed(changes)])


def changed(changes: Mapping[str, Any]) -> list[str]:
    """Changed fields as `name=value`, without those of `save`, `log` and `origin`; eight at most.

    >>> changed({"optimizer.lr": 0.01, "save.state.k": 5, "task.p": 59})
    ['optimizer.lr=0.01', 'task.p=59']
    """
    untold = ("save.", "log.", "origin.")
    told = [f"{name}={write_value(value)}" for name, value in changes.items() if not name.startswith(untold)]
    return told[:8] + ([f"and {len(told) - 8} more"] if len(told) > 8 else [])


def as_table(frame: Any) -> str:
    """Data frame as text, without empty columns.

    An empty column of steps stays where the column `_after`, the steps up to which nothing had happened, is not empty.
    """
    known = {str(name) for name in frame.dropna(axis="columns", how="all").columns}
    shown = [name for name in frame.columns if name in known or str(name).replace("_step", "_after") in known]
    return frame[shown].to_string(na_rep="-", float_format="{:.6g}".format, line_width=160)


def as_csv(frame: Any, *, index: bool = True) -> str:
    """Data frame as CSV in which no text is a formula: an apostrophe stands before a text that would begin one.

    >>> import pandas
    >>> print(as_csv(pandas.DataFrame({"-x": [-1.5]}, index=["=1+1"])), end="")
    ,'-x
    '=1+1,-1.5
    """

    def inert(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell

    texts = [name for name, kind in frame.dtypes.items() if kind.kind not in "biufc"]
    safe = frame.assign(**{name: frame[name].map(inert) for name in texts}).rename(index=inert, columns=inert)
    return str(safe.to_csv(index=index))


def in_words(step: float) -> str:
    """Step with its thousands marked, or words for a step beyond the last of these runs.

    >>> in_words(11620.0), in_words(float("inf"))
    ('11,620', 'unknown, later than these runs show')
    """
    return f"{step:,.0f}" if math.isfinite(step) else "unknown, later than these runs show"


def size_on_disk(traj: "Trajectory") -> str:
    """Number of checkpoints of a run, and their size on disk."""
    return f"{len(traj.steps)} checkpoints, {traj.size_in_bytes / 1e6:,.0f} MB"
