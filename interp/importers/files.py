"""Checkpoints as plain data: state dicts by number, losses, the split and configurations, before they are interpreted.

Every file goes through `contents`, which makes tensors, numbers, text and containers of what it describes. Published
files contain a few other objects (the Grokking demo's configuration, rep-theory's modules, Lightning's namespaces), of
which the attributes are read. Values are checked where they are taken: a curve has numbers, a checkpoint's number is
one, a state dict has dense real tensors that together are not far larger than their file.

A *dump* is the content of the files before their weights are interpreted: state dicts by epoch, losses by epoch,
indices of the split, and the configuration inside or beside the files.

Scripts number epochs differently. The Grokking demo's file, full_run_data.pth and the files of Nanda et al.'s
Trainer.save_epoch (transformers.py in github.com/mechanistic-interpretability-grokking/progress-measures-paper) have
the index, from 0, of the update just made. A name with "step" in it, and the place in a list, count updates. For a
bare number in a file's name, the layout of the weights decides (`layouts`). A list without numbers has checkpoints in
their order and no steps.
"""

import hashlib
import itertools
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

from interp.errors import ConfigError, ForeignFormatError, error_line
from interp.importers.contents import load_shards
from interp.importers.logs import LARGEST_NUMBER, metric_of, read_log
from interp.importers.numbering import numbered
from interp.importers.opening import open_regular
from interp.importers.sources import STARTS, Part, Sources
from interp.importers.states import State, find_state

__all__ = ["Checkpoint", "Dump", "digest_of", "read_dump", "with_steps"]

SERIES = (
    ("checkpoints", "checkpoint_epochs", "TransformerLens's Grokking demo"),
    ("state_dicts", "epochs", "Nanda et al.'s full_run_data.pth"),
)
"""Published keys of many state dicts, of their numbers, and the scripts that number them by the update just made."""
GROUPS = ("checkpoints", "state_dicts", "models", "snapshots", "states", "history", "weights", "trajectory", "ckpts")
"""Usual keys of many state dicts."""
LABELS = (
    "checkpoint_steps", "steps", "checkpoint_epochs", "epochs", "iterations", "iters", "checkpoint_iters", "save_steps",
    "saved_steps", "saved_epochs", "step",
)  # fmt: skip
"""Usual keys of their numbers."""
COUNTERS = ("global_step", "step", "iter_num", "iteration", "iter", "n_iter", "num_updates", "updates", "n_steps")
"""Keys of the number of updates that the weights of a file have seen."""
CONFIGS = (
    "config", "cfg", "hyper_parameters", "hparams", "hyperparameters", "args", "model_args", "settings", "arguments",
    "opt", "model_config", "train_config", "params", "metadata",
)  # fmt: skip
"""Keys of configurations in a file."""
TOTALS = ("num_epochs", "epoch", "epochs", "n_epochs", "max_epochs", "num_steps", "n_steps", "max_steps", "total_steps")
"""Keys of the number of all updates in a configuration."""
DIGITS = 17
"""Digits of `LARGEST_NUMBER`, and one."""
LARGEST_CONFIGURATION = 2**20
"""Bytes of a configuration beside the checkpoints."""
LEVELS = 6
"""Levels of dicts in which settings are looked for."""


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
    has_steps: bool = True
    """Whether the numbers of the checkpoints count anything; otherwise they are places in an order."""
    beside: str = ""
    """Names of the logs that the metrics come from; empty where the files of the weights have them."""
    said: tuple[str, ...] = ()
    """Sentences about files that were chosen, left out or ignored."""


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, in hexadecimal; of equal names, the folders' names as well."""
    names = [file.name for file in files]
    whole = hashlib.sha256()
    for file in sorted(files):
        with open_regular(file) as stream:
            name = file.name if names.count(file.name) == 1 else f"{file.parent.name}/{file.name}"
            whole.update(f"{name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def read_dump(sources: Sources) -> Dump:
    """The content of the files; each of several checkpoint files is read at its first use.

    Raises:
        ForeignFormatError: a file cannot be read without running foreign code, or holds no weights.
    """
    about: dict[str, Any] = {}
    for file in sources.configurations:
        about = {**(_yaml(file) if file.suffix in (".yaml", ".yml") else _json(file)), **about}
    logs = [read_log(file, sources.counts) for file in sources.logs]
    curves = {name: dict(values) for log in reversed(logs) for name, values in log.curves.items()}
    beside = ", ".join(file.name for file, log in zip(sources.logs, logs) if log.curves)
    dump = _one_file(sources.parts[0], about) if len(sources.parts) == 1 else _many_files(sources, about)
    said = (*sources.said, *(line for log in logs for line in log.said), *dump.said)
    if curves and dump.curves:
        said = (*said, f"ignored {beside}: the losses in the files of the weights are compared instead")
    elif curves:
        dump = replace(dump, curves=curves, beside=beside)
    return replace(dump, said=said)


def with_steps(dump: Dump, steps: Sequence[int] | None) -> Dump:
    """The dump with the numbers of updates that the user knows; without them, losses that cannot be placed are left.

    Raises:
        ConfigError: there are fewer or more checkpoints than `steps`, or they do not increase.
    """
    if steps is None:
        longest = max((max(values) for values in dump.curves.values() if values), default=-1)
        if dump.has_steps or longest < len(dump.checkpoints):
            return dump
        why = "the losses were not compared: which of them belong to the checkpoints is not known (`steps` tells it)"
        return replace(dump, curves={}, said=(*dump.said, why))
    n = len(dump.checkpoints)
    if len(steps) != n:
        raise ConfigError(f"`steps` must number all {n} checkpoints, in their order; got {len(steps)} numbers.")
    if (
        any(late <= early for early, late in itertools.pairwise(steps))
        or not 0 <= steps[0] <= steps[-1] < LARGEST_NUMBER
    ):
        raise ConfigError(f"`steps` must be whole numbers >= 0 in increasing order; got {list(steps)[:8]}.")
    checkpoints = tuple(
        replace(checkpoint, epoch=step, updates=None) for checkpoint, step in zip(dump.checkpoints, steps)
    )
    return replace(dump, checkpoints=checkpoints, script="", has_steps=True)


# --- containers -------------------------------------------------------------------------------------------------------


def _many_files(sources: Sources, about: Mapping[str, Any]) -> Dump:
    parts = sources.parts
    found = [part for part in parts if part.number is not None]
    first = load_shards((found or parts)[0].files)
    said: list[str] = []
    has_steps = True
    if sources.counts == "versions":  # an order; the files may know their steps
        inner = [number for part in found if (number := _counter(load_shards(part.files))) is not None]
        if len(inner) == len(found) and all(early < late for early, late in itertools.pairwise(inner)):
            found = [replace(part, number=number) for part, number in zip(found, inner)]
            said.append("the versions are numbered by the updates that their files name")
        else:
            has_steps = False
            found = [replace(part, number=i) for i, part in enumerate(found)]
    numbers = [_number_of(part.number, "the number in a name", part.files[0]) for part in found]
    series = sorted(zip(numbers, found), key=lambda pair: pair[0])
    last = [part for part in parts if part.number is None and part.stem.lower() not in STARTS]
    ends = [load_shards(part.files) for part in parts if part.number is None and part.stem.lower() in STARTS]
    checkpoints = [Checkpoint(n, partial(_weights_of_part, part), part.name) for n, part in series]
    contents = load_shards(last[0].files) if last else {}
    curves = _curves(contents, last[0].files[0]) if isinstance(contents, dict) and last else {}
    if not curves and isinstance(first, dict) and "train_loss" in first:  # a pair of numbers in each of the files
        for n, part in series:
            one = load_shards(part.files)
            for name, values in _curves(one, part.files[0]).items() if isinstance(one, dict) else ():
                curves.setdefault(name, {})[n] = next(iter(values.values()))
    if not (last or series):
        folder, name = parts[0].files[0].parent, parts[0].name
        raise ForeignFormatError(f"{folder} must hold checkpoints beside {name}; it holds none.")
    about = {**about, **_about(first), **_about(contents)}
    if last:
        end = _end(contents, curves, about, lambda: _weights(contents, last[0].files[0]), last[0].files[0])
        if not series:
            checkpoints.append(end)
        elif has_steps and _later(end, series[-1][0]):
            checkpoints.append(end if end.updates is None else replace(end, epoch=None))
        else:
            said.append(f"left out {last[0].name}, which nothing places behind the numbered checkpoints")
    split = next((end for end in ends if isinstance(end, dict)), {})
    script: str | None = _script(first, {}) if series else _script(contents, curves)
    if series:
        lightning = isinstance(first, Mapping) and "pytorch-lightning_version" in first
        if lightning and sources.counts == "updates" and _counter(first) == series[0][0] + 1:
            script = "Lightning before 1.6, which names the update just made"
        else:
            script = "" if sources.counts in ("updates", "versions") else script or None
    return Dump(
        checkpoints=tuple(checkpoints),
        script=script,
        about=about,
        curves=curves,
        train=split.get("train_data"),
        test=split.get("test_data"),
        has_steps=has_steps,
        said=tuple(said),
    )


def _one_file(part: Part, about: Mapping[str, Any]) -> Dump:
    path, contents = part.files[0], load_shards(part.files)
    about = {**about, **_about(contents)}
    states, script, has_steps = _series(contents, path)
    plain = contents if isinstance(contents, dict) else {}
    curves = _curves(plain, path)
    ordered = sorted(states, key=lambda pair: pair[0])
    checkpoints = [Checkpoint(n, partial(_weights, state, path), part.name) for n, state in ordered]
    size = sum(file.stat().st_size for file in part.files)
    whole = plain.get("model", contents) if states else contents
    end = _end(plain, curves, about, lambda: find_state(whole, path, size), path)
    if not states:
        checkpoints, script = [end], "" if _updates(plain) is not None else _script(plain, curves)
        has_steps = end.epoch is not None or end.updates is not None
    elif "model" in plain and has_steps and _later(end, ordered[-1][0]):
        checkpoints.append(end if end.updates is None else replace(end, epoch=None))
    return Dump(
        checkpoints=tuple(checkpoints),
        script=script,
        about=about,
        curves=curves,
        train=plain.get("train_indices", plain.get("train_data")),
        test=plain.get("test_indices", plain.get("test_data")),
        has_steps=has_steps,
    )


def _series(contents: Any, path: Path) -> tuple[list[tuple[int, Any]], str, bool]:
    """Many state dicts in a content, each with its number; the script that numbers them, and whether they are steps."""
    if isinstance(contents, list | tuple) and contents:
        return _listed(contents, None, path, "")
    if not (isinstance(contents, Mapping) and contents):
        return [], "", True
    if all(_is_number(key) for key in contents):
        return _by_key(contents, path), "", True
    for group, label, whose in SERIES:
        if isinstance(contents.get(group), list) and contents[group]:
            given = contents.get(label, next((contents[key] for key in LABELS if key in contents), None))
            states, _, has_steps = _listed(contents[group], given, path, f"`{label}` must number all of `{group}`")
            return states, whose if label in contents else "", has_steps
    for group in GROUPS:
        inside = contents.get(group)
        if isinstance(inside, list | tuple) and inside and all(_holds_weights(each) for each in inside):
            given = next((contents[key] for key in LABELS if key in contents), None)
            return _listed(inside, given, path, f"the numbers must be as many as `{group}`")
        if isinstance(inside, Mapping) and inside and all(_is_number(key) for key in inside):
            return _by_key(inside, path), "", True
        if isinstance(inside, Mapping) and (named := _by_name(inside)):
            return named, "", True
    if named := _by_name(contents):
        return named, "", True
    return [], "", True


def _listed(states: Sequence[Any], given: Any, path: Path, rule: str) -> tuple[list[tuple[int, Any]], str, bool]:
    """State dicts in a list, numbered by a list beside it or by their own counters, else by their places.

    `rule` is what the numbers must do, in words.
    """
    if given is not None:
        numbers = _epochs(given, rule.split("`")[1], path)
        if len(numbers) != len(states):
            raise ForeignFormatError(f"{path}: {rule}; got {len(numbers)} numbers for {len(states)}.")
        return list(zip(numbers, states)), "", True
    inner = [_counter(state) for state in states]
    if len(set(inner)) == len(inner) and None not in inner:
        return [(number, state) for number, state in zip(inner, states) if number is not None], "", True
    return list(enumerate(states)), "", False


def _by_key(states: Mapping[Any, Any], path: Path) -> list[tuple[int, Any]]:
    return [(_number_of(key, "the number of a checkpoint", path), x) for key, x in states.items()]


def _by_name(states: Mapping[Any, Any]) -> list[tuple[int, Any]]:
    """State dicts under keys with a word and a number, such as `step_100`; none where the keys are another's."""
    if len(states) < 2 or not all(type(key) is str and _holds_weights(x) for key, x in states.items()):
        return []
    found = numbered(list(states))
    if found is None or not all(re.fullmatch(r"(\D*(step|iter|epoch|checkpoint|ckpt)\D*)?\d+", key) for key in states):
        return []
    return [(found.numbers[key], x) for key, x in states.items()]


def _holds_weights(x: Any) -> bool:
    """Whether a value may be a state dict, or a dict with one."""
    return isinstance(x, Mapping) and any(isinstance(y, Tensor | np.ndarray | Mapping) for y in x.values())


def _weights_of_part(part: Part) -> State:
    size = sum(file.stat().st_size for file in part.files)
    return find_state(load_shards(part.files), part.files[0], size)


def _weights(contents: Any, path: Path) -> State:
    return find_state(contents, path)


def _counter(contents: Any) -> int | None:
    """Number of updates or epochs that a content names as its own."""
    if not isinstance(contents, Mapping):
        return None
    updates = _updates(contents)
    epoch: Any = contents.get("epoch")
    return updates if updates is not None else int(epoch) if _is_number(epoch) else None


def _updates(contents: Mapping[Any, Any]) -> int | None:
    """Number of updates that a content names as its own."""
    found = next((contents[key] for key in COUNTERS if _is_number(contents.get(key))), None)
    return None if found is None or not 0 <= int(found) < LARGEST_NUMBER else int(found)


def _curves(contents: Mapping[Any, Any], path: Path) -> dict[str, dict[int, float]]:
    """Losses and accuracies by epoch; a curve with fewer values than the longest is spread evenly over its epochs."""
    named = {key: name for key in contents if isinstance(key, str) and (name := metric_of(key)) is not None}
    found = {key: contents[key] for key in named if contents[key] is not None}
    lists = {named[key]: _numbers(value, key, path) for key, value in found.items() if not _is_scalar(value)}
    lists = {name: values for name, values in lists.items() if values}
    longest = max(map(len, lists.values()), default=0)
    curves = {}
    for name, values in lists.items():
        least, most = math.ceil(longest / len(values)), (longest - 1) // max(len(values) - 1, 1)
        stride = max(range(least, most + 1), key=lambda k: (k % 10 == 0, -k), default=1)  # a few epochs may leave two
        curves[name] = {i * stride: value for i, value in enumerate(values)}
    updates = _updates(contents)
    epoch = contents.get("epoch") if updates is None else updates
    for key, value in found.items():
        if named[key] not in curves and _is_scalar(value) and epoch is not None:
            curves[named[key]] = {_number_of(epoch, "`epoch`", path): _numbers([value], key, path)[0]}
    return curves


def _numbers(values: Any, key: str, path: Path) -> list[float]:
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
    if isinstance(contents, Mapping) and (updates := _updates(contents)) is not None:
        return Checkpoint(updates, load, path.name)
    if isinstance(contents, Mapping) and _is_number(contents.get("epoch")):
        return Checkpoint(_number_of(contents["epoch"], "`epoch`", path), load, path.name)
    total = next((about[key] for key in TOTALS if _is_number(about.get(key))), None)
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
    """The configurations in the content of a file, and its settings that stand beside them."""
    if not isinstance(contents, Mapping):
        return {}
    about: dict[str, Any] = {}
    for key in CONFIGS:
        if isinstance(contents.get(key), Mapping):
            about = {**_settings(contents[key]), **about}
    beside = {
        key: value
        for key, value in contents.items()
        if isinstance(key, str) and _is_setting(value) and key not in about and metric_of(key) is None
    }
    return {**_settings({key: value for key, value in beside.items() if key not in (*COUNTERS, "epoch")}), **about}


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


def _yaml(path: Path) -> dict[str, Any]:
    """The scalars of a configuration in YAML, by the last name of each: no other value is looked at."""
    with open_regular(path) as stream:
        text = stream.read(LARGEST_CONFIGURATION).decode("utf-8", "replace")
    found: dict[str, Any] = {}
    for key, value in re.findall(r"^[ ]*([\w.-]+):[ ]+([^\s#{\[&!|>][^#\n]*?)[ ]*(?:#.*)?$", text, re.MULTILINE):
        found.setdefault(key, _scalar(value))
    return _settings(found)


def _scalar(text: str) -> Any:
    """A scalar of YAML."""
    words = {"null": None, "~": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


def _settings(found: Mapping[Any, Any], level: int = 0) -> dict[str, Any]:
    """A configuration of numbers, text and pairs of numbers; other values are named by their kind.

    Settings in dicts within it stand beside the others, which come first.
    """
    items = {str(key): value for key, value in found.items() if isinstance(key, str | int)}
    flat = {key: _setting(value) for key, value in items.items()}
    for value in items.values():
        if isinstance(value, Mapping) and level < LEVELS:
            flat = {**_settings(value, level + 1), **flat}
    return flat


def _is_setting(value: Any) -> bool:
    return isinstance(value, str | int | float | np.generic)


def _setting(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, Tensor | np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(part) in (int, float) for part in value):
        return tuple(value)
    return value if isinstance(value, str | int | float | None) else _kind(value)


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | np.integer) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < DIGITS
    )


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_complex()
    return isinstance(value, int | float | np.integer | np.floating)
