"""Logs beside checkpoints: losses and accuracies by step, from tables and JSON.

A column is a metric where its name has a side and a kind and nothing else: `train_loss`, `val/acc`, `eval_loss`. A loss
without a side is left out, since trainers log means over many steps under that name (the `loss` of Hugging Face's
trainer_state.json).
"""

import csv
import io
import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import ForeignFormatError, error_line
from interp.importers.numbering import Counts
from interp.importers.opening import open_regular

__all__ = ["LARGEST_NUMBER", "Log", "metric_of", "read_log"]

Curves = dict[str, dict[int, float]]

LARGEST_NUMBER = 2**53
"""Bound on the number of a checkpoint or a loss."""
LARGEST_LOG = 2**26
"""Bytes of a log in JSON."""
SIDES = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("test", "val", "valid", "validation", "eval", "evaluation", "dev", "tst"), "test"),
}
KINDS = {
    **dict.fromkeys(("loss", "losses", "nll", "ce", "xent"), "loss"),
    **dict.fromkeys(("acc", "accs", "accuracy", "accuracies"), "accuracy"),
}
SILENT = ("epoch", "step", "mean", "full", "all", "logs", "metrics")
"""Words in the name of a metric that do not make it another."""
STEPS = (
    "step", "steps", "global_step", "_step", "iteration", "iterations", "iter", "update", "updates",
    "trainer/global_step",
)  # fmt: skip
EPOCHS = ("epoch", "epochs")


@dataclass(frozen=True)
class Log:
    """Curves of a log, and what is said of the rest of it."""

    curves: Mapping[str, Mapping[int, float]]
    said: tuple[str, ...] = ()


def metric_of(name: str) -> str | None:
    """Name in this package of a foreign metric; None for any other.

    Example:
        >>> [metric_of(name) for name in ("val/acc", "trainLoss", "eval_loss", "loss", "train_loss_ema")]
        ['test_accuracy', 'train_loss', 'test_loss', None, None]
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)]
    sides = [SIDES[word] for word in words if word in SIDES]
    kinds = [KINDS[word] for word in words if word in KINDS]
    others = [word for word in words if word not in SIDES and word not in KINDS and word not in SILENT]
    return f"{sides[0]}_{kinds[0]}" if len(sides) == len(kinds) == 1 and not others else None


def read_log(path: Path, counts: Counts) -> Log:
    """The curves of a log whose rows are compared with checkpoints that are counted in `counts`.

    Raises:
        ForeignFormatError: a table is not text with commas, or a step in it is no whole number.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = path.write_text("step,train/loss,val/acc,lr\\n10,0.5,,0.1\\n10,,0.25,0.1\\n")
        >>> read_log(path, "updates").curves
        {'train_loss': {10: 0.5}, 'test_accuracy': {10: 0.25}}
    """
    if path.suffix == ".csv":
        curves, said = _of_table(path, counts)
    else:
        try:
            curves, said = _of_json(path, counts)
        except (ValueError, RecursionError, TypeError, OverflowError) as error:
            return Log({}, (f"ignored {path.name}, which cannot be read: {error_line(error)[:200]}",))
    _shares(curves)
    if not curves:
        return Log({}, (f"ignored {path.name}: it has {said or 'no losses or accuracies by step'}",))
    return Log(curves, (f"of {path.name}, {said}",) if said else ())


def _of_table(path: Path, counts: Counts) -> tuple[Curves, str]:
    """The columns of a table; a torn last line is left out."""
    curves: Curves = {}
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream)
            header = next(rows, [])
            names = {i: name for i, one in enumerate(header) if (name := metric_of(one)) is not None}
            at = _step_column(header, counts)
            if at is None or not names:
                return {}, "no column of steps or epochs" if at is None else "no column of losses or accuracies"
            for row in rows:
                if len(row) < len(header) or not row[at].strip().removesuffix(".0").lstrip("-").isdecimal():
                    continue
                for i, name in names.items():
                    try:
                        value = float(row[i])
                    except ValueError:
                        continue
                    curves.setdefault(name, {})[_number(int(row[at].strip().removesuffix(".0")), path)] = value
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, ForeignFormatError):
            raise
        raise ForeignFormatError(f"{path} must be a table in UTF-8 with commas; {error_line(error)[:200]}.") from None
    return curves, ""


def _of_json(path: Path, counts: Counts) -> tuple[Curves, str]:
    """The rows of a list of dicts or of lines of JSON, or the lists of a dict."""
    with open_regular(path) as stream:
        data = stream.read(LARGEST_LOG + 1)
    if len(data) > LARGEST_LOG:
        raise ValueError(f"it is larger than {LARGEST_LOG} bytes")
    if path.suffix == ".jsonl":
        return _of_rows([json.loads(line) for line in data.splitlines() if line.strip().endswith(b"}")], path, counts)
    found = json.loads(data)
    if isinstance(found, Mapping) and isinstance(found.get("log_history"), list):
        return _of_rows(found["log_history"], path, counts)
    if isinstance(found, list):
        return _of_rows(found, path, counts)
    curves: Curves = {}
    if isinstance(found, Mapping):
        columns = {key: value for key, value in found.items() if isinstance(value, list)}
        at = _step_column(list(columns), counts)
        steps = list(columns.values())[at] if at is not None else None
        for key, values in columns.items():
            name = metric_of(key)
            if name is not None and all(type(value) in (int, float) for value in values):
                numbers: Sequence[int] = (
                    range(len(values)) if steps is None else [_number(step, path) for step in steps]
                )
                curves[name] = dict(zip(numbers, values))
    return curves, ""


def _of_rows(rows: Iterable[Any], path: Path, counts: Counts) -> tuple[Curves, str]:
    curves: Curves = {}
    sideless = set[str]()
    for row in rows:
        if not isinstance(row, Mapping):
            continue
        keys = list(row)
        at = _step_column(keys, counts)
        for key, value in row.items():
            name = metric_of(str(key))
            if at is not None and name is not None and type(value) in (int, float):
                step = row[keys[at]]
                step = int(step) if isinstance(step, float) and step.is_integer() else step
                curves.setdefault(name, {})[_number(step, path)] = float(value)
            elif str(key) in KINDS:
                sideless.add(str(key))
    said = f"`{'`, `'.join(sorted(sideless))}` is ignored, a mean over the steps before" if sideless else ""
    return curves, said


def _step_column(names: Sequence[Any], counts: Counts) -> int | None:
    """Place of the column that counts the rows: epochs for checkpoints by epoch, else steps where there are any."""
    order = (*EPOCHS, *STEPS) if counts == "epochs" else (*STEPS, *EPOCHS)
    lower = [str(name).strip().lower() for name in names]
    return next((lower.index(name) for name in order if name in lower), None)


def _number(value: Any, path: Path) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < LARGEST_NUMBER:
        raise ForeignFormatError(f"{path}: a step must be a whole number, 0 .. 2^53 - 1; got {str(value)[:40]}.")
    return number


def _shares(curves: Curves) -> None:
    """Accuracies as shares: they are in percent if any exceeds 1."""
    accuracies = [column for name, column in curves.items() if name.endswith("accuracy")]
    if any(value > 1 for column in accuracies for value in column.values()):
        for column in accuracies:
            column.update({step: value / 100 for step, value in column.items()})
