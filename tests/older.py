"""Runs as older versions of the package wrote them."""

from unittest import mock

from interp.store import RunReader
from interp.store.opening import publish
from interp.store.segments import SealedFile, commit_arrays, run_json


@mock.patch("interp.store.segments.VERSION", "1")
def as_format_1_0(folder, *, holdings=None, run=None, complete=None):
    """Rewrite a run in format 1.0, and return it: no file names its run, no full state says what it follows."""
    reader = RunReader(folder)
    previous = ""
    for path in [*sorted((folder / "trajectory").glob("*.safetensors")), *sorted((folder / "state").glob("*"))]:
        file = SealedFile(path)
        data = file.map()
        arrays = {name: file.view(data, name).copy() for name in file.spec}
        extra = {name: file.fields[name] for name in ("steps", "metadata") if name in file.fields}
        if not file.is_state:
            extra["previous"] = previous
        path.unlink()
        seal = commit_arrays(path, arrays, len(file.steps), extra, fsync=False)
        previous = f"{path.name}:{seal}"
    text = run_json(
        run or reader.run, complete=reader.complete if complete is None else complete, identity="", holdings=holdings
    )
    publish(folder / "run.json", [text], fsync=False, replace=True)
    return folder
