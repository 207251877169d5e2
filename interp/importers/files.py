"""Files of checkpoints as plain data: tensors, numbers and text, without running the code that wrote them.

Every file goes through `unpickling`, which makes tensors, numbers, text and containers of what it describes. Published
files contain a few other objects (the Grokking demo's configuration, rep-theory's modules), of which the attributes are
read. Values are checked where they are taken: a curve has numbers, a checkpoint's number is one, a state dict has dense
real tensors that together are not far larger than their file.

A *dump* is the content of the files before their weights are interpreted: state dicts by epoch, losses by epoch,
indices of the split, and the configuration inside or beside the files.

Scripts number epochs differently. The Grokking demo's file, full_run_data.pth and the files of Nanda et al.'s
Trainer.save_epoch (transformers.py in github.com/mechanistic-interpretability-grokking/progress-measures-paper) have
the index, from 0, of the update just made. A name with "step" in it, and the place in a list, count updates. For a
bare number in a file's name, the layout of the weights decides (`layouts`).
"""

import csv
import hashlib
import io
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from interp.errors import ForeignFormatError, error_line
from interp.importers.opening import open_regular
from interp.importers.unpickling import load_plain

__all__ = ["Checkpoint", "Dump", "digest_of", "read_dump", "source_files"]

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

LARGEST_NUMBER = 2**53
"""Bound on the number of a checkpoint or a loss."""
DIGITS = 17
"""Digits of `LARGEST_NUMBER`, and one."""
LARGEST_CONFIGURATION = 2**20
"""Bytes of a configuration beside the checkpoints."""
EXPANSION = 4
"""Largest ratio of a state dict's bytes to its file's: tied weights are few, views of one storage can be many."""

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
        if path.exists():
            open_regular(path).close()  # says what it is
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
        with open_regular(file) as stream:
            whole.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def read_dump(files: Sequence[Path]) -> Dump:
    """The content of the files; each of several checkpoint files is read at its first use.

    Raises:
        ForeignFormatError: a file cannot be read without running foreign code, or holds no weights.
    """
    weights = [file for file in files if file.suffix not in (".json", ".csv")]
    about = {key: value for file in files if file.suffix == ".json" for key, value in _json(file).items()}
    if len(weights) == 1:
        return _one_file(weights[0], about)

    numbers = [(n, file) for file in weights if (n := _number(file)) is not None]
    numbered = sorted((_number_of(n, "the number in a name", file), file) for n, file in numbers)
    first = load_plain((numbered or [(0, weights[0])])[0][1])
    last = [file for file in weights if file.stem in ("final", "model")]
    ends = [load_plain(file) for file in weights if file.stem == "init"]
    checkpoints = [Checkpoint(n, partial(_weights_of_file, file), file.name) for n, file in numbered]
    contents = load_plain(last[0]) if last else {}
    curves = _curves(contents, last[0]) if isinstance(contents, dict) and last else {}
    for file in files:
        if file.suffix == ".csv":
            curves |= _table(file)
    if not curves and isinstance(first, dict) and "train_loss" in first:  # a pair of numbers in each of the files
        for n, file in numbered:
            contents_of_one = load_plain(file)
            for name, values in _curves(contents_of_one, file).items() if isinstance(contents_of_one, dict) else ():
                curves.setdefault(name, {})[n] = next(iter(values.values()))
    if not (last or numbered):
        raise ForeignFormatError(f"{weights[0].parent} must hold checkpoints beside {weights[0].name}; it holds none.")
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
            states = [(_number_of(key, "the number of a checkpoint", path), x) for key, x in contents.items()]
        for group, label, whose in (
            ("checkpoints", "checkpoint_epochs", "TransformerLens's Grokking demo"),
            ("state_dicts", "epochs", "Nanda et al.'s full_run_data.pth"),
        ):
            if isinstance(contents.get(group), list) and contents[group]:
                epochs = _epochs(contents.get(label, range(len(contents[group]))), label, path)
                if len(epochs) != len(contents[group]):
                    raise ForeignFormatError(
                        f"{path}: `{label}` must number all of `{group}`; got {len(epochs)} numbers "
                        f"for {len(contents[group])}."
                    )
                states, script = list(zip(epochs, contents[group])), whose if label in contents else ""
    plain = contents if isinstance(contents, dict) else {}
    curves = _curves(plain, path)
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
        if contents and all(type(name) is str and isinstance(x, Tensor) for name, x in contents.items()):
            return _checked(contents, path)
        found = f"the keys {', '.join(map(str, list(contents)[:8]))}"
    else:
        found = f"a {type(contents).__name__}"
    raise ForeignFormatError(
        f"{path} must hold a state dict, a list or dict of them, or a dict with `model` or `checkpoints`; got {found}."
    )


def _checked(state: State, path: Path) -> State:
    """A state dict whose tensors are weights: of real numbers, with elements, and not far larger than the file."""
    for name, x in state.items():
        if x.is_complex() or not x.numel():
            rule = "have at least one element" if not x.numel() else "be real: its imaginary parts would be lost"
            raise ForeignFormatError(f"{path}: `{name}` must {rule}; got {str(x.dtype)[6:]} of shape {tuple(x.shape)}.")
    most = EXPANSION * path.stat().st_size
    if (size := sum(x.numel() * x.itemsize for x in state.values())) > most:
        raise ForeignFormatError(
            f"{path}: the tensors of a state dict must have at most {EXPANSION} times the bytes of the file, {most}; "
            f"got {size}, by views of shared storages."
        )
    return {name: x.detach() for name, x in state.items()}


def _curves(contents: Mapping[Any, Any], path: Path) -> dict[str, dict[int, float]]:
    """Losses and accuracies by epoch; a curve with fewer values than the longest is spread evenly over its epochs."""
    found = {key: value for key, value in contents.items() if key in CURVES and value is not None}
    lists = {CURVES[key]: _series(value, key, path) for key, value in found.items() if not _is_scalar(value)}
    lists = {name: values for name, values in lists.items() if values}
    longest = max(map(len, lists.values()), default=0)
    curves = {}
    for name, values in lists.items():
        least, most = math.ceil(longest / len(values)), (longest - 1) // max(len(values) - 1, 1)
        stride = max(range(least, most + 1), key=lambda k: (k % 10 == 0, -k), default=1)  # a few epochs may leave two
        curves[name] = {i * stride: value for i, value in enumerate(values)}
    epoch = contents.get("epoch")
    for key, value in found.items():
        if CURVES[key] not in curves and _is_scalar(value) and epoch is not None:
            curves[CURVES[key]] = {_number_of(epoch, "`epoch`", path): _series([value], key, path)[0]}
    return curves


def _series(values: Any, key: str, path: Path) -> list[float]:
    """The numbers of a curve."""
    if isinstance(values, Tensor | np.ndarray) and values.ndim == 1:
        values = values.tolist()
    try:
        if isinstance(values, list | tuple) and all(_is_scalar(value) for value in values):
            return [float(value) for value in values]
    except (OverflowError, RuntimeError):  # whole numbers have no bound, and tensors may have no value
        pass
    raise ForeignFormatError(f"{path}: `{key}` must be a list of real numbers; got {_kind(values)}.")


def _epochs(values: Any, key: str, path: Path) -> list[int]:
    """The numbers of several checkpoints."""
    if isinstance(values, Tensor | np.ndarray) and values.ndim == 1:
        values = values.tolist()
    if not isinstance(values, list | tuple | range):
        raise ForeignFormatError(f"{path}: `{key}` must be a list of whole numbers; got {_kind(values)}.")
    return [_number_of(value, f"an entry of `{key}`", path) for value in values]


def _number_of(value: Any, what: str, path: Path) -> int:
    """The number of a checkpoint or a loss: an epoch, or a count of updates."""
    try:
        number = int(value) if isinstance(value, str) and _is_number(value) else operator.index(value)
    except (TypeError, RuntimeError):  # the latter for a tensor with several elements
        number = -1
    if not 0 <= number < LARGEST_NUMBER:
        raise ForeignFormatError(f"{path}: {what} must be a whole number, 0 .. 2^53 - 1; got {_kind(value)}.")
    return number


def _kind(value: Any) -> str:
    """A value of any kind in a few words."""
    if isinstance(value, str | int | float | complex | np.generic):
        return repr(value)[:40]
    if isinstance(value, Tensor | np.ndarray):
        return f"an array of {value.dtype} and shape {tuple(value.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _table(path: Path) -> dict[str, dict[int, float]]:
    """The columns of a metrics.csv; accuracies are in percent if any exceeds 1. A torn last line is left out."""
    curves: dict[str, dict[int, float]] = {}
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream)
            header = next(rows, [])
            names = {i: CURVES[name] for i, name in enumerate(header) if name in CURVES}
            at = header.index("epoch") if "epoch" in header else len(header)
            for row in rows:
                try:
                    epoch = int(row[at])
                    numbers = {name: float(row[i]) for i, name in names.items()}
                except (ValueError, IndexError):
                    continue
                for name, value in numbers.items():
                    curves.setdefault(name, {})[_number_of(epoch, "`epoch`", path)] = value
    except (OSError, ValueError, csv.Error) as error:
        raise ForeignFormatError(f"{path} must be a table in UTF-8 with commas; {error_line(error)[:200]}.") from None
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
        return Checkpoint(_number_of(contents["epoch"], "`epoch`", path), load, path.name)
    total = next((about[key] for key in ("num_epochs", "epoch", "epochs") if _is_number(about.get(key))), None)
    updates = None if total is None else _number_of(total, "the number of epochs", path)
    return Checkpoint(None, load, path.name, updates)


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
    return _settings(found) if isinstance(found, Mapping) else {}


def _json(path: Path) -> dict[str, Any]:
    with open_regular(path) as stream:
        text = stream.read(LARGEST_CONFIGURATION + 1)
    try:
        if len(text) > LARGEST_CONFIGURATION:
            raise ValueError(f"it is larger than {LARGEST_CONFIGURATION} bytes")
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = error_line(error)[:200]
        raise ForeignFormatError(f"{path}, which lies beside the checkpoints, must be JSON; {line}.") from None
    return _settings(found) if isinstance(found, dict) else {}


def _settings(found: Mapping[Any, Any]) -> dict[str, Any]:
    """A configuration of numbers, text and pairs of numbers; other values are named by their kind."""
    return {str(key): _setting(value) for key, value in found.items() if isinstance(key, str | int)}


def _setting(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, Tensor | np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(part) in (int, float) for part in value):
        return tuple(value)
    return value if isinstance(value, str | int | float | None) else _kind(value)


def _number(path: Path) -> int | None:
    """The number in a file's name: 300 for epoch_300.pt, None for model_18c9ev5v5p.pt, which has several."""
    match = re.fullmatch(r"\D*?(\d+)", path.stem)
    return int(match[1]) if match else None


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | np.integer) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < DIGITS
    )


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_complex()
    return isinstance(value, int | float | np.integer | np.floating)
