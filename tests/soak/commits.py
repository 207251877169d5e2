"""A small run written to the store, without torch: what it holds, and whether what was promised of it is there."""

import json
from pathlib import Path

import numpy as np

from interp.store import RunReader, RunWriter
from tests.soak.faults import Fault, failing

__all__ = ["check_promises", "commit_everything", "contents", "killed"]

STEPS, STATES = 7, (2, 4, 6)


def weights(step: int) -> dict[str, np.ndarray]:
    """Arrays that are a pure function of the step."""
    draw = np.random.default_rng(step)
    return {"w": draw.standard_normal((4, 3), np.float32), "b": draw.standard_normal(2)}


def commit_everything(folder: Path, promised: dict[str, int], begun: bool = False) -> None:
    """Write a small run as the trainer does, or go on with it; `promised` learns what is acknowledged."""
    run = {"p": 59}
    with RunWriter.open(folder, segment_steps=2) if begun else RunWriter.create(folder, run, segment_steps=2) as writer:
        states = RunReader(folder).state_steps
        first = max(states, default=0)
        writer.truncate_after(first)
        for step in range(first, STEPS):
            writer.append(step, weights(step))
            writer.log({"step": step, "loss": 1 / (1 + step)})
            if step in STATES:
                writer.save_state(step, weights(step), {"at": str(step)}, keep_last=1)
                promised["state"] = step
            if step == 3:
                writer.replace_run({**run, "events": [[3, "an event"]]})
                promised["event"] = 3
            if step == 5:
                last = writer.commit()
                assert last is not None
                promised["weights"], promised["metrics"] = last, step
        writer.finish()
        promised["complete"] = 1


def contents(folder: Path) -> dict[str, object]:
    """All that a run holds."""
    reader = RunReader(folder)
    return {
        "run": reader.run,
        "complete": reader.complete,
        "weights": {name: reader.read(name, slice(None)).tobytes() for name in reader.names},
        "steps": reader.steps.tolist(),
        "metrics": {name: column.tolist() for name, column in reader.metrics.items()},
        "states": {
            step: {name: array.tobytes() for name, array in reader.read_state(step)[0].items()}
            for step in reader.state_steps
        },
    }


def check_promises(folder: Path, promised: dict[str, int]) -> None:
    """Demand that all that was acknowledged is there, and that all that is there is right."""
    if not (folder / "run.json").exists():
        assert not promised
        return
    reader = RunReader(folder)
    assert reader.verify().errors == ()
    assert reader.steps.tolist() == list(range(len(reader.steps)))
    for at, step in enumerate(reader.steps.tolist()):
        assert all(np.array_equal(reader.read(name, at), array) for name, array in weights(step).items())
    for step in reader.state_steps:
        arrays, metadata = reader.read_state(step)
        assert metadata == {"at": str(step)}
        assert all(np.array_equal(arrays[name], array) for name, array in weights(step).items())
    least = max(promised.get("weights", -1), promised.get("state", -1))
    assert len(reader.steps) > least
    assert len(reader.metrics["step"]) > max(promised.get("metrics", -1), promised.get("state", -1))
    assert max(reader.state_steps, default=-1) >= promised.get("state", -1)
    assert ("event" not in promised) or reader.run["events"] == [[3, "an event"]]
    assert reader.complete or "complete" not in promised


def killed(folder: str, promises: str, nth: int, after: bool) -> None:
    """Work of a child: commit everything, and be killed."""

    class Noted(dict):
        def __setitem__(self, kind: str, step: int) -> None:
            super().__setitem__(kind, step)
            Path(promises).write_text(json.dumps(self), encoding="utf-8")

    with failing(Path(folder).parent, Fault(nth, None, after)):
        commit_everything(Path(folder), Noted())
