"""The folders of an ensemble that was killed while they were made."""

from pathlib import Path

from interp.errors import RunLockedError
from interp.store import RunReader, RunWriter
from interp.store.opening import delete_run, is_there
from interp.store.segments import read_run_json

__all__ = ["delete_if_never_begun", "never_begun"]


def never_begun(folder: Path) -> bool:
    """Whether `folder` is a member of an ensemble of which nothing is stored: no weights, no full state, no metrics.

    The folders of an ensemble are made one after the other. Where that was cut short, those that exist name others that
    do not, or that belong to another ensemble by now, so that they cannot be resumed. Nothing is lost if they are made
    anew.

    Raises:
        StoreError: a run.json cannot be read.
    """
    if not is_there(folder / "run.json"):
        return False
    ensemble = read_run_json(folder / "run.json").run.get("ensemble")
    return ensemble is not None and not any(
        _holds_something(companion, ensemble) for companion in (folder, *(folder.parent / name for name in ensemble))
    )


def delete_if_never_begun(folder: Path) -> None:
    """Delete a folder that is `never_begun`, unless another process is just making, or training, its ensemble.

    Raises:
        RunLockedError: another process is.
        StoreError: a folder cannot be read.
    """
    if not never_begun(folder):
        return
    with RunWriter.open(folder) as writer:
        companions = [folder.parent / name for name in writer.run["ensemble"] if name != folder.name]
        if any(is_there(one / "run.json") and RunReader(one).locked for one in companions):
            raise RunLockedError(f"{folder}: another process is making the runs of this ensemble; wait for it.")
        if never_begun(folder):
            delete_run(folder)


def _holds_something(folder: Path, ensemble: list[str]) -> bool:
    """Whether `folder` is a member of this ensemble and holds any file of a run, readable or not, or an outcome."""
    if not is_there(folder / "run.json"):
        return False
    run, complete, *_ = read_run_json(folder / "run.json")
    if run.get("ensemble") != ensemble:
        return False
    metrics = folder / "metrics.jsonl"
    files = any(any((folder / child).glob("*.safetensors")) for child in ("trajectory", "state"))
    return complete or "diverged" in run or files or (is_there(metrics) and metrics.stat().st_size > 0)
