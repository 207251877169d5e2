"""A mechanistic interpretability toolkit for grokking.

    import interp

    config = interp.recipes.get("nanda").replace({"task.p": 59, "steps": 3000})
    traj = interp.train(config, progress=True)      # or interp.load("checkpoints/<run>")
    data = interp.measure(traj)                     # xarray.Dataset over step
    interp.report(traj)                             # one self-contained HTML file

Importing this package defines names and does nothing else: each is looked up when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp import analysis, comparison, events, models, plots, recipes, tasks, theory
    from interp.analysis.measures import measure
    from interp.comparison import compare
    from interp.config import RunConfig
    from interp.errors import InterpError
    from interp.foreign import import_checkpoints
    from interp.reporting import report
    from interp.sweeps import sweep
    from interp.training import replay, resume, train, train_many
    from interp.trajectory import Trajectory, load

__all__ = [
    "InterpError",
    "RunConfig",
    "Trajectory",
    "analysis",
    "compare",
    "comparison",
    "events",
    "import_checkpoints",
    "load",
    "measure",
    "models",
    "plots",
    "recipes",
    "replay",
    "report",
    "resume",
    "sweep",
    "tasks",
    "theory",
    "train",
    "train_many",
]

_HOMES = {
    "InterpError": "interp.errors",
    "RunConfig": "interp.config",
    "Trajectory": "interp.trajectory",
    "compare": "interp.comparison",
    "import_checkpoints": "interp.foreign",
    "load": "interp.trajectory",
    "measure": "interp.analysis.measures",
    "replay": "interp.training",
    "report": "interp.reporting",
    "resume": "interp.training",
    "sweep": "interp.sweeps",
    "train": "interp.training",
    "train_many": "interp.training",
}
_FAMILIES = ("analysis", "comparison", "events", "models", "plots", "recipes", "tasks", "theory")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _FAMILIES:
        value = importlib.import_module(f"interp.{name}")
    else:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
