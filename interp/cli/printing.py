"""What the commands print about runs."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.trajectory import Trajectory

__all__ = ["as_table", "in_words", "print_outcome", "print_state", "size_on_disk", "summarise"]


def print_state(folder: Path) -> None:
    """How far a run is, before it goes on."""
    from interp.trajectory import load

    traj = load(folder)
    if "import" in traj.run:
        return  # to be refused by whoever is asked to go on with it
    if traj.complete:
        print(f"{folder} is complete; `interp train RECIPE --existing overwrite` trains it again")
    else:
        print(f"Continuing {folder}, stored up to step {traj.steps[-1] if len(traj.steps) else 'none'}")


def print_outcome(traj: "Trajectory") -> None:
    """What came of a run, where it is and what it ran on."""
    from interp.summary import describe

    print(f"Run:       {traj.folder}")
    print(f"Outcome:   {' '.join(describe(traj.metrics, config=traj.config.to_dict()))}")
    print(f"On disk:   {size_on_disk(traj)}")
    facts = [str(traj.provenance[key]) for key in ("device_name", "device", "update") if key in traj.provenance]
    print(f"Ran on:    {', '.join(facts)}")


def summarise(traj: "Trajectory", output: Path | None = None) -> None:
    """Write the report and print the five lines that sum a run up."""
    from interp.analysis.measures import measure
    from interp.reporting import report
    from interp.summary import describe, headline

    data = measure(traj, progress=True)
    path = report(traj, output, data=data)
    numbers = {label: value for label, value, _ in headline(data, traj.metrics)}
    print(f"Report:           {path.resolve().as_uri()}")
    print(f"Accuracy:         {describe(traj.metrics)[0]}")
    print(f"Key frequencies:  {numbers.get('Key frequencies', 'not defined for this task')}")
    print(
        f"Circularity:      {numbers['Circularity']} over components 1 to 4; order of the tokens on the circle "
        f"{numbers['Order on the circle']} (1 is perfect)"
    )
    print(f"On disk:          {size_on_disk(traj)} in {traj.folder}")


def as_table(frame: Any) -> str:
    """A data frame as text, without the columns that nothing is known of."""
    return frame.dropna(axis="columns", how="all").to_string(na_rep="-", float_format="{:.6g}".format, line_width=160)


def in_words(step: float) -> str:
    """A step with its thousands marked, or that it lies beyond the ends of the runs.

    >>> in_words(11620.0), in_words(float("inf"))
    ('11,620', 'unknown, later than these runs show')
    """
    return f"{step:,.0f}" if math.isfinite(step) else "unknown, later than these runs show"


def size_on_disk(traj: "Trajectory") -> str:
    """How many checkpoints a run has, in how many bytes."""
    return f"{len(traj.steps)} checkpoints, {traj.size_in_bytes / 1e6:,.0f} MB"
