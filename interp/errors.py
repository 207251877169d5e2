"""Exceptions and warnings: every error of this package is an `InterpError` and also the fitting builtin exception.

A message names the argument, the rule, the value that was passed, and the way out; the command line prints it as one
line.
"""

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "CorruptRunError",
    "DamagedRunWarning",
    "DeviceMemoryError",
    "DivergedError",
    "ForeignFormatError",
    "InterpError",
    "InvalidArgumentError",
    "MeasureError",
    "NotAvailableError",
    "NotImportedError",
    "NotInstalledError",
    "ObserverError",
    "ReproducibilityWarning",
    "RunExistsError",
    "RunLockedError",
    "StoreError",
    "UnknownNameError",
    "did_you_mean",
    "error_line",
    "printable",
]

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line and paragraph separators, changes of direction, halves of surrogate pairs."""


class InterpError(Exception):
    """Base class of every error that this package raises on purpose; its message is one line.

    >>> print(InterpError("a name with a\\nbreak"))
    a name with a\\nbreak
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class InvalidArgumentError(InterpError, ValueError):
    """An argument breaks a rule that its docstring states."""


class ConfigError(InvalidArgumentError):
    """A configuration value breaks a rule, or a configuration file cannot be read."""


class NotImportedError(ConfigError):
    """A stored config names a user's class whose module, `module`, has not been imported in this process."""

    def __init__(self, message: str, module: str = "") -> None:
        super().__init__(message)
        self.module = module


class UnknownNameError(InterpError, KeyError):
    """A recipe, parameter, measure or step of this name does not exist."""

    def __str__(self) -> str:  # KeyError prints the repr of its argument, quotes and all
        return printable(str(self.args[0])) if self.args else ""


class NotAvailableError(InterpError, ValueError):
    """A result is not defined for this run: a measure of another kind of model, an operation for another p."""


class NotInstalledError(InterpError, ImportError):
    """A library that a module is for is not installed; the message names the extra that has it."""


class StoreError(InterpError, OSError):
    """A run folder cannot be read or written; the message names the file."""


class CorruptRunError(StoreError):
    """A file in a run folder does not match its digest."""


class DamagedRunWarning(UserWarning):
    """A part of a run is damaged or missing; the rest of the run is loaded."""


class DivergedWarning(UserWarning):
    """A recorded network holds a number that is not finite; its run ends before it, and the loop goes on."""


class ReproducibilityWarning(UserWarning):
    """A run goes on, or is replayed, where its bits may come out otherwise: another processor, torch, thread count."""


class RunExistsError(StoreError, FileExistsError):
    """The run folder already holds a run."""


class RunLockedError(StoreError):
    """The run folder is locked: another process is writing to it."""


class ForeignFormatError(InterpError, ValueError):
    """A foreign checkpoint has a layout that this package does not know."""


class DeviceMemoryError(InterpError, MemoryError):
    """Training would need more memory than the device has."""


class DivergedError(InterpError, ArithmeticError):
    """Training produced a value that is not a number.

    `step` is the step at which it was detected, `last_good` the last committed checkpoint (None without any).
    """

    def __init__(self, message: str, *, step: int, last_good: int | None) -> None:
        super().__init__(message)
        self.step = step
        self.last_good = last_good


class ObserverError(InterpError, RuntimeError):
    """An observer of a run raised an exception, which is the `__cause__`; the run is stored as after Ctrl-C.

    `hook` names the observer and its hook, `step` the step from which the run can be resumed.
    """

    def __init__(self, message: str, *, hook: str, step: int) -> None:
        super().__init__(message)
        self.hook = hook
        self.step = step


class MeasureError(InterpError, RuntimeError):
    """A user's measure raised an exception, which is the `__cause__`; the message names the measure."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known names, or lists all known names where none is near.

    >>> did_you_mean("train_fracton", ["train_fraction", "seed"])
    'Did you mean `train_fraction`?'
    >>> did_you_mean("zzz", ["a", "b"])
    'Known: a, b.'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(f'`{match}`' for match in near)}?"
    return f"Known: {', '.join(known)}."


def printable(text: str) -> str:
    """Text with control characters, line breaks and halves of surrogate pairs escaped: names in a run may hold them.

    >>> print(printable("\\x1b[31mred"), printable("Fourier-Größe"))
    \\x1b[31mred Fourier-Größe
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def error_line(error: BaseException) -> str:
    """The message of another library's exception in one line, to be part of an error of this package.

    >>> error_line(ValueError("two\\nlines"))
    'two lines'
    """
    return " ".join(str(error).split())
