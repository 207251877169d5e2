"""Export of a run for others: a folder as model hubs expect it, or TransformerLens state dicts.

A hub folder is a run folder and more: weights, metrics and measured values are the run's own files byte for byte, which
`safetensors` reads without this package, and `interp.load` opens the folder like any other run. Beside them lie the
weights of the last step under the names that hubs look for, the config, a card, a table of measures, the report, and
the digests of all files. Nothing is sent anywhere: the upload is the user's.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import xarray as xr

from interp.errors import InvalidArgumentError, NotAvailableError, StoreError
from interp.milestones import Milestones, find
from interp.milestones.words import describe, headline
from interp.reporting.page import report
from interp.store.opening import inside, naming, write_file
from interp.trajectory import Trajectory, as_trajectory

if TYPE_CHECKING:
    from interp.analysis.keys import GivenKeys

__all__ = ["export"]

OWN_FILES = ("run.json", "metrics.jsonl")
OWN_FOLDERS = ("trajectory", "state", "measures")
"""Parts of a run folder that are exported; replays and files of the user's own are not."""
LIBRARY = "grokking-interp"
TAGS = ("mechanistic-interpretability", "grokking", "training-dynamics")


def export(
    traj: Trajectory | str | Path,
    folder: str | Path,
    *,
    format: Literal["hub", "lens"] = "hub",
    license: str | None = None,
    keys: "GivenKeys | None" = None,
    progress: bool = False,
) -> Path:
    """Write a run as a folder for others, and return its path. No network is used.

    Arguments:
        traj: a run, or its folder; no other process may be writing to it.
        folder: folder to write, which must not exist or be empty; it appears whole or not at all.
        format: "hub" is a folder for a model hub: `model.safetensors` (the last step) and `config.json`, the card
            `README.md`, all checkpoints, metrics and full states as the run stores them, `measures/`, `measures.csv`
            (measures over step only), `report.html`, and `SHA256SUMS` for `sha256sum -c`. `interp.load` opens it: its
            weights are the run's, bit for bit. "lens" has a HookedTransformer state dict per step,
            `step_00000100.safetensors`, and `config.json` with the arguments of a TransformerLens config.
        license: identifier of a license for the card, such as "mit" or "cc-by-4.0"; None leaves it out.
        keys: key frequencies or irreps to measure with (see `interp.measure`).
        progress: show a bar while measuring.

    Raises:
        InvalidArgumentError: `format` is neither, or `license` is no identifier.
        NotAvailableError: the run has no checkpoint; "lens": TransformerLens has no such model.
        StoreError: the folder exists and is not empty, the run is damaged or being written to, or a file cannot be
            written.

    Example:
        >>> import interp, tempfile
        >>> config = interp.recipes.get("kitouni-circle-small").replace({"task.p": 5, "steps": 2})
        >>> traj = interp.train(config, root=tempfile.mkdtemp())
        >>> folder = export(traj, Path(tempfile.mkdtemp()) / "published", license="mit")
        >>> interp.load(folder).fingerprints() == traj.fingerprints()
        True
        >>> sorted(path.name for path in folder.iterdir() if path.suffix in (".md", ".json", ".safetensors"))
        ['README.md', 'config.json', 'model.safetensors', 'run.json']
    """
    traj, target = as_trajectory(traj), Path(folder)
    if format not in ("hub", "lens"):
        raise InvalidArgumentError(f"`format` must be hub or lens; got {format!r}.")
    if license is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise InvalidArgumentError(f"`license` must be an identifier such as mit or cc-by-4.0; got {license!r}.")
    if not len(traj.steps):
        raise NotAvailableError(f"{traj.folder.name} has no checkpoint, so there is nothing to export.")
    with naming(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f"`folder` must not exist, or be empty; {target} holds something already.")
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            if format == "hub":
                _write_hub(traj, unfinished, license=license, keys=keys, progress=progress)
            else:
                _write_lens(traj, unfinished)
            _write_digests(unfinished)
            os.chmod(unfinished, 0o777 & ~_umask())
            unfinished.replace(target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return target


def _write_hub(
    traj: Trajectory, folder: Path, *, license: str | None, keys: "GivenKeys | None", progress: bool
) -> None:
    from interp.analysis.measures import measure

    data = measure(traj, keys=keys, progress=progress)
    _copy_run(traj, folder)
    copied = Trajectory(folder)
    if copied.fingerprints() != traj.fingerprints() or copied.problems:
        raise StoreError(f"{traj.folder} changed while it was copied; export it again when nothing writes to it.")
    step = int(traj.steps[-1])
    state = {name: value.contiguous() for name, value in traj.state(step).items()}
    safetensors.torch.save_file(state, str(folder / "model.safetensors"), {"format": "pt", "step": str(step)})
    architecture = {"model_type": LIBRARY, "architectures": [type(traj.network).__name__], "step": step}
    _write_json(folder / "config.json", {**architecture, **traj.config.to_dict()})
    over_step = data[[str(name) for name in data.data_vars if data[name].dims == ("step",)]]
    write_file(folder / "measures.csv", over_step.to_dataframe().to_csv())
    report(traj, folder / "report.html", data=data)
    found = find((data, traj.metrics), with_phases=False)
    write_file(folder / "README.md", _card(traj, data, found, license))
    write_file(folder / ".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n")


def _copy_run(traj: Trajectory, folder: Path) -> None:
    """Copy the run's own files; links are refused, and files of unfinished writes left out."""
    for name in OWN_FILES:
        source = inside(traj.folder, name)
        if source.exists():
            shutil.copyfile(source, folder / name)
    for part in OWN_FOLDERS:
        source = inside(traj.folder, part)
        for file in sorted(source.glob("[!.]*.safetensors")) if source.is_dir() else []:
            (folder / part).mkdir(exist_ok=True)
            shutil.copyfile(inside(traj.folder, part, file.name), folder / part / file.name)


def _write_lens(traj: Trajectory, folder: Path) -> None:
    from interp.models.lens import to_state_dict

    settings = traj.model().lens_settings()
    _write_json(folder / "config.json", settings)
    for step in traj.steps.tolist():
        state = {name: value.contiguous() for name, value in to_state_dict(traj.model(step)).items()}
        safetensors.torch.save_file(state, str(folder / f"step_{step:08d}.safetensors"), {"step": str(step)})


def _write_digests(folder: Path) -> None:
    """SHA-256 of every file, as `sha256sum -c SHA256SUMS` checks it."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder)}\n")
    write_file(folder / "SHA256SUMS", "".join(lines))


def _card(traj: Trajectory, data: xr.Dataset, found: Milestones, license: str | None) -> str:
    """Card of the run: metadata as YAML, what was trained, how it went, and how to read the files."""
    config = traj.config
    slug = f"{config.task.slug}, {config.model.slug}"
    accuracies = [
        {"type": "accuracy", "name": f"{who} accuracy", "value": round(passage.last, 6)}
        for who, passage in found.accuracies.items()
    ]
    about: dict[str, Any] = {
        **({} if license is None else {"license": license}),
        "library_name": LIBRARY,
        "tags": list(TAGS),
    }
    if accuracies:
        dataset = {"name": config.task.slug, "type": "synthetic"}
        result = {"task": {"type": "other", "name": config.task.slug}, "dataset": dataset, "metrics": accuracies}
        about["model-index"] = [{"name": traj.folder.name, "results": [result]}]
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in about.items())  # JSON is YAML
    told = describe(found, data, None if traj.complete else config.to_dict())
    rows = "\n".join(
        f"| {_cell(label)} | {_cell(value)} | {_cell(note)} |" for label, value, note in headline(found, data)
    )
    first, last = int(traj.steps[0]), int(traj.steps[-1])
    own = json.dumps(config.to_dict(), indent=2)
    return f"""---
{front}
---

# {_cell(traj.folder.name)}

A training run of {_cell(slug)}: {len(traj.steps):,} checkpoints, steps {first:,} to {last:,}.
{" ".join(map(_cell, told))}

| at the last step | | |
| --- | --- | --- |
{rows}

## Files

| file | content |
| --- | --- |
| `model.safetensors`, `config.json` | weights of the last step by name, and the config of the run |
| `trajectory/*.safetensors` | all checkpoints: each array is `[step, ...]`, the metadata has the steps |
| `state/*.safetensors` | full states from which training can be continued |
| `metrics.jsonl`, `run.json` | logged losses and accuracies, and the run's description |
| `measures.csv`, `measures/` | measures over step as a table, and all measures as arrays |
| `report.html` | curves, spectra and circles by step, in one file |
| `SHA256SUMS` | digests: `sha256sum -c SHA256SUMS` |

## Reading it

```python
import interp                                   # pip install {LIBRARY}

traj = interp.load("FOLDER")                    # every checkpoint, lazily
model, data = traj.model(), interp.measure(traj)
```

or without it: `safetensors.torch.load_file("model.safetensors")`.

## Config

```json
{own}
```
"""


def _cell(text: str) -> str:
    """Text that is no markup of Markdown or HTML, in one line."""
    return re.sub(r"([\\|<>`\[\]*])", r"\\\1", " ".join(text.split()))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(value, indent=2) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
