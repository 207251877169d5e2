"""Kind of a run: who made its weights, and so what of it is planned, stored with it, and can be computed again.

A run that this package trained follows its schedule and its config; of any other, run.json says which it is by one
entry: `import`, `record` or `replay`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Kind", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """Declarations of who made a run; whoever depends on it asks these."""

    name: Literal["trained", "replayed", "imported", "recorded"]
    words: str = ""
    """Origin in lists of runs; empty where the config says more: its recipe."""
    stretch: tuple[int, int, int] | None = None
    """First and last step and distance of a replay's checkpoints; None for a whole run."""
    plans_steps: bool = True
    """Whether it is known at which steps weights, metrics and full states must be stored."""
    seeded: bool = True
    """Whether `seed` decided its draws."""
    stored_task: Mapping[str, Any] | None = None
    """Split of an imported run, or examples of a recorded one, as run.json holds them; None: the config gives them."""
    counts: str = "steps"
    """Meaning of its steps: "checkpoints" where files did not say how many updates they had seen."""
    no_continuation: str = ""
    """Reason why no step can be computed again by this package; empty where one can."""


def kind_of(run: Mapping[str, Any]) -> Kind:
    """Kind of the run that a run.json describes.

    >>> kind_of({"config": {}}).name, kind_of({"import": {"format": "account"}}).words
    ('trained', 'imported, account')
    """
    if "import" in run:
        return Kind(
            "imported",
            f"imported, {run['import'].get('format', 'in a format that it does not name')}",
            plans_steps=False,
            seeded=False,
            stored_task=run["import"].get("split"),
            counts=run["import"].get("counts", "steps"),
            no_continuation="was imported: its weights are known, the state of the optimiser is not, so no step of it "
            "can be computed again. `interp train` trains a run of its own.",
        )
    if "files" in run.get("record", {}):
        files = run["record"]["files"]
        return Kind(
            "recorded",
            f"imported, {files.get('format', 'in a format that it does not name')}",
            plans_steps=False,
            seeded=False,
            stored_task=run["record"].get("task"),
            counts=files.get("counts", "steps"),
            no_continuation="was imported into a network of the user's own: the state of the optimiser is not known, "
            "so no step of it can be computed again.",
        )
    if "record" in run:
        ended = run["record"].get("interrupted")
        return Kind(
            "recorded",
            f"recorded, interrupted at step {ended['step']} ({ended['by']})" if ended else "recorded",
            plans_steps=False,
            seeded=False,
            stored_task=run["record"].get("task"),
            no_continuation="was recorded: its training loop is not this package's. That loop goes on with "
            '`interp.record(..., existing="resume")`.',
        )
    if "replay" in run:
        part = run["replay"]
        return Kind("replayed", stretch=(part["start"], part["stop"], part["every"]))
    return Kind("trained")
