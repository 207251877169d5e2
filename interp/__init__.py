"""A mechanistic interpretability toolkit for grokking.

    import interp

    config = interp.config.recipes.get("nanda").replace({"task.p": 59, "steps": 3000})
    traj = interp.train(config, progress=True)      # or interp.load("checkpoints/<run>")
    data = interp.measure(traj)                     # xarray.Dataset over step
    interp.report(traj)                             # one self-contained HTML file

Importing this package defines names and does nothing else: each is looked up when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp import (
        analysis,
        benchmarks,
        config,
        errors,
        execution,
        explanation,
        importers,
        integrations,
        literals,
        milestones,
        models,
        optim,
        papers,
        plots,
        recording,
        reporting,
        rng,
        store,
        tasks,
        theory,
        training,
        trajectory,
    )
    from interp.analysis.definitions import Measure
    from interp.analysis.measures import measure
    from interp.config import RunConfig, events, recipes
    from interp.errors import InterpError
    from interp.execution.sweeps import sweep
    from interp.explanation import explain
    from interp.importers import import_checkpoints
    from interp.milestones import comparison
    from interp.milestones.comparison import compare
    from interp.milestones.diagnosis import diagnose
    from interp.recording.recorder import record
    from interp.reporting.page import report
    from interp.reporting.publishing import export
    from interp.training.api import branch, replay, resume, train, train_many
    from interp.training.observers import Observer
    from interp.trajectory import Trajectory, load

__all__ = [
    "InterpError",
    "Measure",
    "Observer",
    "RunConfig",
    "Trajectory",
    "analysis",
    "benchmarks",
    "branch",
    "compare",
    "comparison",
    "config",
    "diagnose",
    "errors",
    "events",
    "execution",
    "explain",
    "explanation",
    "export",
    "import_checkpoints",
    "importers",
    "integrations",
    "literals",
    "load",
    "measure",
    "milestones",
    "models",
    "optim",
    "papers",
    "plots",
    "recipes",
    "record",
    "recording",
    "replay",
    "report",
    "reporting",
    "resume",
    "rng",
    "store",
    "sweep",
    "tasks",
    "theory",
    "train",
    "train_many",
    "training",
    "trajectory",
]

_HOMES = {
    "InterpError": "interp.errors",
    "Measure": "interp.analysis.definitions",
    "Observer": "interp.training.observers",
    "RunConfig": "interp.config",
    "Trajectory": "interp.trajectory",
    "branch": "interp.training.api",
    "compare": "interp.milestones.comparison",
    "diagnose": "interp.milestones.diagnosis",
    "explain": "interp.explanation.explaining",
    "export": "interp.reporting.publishing",
    "import_checkpoints": "interp.importers",
    "load": "interp.trajectory",
    "measure": "interp.analysis.measures",
    "record": "interp.recording.recorder",
    "replay": "interp.training.api",
    "report": "interp.reporting.page",
    "resume": "interp.training.api",
    "sweep": "interp.execution.sweeps",
    "train": "interp.training.api",
    "train_many": "interp.training.api",
}
"""Module of each public function and class."""
_MODULES = {
    **{
        name: f"interp.{name}"
        for name in (
            "analysis",
            "benchmarks",
            "config",
            "errors",
            "execution",
            "explanation",
            "importers",
            "integrations",
            "literals",
            "milestones",
            "models",
            "optim",
            "papers",
            "plots",
            "recording",
            "reporting",
            "rng",
            "store",
            "tasks",
            "theory",
            "training",
            "trajectory",
        )
    },
    "comparison": "interp.milestones.comparison",
    "events": "interp.config.events",
    "recipes": "interp.config.recipes",
}
"""Public subpackages, and three modules that have a short name of their own."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
