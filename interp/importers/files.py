"""Files of checkpoints as plain data: tensors, numbers and text, without running the code that wrote them.

Every file goes through torch's restricted unpickler (`weights_only=True`), which rebuilds tensors and containers and
refuses everything else. Published files contain a few other objects (the Grokking demo's configuration, rep-theory's
modules): an inert class stands in for a few class names, keeps the attributes in the file, and runs no code.

A *dump* is the content of the files before their weights are interpreted: state dicts by epoch, losses by epoch,
indices of the split, and the configuration inside or beside the files.

Scripts number epochs differently. The Grokking demo's file, full_run_data.pth and the files of Nanda et al.'s
Trainer.save_epoch (transformers.py in github.com/mechanistic-interpretability-grokking/progress-measures-paper) have
the index, from 0, of the update just made. A name with "step" in it, and the place in a list, count updates. For a
bare number in a file's name, the layout of the weights decides (`layouts`).
"""

import csv
import hashlib
import json
import math
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import ForeignFormatError

__all__ = ["Checkpoint", "Dump", "digest_of", "read_dump", "source_files"]

STAND_INS = ("HookedTransformerConfig", "Config", "OneLayerMLP", "HookPoint", "ReLU")
"""Names of foreign classes that an inert class replaces."""
SUFFIXES = (".pt", ".pth", ".pkl")
"""Suffixes of files with weights."""
CURVES = {
    "train_losses": "train_loss",
    "test_losses": "test_loss",
    "train_accs": "train_accuracy",
    "test_accs": "test_accuracy",
    "train_loss": "train_loss",
    "test_loss": "test_loss",
    "val_loss": "test_loss",
    "train_acc": "train_accuracy",
    "test_acc": "test_accuracy",
    "val_acc": "test_accuracy",
}
"""Names of metrics in this package, by foreign name."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Weights and their number in the file."""

    epoch: int | None
    """Number in the file; None for weights without a number."""
    load: Callable[[], State]
    file: str
    """Name of the file."""
    updates: int | None = None
    """Updates of weights without a number, where known: the end of training."""


@dataclass(frozen=True)
class Dump:
    """Content of files before their weights are interpreted."""

    checkpoints: tuple[Checkpoint, ...]
    """Checkpoints by increasing epoch."""
    script: str | None
    """Script whose `epoch` is the index, from 0, of the update just made; empty where epochs count updates. None: files
    named by a number alone, which does not decide."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """The configuration inside or beside the files."""
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Metrics by epoch, under this package's names."""
    train: Sequence[Any] | None = None
    """Numbers a p + b of the training pairs, or the pairs themselves."""
    test: Sequence[Any] | None = None


class Inert:
    """Inert stand-in for a foreign class: keeps an object's attributes and runs no code."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __new__(cls, *_: object) -> "Inert":  # accepts any arguments in the file
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __setstate__(self, state: object) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


def source_files(path: Path) -> list[Path]:
    """The files that an import of `path` reads, including configurations and metrics beside the checkpoints.

    Raises:
        ForeignFormatError: the path does not exist, or the folder has no checkpoint.
    """
    if path.is_file():
        stem = re.sub(r"^model_", "config_", path.stem)
        beside = [path.with_name(f"{stem}.json")] if stem != path.stem else []
        beside += [path.with_name(name) for name in ("cfg.json", "config.json")]
        return [path, *[other for other in beside if other.is_file()][:1]]
    if not path.is_dir():
        raise ForeignFormatError(f"`path` must be a file or a folder of checkpoints; there is no {path}.")
    folders = [path, *(path / name for name in ("models", "checkpoints") if (path / name).is_dir())]
    weights = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES]
    named = [file for file in weights if _number(file) is not None or file.stem in ("model", "final", "init")]
    if not named:
        inside = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise ForeignFormatError(
            f"`path` must be a file, or a folder of files whose names hold one number each, such as 300.pt; "
            f"{path} holds {inside}."
        )
    beside = [folder / name for folder in (path, path.parent) for name in ("cfg.json", "config.json", "metrics.csv")]
    return named + [file for file in beside if file.is_file()]


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, in hexadecimal."""
    whole = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            whole.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def read_dump(files: Sequence[Path]) -> Dump:
    """The content of the files; each of several checkpoint files is read at its first use.

    Raises:
        ForeignFormatError: a file cannot be read without running foreign code, or holds no weights.
    """
    weights = [file for file in files if file.suffix not in (".json", ".csv")]
    about = {key: value for file in files if file.suffix == ".json" for key, value in _json(file).items()}
    numbered = sorted((n, file) for file in weights if (n := _number(file)) is not None)
    if len(weights) == 1:
        return _one_file(weights[0], about)

    first = load_plain((numbered or [(0, weights[0])])[0][1])
    last = [file for file in weights if file.stem in ("final", "model")]
    ends = [load_plain(file) for file in weights if file.stem == "init"]
    checkpoints = [Checkpoint(n, partial(_weights_of_file, file), file.name) for n, file in numbered]
    contents = load_plain(last[0]) if last else {}
    curves = _curves(contents) if isinstance(contents, dict) else {}
    for file in files:
        if file.suffix == ".csv":
            curves |= _table(file)
    if not curves and isinstance(first, dict) and "train_loss" in first:  # a pair of numbers in each of the files
        for n, file in numbered:
            for name, values in _curves(load_plain(file)).items():
                curves.setdefault(name, {})[n] = next(iter(values.values()))
    if last:
        end = _end(contents, curves, about, lambda: _weights(contents, last[0]), last[0])
        if not numbered:
            checkpoints.append(end)
        elif _later(end, numbered[-1][0]):
            checkpoints.append(end if end.updates is None else replace(end, epoch=None))
    split = next((end for end in ends if isinstance(end, dict)), {})
    script: str | None = _script(first, {}) if numbered else _script(contents, curves)
    if numbered:
        script = "" if "step" in numbered[0][1].stem else script or None
    return Dump(
        checkpoints=tuple(checkpoints),
        script=script,
        about=about | _about(first) | _about(contents),
        curves=curves,
        train=split.get("train_data"),
        test=split.get("test_data"),
    )


def load_plain(path: Path) -> Any:
    """The content of a torch file, with inert stand-ins for the few classes that published files hold.

    Raises:
        ForeignFormatError: rebuilding it would run code that is not torch's, or it is no torch file.
    """
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # for any kind of file; `torch.load` below reports the fault
        unknown = []
    allowed: list[Any] = [(Inert, name) for name in unknown if name.rpartition(".")[2] in STAND_INS]
    for value in (np.float64(0), np.zeros(0)):  # constructors of numbers and arrays, under the names of numpy 1 and 2
        part: Any = value.__reduce__()[0]
        allowed += [(part, f"numpy.{core}.multiarray.{part.__name__}") for core in ("core", "_core")]
    allowed += [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocols of old files
            return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        known = {f"{part.__module__}.{part.__name__}" for part in allowed if isinstance(part, type)}
        known |= {part[1] for part in allowed if isinstance(part, tuple)}
        if refused := sorted(set(unknown) - known):
            raise ForeignFormatError(
                f"{path} holds objects of {', '.join(refused)}, and rebuilding them would run foreign code. Save plain "
                "data where that code is installed: torch.save(model.state_dict(), PATH)."
            ) from None
        raise ForeignFormatError(f"{path} is no torch file that can be read safely; {_line(error)}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise ForeignFormatError(f"{path} is no torch file, or is cut short ({_line(error)}).") from None


# --- containers -------------------------------------------------------------------------------------------------------


def _one_file(path: Path, about: Mapping[str, Any]) -> Dump:
    contents = load_plain(path)
    about = {**about, **_about(contents)}
    states = list[tuple[int, Any]]()
    script = ""
    if isinstance(contents, list) and contents:
        states = list(enumerate(contents))
    elif isinstance(contents, dict) and contents:
        if all(_is_number(key) for key in contents):
            states = [(int(key), value) for key, value in contents.items()]
        for group, label, whose in (
            ("checkpoints", "checkpoint_epochs", "TransformerLens's Grokking demo"),
            ("state_dicts", "epochs", "Nanda et al.'s full_run_data.pth"),
        ):
            if isinstance(contents.get(group), list) and contents[group]:
                epochs = [int(epoch) for epoch in contents.get(label, range(len(contents[group])))]
                if len(epochs) != len(contents[group]):
                    raise ForeignFormatError(
                        f"{path}: `{label}` must number all of `{group}`; got {len(epochs)} numbers "
                        f"for {len(contents[group])}."
                    )
                states, script = list(zip(epochs, contents[group])), whose if label in contents else ""
    plain = contents if isinstance(contents, dict) else {}
    curves = _curves(plain)
    ordered = sorted(states, key=lambda pair: pair[0])
    checkpoints = [Checkpoint(n, partial(_weights, state, path), path.name) for n, state in ordered]
    end = _end(plain, curves, about, lambda: _weights(plain.get("model", contents) if states else contents, path), path)
    if not states:
        checkpoints, script = [end], _script(plain, curves)
    elif "model" in plain and _later(end, ordered[-1][0]):
        checkpoints.append(end if end.updates is None else replace(end, epoch=None))
    return Dump(
        checkpoints=tuple(checkpoints),
        script=script,
        about=about,
        curves=curves,
        train=plain.get("train_indices", plain.get("train_data")),
        test=plain.get("test_indices", plain.get("test_data")),
    )


def _weights_of_file(path: Path) -> State:
    return _weights(load_plain(path), path)


def _weights(contents: Any, path: Path) -> State:
    """The state dict in the content of a file."""
    if isinstance(contents, Mapping):
        for key in ("model", "state_dict", "model_state_dict"):
            if isinstance(contents.get(key), Mapping):
                return _weights(contents[key], path)
        if isinstance(contents.get("_parameters"), Mapping):  # the parameters of a whole module
            contents = contents["_parameters"]
        if contents and all(isinstance(value, Tensor) for value in contents.values()):
            return {str(name): value.detach() for name, value in contents.items()}
        found = f"the keys {', '.join(map(str, list(contents)[:8]))}"
    else:
        found = f"a {type(contents).__name__}"
    raise ForeignFormatError(
        f"{path} must hold a state dict, a list or dict of them, or a dict with `model` or `checkpoints`; got {found}."
    )


def _curves(contents: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Losses and accuracies by epoch; a curve with fewer values than the longest is spread evenly over its epochs."""
    lists = {CURVES[key]: list(x) for key, x in contents.items() if key in CURVES and not _is_scalar(x) and len(x)}
    longest = max(map(len, lists.values()), default=0)
    curves = {}
    for name, values in lists.items():
        least, most = math.ceil(longest / len(values)), (longest - 1) // max(len(values) - 1, 1)
        stride = max(range(least, most + 1), key=lambda k: (k % 10 == 0, -k), default=1)  # a few epochs may leave two
        curves[name] = {i * stride: float(value) for i, value in enumerate(values)}
    epoch = contents.get("epoch")
    for key, value in contents.items():
        if key in CURVES and CURVES[key] not in curves and _is_scalar(value) and epoch is not None:
            curves[CURVES[key]] = {int(epoch): float(value)}
    return curves


def _table(path: Path) -> dict[str, dict[int, float]]:
    """The columns of a metrics.csv; accuracies are in percent if any exceeds 1. A torn last line is left out."""
    curves: dict[str, dict[int, float]] = {}
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            try:
                numbers = {key: float(value) for key, value in row.items() if key in CURVES or key == "epoch"}
                epoch = int(numbers.pop("epoch"))
            except (TypeError, ValueError, KeyError):
                continue
            for key, value in numbers.items():
                name = CURVES[key]
                curves.setdefault(name, {})[epoch] = value
    accuracies = [column for name, column in curves.items() if name.endswith("accuracy")]
    if any(value > 1 for column in accuracies for value in column.values()):
        for column in accuracies:
            column.update({epoch: value / 100 for epoch, value in column.items()})
    return curves


def _end(
    contents: Any,
    curves: Mapping[str, Mapping[int, float]],
    about: Mapping[str, Any],
    load: Callable[[], State],
    path: Path,
) -> Checkpoint:
    """The weights without a number of their own: after the last loss, at the file's `epoch`, or after all epochs."""
    if _history(curves):
        last = max(max(values) for values in curves.values())
        return Checkpoint(last, load, path.name, last + 1)
    if isinstance(contents, Mapping) and _is_number(contents.get("epoch")):
        return Checkpoint(int(contents["epoch"]), load, path.name)
    total = next((about[key] for key in ("num_epochs", "epoch", "epochs") if _is_number(about.get(key))), None)
    return Checkpoint(None, load, path.name, None if total is None else int(total))


def _later(end: Checkpoint, last: int) -> bool:
    """Whether the weights without a number come after the `last` numbered checkpoint."""
    epoch = end.updates - 1 if end.epoch is None and end.updates is not None else end.epoch
    return epoch is not None and epoch > last


def _script(contents: Any, curves: Mapping[str, Mapping[int, float]]) -> str:
    """Script of a file whose number of weights is the index of the update just made; empty for all others."""
    if isinstance(contents, Mapping) and {"model", "train_loss", "test_loss", "epoch"} <= contents.keys():
        return "progress-measures-paper's Trainer.save_epoch"
    return "a loop that logs one loss before each update" if _history(curves) else ""


def _history(curves: Mapping[str, Mapping[int, float]]) -> bool:
    """Whether the losses cover many epochs, not just the weights beside them."""
    return any(len(values) > 1 for values in curves.values())


def _about(contents: Any) -> dict[str, Any]:
    """The configuration in the content of a file."""
    found = contents.get("config", contents.get("cfg")) if isinstance(contents, Mapping) else None
    return {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ForeignFormatError(f"{path}, which lies beside the checkpoints, must be JSON; {_line(error)}") from None
    return found if isinstance(found, dict) else {}


def _plain(value: Any) -> Any:
    """The value with dicts of attributes in place of stand-ins."""
    if isinstance(value, Inert):
        return {key: _plain(item) for key, item in value.attributes.items()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _number(path: Path) -> int | None:
    """The number in a file's name: 300 for epoch_300.pt, None for model_18c9ev5v5p.pt, which has several."""
    match = re.fullmatch(r"\D*?(\d+)", path.stem)
    return int(match[1]) if match else None


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | np.integer) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.isdigit()
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | np.number) or (isinstance(value, Tensor) and value.ndim == 0)


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
